package second

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

func (d *Device) Dropout(at op.At, y, x *op.Tensor, s op.Dropout) {
	shaped(at, x.Rows, x.Cols, y)
	d.do(at, func() error {
		to, from, kept := of(y), of(x), mask(at, s, x.Cols, y.DType)
		d.elements(x.Len(), func(i int) { to.put(i, kept(i, from.at(i))) })
		return nil
	})
}

func (d *Device) DropoutBackward(at op.At, dx, dy *op.Tensor, s op.Dropout) {
	shaped(at, dy.Rows, dy.Cols, dx)
	d.do(at, func() error {
		branch := d.widen(dy, dy.DType)
		d.apply(branch, mask(at, s, dy.Cols, dy.DType))
		d.add(dx, branch)
		return nil
	})
}

// mask says what becomes of element i of a tensor of so many columns, in type t. It reads the clock now.
func mask(at op.At, s op.Dropout, cols int, t num.DType) func(i int, x float32) float32 {
	if s.P == 0 {
		return func(_ int, x float32) float32 { return x }
	}
	clock, keep := ints(s.Clock), 1/(1-s.P)
	c := num.Counter{Purpose: num.Purpose("dropout/" + at.Name), Layer: at.Layer, Step: uint32(clock[op.ClockStep])}
	first := uint64(clock[op.ClockFirstToken]) * uint64(cols)
	return func(i int, x float32) float32 {
		c := c
		if c.Element = first + uint64(i); num.Uniform(s.Seed, c) < s.P {
			return 0
		}
		return t.Round(float32(x * keep))
	}
}
