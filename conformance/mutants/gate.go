package mutants

import (
	"math"

	"qlora/ref/num"
	"qlora/ref/op"
)

// gating is a gated MLP's activation in parts: forward's, then backward's.
type gating struct {
	value   func(act string, x float32) float32
	stored  func(a float32, t num.DType) float32 // act(gate), before it meets up
	swapped bool

	slope func(act string, x float32) float32
	joins func(there, g float32, t num.DType) float32
}

func gatingParts(spoil func(g *gating)) gating {
	g := gating{
		value:  func(act string, x float32) float32 { y, _ := activated(act, x); return y },
		slope:  func(act string, x float32) float32 { _, slope := activated(act, x); return slope },
		stored: func(a float32, t num.DType) float32 { return t.Round(a) },
		joins:  joined,
	}
	spoil(&g)
	return g
}

const (
	rootTwoOverPi float32 = 0.7978845608028654
	cubic         float32 = 0.044715
)

// activated is act(x) and act'(x).
func activated(act string, x float32) (y, slope float32) {
	switch act {
	case "silu":
		s := num.Sigmoid(x)
		return x * s, s * (1 + float32(x*(1-s)))
	case "gelu_tanh":
		square := float32(x * x)
		th := num.Tanh(rootTwoOverPi * (x + float32(cubic*float32(square*x))))
		inner := rootTwoOverPi * (1 + float32(float32(3*0.044715)*square))
		half := float32(0.5 * x)
		return half * (1 + th), float32(0.5*(1+th)) + float32(half*float32((1-float32(th*th))*inner))
	}
	if x > 0 {
		return x, 1
	}
	return 0, 0
}

func (g gating) forward(c *Case, in Tensors) (Tensors, error) {
	y, gate, up, t := copyOf(in["gate"]), in["gate"].F, in["up"].F, compute(c)
	if g.swapped {
		gate, up = up, gate
	}
	for i := range gate {
		y.F[i] = t.Round(g.stored(g.value(c.Param("act"), gate[i]), t) * up[i])
	}
	return Tensors{"y": y}, nil
}

func (g gating) backward(c *Case, in Tensors) (Tensors, error) {
	out, t, act := only(in, "dgate", "dup"), compute(c), c.Param("act")
	for i, x := range in["gate"].F {
		dy, up := in["dy"].F[i], in["up"].F[i]
		dgate, dup := &out["dgate"].F[i], &out["dup"].F[i]
		if g.swapped {
			dgate, dup = dup, dgate
		}
		*dgate = g.joins(*dgate, float32(float32(dy*up)*g.slope(act, x)), t)
		*dup = g.joins(*dup, float32(dy*g.stored(g.value(act, x), t)), t)
	}
	return out, nil
}

func gateWith(spoil func(g *gating)) Func         { return gatingParts(spoil).forward }
func gateBackwardWith(spoil func(g *gating)) Func { return gatingParts(spoil).backward }

// instead replaces one activation's value or slope.
func instead(act string, f func(x float32) float32, others func(act string, x float32) float32) func(string, float32) float32 {
	return func(a string, x float32) float32 {
		if a == act {
			return f(x)
		}
		return others(a, x)
	}
}

