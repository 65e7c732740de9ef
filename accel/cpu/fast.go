package cpu

import (
	"fmt"
	"strings"
	"unsafe"

	"qlora/accel/cpu/kernel"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// Fast devices multiply matrices of bfloat16 by an instruction that takes two products a lane at once, and so at twice the rate of fused
// multiply-adds. It adds them in an order of its own and flushes subnormals: such a device has not the reference's bits, but lies within the
// bounds that follow from Arithmetic. Products of few rows, as one token after the other has them, are bound by memory; they stay exact, and
// so does all that is not a product of bfloat16.
//
// What is packed is pairs, k and k+1, in a lane of 32 bits. They are kept as float32, for the kernels that turn and cut float32 only move them.

// checkFast says why there are no fast products, if there are none.
func checkFast(k *kernel.Set) error {
	if k.TilePairs != nil {
		return nil
	}
	var names []string
	for _, s := range kernel.Sets() {
		if s.TilePairs != nil {
			return fmt.Errorf("fast products need AVX512-BF16: %s has it, %s=%s has not", s.Name, kernel.Variable, k.Name)
		}
		names = append(names, s.Name)
	}
	return fmt.Errorf("fast products need a processor with AVX512-BF16; this one runs %s", strings.Join(names, ", "))
}

// Fast says whether this processor has what Options.Fast needs, and if not, why.
func Fast() error {
	k, err := kernel.Choose()
	if err != nil {
		return err
	}
	return checkFast(k)
}

// Arithmetic is exact unless the device is fast. Then each product passes through a rounding to nearest when it is added, as Intel has it,
// or, with Block 2, through another one before, if a processor sums the two first; zeros that fill a last pair are added exactly.
func (d *Device) Arithmetic() op.Arithmetic {
	if !d.fast {
		return op.Arithmetic{}
	}
	return op.Arithmetic{Unit: 0x1p-24, Block: 2, Flushes: true}
}

// inPairs says whether products of a type are fast.
func (d *Device) inPairs(t num.DType) bool { return d.fast && t == num.BFloat16 }

// packedPairs is packed for bfloat16 in pairs. An odd k has a zero beside the last.
func packedPairs(k *kernel.Set, w *scratch, x []float32, from matrix, lane, lanes, k0, n, width int) panels {
	p := panels{width: width, count: ceil(lanes, width), k: ceil(n, 2), x: x, pairs: true}
	if from.down {
		from.pairsDown(k, w, p, lane, lanes, k0, n)
	} else {
		from.pairsAlong(k, w, p, lane, lanes, k0, n)
	}
	if rest := lanes % width; rest != 0 {
		clearLanes(p.panel(p.count-1), width, rest)
	}
	return p
}

// pairsAlong packs rows, along which k runs: elements that follow each other are pairs.
func (x matrix) pairsAlong(k *kernel.Set, w *scratch, p panels, lane, lanes, k0, n int) {
	for i := range p.count {
		rows := min(p.width, lanes-i*p.width)
		lines, stride := x.pairs(k, w, lane+i*p.width, rows, k0, n)
		k.Transpose(p.panel(i), p.width, lines, stride, rows, p.k)
	}
}

// pairs gives n elements of each of some rows in pairs, and their stride in these: where they lie, or in scratch.
func (x matrix) pairs(k *kernel.Set, w *scratch, row, rows, from, n int) (lines []float32, stride int) {
	if at := row*x.cols + from; x.dense.half != nil && x.dense.t == num.BFloat16 && x.cols%2 == 0 && at%2 == 0 && n%2 == 0 {
		return asPairs(x.dense.half[at:]), x.cols / 2
	}
	stride = ceil(n, 2)
	lines = w.floats(slotLines, rows*stride)
	for i := range rows {
		line := halves(lines[i*stride : (i+1)*stride])
		x.narrow(k, w, line[:n], (row+i)*x.cols+from)
		clear(line[n:])
	}
	return lines, stride
}

// pairsDown packs columns, down which k runs: two lines are interleaved, and then cut into panels.
func (x matrix) pairsDown(k *kernel.Set, w *scratch, p panels, lane, lanes, k0, n int) {
	const together = 16 // pairs of lines that go through the first-level cache
	for r := 0; r < p.k; r += together {
		count := min(together, p.k-r)
		lines := w.floats(slotLines, (count+1)*lanes)
		two := halves(lines[count*lanes:]) // scratch for lines that lie elsewhere as something else
		for i := range count {
			at := 2 * (r + i)
			first, second := x.half(k, w, two[:lanes], k0+at, lane), two[lanes:]
			if at+1 < n {
				second = x.half(k, w, second, k0+at+1, lane)
			} else {
				clear(second)
			}
			k.Interleave(words(lines[i*lanes:(i+1)*lanes]), first, second)
		}
		k.Lines(p.x[r*p.width:], p.width, p.k, lines, lanes, count, lanes)
	}
}

// half gives elements of a row as bfloat16: where they lie, or in buffer, which is as long as they are many.
func (x matrix) half(k *kernel.Set, w *scratch, buffer []uint16, row, from int) []uint16 {
	at := row*x.cols + from
	if x.dense.half != nil && x.dense.t == num.BFloat16 {
		return x.dense.half[at : at+len(buffer)]
	}
	x.narrow(k, w, buffer, at)
	return buffer
}

// narrow sets dst to elements from one on, in row-major order, as bfloat16.
func (x matrix) narrow(k *kernel.Set, w *scratch, dst []uint16, from int) {
	switch v := x.dense; {
	case x.codes != nil:
		dequantizeNarrow(k, w, dst, x.codes, from)
	case v.t == num.Float32:
		k.NarrowBFloat16(dst, v.full[from:from+len(dst)])
	case v.t == num.BFloat16:
		copy(dst, v.half[from:])
	default:
		wide := w.floats(slotBlocks, len(dst))
		v.part(from, from+len(dst)).get(k, wide)
		k.NarrowBFloat16(dst, wide)
	}
}

// words are the bits of x, and halves its halves; asPairs goes back.
func words(x []float32) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
}

func halves(x []float32) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(x))), 2*len(x))
}

func asPairs(x []uint16) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(x))), len(x)/2)
}

// dequantizeNarrow is dequantize to bfloat16.
func dequantizeNarrow(k *kernel.Set, w *scratch, dst []uint16, q *quant.Tensor, from int) {
	block, skip := from/q.Blocksize, from%q.Blocksize
	whole := dst
	if skip != 0 || len(dst)%2 != 0 {
		whole = w.values(slotBlocks, num.BFloat16, roundUp(skip+len(dst), 2)).half
	}
	absmax := scales(k, w, q, block, ceil(len(whole), q.Blocksize))
	k.Dequantize4BFloat16(whole, q.Packed[block*q.Blocksize/2:], absmax, &q.Type.Values, q.Blocksize)
	copy(dst, whole[skip:])
}
