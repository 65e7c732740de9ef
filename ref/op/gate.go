package op

import (
	"fmt"

	"qlora/ref/num"
)

// Activation is the function of a gated MLP.
type Activation uint8

const (
	SiLU     Activation = iota // x·sigmoid(x)
	GELUTanh                   // x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))
	ReLU                       // max(x, 0)
)

// ParseActivation knows the names of hidden_act in config.json.
func ParseActivation(name string) (Activation, error) {
	switch name {
	case "silu", "swish":
		return SiLU, nil
	case "gelu_new", "gelu_pytorch_tanh":
		return GELUTanh, nil
	case "relu":
		return ReLU, nil
	}
	return 0, fmt.Errorf("hidden_act %q: want silu, gelu_new, gelu_pytorch_tanh or relu", name)
}

const (
	geluScale = 0.7978845608028654 // √(2/π)
	geluCubic = 0.044715
)

// Gate computes y = round(round(act(gate))·up), elementwise.
func Gate(y, gate, up []float32, act Activation, t num.DType) {
	for i, g := range gate {
		a, _ := act.value(g)
		y[i] = t.Round(float32(t.Round(a) * up[i]))
	}
}

// GateBackward adds
//
//	dgate += round(dy·up·act'(gate))
//	dup   += round(dy·round(act(gate)))
func GateBackward(dgate, dup, dy, gate, up []float32, act Activation, t num.DType) {
	for i, g := range gate {
		a, slope := act.value(g)
		dgate[i] = t.Round(dgate[i] + t.Round(float32(float32(dy[i]*up[i])*slope)))
		dup[i] = t.Round(dup[i] + t.Round(float32(dy[i]*t.Round(a))))
	}
}

// value is act(x) and act'(x), each step rounded to float32.
func (act Activation) value(x float32) (y, slope float32) {
	switch act {
	case SiLU:
		s := num.Sigmoid(x)
		return float32(x * s), float32(s * (1 + float32(x*(1-s))))
	case GELUTanh:
		square := float32(x * x)
		th := num.Tanh(float32(geluScale * (x + float32(geluCubic*float32(square*x)))))
		inner := float32(geluScale * (1 + float32(3*geluCubic*square)))
		half := float32(0.5 * x)
		return float32(half * (1 + th)), float32(0.5*(1+th)) + float32(half*float32((1-float32(th*th))*inner))
	}
	if x > 0 {
		return x, 1
	}
	return 0, 0
}
