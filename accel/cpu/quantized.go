package cpu

import (
	"qlora/accel/cpu/kernel"
	"qlora/ref/num"
	"qlora/ref/quant"
)

// dequantize sets dst to the elements of a 4-bit matrix from one on, rounded to t. Kernels take whole blocks and an even number of
// elements; what does not begin or end so is cut out of its blocks.
func dequantize(k *kernel.Set, w *scratch, dst []float32, q *quant.Tensor, from int, t num.DType) {
	skip := from % q.Blocksize
	if skip == 0 && len(dst)%2 == 0 {
		dequantizeBlocks(k, w, dst, q, from/q.Blocksize, t)
		return
	}
	n := roundUp(skip+len(dst), 2)
	whole := w.floats(slotBlocks, n)
	dequantizeBlocks(k, w, whole, q, from/q.Blocksize, t)
	copy(dst, whole[skip:])
}

// dequantizeBlocks sets dst to the elements from a block's first on.
func dequantizeBlocks(k *kernel.Set, w *scratch, dst []float32, q *quant.Tensor, block int, t num.DType) {
	absmax := scales(k, w, q, block, ceil(len(dst), q.Blocksize))
	packed := q.Packed[block*q.Blocksize/2:]
	switch t {
	case num.BFloat16:
		k.Dequantize4Rounded(dst, packed, absmax, &q.Type.Values, q.Blocksize)
	default:
		k.Dequantize4(dst, packed, absmax, &q.Type.Values, q.Blocksize)
		round(k, t, dst)
	}
}

// scales are absmax of n blocks.
func scales(k *kernel.Set, w *scratch, q *quant.Tensor, block, n int) []float32 {
	if q.Nested == nil {
		return q.Absmax[block : block+n]
	}
	absmax := w.floats(slotScales, n)
	for at := 0; at < n; {
		first := block + at
		here := min(n-at, quant.NestedBlocksize-first%quant.NestedBlocksize)
		k.Dequantize8(absmax[at:at+here], q.Nested.Codes[first:], q.Nested.Absmax[first/quant.NestedBlocksize:], (*[256]float32)(q.Nested.Map), q.Nested.Offset)
		at += here
	}
	return absmax
}
