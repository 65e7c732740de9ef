package mutants

import "math"

// lionParts is a step of Lion in parts. s are the scalars, in the order of the operation lion_scalars.
type lionParts struct {
	clip     func(norm, maxNorm float32) float32
	gradient func(g, p float32, s []float32) float32 // after clipping
	decayed  func(p float32, s []float32) float32    // before the update
	mixed    func(m, g float32, s []float32) float32 // what the sign is taken of
	sign     func(c float32) float32
	finished func(p float32, s []float32) float32 // after the update
	moved    func(m, g float32, s []float32) float32
	late     bool // the update looks at the moment after it moved
	skips    func(g float32) bool
}

func lion(spoil func(a *lionParts)) Func {
	a := lionParts{
		clip:     steppingParts(func(*stepping) {}).clip,
		gradient: func(g, _ float32, _ []float32) float32 { return g },
		decayed:  func(p float32, s []float32) float32 { return float32(p * s[decay]) },
		mixed:    func(m, g float32, s []float32) float32 { return float32(m*s[beta1]) + float32(g*s[oneMinusBeta1]) },
		sign:     signOf,
		finished: func(p float32, _ []float32) float32 { return p },
		moved:    func(m, g float32, s []float32) float32 { return float32(m*s[beta2]) + float32(g*s[oneMinusBeta2]) },
		skips:    func(float32) bool { return false },
	}
	spoil(&a)
	return func(_ *Case, in Tensors) (Tensors, error) {
		out, s := only(in, "p", "m"), in["scalars"].F
		p, m, clip := out["p"].F, out["m"].F, a.clip(in["norm"].F[0], s[maxNorm])
		for i, g := range in["g"].F {
			if a.skips(g) {
				continue
			}
			g = a.gradient(float32(g*clip), p[i], s)
			before, after := m[i], a.moved(m[i], g, s)
			if a.late {
				before = after
			}
			p[i] = a.finished(a.decayed(p[i], s)+float32(a.sign(a.mixed(before, g, s))*s[stepSize]), s)
			m[i] = after
		}
		return out, nil
	}
}

func signOf(c float32) float32 {
	switch {
	case c > 0:
		return 1
	case c < 0:
		return -1
	}
	return float32(c * c) // +0, or NaN
}

