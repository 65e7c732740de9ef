package mutants

import (
	"math"

	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/op"
)

// lora is a linear layer with an adapter in parts: first of forward, then of backward.
type lora struct {
	base    func(a adapter, x []float32) []float32 // what the base layer is given for x
	branch  func(a adapter) num.DType              // the type of the branch
	scale   func(a adapter) float32
	master  func(v float32, t num.DType) float32 // A or B as they are used
	kept    func(u float32, a adapter) float32   // u as it is stored
	scaled  func(scale, v float32, a adapter) float32
	summed  func(base, branch float32, a adapter) float32
	dropped func(a adapter, x []float32) []float32

	scaleB, scaleA, scaleX func(scale float32) float32 // of dv, as it goes into dB, into dA and into dx
	toA                    func(a adapter) []float32   // what duᵀ is multiplied with
	ofInput                func(a adapter, dx []float32) []float32
	joins                  func(there, sum float32, t num.DType) float32
	adds                   func(there, product float32) float32
}

// adapter is a case of it.
type adapter struct {
	c             *Case
	in            Tensors
	m, n, k, rank int
	t             num.DType
	parts         *lora
}

func adapterOf(c *Case, in Tensors, parts *lora) adapter {
	return adapter{c, in, c.Int("m"), c.Int("n"), c.Int("k"), c.Int("r"), compute(c), parts}
}

func (a adapter) r() num.DType { return a.parts.branch(a) }

// masks is x after dropout under a seed, whose mask begins at the token first of the batch.
func (a adapter) masks(x []float32, seed uint64, first int) []float32 {
	if !a.c.Has("p") {
		return x
	}
	y := make([]float32, len(x))
	op.ApplyDropout(y, x, a.k, a.c.Float("p"), seed, maskCounter(a.c.Int("step")), first, a.r())
	return y
}

func (a adapter) masked(x []float32) []float32 {
	if !a.c.Has("p") {
		return x
	}
	return a.masks(x, seedOf(a.c), a.c.Int("first"))
}

func (a adapter) masters(name string) []float32 {
	x := make([]float32, a.in[name].Len())
	for i, v := range a.in[name].F {
		x[i] = a.parts.master(v, a.r())
	}
	return x
}

func maskCounter(step int) num.Counter {
	return num.Counter{Purpose: num.Purpose("dropout/" + conformance.Place.Name), Layer: conformance.Place.Layer, Step: uint32(step)}
}

func (l *lora) forward(c *Case, in Tensors) (Tensors, error) {
	a := adapterOf(c, in, l)
	y, u, v := make([]float32, a.m*a.n), make([]float32, a.m*a.rank), make([]float32, a.m*a.n)
	op.Linear(y, l.base(a, in["x"].F), weightOf(c, in), in["bias"].F, a.m, a.n, a.k)
	a.t.RoundAll(y)
	op.MatMul(u, l.dropped(a, in["x"].F), a.masters("a"), a.m, a.rank, a.k)
	for i := range u {
		u[i] = l.kept(u[i], a)
	}
	op.MatMul(v, u, a.masters("b"), a.m, a.n, a.rank)
	for i := range y {
		y[i] = l.summed(y[i], l.scaled(l.scale(a), v[i], a), a)
	}
	branch := c.DType
	if c.Has("branch_f32") {
		branch = f32
	}
	return Tensors{"y": {DType: c.DType, Shape: []int{a.m, a.n}, F: y}, "u": conformance.Floats(branch, u, a.m, a.rank)}, nil
}

func (l *lora) backward(c *Case, in Tensors) (Tensors, error) {
	a, out := adapterOf(c, in, l), only(in, "dx", "da", "db")
	dv := func(scaled func(float32) float32) []float32 {
		g := make([]float32, a.m*a.n)
		for i, dy := range in["dy"].F {
			g[i] = a.r().Round(scaled(l.scale(a)) * dy)
		}
		return g
	}
	du := func(scaled func(float32) float32) []float32 {
		g := make([]float32, a.m*a.rank)
		op.MatMulInput(g, dv(scaled), a.masters("b"), a.m, a.n, a.rank)
		return rounded(g, a.r())
	}
	l.weightGradient(out["db"].F, dv(l.scaleB), in["u"].F, a.m)
	l.weightGradient(out["da"].F, du(l.scaleA), l.toA(a), a.m)
	if dx, ok := out["dx"]; ok {
		base, branch := make([]float32, a.m*a.k), make([]float32, a.m*a.k)
		op.MatMulInput(base, in["dy"].F, weightOf(c, in), a.m, a.n, a.k)
		op.MatMulInput(branch, du(l.scaleX), a.masters("a"), a.m, a.rank, a.k)
		branch = l.ofInput(a, rounded(branch, a.r()))
		for i := range dx.F {
			dx.F[i] = joined(l.joins(dx.F[i], base[i], a.t), branch[i], a.t)
		}
	}
	return out, nil
}

