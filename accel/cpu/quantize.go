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
	if d.accountOnly {
		d.accountQuantized(at, w, o)
		return w
	}
	d.within(at, func() workspace { return ofBlocks(o) }, func() error {
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

// accountQuantized accounts for what Quantize makes, and for what it takes.
func (d *Device) accountQuantized(at op.At, w *op.Quantized, o quant.Options) {
	if d.within(at, func() workspace { return ofBlocks(o) }, nil); d.err != nil {
		return
	}
	if d.account(op.Run, w.Name, int(o.Bytes(int64(w.Out)*int64(w.In)))) {
		w.Handle = &quant.Tensor{Blocksize: o.Blocksize}
	} else {
		d.err = fmt.Errorf("%v: %w", at, d.err)
	}
}

// ofBlocks is what quantization takes.
func ofBlocks(o quant.Options) (w workspace) {
	w.each[slotX] = max(pieceOfBlocks, o.Blocksize)
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

// A task quantizes or dequantizes a run, so long that handing it out does not count, by pieces of whole blocks, of which none is longer.
const (
	runOfBlocks   = 32 * pieceOfBlocks
	pieceOfBlocks = 4096
)

// quantizeBlocks sets packed codes and absmax of all blocks.
func (d *Device) quantizeBlocks(t *quant.Tensor, x values) error {
	s := newSearch4(t.Type)
	errs := make([]error, ceil(x.len(), runOfBlocks))
	d.spread(x.len(), runOfBlocks, x.len(), func(w *scratch, from, end int) {
		for i := from; i < end; i += pieceOfBlocks {
			to := min(i+pieceOfBlocks, end)
			part, packed, absmax := x.part(i, to), t.Packed[i/2:ceil(to, 2)], t.Absmax[i/t.Blocksize:ceil(to, t.Blocksize)]
			if b := s.quantize(d.kernel, w, packed, absmax, part, t.Blocksize); b >= 0 {
				bad := x.part(i+b*t.Blocksize, to)
				errs[from/runOfBlocks] = firstNotFinite(bad.at(d.kernel, w.floats(slotX, bad.len())), i+b*t.Blocksize)
				return
			}
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

// search4 is a 4-bit type as the kernels search it: 15 thresholds between numbers, of which the 16 codes are in ascending order.
type search4 struct {
	thresholds [15]float32
	ascending  [16]uint8
	signed     bool
}

// newSearch4 makes of a type that is searched by magnitude, with x < 0 setting the sign bit, one of numbers: x ≥ −t, that is x > the number
// before −t, and x ≥ 0.
func newSearch4(c *quant.Codebook) *search4 {
	thresholds, nibbles, ok := c.Ascending()
	s := &search4{signed: !ok}
	if ok {
		n := copy(s.thresholds[:], thresholds)
		for i := n; i < len(s.thresholds); i++ {
			s.thresholds[i] = float32(math.Inf(1))
		}
		copy(s.ascending[:], nibbles)
		return s
	}
	for i, t := range thresholds {
		s.thresholds[8+i], s.thresholds[6-i] = t, math.Nextafter32(-t, -1)
	}
	s.thresholds[7] = -math.SmallestNonzeroFloat32
	for i, code := range nibbles {
		s.ascending[8+i], s.ascending[7-i] = code, 8|code
	}
	return s
}

// quantize sets the codes and absmax of x, blocks of which the last may be short, and gives the first that is not finite, or −1. A short one
// is filled with zeros, which change no absmax, and of which one fills the last byte if the elements are odd in number.
func (s *search4) quantize(k *kernel.Set, w *scratch, packed []byte, absmax []float32, x values, blocksize int) int {
	short := x.len()%blocksize != 0
	if x.t == num.BFloat16 && !short && !s.signed {
		return k.QuantizeBFloat16(packed, absmax, x.half, blocksize, &s.thresholds, &s.ascending)
	}
	if !short {
		z := x.at(k, w.floats(slotX, x.len()))
		return k.QuantizeFloat32(packed, absmax, z, blocksize, &s.thresholds, &s.ascending)
	}
	z, codes := w.floats(slotX, len(absmax)*blocksize), make([]byte, len(absmax)*blocksize/2)
	x.get(k, z[:x.len()])
	clear(z[x.len():])
	b := k.QuantizeFloat32(codes, absmax, z, blocksize, &s.thresholds, &s.ascending)
	copy(packed, codes)
	return b
}

// nest is quant.Nest on all cores.
func (d *Device) nest(absmax []float32) *quant.Nested {
	offset := d.sum(absmax) / float32(len(absmax))
	n := &quant.Nested{Codes: make([]byte, len(absmax)), Absmax: make([]float32, ceil(len(absmax), quant.NestedBlocksize)), Offset: offset}
	d.spread(len(absmax), pieceOfBlocks, len(absmax), func(w *scratch, from, end int) {
		for ; from < end; from += quant.NestedBlocksize {
			to := min(from+quant.NestedBlocksize, end)
			centred := w.floats(slotX, to-from)
			d.kernel.Shift(centred, absmax[from:to], -offset)
			n.Absmax[from/quant.NestedBlocksize] = quantize8(d.kernel, n.Codes[from:to], centred, signed)
		}
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

// past is how large a matrix is in bytes that its values are written past the caches: there they would not stay.
const past = 8 << 20

// Dequantize: y = w's values, rounded to float32, then to y's type.
func (d *Device) Dequantize(at op.At, y *op.Tensor, w *op.Quantized) {
	op.CheckDequantize(at, y, w)
	d.do(at, func() error {
		q, to := w.Handle.(*quant.Tensor), of(y)
		toBFloat16 := d.kernel.Dequantize4BFloat16
		if 2*y.Len() >= past {
			toBFloat16 = d.kernel.Dequantize4BFloat16Past
		}
		d.spread(y.Len(), runOfBlocks, y.Len(), func(s *scratch, from, end int) {
			if to.t == num.BFloat16 && (end-from)%2 == 0 {
				absmax := scales(d.kernel, s, q, from/q.Blocksize, ceil(end-from, q.Blocksize))
				toBFloat16(to.half[from:end], q.Packed[from/2:], absmax, &q.Type.Values, q.Blocksize)
				return
			}
			for ; from < end; from += pieceOfBlocks {
				part := to.part(from, min(from+pieceOfBlocks, end))
				z := s.floats(slotX, part.len())
				dequantize(d.kernel, s, z, q, from, num.Float32)
				part.put(d.kernel, z)
			}
		})
		return nil
	})
}