var lionMutants = []Mutant{
	{
		Name: "Lion: coupled decay", Bug: "Decay goes through the gradient: the sign hides how large it is, and the moment takes it in.",
		Seen: "bitsandbytes (#1992, PR #1993, #2001)", Op: "lion",
		Func: lion(func(a *lionParts) {
			a.decayed = func(p float32, _ []float32) float32 { return p }
			a.gradient = func(g, p float32, s []float32) float32 { return g + float32((1-s[decay])*p) }
		}),
	},
	{
		Name: "Lion: decay after the update", Bug: "The update is decayed, too.", Op: "lion",
		Func: lion(func(a *lionParts) { a.decayed, a.finished = a.finished, a.decayed }),
	},
	{
		Name: "Lion: betas exchanged", Bug: "The update mixes by β2 and the moment moves by β1.", Op: "lion",
		Func: lion(func(a *lionParts) { a.mixed, a.moved = a.moved, a.mixed }),
	},
	{
		Name: "Lion: one beta", Bug: "The moment moves by β1, too, as in signed momentum.", Op: "lion",
		Func: lion(func(a *lionParts) { a.moved = a.mixed }),
	},
	{
		Name: "Lion: moment first", Bug: "The update looks at the moment after it has moved.", Op: "lion",
		Func: lion(func(a *lionParts) { a.late = true }),
	},
	{
		Name: "Lion: sign of the moment", Bug: "The sign is that of the new moment, without the gradient mixed in again.", Op: "lion",
		Func: lion(func(a *lionParts) { a.mixed = a.moved }),
	},
	{
		Name: "Lion: without sign", Bug: "The update is as large as what its sign should be taken of.", Op: "lion",
		Func: lion(func(a *lionParts) { a.sign = func(c float32) float32 { return c } }),
	},
	{
		Name: "Lion: zero goes up", Bug: "A zero has the sign of a positive number.", Op: "lion",
		Func: lion(func(a *lionParts) {
			a.sign = func(c float32) float32 {
				if c >= 0 {
					return 1
				}
				return signOf(c)
			}
		}),
	},
	{
		Name: "Lion: sign by its bit", Bug: "The sign bit decides: zeros of both signs move the parameter.", Op: "lion",
		Func: lion(func(a *lionParts) {
			a.sign = func(c float32) float32 { return float32(math.Copysign(1, float64(c))) }
		}),
	},
	{
		Name: "Lion: NaN stands still", Bug: "NaN has the sign 0: the parameter hides what the moment shows.", Seen: "torch.sign on CPUs, by design", Op: "lion",
		Func: lion(func(a *lionParts) {
			a.sign = func(c float32) float32 {
				if c != c {
					return 0
				}
				return signOf(c)
			}
		}),
	},
	{
		Name: "Lion: up the gradient", Bug: "The parameter goes up the gradient.", Op: "lion",
		Func: lion(func(a *lionParts) { a.sign = func(c float32) float32 { return -signOf(c) } }),
	},
	{
		Name: "Lion: zero gradients skipped", Bug: "Where the gradient is zero nothing moves: no decay, no momentum.", Seen: "bitsandbytes, skip_zeros", Op: "lion",
		Func: lion(func(a *lionParts) { a.skips = func(g float32) bool { return g == 0 } }),
	},
	{
		Name: "Lion: not clipped", Bug: "The norm is not looked at: the sign hides that, the moment does not.", Op: "lion",
		Func: lion(func(a *lionParts) { a.clip = func(_, _ float32) float32 { return 1 } }),
	},
	{
		Name: "Lion: 1 − β from float32", Bug: "1 − β2 is taken from the rounded β2.", Seen: "bitsandbytes on CUDA", Op: "lion",
		Func: lion(func(a *lionParts) {
			a.moved = func(m, g float32, s []float32) float32 { return float32(m*s[beta2]) + float32(g*(1-s[beta2])) }
		}),
	},
	{
		Name: "Lion: step in bfloat16", Bug: "The learning rate is rounded to the gradient's type before it is subtracted.", Seen: "bitsandbytes' 8-bit Lion on CUDA",
		Op: "lion",
		Func: asked("lion", func(_ *Case, in Tensors) {
			in["scalars"].F[stepSize] = rounded(in["scalars"].F[stepSize:][:1], numType(bf16))[0]
		}),
	},
	{
		Name: "Lion: moment by lerp", Bug: "m + (g − m)·(1 − β2).", Op: "lion",
		Func: lion(func(a *lionParts) {
			a.moved = func(m, g float32, s []float32) float32 { return m + float32((g-m)*s[oneMinusBeta2]) }
		}),
		Rounding: true,
	},
	{
		Name: "Lion: fused sum", Bug: "The second product of the sum is not rounded: where the two cancel the sign is another.",
		Seen: "bitsandbytes' and PyTorch's vector code, by design", Op: "lion",
		Func: lion(func(a *lionParts) {
			a.mixed = func(m, g float32, s []float32) float32 {
				return float32(math.FMA(float64(g), float64(s[oneMinusBeta1]), float64(float32(m*s[beta1]))))
			}
		}),
		Rounding: true,
	},
	{
		Name: "Lion: bias corrected", Bug: "The step size is −lr/(1 − β1), as AdamW's first.", Op: "lion_scalars",
		Func: spoiled("lion_scalars", func(_ *Case, _, out Tensors) { out["scalars"].F[stepSize] /= out["scalars"].F[oneMinusBeta1] }),
	},
	{
		Name: "Lion: decay of the whole weight", Bug: "1 − wd: the learning rate is left out.", Op: "lion_scalars",
		Func: spoiled("lion_scalars", func(c *Case, _, out Tensors) { out["scalars"].F[decay] = float32(1 - number(c, "weight_decay")) }),
	},
}