// weightGradient is dw += dyᵀ·x, tokens ascending.
func (l *lora) weightGradient(dw, dy, x []float32, m int) {
	n, k := len(dy)/m, len(x)/m
	for i := range m {
		for j := range n {
			for c := range k {
				dw[j*k+c] = l.adds(dw[j*k+c], float32(dy[i*n+j]*x[i*k+c]))
			}
		}
	}
}

func loraParts(spoil func(l *lora)) *lora {
	same := func(scale float32) float32 { return scale }
	l := &lora{
		base: func(_ adapter, x []float32) []float32 { return x },
		branch: func(a adapter) num.DType {
			if a.c.Has("branch_f32") {
				return num.Float32
			}
			return a.t
		},
		scale:  func(a adapter) float32 { return a.c.Float("scale") },
		master: func(v float32, t num.DType) float32 { return t.Round(v) },
		kept:   func(u float32, a adapter) float32 { return a.r().Round(u) },
		scaled: func(scale, v float32, a adapter) float32 { return a.t.Round(a.r().Round(scale * a.r().Round(v))) },
		summed: func(base, branch float32, a adapter) float32 { return a.t.Round(base + branch) },
		scaleB: same, scaleA: same, scaleX: same,
		dropped: adapter.masked,
		toA:     func(a adapter) []float32 { return a.masked(a.in["x"].F) },
		ofInput: adapter.masked,
		joins:   joined,
		adds:    func(there, product float32) float32 { return there + product },
	}
	spoil(l)
	return l
}

func loraForward(spoil func(l *lora)) Func  { return loraParts(spoil).forward }
func loraBackward(spoil func(l *lora)) Func { return loraParts(spoil).backward }

func one(float32) float32 { return 1 }

// withoutFactor is dropout without the factor 1/(1 − p).
func withoutFactor(a adapter, x []float32) []float32 {
	y := a.masked(x)
	for i, v := range y {
		if v != 0 {
			y[i] = x[i]
		}
	}
	return y
}

var loraMutants = []Mutant{
	{
		Name: "scale forgotten", Bug: "The branch is added without α/r.", Op: "lora_linear",
		Func: loraForward(func(l *lora) { l.scale = func(adapter) float32 { return 1 } }),
	},
	{
		Name: "scale α/√r", Bug: "The branch is scaled as in rsLoRA, though it was not asked for.", Op: "lora_linear",
		Func: loraForward(func(l *lora) {
			l.scale = func(a adapter) float32 { return float32(float64(a.c.Float("scale")) * math.Sqrt(float64(a.rank))) }
		}),
	},
	{
		Name: "dropout on the base", Bug: "The base layer sees the input after dropout, too.", Op: "lora_linear",
		Func: loraForward(func(l *lora) { l.base = adapter.masked }),
	},
	{
		Name: "branch without dropout", Bug: "The branch sees the input before dropout.", Op: "lora_linear",
		Func: loraForward(func(l *lora) { l.dropped = func(_ adapter, x []float32) []float32 { return x } }),
	},
	{
		Name: "branch without 1/(1 − p)", Bug: "What dropout keeps is not scaled up.", Op: "lora_linear",
		Func: loraForward(func(l *lora) { l.dropped = withoutFactor }),
	},
	{
		Name: "masters not rounded", Bug: "A and B are used in float32 where they are to be cast to the compute type.", Op: "lora_linear",
		Func: loraForward(func(l *lora) { l.master = func(v float32, _ num.DType) float32 { return v } }),
	},
	{
		Name: "u not rounded", Bug: "x·Aᵀ goes on in float32; only what is kept for backward is rounded.", Op: "lora_linear",
		Func:     loraForward(func(l *lora) { l.kept = func(u float32, _ adapter) float32 { return u } }),
		Rounding: true,
	},
	{
		Name: "branch in the compute type", Bug: "PEFT's float32 branch is computed in the compute type.",
		Seen: "PEFT under autocast", Op: "lora_linear",
		Func: loraForward(func(l *lora) { l.branch = func(a adapter) num.DType { return a.t } }),
	},
	{
		Name: "one rounding for both", Bug: "The branch is not rounded before it joins the base.", Op: "lora_linear",
		Func:     loraForward(func(l *lora) { l.scaled = func(scale, v float32, _ adapter) float32 { return scale * v } }),
		Rounding: true,
	},
	{
		Name: "scale squared", Bug: "u is scaled, and so is its product with B.", Op: "lora_linear",
		Func: loraForward(func(l *lora) {
			l.kept = func(u float32, a adapter) float32 { return a.r().Round(a.c.Float("scale") * u) }
		}),
	},
	{
		Name: "branch replaces the base", Bug: "y is the branch alone.", Op: "lora_linear",
		Func: loraForward(func(l *lora) { l.summed = func(_, branch float32, _ adapter) float32 { return branch } }),
	},
	{
		Name: "merged before the product",
		Bug:  "W + s·B·A is rounded to the type and then multiplied: an adapter smaller than half a unit of W is lost.",
		Seen: "PEFT's 4-bit merge (peft #2321, #2501)", Op: "lora_linear",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			out, err := loraForward(func(*lora) {})(c, in)
			w, l := rounded(weightOf(c, in), num.Float32), loraParts(func(*lora) {})
			a := adapterOf(c, in, l)
			delta := make([]float32, a.n*a.k)
			op.MatMulInput(delta, a.masters("b"), a.masters("a"), a.n, a.rank, a.k)
			for i := range w {
				w[i] = a.t.Round(w[i] + float32(c.Float("scale")*delta[i]))
			}
			op.Linear(out["y"].F, in["x"].F, w, in["bias"].F, a.m, a.n, a.k)
			a.t.RoundAll(out["y"].F)
			return out, err
		},
	},
}

