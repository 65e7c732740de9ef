package conformance

import (
	"math"

	"qlora/ref/optim"
)

func init() {
	register(&Operation{
		Name: "lion", Of: "optim.Lion", Needs: "Lion",
		Formula: "p, m, g F32 [n], scalars F32 [1, 9] → p, m. scalars, as the operation lion_scalars makes them: decay = 1 − lr·weight_decay, beta1, " +
			"1−beta1, beta2, 1−beta2, two that are not read, step_size = −lr, max_norm; norm F32 [1]: that of all gradients, not of g alone. The params " +
			"that have these names are what the two inputs were made from: the inputs count. clip = min(1, max_norm/(norm + 1e-6)), NaN where the " +
			"quotient is, but 1 for a max_norm of 0; g' = g·clip; c = m·beta1 + g'·(1−beta1), by the m that is given; p = p·decay; p = p + " +
			"sign(c)·step_size, sign 1 or −1, of zeros of both signs +0, of NaN NaN; m = m·beta2 + g'·(1−beta2). Every step is rounded to float32.",
		Cases: lionCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			p, m := in["p"].clone(), in["m"].clone()
			optim.Lion(p.F, m.F, in["g"].F, in["scalars"].F, in["norm"].F[0])
			return Tensors{"p": p, "m": m}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			p, m := b.State("p", in["p"]), b.State("m", in["m"])
			b.Device.Lion(Place, p, m, b.Tensor("g", in["g"]), b.Tensor("scalars", in["scalars"]), b.Tensor("norm", in["norm"]))
			return Tensors{"p": b.Read(p), "m": b.Read(m)}
		},
	}, &Operation{
		Name: "lion_scalars", Of: "optim.NewLionScalars",
		Formula: "lr, beta1, beta2, weight_decay (float64), max_norm (float32) → scalars F32 [9]: 1 − lr·weight_decay, β1, 1 − β1, β2, 1 − β2, 0, 0, " +
			"−lr, max_norm. Each in float64, rounded once.",
		Cases: lionScalarsCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			config := optim.AdamWConfig{LR: c.float64("lr"), Beta1: c.float64("beta1"), Beta2: c.float64("beta2"), WeightDecay: c.float64("weight_decay")}
			return Tensors{"scalars": Floats(F32, optim.NewLionScalars(config, c.Float("max_norm")))}, nil
		},
	})
}

// lionSettings are those of one step of Lion: of settings all but ε and the step.
type lionSettings struct{ settings }

// usualLion are the defaults of bitsandbytes, with decay.
var usualLion = lionSettings{settings{AdamWConfig: optim.AdamWConfig{LR: 1e-4, Beta1: 0.9, Beta2: 0.99, WeightDecay: 0.01}}}

func (s lionSettings) scalars() Tensor {
	return Floats(F32, optim.NewLionScalars(s.AdamWConfig, float32(s.maxNorm)), 1, optim.NumScalars)
}

func (s lionSettings) params() []Param {
	return []Param{Float("lr", s.LR), Float("beta1", s.Beta1), Float("beta2", s.Beta2), Float("weight_decay", s.WeightDecay), Float("max_norm", s.maxNorm)}
}

func (s lionSettings) with(change func(*lionSettings)) lionSettings {
	change(&s)
	return s
}

// ofLion draws a gradient and what belongs to it.
type ofLion func(r *random, n int) (p, m, g []float32)

func lionOf(scale float32) ofLion {
	return func(r *random, n int) (p, m, g []float32) {
		return r.normal(n, 0.1), r.normal(n, scale), r.normal(n, scale)
	}
}

func lionCases(m *Maker) {
	add := func(level Level, n int, reason string, s lionSettings, norm float64, values ofLion) {
		m.Add(level, "", reason, append([]Param{Int("n", n), Float("norm", norm)}, s.params()...), func(r *random) Tensors {
			p, m, g := values(r, n)
			scalars := s.scalars()
			if reason == "unread" {
				scalars.F[5], scalars.F[6] = float32(math.NaN()), float32(math.NaN())
			}
			return Tensors{"p": Floats(F32, p), "m": Floats(F32, m), "g": Floats(F32, g), "scalars": scalars, "norm": Floats(F32, []float32{float32(norm)})}
		})
	}
	for _, n := range []int{1, 2, 3, 7, 8, 31, 32, 33, 64, 65, 127, 128, 129, 255, 257, 300, 511, 513, 1000, 2047, 2049, 4096, 4097} {
		level := Quick
		if n == 33 || n == 1000 {
			level = Smoke
		}
		add(level, n, "random", usualLion, 1, lionOf(0.01))
		add(level, n, "first-step", usualLion.with(func(s *lionSettings) { s.maxNorm = 0.3 }), 0.7, func(r *random, n int) (p, m, g []float32) {
			return r.normal(n, 0.1), make([]float32, n), r.normal(n, 0.01)
		})
		add(Quick, n, "random", usualLion.with(func(s *lionSettings) { s.LR, s.maxNorm = 0.02, 0.3 }), 5, lionOf(1))
	}
	lionSettingsCases(add)
	lionSignCases(add)
}

