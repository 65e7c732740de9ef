package cpu

import (
	"fmt"
	"math"
	"slices"

	"qlora/accel/cpu/kernel"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// Quantize is quant.Quantize of x on all cores: one pass over the weights, in which each block's absmax and codes are made while it is in
// the first-level cache; then double quantization of the absmax, a 64th as many. Profiles of other implementations are left to package quant.
func (d *Device) Quantize(at op.At, name string, x *op.Tensor, o quant.Options) *op.Quantized {
	w := &op.Quantized{Name: name, Out: x.Rows, In: x.Cols}
	d.do(at, func() error {
		t, err := d.quantize(x, o)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if d.account(op.Run, name, t.Bytes()) {
			w.Handle = t
		}
		return d.err
	})
	return w
}

// ReadQuantized gives the matrix itself, which nobody changes.
func (d *Device) ReadQuantized(w *op.Quantized) (*quant.Tensor, error) {
	if d.err != nil {
		return nil, d.err
	}
	return w.Handle.(*quant.Tensor), nil
}

func (d *Device) quantize(x *op.Tensor, o quant.Options) (*quant.Tensor, error) {
	if o.Profile != "" && o.Profile != quant.Spec {
		return quant.Quantize(d.all(x), []int{x.Rows, x.Cols}, o)
	}
	if err := quant.CheckBlocksize(o.Blocksize); err != nil {
		return nil, err
	}
	if x.Len() == 0 {
		return nil, fmt.Errorf("a matrix of %d×%d has nothing to quantize", x.Rows, x.Cols)
	}
	t := &quant.Tensor{Type: o.Type, Blocksize: o.Blocksize, DType: o.DType, Shape: []int{x.Rows, x.Cols}}
	t.Packed, t.Absmax = make([]byte, ceil(x.Len(), 2)), make([]float32, ceil(x.Len(), o.Blocksize))
	if err := d.quantizeBlocks(t, of(x)); err != nil {
		return nil, err
	}
	if o.DoubleQuant {
		t.Nested, t.Absmax = d.nest(t.Absmax), nil
	}
	return t, nil
}

// quantizeBlocks sets packed codes and absmax of all blocks.
func (d *Device) quantizeBlocks(t *quant.Tensor, x values) error {
	q := newQuantizer(d.kernel, t.Type)
	step := max(1, piece/t.Blocksize)
	errs := make([]error, ceil(len(t.Absmax), step))
	d.spread(len(t.Absmax), step, x.len(), func(w *scratch, b0, b1 int) {
		from, to := b0*t.Blocksize, min(b1*t.Blocksize, x.len())
		z := w.floats(slotX, to-from+1)[:to-from]
		if x.t == num.Float32 {
			copy(z, x.full[from:to]) // blocks of an odd number of elements are padded
		} else {
			x.part(from, to).get(d.kernel, z)
		}
		for b := b0; b < b1; b++ {
			i, j := (b-b0)*t.Blocksize, min((b-b0+1)*t.Blocksize, len(z))
			_, bits := d.kernel.Magnitudes(z[i:j]) // of which NaN is the greatest
			m := math.Float32frombits(bits)
			if !(m <= math.MaxFloat32) {
				errs[b0/step] = firstNotFinite(z, from)
				return
			}
			t.Absmax[b] = q.block(t.Packed[(from+i)/2:(from+j+1)/2], z[i:j], m)
		}
	})
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// firstNotFinite is quant.CheckFinite's error for elements that begin at from.
func firstNotFinite(x []float32, from int) error {
	i := slices.IndexFunc(x, func(v float32) bool { return v != v || math.IsInf(float64(v), 0) })
	return fmt.Errorf("element %d is %v: weights must be finite", from+i, x[i])
}

// quantizer makes codes of one type's blocks.
type quantizer struct {
	kernel     *kernel.Set
	codebook   *quant.Codebook
	zero       uint8
	thresholds *[15]float32
	ascending  *[16]uint8
}

// newQuantizer puts the thresholds of a type that has no sign bit into the shape that the kernel searches. Types with one are searched by
// magnitude, in plain Go.
func newQuantizer(k *kernel.Set, c *quant.Codebook) quantizer {
	q := quantizer{kernel: k, codebook: c, zero: c.Code(0)}
	thresholds, ascending, ok := c.Ascending()
	if !ok {
		return q
	}
	q.thresholds, q.ascending = &[15]float32{}, &[16]uint8{}
	for i := range q.thresholds {
		q.thresholds[i] = float32(math.Inf(1))
	}
	copy(q.thresholds[:], thresholds)
	copy(q.ascending[:], ascending)
	return q
}

// block sets the codes of x, whose largest magnitude is m, and returns its absmax. A block whose reciprocal overflows is one of zeros. The
// last block may have an odd number of elements; then the code of 0.0 fills the byte.
func (q quantizer) block(packed []byte, x []float32, m float32) float32 {
	r := 1 / m
	if math.IsInf(float64(r), 0) {
		for i := range packed {
			packed[i] = q.zero<<4 | q.zero
		}
		return 0
	}
	n := len(x)
	if n%2 == 1 {
		x = x[:n+1]
		x[n] = 0
	}
	if q.thresholds != nil {
		q.kernel.Codes4(packed, x, r, q.thresholds, q.ascending)
		return m
	}
	for i := range packed {
		packed[i] = q.codebook.Code(float32(x[2*i]*r))<<4 | q.codebook.Code(float32(x[2*i+1]*r))
	}
	return m
}

// nest is quant.Nest on all cores.
func (d *Device) nest(absmax []float32) *quant.Nested {
	offset := d.sum(absmax) / float32(len(absmax))
	n := &quant.Nested{Codes: make([]byte, len(absmax)), Absmax: make([]float32, ceil(len(absmax), quant.NestedBlocksize)), Offset: offset}
	d.spread(len(n.Absmax), 1, len(absmax), func(w *scratch, b0, b1 int) {
		from, to := b0*quant.NestedBlocksize, min(b1*quant.NestedBlocksize, len(absmax))
		centred := w.floats(slotX, to-from)
		d.kernel.Shift(centred, absmax[from:to], -offset)
		n.Absmax[b0] = quantize8(d.kernel, n.Codes[from:to], centred, signed)
	})
	m := *quant.DynamicSigned
	n.Map = &m
	return n
}

// quantize8 sets the codes of a block and returns its absmax (quant.Quantize8). A block whose reciprocal overflows has the code of 0.0.
func quantize8(k *kernel.Set, codes []byte, x []float32, s *kernel.Search8) float32 {
	m := k.Absmax(x)
	r := 1 / m
	if math.IsInf(float64(r), 0) {
		m, r = 0, 0
	}
	k.Codes8(codes, x, r, s)
	return m
}

// The searches in the types of double quantization and of 8-bit moments.
var (
	signed   = kernel.NewSearch8(quant.DynamicSigned.Thresholds())
	unsigned = kernel.NewSearch8(quant.DynamicUnsigned.Thresholds())
)

// Dequantize: y = w's values, rounded to float32, then to y's type.
func (d *Device) Dequantize(at op.At, y *op.Tensor, w *op.Quantized) {
	op.CheckDequantize(at, y, w)
	d.do(at, func() error {
		q, to := w.Handle.(*quant.Tensor), of(y)
		step := roundUp(piece, q.Blocksize)
		d.spread(y.Len(), step, y.Len(), func(s *scratch, from, end int) {
			part := to.part(from, end)
			if part.t == num.BFloat16 && part.len()%2 == 0 {
				absmax := scales(d.kernel, s, q, from/q.Blocksize, ceil(end-from, q.Blocksize))
				d.kernel.Dequantize4BFloat16(part.half, q.Packed[from/2:], absmax, &q.Type.Values, q.Blocksize)
				return
			}
			z := s.floats(slotX, end-from)
			dequantize(d.kernel, s, z, q, from, num.Float32)
			part.put(d.kernel, z)
		})
		return nil
	})
}