var loraBackwardMutants = []Mutant{
	{
		Name: "scale forgotten in dB", Bug: "dB lacks α/r.", Op: "lora_linear_backward",
		Func: loraBackward(func(l *lora) { l.scaleB = one }),
	},
	{
		Name: "scale forgotten in dA", Bug: "dA lacks α/r.", Op: "lora_linear_backward",
		Func: loraBackward(func(l *lora) { l.scaleA = one }),
	},
	{
		Name: "scale forgotten in dx", Bug: "The gradient that the branch gives its input lacks α/r.", Op: "lora_linear_backward",
		Func: loraBackward(func(l *lora) { l.scaleX = one }),
	},
	{
		Name: "scale squared in dA", Bug: "dA has α/r twice: once from dv, once more at the end.", Op: "lora_linear_backward",
		Func: loraBackward(func(l *lora) { l.scaleA = func(scale float32) float32 { return scale * scale } }),
	},
	{
		Name: "another mask in backward", Bug: "Backward draws its mask anew.", Op: "lora_linear_backward",
		Func: loraBackward(func(l *lora) {
			l.ofInput = func(a adapter, dx []float32) []float32 { return a.masks(dx, 99, 0) }
		}),
	},
	{
		Name: "no mask in dx", Bug: "The gradient of dropped inputs is not zero.", Op: "lora_linear_backward",
		Func: loraBackward(func(l *lora) { l.ofInput = func(_ adapter, dx []float32) []float32 { return dx } }),
	},
	{
		Name: "no mask in dA", Bug: "dA takes the input before dropout.", Op: "lora_linear_backward",
		Func: loraBackward(func(l *lora) { l.toA = func(a adapter) []float32 { return a.in["x"].F } }),
	},
	{
		Name: "mask restarts in backward", Bug: "Backward's mask begins at the micro-batch's first token, forward's at the batch's.",
		Op: "lora_linear_backward",
		Func: loraBackward(func(l *lora) {
			l.ofInput = func(a adapter, dx []float32) []float32 {
				if !a.c.Has("p") {
					return dx
				}
				return a.masks(dx, seedOf(a.c), 0)
			}
		}),
	},
	{
		Name: "B in float32 in backward", Bug: "Backward uses the masters, forward their roundings.", Op: "lora_linear_backward",
		Func: loraBackward(func(l *lora) { l.master = func(v float32, _ num.DType) float32 { return v } }),
	},
	{
		Name: "dA and dB in bfloat16",
		Bug:  "Gradients of the adapter are rounded to bfloat16 at each addition: small ones are lost as they accumulate.", Op: "lora_linear_backward",
		Func: loraBackward(func(l *lora) {
			l.adds = func(there, product float32) float32 { return num.BFloat16.Round(there + product) }
		}),
	},
	{
		Name: "base path forgotten", Bug: "dx has the branch's part alone: a frozen layer is taken for one without gradient.",
		Op:   "lora_linear_backward",
		Func: loraBackward(func(l *lora) { l.joins = func(there, _ float32, _ num.DType) float32 { return there } }),
	},
	{
		Name: "gradients overwritten", Bug: "dA and dB hold the last micro-batch's alone.", Op: "lora_linear_backward",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			in = copied(in)
			clear(in["da"].F)
			clear(in["db"].F)
			return reference("lora_linear_backward", c, in)
		},
	},
	{
		Name: "no dx asked for", Bug: "It writes dx though there is none to write to: the first layer of a model has no gradient of its input.",
		Op: "lora_linear_backward",
		Func: spoiled("lora_linear_backward", func(_ *Case, in, out Tensors) {
			if _, asked := out["dx"]; !asked {
				out["dx"] = copyOf(in["x"])
			}
		}),
	},
}
