package cpu

import (
	"qlora/accel/cpu/kernel"
	"qlora/ref/op"
)

// Gate: y = round(round(act(gate))·up).
func (d *Device) Gate(at op.At, y, gate, up *op.Tensor, act op.Activation) {
	op.CheckGate(at, y, gate, up)
	d.do(at, func() error {
		k := d.kernel
		d.elements(y.Len(), func(w *scratch, i, j int) {
			n := j - i
			a, z := w.floats(slotX, n), w.floats(slotY, n)
			activate(k, w, act, a, nil, of(gate).part(i, j).at(k, z))
			round(k, y.DType, a)
			k.Mul(a, a, of(up).part(i, j).at(k, z))
			of(y).part(i, j).put(k, a)
		})
		return nil
	})
}

// GateBackward adds
//
//	dgate += round(dy·up·act'(gate))
//	dup   += round(dy·round(act(gate)))
func (d *Device) GateBackward(at op.At, dgate, dup, dy, gate, up *op.Tensor, act op.Activation) {
	op.CheckGateBackward(at, dgate, dup, dy, gate, up)
	d.do(at, func() error {
		k := d.kernel
		d.elements(dy.Len(), func(w *scratch, i, j int) {
			n := j - i
			a, slope, z, product := w.floats(slotX, n), w.floats(slotY, n), w.floats(slotZ, n), w.floats(slotU, n)
			activate(k, w, act, a, slope, of(gate).part(i, j).at(k, z))
			g := of(dy).part(i, j).at(k, w.floats(slotV, n))
			if dgate != nil {
				k.Mul(product, g, of(up).part(i, j).at(k, z))
				k.Mul(product, product, slope)
				of(dgate).part(i, j).add(k, product, z)
			}
			if dup != nil {
				round(k, dy.DType, a)
				k.Mul(a, g, a)
				of(dup).part(i, j).add(k, a, z)
			}
		})
		return nil
	})
}

// activate computes act(x) and, where slope is not nil, act'(x), each step rounded to float32.
func activate(k *kernel.Set, w *scratch, act op.Activation, y, slope, x []float32) {
	switch act {
	case op.SiLU:
		k.SiLU(y, slope, x)
	case op.GELUTanh:
		geluTanh(k, y, slope, x, w.floats(slotW, len(x)))
	default:
		relu(y, slope, x)
	}
}

func relu(y, slope, x []float32) {
	for i, v := range x {
		var a, s float32
		if v > 0 {
			a, s = v, 1
		}
		y[i] = a
		if slope != nil {
			slope[i] = s
		}
	}
}

const (
	geluScale = 0.7978845608028654 // √(2/π)
	geluCubic = 0.044715
)

// geluTanh has tanh of all in th, between two loops of the formula in op.Activation.
func geluTanh(k *kernel.Set, y, slope, x, th []float32) {
	for i, v := range x {
		square := float32(v * v)
		th[i] = float32(geluScale * (v + float32(geluCubic*float32(square*v))))
	}
	k.Tanh(th, th)
	for i, v := range x {
		half := float32(0.5 * v)
		y[i] = float32(half * (1 + th[i]))
		if slope != nil {
			inner := float32(geluScale * (1 + float32(3*geluCubic*float32(v*v))))
			slope[i] = float32(0.5*(1+th[i])) + float32(half*float32((1-float32(th[i]*th[i]))*inner))
		}
	}
}
