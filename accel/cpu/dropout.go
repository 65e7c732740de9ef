package cpu

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

// mask is a place's dropout at the clock's step: which elements are dropped depends on nothing else.
type mask struct {
	p          float32
	seed       uint64
	counter    num.Counter
	firstToken int
}

func (d *Device) mask(at op.At, o op.Dropout) mask {
	if o.P == 0 {
		return mask{}
	}
	clock := ints(o.Clock)
	return mask{o.P, o.Seed, num.Counter{Purpose: num.Purpose("dropout/" + at.Name), Layer: at.Layer, Step: uint32(clock[op.ClockStep])}, int(clock[op.ClockFirstToken])}
}

// apply computes y = round(x·round(1/(1−p))) where Uniform ≥ p, else 0, for the elements from one on of a matrix of cols columns
// (op.ApplyDropout). A block of Philox gives the numbers of four elements.
func (m mask) apply(y, x []float32, cols, from int, t num.DType) {
	if m.p == 0 {
		copy(y, x)
		return
	}
	keep := 1 / (1 - m.p)
	element := uint64(m.firstToken*cols + from)
	var words [4]uint32
	for i, v := range x {
		if at := element + uint64(i); i == 0 || at%4 == 0 {
			words = m.block(at / 4)
		}
		if float32(float32(words[(element+uint64(i))%4]>>8)*0x1p-24) < m.p {
			y[i] = 0
		} else {
			y[i] = t.Round(float32(v * keep))
		}
	}
}

// block is the four words of num.Bits for elements 4n to 4n+3.
func (m mask) block(n uint64) [4]uint32 {
	c := m.counter
	return num.Philox([4]uint32{uint32(n), uint32(c.Layer)<<16 | uint32(n>>32), c.Step, c.Purpose}, [2]uint32{uint32(m.seed), uint32(m.seed >> 32)})
}

func (d *Device) Dropout(at op.At, y, x *op.Tensor, o op.Dropout) {
	op.CheckDropout(at, y, x)
	d.do(at, func() error {
		m, to, from := d.mask(at, o), of(y), of(x)
		d.elements(x.Len(), func(w *scratch, i, j int) {
			z := w.floats(slotX, j-i)
			from.part(i, j).get(d.kernel, z)
			m.apply(z, z, x.Cols, i, y.DType)
			to.part(i, j).put(d.kernel, z)
		})
		return nil
	})
}

func (d *Device) DropoutBackward(at op.At, dx, dy *op.Tensor, o op.Dropout) {
	op.CheckDropout(at, dx, dy)
	if dx == nil {
		return
	}
	d.do(at, func() error {
		m, to, from := d.mask(at, o), of(dx), of(dy)
		d.elements(dy.Len(), func(w *scratch, i, j int) {
			z := w.floats(slotX, j-i)
			from.part(i, j).get(d.kernel, z)
			m.apply(z, z, dy.Cols, i, dy.DType)
			to.part(i, j).add(d.kernel, z, w.floats(slotY, j-i))
		})
		return nil
	})
}
