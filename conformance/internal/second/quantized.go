package second

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sort"

	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// quantized is a 4-bit matrix in the device's memory.
type quantized struct {
	quant.Options
	rows, cols int
	b          []byte // all of it; none if there was no room
	codes      []byte // two a byte, the even element in the high nibble
	absmax     values // of each block; none where they are nested
	nested     bytes8 // 8-bit codes of them
	table      values // by 8-bit code
	offset     values
}

// bytes8 are 8-bit codes with a scale for each block.
type bytes8 struct {
	codes  []byte
	absmax values
}

// newQuantized makes room for a matrix: codes, scales and, of nested ones, the second scales, map and offset.
func (d *Device) newQuantized(name string, rows, cols int, o quant.Options) *quantized {
	q := &quantized{Options: o, rows: rows, cols: cols}
	n := blocks(rows*cols, o.Blocksize)
	var sizes [6]int // of codes, absmax, and the nested parts
	if sizes[0], sizes[1] = blocks(rows*cols, 2), 4*n; o.DoubleQuant {
		sizes = [6]int{sizes[0], 0, n, 4 * blocks(n, blocksize8), 4 * 256, 4}
	}
	total := 0
	for _, size := range sizes {
		total += size
	}
	if q.b = d.alloc(op.Run, name, total); q.b == nil {
		return q
	}
	rest := q.b
	for i, part := range []*[]byte{&q.codes, &q.absmax.b, &q.nested.codes, &q.nested.absmax.b, &q.table.b, &q.offset.b} {
		*part, rest = rest[:sizes[i]], rest[sizes[i]:]
	}
	return q
}

func (d *Device) NewQuantized(name string, w *quant.Tensor) *op.Quantized {
	rows, cols := w.Shape[0], w.Shape[1]
	q := d.newQuantized(name, rows, cols, quant.Options{Type: w.Type, Blocksize: w.Blocksize, DoubleQuant: w.Nested != nil, DType: w.DType})
	d.write(q.b, quantizedBytes(w))
	return &op.Quantized{Name: name, Out: rows, In: cols, Handle: q}
}

// quantizedBytes are a weight's as they lie in memory.
func quantizedBytes(w *quant.Tensor) []byte {
	if n := w.Nested; n != nil {
		return join(w.Packed, n.Codes, bytesOf(n.Absmax), bytesOf(n.Map[:]), bytesOf([]float32{n.Offset}))
	}
	return join(w.Packed, bytesOf(w.Absmax))
}

func (d *Device) ReadQuantized(w *op.Quantized) (*quant.Tensor, error) {
	if err := d.Sync(); err != nil {
		return nil, err
	}
	q := w.Handle.(*quantized)
	t := &quant.Tensor{Type: q.Type, Blocksize: q.Blocksize, DType: q.DType, Shape: []int{q.rows, q.cols}, Packed: slices.Clone(q.codes)}
	if !q.DoubleQuant {
		t.Absmax = q.absmax.floats()
		return t, nil
	}
	t.Nested = &quant.Nested{Codes: slices.Clone(q.nested.codes), Absmax: q.nested.absmax.floats(), Map: (*quant.Map8)(q.table.floats()), Offset: q.offset.at(0)}
	return t, nil
}

// floats are all there are, which are float32.
func (v values) floats() []float32 {
	x := make([]float32, len(v.b)/4)
	v.all(x)
	return x
}

// Quantize makes room at once. What lies there is made when its turn comes, of x as it is then.
func (d *Device) Quantize(at op.At, name string, x *op.Tensor, o quant.Options) *op.Quantized {
	w := &op.Quantized{Name: name, Out: x.Rows, In: x.Cols}
	if err := possible(x, o); err != nil {
		d.do(at, func() error { return fmt.Errorf("%s: %w", name, err) })
		return w
	}
	q := d.newQuantized(name, x.Rows, x.Cols, o)
	w.Handle = q
	d.do(at, func() error {
		v := d.widen(x, num.Float32).v
		for i, y := range v {
			if y-y != 0 {
				return fmt.Errorf("%s: element %d is %v, not a finite number", name, i, y)
			}
		}
		d.quantize(q, v)
		return nil
	})
	return w
}

// possible is an error unless there is something to quantize, in blocks of a power of two from 32 to 4096, as the specification does.
func possible(x *op.Tensor, o quant.Options) error {
	switch {
	case x.Len() == 0:
		return fmt.Errorf("%d×%d has no elements", x.Rows, x.Cols)
	case o.Blocksize < 32 || o.Blocksize > 4096 || bits.OnesCount(uint(o.Blocksize)) != 1:
		return fmt.Errorf("there are no blocks of %d", o.Blocksize)
	case o.Profile != "" && o.Profile != quant.Spec:
		return fmt.Errorf("profile %s is not the specification's", o.Profile)
	}
	return nil
}