func lionSettingsCases(add func(level Level, n int, reason string, s lionSettings, norm float64, values ofLion)) {
	for _, decay := range []float64{0, 0.01, 0.1, 1, 10} {
		add(Quick, 100, "decay", usualLion.with(func(s *lionSettings) { s.WeightDecay, s.LR = decay, 0.02 }), 1, lionOf(0.01))
		add(Quick, 67, "decay", usualLion.with(func(s *lionSettings) { s.WeightDecay, s.LR = decay, 0.3 }), 1, lionOf(2))
	}
	for _, lr := range []float64{0, 1e-10, 2e-4, 0.5, 3} {
		add(Quick, 100, "learning-rate", usualLion.with(func(s *lionSettings) { s.LR = lr }), 1, lionOf(0.01))
	}
	for _, beta := range []float64{0, 0.5, 0.95, 0.999, 0.9999} {
		add(Quick, 100, "one-minus-beta", usualLion.with(func(s *lionSettings) { s.Beta2 = beta }), 1, lionOf(1))
		add(Quick, 100, "one-minus-beta", usualLion.with(func(s *lionSettings) { s.Beta1 = beta }), 1, lionOf(1))
	}
	for _, norm := range []float64{0, 0.1, 0.299999, 0.3, 0.300001, 1, 1000, 1e30, math.Inf(1)} {
		for _, maxNorm := range []float64{0, 0.3} {
			add(Quick, 50, "clip", usualLion.with(func(s *lionSettings) { s.maxNorm = maxNorm }), norm, lionOf(0.05))
		}
	}
	add(Smoke, 50, "unread", usualLion, 1, lionOf(0.05))
	add(Quick, 300, "wide-range", usualLion, 1, func(r *random, n int) (p, m, g []float32) { return r.normal(n, 1), wideRange(r, n), wideRange(r, n) })
	add(Quick, 300, "zero-gradient", usualLion, 0, func(r *random, n int) (p, m, g []float32) {
		return r.normal(n, 0.1), r.normal(n, 0.1), make([]float32, n)
	})
	add(Quick, 300, "zero-gradient", usualLion, 0, func(r *random, n int) (p, m, g []float32) {
		return r.normal(n, 0.1), make([]float32, n), make([]float32, n)
	})
}

// lionSignCases are about what decides which way a parameter goes.
func lionSignCases(add func(level Level, n int, reason string, s lionSettings, norm float64, values ofLion)) {
	for _, n := range []int{33, 300} {
		add(Smoke, n, "sign", usualLion, 1, func(r *random, n int) (p, m, g []float32) {
			return signedZeros(r, n, F32), signedZeros(r, n, F32), signs(r, n, 0)
		})
		add(Smoke, n, "cancellation", usualLion, 1, balanced)
		add(Quick, n, "subnormal", usualLion, 1, func(r *random, n int) (p, m, g []float32) {
			return r.normal(n, 0.1), subnormals(r, n, F32), subnormals(r, n, F32)
		})
		add(Quick, n, "subnormal", usualLion, 1, func(r *random, n int) (p, m, g []float32) { // most products are 0
			return r.normal(n, 0.1), r.normal(n, 0x1p-149), r.normal(n, 0x1p-147)
		})
		add(Quick, n, "nan-inf", usualLion, 1, func(r *random, n int) (p, m, g []float32) {
			return r.normal(n, 0.1), nansAndInfinities(r, n, F32), nansAndInfinities(r, n, F32)
		})
	}
}

// balanced are moments and gradients whose rounded products take each other away to a zero, or nearly: where one of the products is not
// rounded, as in a fused multiply-add, a little is left, whose sign moves the parameter.
func balanced(r *random, n int) (p, m, g []float32) {
	beta, rest := float32(usualLion.Beta1), float32(1-usualLion.Beta1)
	for len(m) < n {
		x := r.normal(1, 1)[0]
		want := -float32(x * beta)
		y := want / rest
		for _, y := range []float32{y, math.Nextafter32(y, 100), math.Nextafter32(y, -100)} {
			if float32(y*rest) == want || len(m)%8 == 7 {
				m, g = append(m, x), append(g, y)
				break
			}
		}
	}
	return r.normal(n, 0.1), m, g
}

func lionScalarsCases(m *Maker) {
	add := func(level Level, lr, beta1, beta2, decay, maxNorm float64, reason string) {
		m.Add(level, "", reason, []Param{Float("lr", lr), Float("beta1", beta1), Float("beta2", beta2), Float("weight_decay", decay), Float("max_norm", maxNorm)},
			func(*random) Tensors { return Tensors{} })
	}
	for _, lr := range []float64{1e-5, 3e-5, 1e-4, 2e-4, 1e-3, 0.02} {
		level := Quick
		if lr >= 1e-4 && lr <= 1e-3 {
			level = Smoke
		}
		add(level, lr, 0.9, 0.99, 0.01, 0.3, "random")
		add(Quick, lr, 0.95, 0.98, 1, 0, "random")
	}
	add(Quick, 0, 0.9, 0.99, 0.1, 1, "limit")
	add(Quick, 1e-3, 0, 0, 0.1, 1, "limit")
	add(Quick, 1e-3, 0.9, 0.99, 0, 1, "limit")
}
