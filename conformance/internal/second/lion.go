package second

import (
	"math"

	"qlora/ref/op"
)

// Lion looks at the sign of what the moment and the gradient make together, before the moment moves.
func (d *Device) Lion(at op.At, p, m, g, scalars, norm *op.Tensor) {
	scalarShapes(at, scalars, norm)
	shaped(at, p.Rows, p.Cols, m, g)
	full(at, p, m, g)
	d.do(at, func() error {
		u, ps, ms, gs := newUpdate(of(scalars), of(norm)), of(p), of(m), of(g)
		d.elements(p.Len(), func(i int) {
			m, g := ms.at(i), float32(gs.at(i)*u.clip)
			ps.put(i, float32(ps.at(i)*u.decay)+u.towards(float32(m*u.beta1)+float32(g*u.rest1)))
			ms.put(i, float32(m*u.beta2)+float32(g*u.rest2))
		})
		return nil
	})
}

// towards is a step against the sign of c: a zero's is +0, and NaN has none.
func (u update) towards(c float32) float32 {
	switch {
	case c == 0 || c != c:
		return float32(float32(math.Abs(float64(c))) * u.stepSize)
	case math.Signbit(float64(c)):
		return -u.stepSize
	}
	return u.stepSize
}