var gateMutants = []Mutant{
	{
		Name: "gate and up exchanged", Bug: "act(up)·gate.", Op: "gate",
		Func: gateWith(func(g *gating) { g.swapped = true }),
	},
	{
		Name: "GELU by erf", Bug: "The exact GELU in place of its tanh form.", Seen: "Megatron-Bridge PR #4661 (Gemma)", Op: "gate",
		Func: gateWith(func(g *gating) {
			g.value = instead("gelu_tanh", func(x float32) float32 { return float32(0.5 * float64(x) * math.Erfc(-float64(x)/math.Sqrt2)) }, g.value)
		}),
	},
	{
		Name: "quick GELU", Bug: "x·sigmoid(1.702·x).", Op: "gate",
		Func: gateWith(func(g *gating) {
			g.value = instead("gelu_tanh", func(x float32) float32 { return x * num.Sigmoid(1.702*x) }, g.value)
		}),
	},
	{
		Name: "sigmoid for SiLU", Bug: "A GLU: the factor x is left out.", Op: "gate",
		Func: gateWith(func(g *gating) { g.value = instead("silu", num.Sigmoid, g.value) }),
	},
	{
		Name: "SiLU as x/(1 + exp(−x))", Bug: "One quotient for a sigmoid and a product, exp in float32.", Op: "gate",
		Func: gateWith(func(g *gating) {
			g.value = instead("silu", func(x float32) float32 { return x / (1 + num.Exp(-x)) }, g.value)
		}),
		Rounding: true,
	},
	{
		Name: "activation not rounded", Bug: "act(gate) stays float32 until it has met up.", Op: "gate",
		Func: gateWith(func(g *gating) { g.stored = func(a float32, _ num.DType) float32 { return a } }), Rounding: true,
	},
	{
		Name: "ReLU keeps −0", Bug: "max(x, 0) gives −0 for −0.", Op: "gate",
		Func: gateWith(func(g *gating) {
			g.value = instead("relu", func(x float32) float32 {
				if x < 0 {
					return 0
				}
				return x
			}, g.value)
		}),
		Rounding: true,
	},
	{
		Name: "SiLU' is the sigmoid", Bug: "The second term of the derivative is left out.", Op: "gate_backward",
		Func: gateBackwardWith(func(g *gating) { g.slope = instead("silu", num.Sigmoid, g.slope) }),
	},
	{
		Name: "SiLU' with 1 + s", Bug: "s·(1 + x·(1 + s)).", Op: "gate_backward",
		Func: gateBackwardWith(func(g *gating) {
			g.slope = instead("silu", func(x float32) float32 { s := num.Sigmoid(x); return s * (1 + float32(x*(1+s))) }, g.slope)
		}),
	},
	{
		Name: "relu'(0) = 1", Bug: "≥ in place of >.", Op: "gate_backward",
		Func: gateBackwardWith(func(g *gating) {
			g.slope = instead("relu", func(x float32) float32 {
				if x >= 0 {
					return 1
				}
				return 0
			}, g.slope)
		}),
	},
	{
		Name: "GELU' without the inner derivative", Bug: "What tanh takes is derived as √(2/π)·x.", Op: "gate_backward",
		Func: gateBackwardWith(func(g *gating) {
			g.slope = instead("gelu_tanh", func(x float32) float32 {
				th := num.Tanh(rootTwoOverPi * (x + float32(cubic*float32(float32(x*x)*x))))
				return float32(0.5*(1+th)) + float32(float32(0.5*x)*float32((1-float32(th*th))*rootTwoOverPi))
			}, g.slope)
		}),
	},
	{
		Name: "dgate and dup exchanged", Bug: "Each gradient is added to the other's.", Op: "gate_backward",
		Func: gateBackwardWith(func(g *gating) { g.swapped = true }),
	},
	{
		Name: "gate_backward: overwrites", Bug: "The gradients replace what is there.", Op: "gate_backward",
		Func: gateBackwardWith(func(g *gating) { g.joins = overwritten }),
	},
	{
		Name: "dup of the unrounded activation", Bug: "Backward takes act(gate) as it was before it was rounded.", Op: "gate_backward",
		Func:     gateBackwardWith(func(g *gating) { g.stored = func(a float32, _ num.DType) float32 { return a } }),
		Rounding: true,
	},
}

var addMutants = []Mutant{
	{
		Name: "sum cut to bfloat16", Bug: "The residual sum is cut, not rounded.", Op: "add",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			y := copyOf(in["a"])
			for i, b := range in["b"].F {
				y.F[i] = cutToBFloat16(y.F[i]+b, compute(c))
			}
			return Tensors{"y": y}, nil
		},
	},
	{
		Name: "sum clamped", Bug: "What is too large for float16 becomes 65504.", Seen: "transformers' T5 clamps float16", Op: "add",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			y := copyOf(in["a"])
			for i, b := range in["b"].F {
				y.F[i] = clampedFloat16(y.F[i]+b, compute(c))
			}
			return Tensors{"y": y}, nil
		},
	},
	{
		Name: "sum in place", Bug: "The result is written over the first input.", Op: "add",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			op.Add(in["a"].F, in["a"].F, in["b"].F, compute(c))
			return Tensors{"y": copyOf(in["a"])}, nil
		},
	},
}
