package second

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

func (d *Device) Gate(at op.At, y, gate, up *op.Tensor, act op.Activation) {
	shaped(at, gate.Rows, gate.Cols, y, up)
	d.do(at, func() error {
		to, gates, ups, f := of(y), of(gate), of(up), activations[act].value
		d.elements(gate.Len(), func(i int) { to.put(i, float32(y.DType.Round(f(gates.at(i)))*ups.at(i))) })
		return nil
	})
}

func (d *Device) GateBackward(at op.At, dgate, dup, dy, gate, up *op.Tensor, act op.Activation) {
	shaped(at, gate.Rows, gate.Cols, dgate, dup, dy, up)
	d.do(at, func() error {
		toGate, toUp, dys, gates, ups, f := of(dgate), of(dup), of(dy), of(gate), of(up), activations[act]
		d.elements(gate.Len(), func(i int) {
			x, g := gates.at(i), dys.at(i)
			if dgate != nil {
				toGate.add(i, float32(float32(g*ups.at(i))*f.slope(x)))
			}
			if dup != nil {
				toUp.add(i, float32(g*gate.DType.Round(f.value(x))))
			}
		})
		return nil
	})
}

var activations = map[op.Activation]struct{ value, slope func(x float32) float32 }{
	op.SiLU: {
		func(x float32) float32 { return float32(x * num.Sigmoid(x)) },
		func(x float32) float32 {
			s := num.Sigmoid(x)
			return float32(s * (1 + float32(x*(1-s))))
		},
	},
	op.GELUTanh: {
		func(x float32) float32 { return float32(float32(0.5*x) * (1 + geluTanh(x))) },
		func(x float32) float32 {
			t := geluTanh(x)
			inner := float32(rootTwoOverPi * (1 + float32(0.134145*float32(x*x))))
			return float32(0.5*(1+t)) + float32(float32(0.5*x)*float32((1-float32(t*t))*inner))
		},
	},
	op.ReLU: {
		func(x float32) float32 {
			if x > 0 {
				return x
			}
			return 0
		},
		func(x float32) float32 {
			if x > 0 {
				return 1
			}
			return 0
		},
	},
}

const rootTwoOverPi = 0.79788456080286535587989211986876 // √(2/π)

// geluTanh is tanh(√(2/π)·(x + 0.044715·x³)).
func geluTanh(x float32) float32 {
	cube := float32(float32(x*x) * x)
	return num.Tanh(float32(rootTwoOverPi * (x + float32(0.044715*cube))))
}