// quantize sets codes and scales. A block is an even number of elements, so no two share a byte.
func (d *Device) quantize(q *quantized, v []float32) {
	c, absmax := newCoder(q.Type), make([]float32, blocks(len(v), q.Blocksize))
	d.each(len(absmax), func(block int) {
		first := block * q.Blocksize
		part := v[first:min(len(v), first+q.Blocksize)]
		top, r := scaling(part)
		absmax[block] = top
		for i := 0; i < len(part); i += 2 {
			pair := [2]float32{}
			copy(pair[:], part[i:])
			q.codes[(first+i)/2] = c.code(float32(pair[0]*r))<<4 | c.code(float32(pair[1]*r))
		}
	})
	if q.DoubleQuant {
		d.nest(q, absmax)
		return
	}
	for i, top := range absmax {
		q.absmax.put(i, top)
	}
}

// nest quantizes scales about their mean.
func (d *Device) nest(q *quantized, absmax []float32) {
	mean := sum(absmax) / float32(len(absmax))
	q.offset.put(0, mean)
	for i, v := range quant.DynamicSigned {
		q.table.put(i, v)
	}
	d.elements(len(absmax), func(i int) { absmax[i] -= mean })
	d.each(blocks(len(absmax), blocksize8), func(block int) {
		first := block * blocksize8
		q.nested.putBlock(block, absmax[first:min(len(absmax), first+blocksize8)], quant.DynamicSigned)
	})
}

// scaling gives a block's largest magnitude and its reciprocal, both 0 where that is infinite.
func scaling(x []float32) (top, r float32) {
	for _, v := range x {
		top = max(top, float32(math.Abs(float64(v))))
	}
	if r = 1 / top; math.IsInf(float64(r), 0) {
		return 0, 0
	}
	return top, r
}

// coder has the nibbles of a type that values in −1…1 become, by ascending value; where the upper eight are the opposites of the lower,
// the lower by magnitude.
type coder struct {
	values   *[16]float32
	nibbles  []byte
	mirrored bool
}

func newCoder(book *quant.Codebook) coder {
	c := coder{values: &book.Values, mirrored: true}
	for i, v := range book.Values[8:] {
		c.mirrored = c.mirrored && v == -book.Values[i]
	}
	for i, v := range book.Values {
		if v >= -1 && (i < 8 || !c.mirrored) {
			c.nibbles = append(c.nibbles, byte(i))
		}
	}
	slices.SortFunc(c.nibbles, func(a, b byte) int { return cmp.Compare(c.values[a], c.values[b]) })
	return c
}

func (c coder) code(x float32) byte {
	sign := byte(0)
	if c.mirrored && x < 0 {
		sign, x = 8, -x
	}
	return sign | c.nibbles[nearest(x, len(c.nibbles), func(i int) float32 { return c.values[c.nibbles[i]] })]
}

// nearest is how many of the midpoints of n ascending neighbours lie below x.
func nearest(x float32, n int, value func(i int) float32) int {
	return sort.Search(n-1, func(i int) bool { return !(float32(float32(value(i)+value(i+1))*0.5) < x) })
}

func (d *Device) Dequantize(at op.At, y *op.Tensor, w *op.Quantized) {
	shaped(at, w.Out, w.In, y)
	d.do(at, func() error {
		d.store(y, d.weight(op.Weight{Quantized: w}, y.DType))
		return nil
	})
}

// scale is a block's absmax.
func (q *quantized) scale(block int) float32 {
	if !q.DoubleQuant {
		return q.absmax.at(block)
	}
	return float32(q.table.at(int(q.nested.codes[block]))*q.nested.absmax.at(block/blocksize8)) + q.offset.at(0)
}

// weight gives W as products of compute type t see it.
func (d *Device) weight(w op.Weight, t num.DType) matrix {
	if w.Quantized == nil {
		return d.widen(w.Dense, t)
	}
	q, a := w.Quantized.Handle.(*quantized), zeros(w.Out(), w.In())
	d.each(blocks(len(a.v), q.Blocksize), func(block int) {
		scale := q.scale(block)
		for i := block * q.Blocksize; i < min(len(a.v), (block+1)*q.Blocksize); i++ {
			code := q.codes[i/2] >> (4 * (1 - i%2)) & 15
			a.v[i] = t.Round(float32(q.Type.Values[code] * scale))
		}
	})
	return a
}
