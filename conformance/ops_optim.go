package conformance

import (
	"fmt"
	"math"
	"slices"

	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

const adamWFormula = "scalars, as the operation adamw_scalars makes them: decay = 1 − lr·weight_decay, beta1, 1−beta1, beta2, 1−beta2, root_bias2 = " +
	"√(1 − beta2^t), eps, step_size = −lr/(1 − beta1^t), max_norm; norm F32 [1]: that of all gradients, not of g alone. The params that have these " +
	"names are what the two inputs were made from: the inputs count. clip = min(1, max_norm/(norm + 1e-6)), NaN where the quotient is, but 1 for a " +
	"max_norm of 0; g' = g·clip; p = p·decay; m = m·beta1 + g'·(1−beta1); v = v·beta2 + (g'·(1−beta2))·g'; p = p + (m·step_size)/(√v/root_bias2 + " +
	"eps), by the new m and v. Every step is rounded to float32."

func init() {
	register(&Operation{
		Name: "grad_norm", Of: "optim.Norm", Needs: "GradNorm",
		Formula: "g0, g1, … F32 → norm F32 [1]. √Sum(Sum(g0²), Sum(g1²), …): the squares of each tensor are rounded to float32 and summed as in the operation sum, then the sums are.",
		Cases:   gradNormCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			var grads [][]float32
			for i := range c.Int("tensors") {
				grads = append(grads, in[fmt.Sprintf("g%d", i)].F)
			}
			return Tensors{"norm": Floats(F32, []float32{optim.Norm(grads)})}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			var grads []*op.Tensor
			for i := range b.Case.Int("tensors") {
				name := fmt.Sprintf("g%d", i)
				grads = append(grads, b.Tensor(name, in[name]))
			}
			norm := b.Result("norm", F32, 1, 1)
			b.Device.GradNorm(Place, norm, grads)
			return Tensors{"norm": b.Read(norm, 1)}
		},
	}, &Operation{
		Name: "adamw", Of: "optim.AdamW", Needs: "AdamW",
		Formula: "p, m, v, g F32 [n], scalars F32 [1, 9] → p, m, v. " + adamWFormula,
		Cases:   adamWCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			p, m, v := in["p"].clone(), in["m"].clone(), in["v"].clone()
			optim.AdamW(p.F, m.F, v.F, in["g"].F, in["scalars"].F, in["norm"].F[0])
			return Tensors{"p": p, "m": m, "v": v}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			p, m, v := b.State("p", in["p"]), b.State("m", in["m"]), b.State("v", in["v"])
			b.Device.AdamW(Place, p, m, v, b.Tensor("g", in["g"]), b.Tensor("scalars", in["scalars"]), b.Tensor("norm", in["norm"]))
			return Tensors{"p": b.Read(p), "m": b.Read(m), "v": b.Read(v)}
		},
	}, &Operation{
		Name: "adamw8", Of: "optim.AdamW8", Needs: "AdamW8",
		Formula: "p, g F32 [n], scalars F32 [1, 9], codes_m, codes_v U8 [n], absmax_m, absmax_v F32 [blocks of 256] → p, codes_m, codes_v, " +
			"absmax_m, absmax_v. m and v are dequantized (dynamic_dequantize, signed for m, unsigned for v), moved, and quantized again " +
			"(dynamic_quantize). p takes them before they are quantized. " + adamWFormula,
		Cases: adamW8Cases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			p, s := in["p"].clone(), state8Of(in)
			optim.AdamW8(p.F, s, in["g"].F, in["scalars"].F, in["norm"].F[0], quant.Spec)
			return with8(Tensors{"p": p}, s), nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			p, s := b.State("p", in["p"]), b.Device.NewState8(op.Run, "conformance/state", in["p"].Len())
			b.Device.WriteState8(s, state8Of(in))
			b.Device.AdamW8(Place, p, s, b.Tensor("g", in["g"]), b.Tensor("scalars", in["scalars"]), b.Tensor("norm", in["norm"]))
			after, err := b.Device.ReadState8(s)
			if err != nil {
				b.fail(err)
				after = optim.NewState8(0)
			}
			return with8(Tensors{"p": b.Read(p)}, after)
		},
	})
}

// state8Of is a copy of the 8-bit state among the inputs.
func state8Of(in Tensors) *optim.State8 {
	in = in.clone()
	return &optim.State8{M: in["codes_m"].B, V: in["codes_v"].B, AbsmaxM: in["absmax_m"].F, AbsmaxV: in["absmax_v"].F}
}

// with8 adds an 8-bit state.
func with8(ts Tensors, s *optim.State8) Tensors {
	ts["codes_m"], ts["codes_v"] = Bytes(s.M), Bytes(s.V)
	ts["absmax_m"], ts["absmax_v"] = Floats(F32, s.AbsmaxM), Floats(F32, s.AbsmaxV)
	return ts
}

func gradNormCases(m *Maker) {
	add := func(level Level, reason string, sizes []int, values func(r *random, n int) []float32) {
		total := 0
		for _, n := range sizes {
			total += n
		}
		m.Add(level, "", reason, []Param{Int("tensors", len(sizes)), Int("n", total)}, func(r *random) Tensors {
			in := Tensors{}
			for i, n := range sizes {
				in[fmt.Sprintf("g%d", i)] = Floats(F32, values(r, n))
			}
			return in
		})
	}
	for _, n := range []int{1, 2, 3, 7, 16, 31, 32, 33, 48, 63, 64, 65, 95, 96, 97, 127, 128, 129, 255, 257, 576, 1000, 1024, 4096, 4097} {
		level := Quick
		if n == 33 || n == 1000 {
			level = Smoke
		}
		add(level, "random", []int{n}, scaled(0.01))
		add(level, "random", []int{n, n + 1, 2 * n}, scaled(1))
		add(Quick, "several-tensors", []int{1, n, 5, 64}, scaled(1))
		add(Quick, "wide-range", []int{n, 33}, wideRange)
		add(Quick, "exact-sums", []int{n, 7}, func(r *random, n int) []float32 { return r.integers(n, 30) })
	}
	for _, tensors := range []int{2, 31, 32, 33, 34, 65, 100} {
		sizes := make([]int, tensors)
		for i := range sizes {
			sizes[i] = 1 + i*i%11
		}
		add(Smoke, "several-tensors", sizes, scaled(0.1))
		for range 8 {
			add(Quick, "several-tensors", sizes, scaled(0.1))
		}
	}
	for range 10 { // as many as models of 2 and of 32 layers have
		add(Quick, "several-tensors", slices.Repeat([]int{24, 32, 5, 40}, 7), scaled(0.1))
		add(Quick, "several-tensors", slices.Repeat([]int{5, 3}, 224), scaled(1))
	}
	for range 10 {
		add(Quick, "random", []int{256}, scaled(1))
		add(Quick, "random", []int{1000, 70}, scaled(1))
	}
	for _, n := range []int{65535, 65536, 65537, 65536 + 33, 70000, 100000, 140000, 140000, 140000, 140000} {
		add(Quick, "long-sum", []int{n}, scaled(1))
	}
	add(Quick, "long-sum", []int{65537, 3, 70000}, scaled(0.001))
	add(Quick, "zero-gradient", []int{40}, func(r *random, n int) []float32 { return make([]float32, n) })
	add(Quick, "zero-gradient", []int{40, 3}, func(r *random, n int) []float32 { return signs(r, n, 0) })
	add(Quick, "square-overflows", []int{40, 3}, scaled(0x1p64))
	add(Quick, "square-overflows", []int{40, 3}, scaled(0x1p61))
	add(Quick, "square-underflows", []int{40, 3}, scaled(0x1p-68))
	add(Quick, "square-underflows", []int{40, 3}, scaled(0x1p-76))
	add(Quick, "nan-inf", []int{40, 3}, func(r *random, n int) []float32 { return repeated(n, float32(math.Inf(1))) })
	add(Quick, "nan-inf", []int{40, 3}, func(r *random, n int) []float32 {
		x := r.normal(n, 1)
		x[n-1] = float32(math.NaN())
		return x
	})
	add(Full, "long-sum", []int{65536*33 + 5}, scaled(1))
}

// wideRange is from tiny to large.
func wideRange(r *random, n int) []float32 {
	x := r.normal(n, 1)
	for i := range x {
		x[i] = float32(math.Ldexp(float64(x[i]), r.below(24)-12))
	}
	return x
}

// settings are those of one step of AdamW.
type settings struct {
	optim.AdamWConfig
	maxNorm float64
	t       int
}

// usual are torch's defaults, at the third step.
var usual = settings{optim.AdamWConfig{LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01}, 0, 3}

func (s settings) scalars() Tensor {
	return Floats(F32, optim.NewScalars(s.AdamWConfig, float32(s.maxNorm), s.t), 1, optim.NumScalars)
}

func (s settings) params() []Param {
	return []Param{Float("lr", s.LR), Float("beta1", s.Beta1), Float("beta2", s.Beta2), Float("eps", s.Eps), Float("weight_decay", s.WeightDecay),
		Float("max_norm", s.maxNorm), Int("t", s.t)}
}

// with is s changed.
func (s settings) with(change func(*settings)) settings {
	change(&s)
	return s
}

// eachSetting hands on settings that differ from the usual ones in one way or two, with the reason.
func eachSetting(f func(reason string, s settings)) {
	for _, t := range []int{1, 2, 3, 4, 7, 10, 100, 1000, 1875, 100000} {
		f("bias-correction", usual.with(func(s *settings) { s.t = t }))
		f("bias-correction", usual.with(func(s *settings) { s.t, s.Beta1, s.Beta2 = t, 0.95, 0.98 }))
	}
	for _, decay := range []float64{0, 0.01, 0.1, 1, 10} {
		f("decay", usual.with(func(s *settings) { s.WeightDecay, s.LR = decay, 0.02 }))
	}
	f("decay", usual.with(func(s *settings) { s.WeightDecay, s.LR = 3, 0.3 }))
	for _, eps := range []float64{0, 1e-12, 1e-8, 1e-6, 1e-3, 0.1, 1} {
		f("eps", usual.with(func(s *settings) { s.Eps, s.LR = eps, 0.1 }))
	}
	for _, lr := range []float64{0, 1e-10, 2e-4, 0.5, 3} {
		f("learning-rate", usual.with(func(s *settings) { s.LR = lr }))
	}
	for _, beta := range []float64{0, 0.5, 0.99, 0.9999} {
		f("one-minus-beta", usual.with(func(s *settings) { s.Beta2 = beta }))
		f("one-minus-beta", usual.with(func(s *settings) { s.Beta1 = beta }))
	}
}

// gradientOf draws a gradient and what belongs to it: parameters and moments of some size.
type gradientOf func(r *random, n int) (p, m, v, g []float32)

func afterSteps(scale float32) gradientOf {
	return func(r *random, n int) (p, m, v, g []float32) {
		p, m, g = r.normal(n, 0.1), r.normal(n, scale), r.normal(n, scale)
		for _, x := range r.normal(n, scale) {
			v = append(v, float32(x*x))
		}
		return p, m, v, g
	}
}

func firstStep(r *random, n int) (p, m, v, g []float32) {
	return r.normal(n, 0.1), make([]float32, n), make([]float32, n), r.normal(n, 0.01)
}

// adamWBothCases are those of 32 and of 8 bits.
func adamWBothCases(add func(level Level, n int, reason string, s settings, norm float64, values gradientOf)) {
	for _, n := range []int{1, 2, 3, 7, 8, 31, 32, 33, 64, 65, 127, 128, 129, 255, 256, 257, 300, 511, 512, 513, 1000, 4096, 4097} {
		level := Quick
		if n == 33 || n == 257 || n == 1000 {
			level = Smoke
		}
		add(level, n, "random", usual, 1, afterSteps(0.01))
		add(level, n, "first-step", usual.with(func(s *settings) { s.t, s.maxNorm = 1, 0.3 }), 0.7, firstStep)
		add(Quick, n, "random", usual.with(func(s *settings) { s.t, s.LR, s.maxNorm = 20, 2e-4, 0.3 }), 5, afterSteps(1))
	}
	eachSetting(func(reason string, s settings) {
		values := afterSteps(0.01)
		if reason == "eps" {
			values = afterSteps(float32(max(s.Eps, 1e-6)))
		}
		add(Quick, 100, reason, s, 1, values)
		add(Quick, 67, reason, s, 1, afterSteps(2))
	})
	for _, norm := range []float64{0, 1e-8, 0.1, 0.2999, 0.299999, 0.3, 0.300001, 0.31, 1, 1000, 1e30, math.Inf(1)} {
		for _, maxNorm := range []float64{0, 0.3} {
			add(Quick, 50, "clip", usual.with(func(s *settings) { s.maxNorm = maxNorm }), norm, afterSteps(0.05))
		}
		add(Quick, 50, "clip", usual.with(func(s *settings) { s.maxNorm, s.t = 1e-7, 1 }), norm, firstStep)
	}
	add(Quick, 300, "zero-gradient", usual.with(func(s *settings) { s.t = 1 }), 0, func(r *random, n int) (p, m, v, g []float32) {
		return r.normal(n, 1), make([]float32, n), make([]float32, n), make([]float32, n)
	})
	add(Quick, 700, "zero-gradient", usual.with(func(s *settings) { s.t = 1 }), 1, func(r *random, n int) (p, m, v, g []float32) {
		p, m, v, g = firstStep(r, n)
		clear(g[200:600])
		return p, m, v, g
	})
	add(Quick, 400, "some-zeros", usual.with(func(s *settings) { s.t = 1 }), 1, func(r *random, n int) (p, m, v, g []float32) {
		p, m, v, g = firstStep(r, n)
		for i := range g {
			if r.below(3) == 0 {
				g[i] = 0
			}
		}
		return p, m, v, g
	})
	for _, scale := range []float32{0x1p-70, 0x1p-65, 0x1p-64, 0x1p-63} {
		add(Quick, 300, "square-underflows", usual, 1, afterSteps(scale))
	}
	add(Quick, 300, "square-underflows", usual.with(func(s *settings) { s.t = 1 }), 1, func(r *random, n int) (p, m, v, g []float32) {
		return r.normal(n, 1), make([]float32, n), make([]float32, n), r.normal(n, 0x1p-58)
	})
	add(Quick, 300, "wide-range", usual, 1, func(r *random, n int) (p, m, v, g []float32) {
		p, m, v, g = afterSteps(1)(r, n)
		for i := range g {
			s := float32(math.Ldexp(1, -r.below(20)))
			m[i], g[i], v[i] = float32(m[i]*s), float32(g[i]*s), float32(v[i]*float32(s*s))
		}
		return p, m, v, g
	})
}

func adamWCases(m *Maker) {
	adamWBothCases(func(level Level, n int, reason string, s settings, norm float64, values gradientOf) {
		m.Add(level, "", reason, append([]Param{Int("n", n), Float("norm", norm)}, s.params()...), func(r *random) Tensors {
			p, m, v, g := values(r, n)
			return Tensors{"p": Floats(F32, p), "m": Floats(F32, m), "v": Floats(F32, v), "g": Floats(F32, g), "scalars": s.scalars(),
				"norm": Floats(F32, []float32{float32(norm)})}
		})
	})
}

// adamW8Cases have the state that quantizing 32-bit moments gives; bytes and scales of zero at the first step; and any bytes.
func adamW8Cases(m *Maker) {
	add := func(level Level, n int, reason string, s settings, norm float64, values gradientOf, state func(r *random, m, v []float32) *optim.State8) {
		m.Add(level, "", reason, append([]Param{Int("n", n), Float("norm", norm)}, s.params()...), func(r *random) Tensors {
			p, m, v, g := values(r, n)
			return with8(Tensors{"p": Floats(F32, p), "g": Floats(F32, g), "scalars": s.scalars(), "norm": Floats(F32, []float32{float32(norm)})}, state(r, m, v))
		})
	}
	adamWBothCases(func(level Level, n int, reason string, s settings, norm float64, values gradientOf) {
		add(level, n, reason, s, norm, values, func(_ *random, m, v []float32) *optim.State8 {
			if s.t == 1 {
				return optim.NewState8(n)
			}
			return quantized8(m, v)
		})
	})
	for _, n := range []int{255, 256, 257, 512, 1000} {
		add(Smoke, n, "every-code", usual, 1, afterSteps(0.1), func(r *random, m, v []float32) *optim.State8 {
			s := quantized8(m, v)
			for i := range n {
				s.M[i], s.V[i] = byte(i), byte(i*7+3)
			}
			return s
		})
		// Nothing moves but by the betas: the codes and scales of a step are those of the step before, decayed.
		add(Quick, n, "zero-gradient", usual, 0, func(r *random, n int) (p, m, v, g []float32) {
			p, m, v, _ = afterSteps(0.1)(r, n)
			return p, m, v, make([]float32, n)
		}, func(_ *random, m, v []float32) *optim.State8 { return quantized8(m, v) })
		// One element is far larger than the others of its block, whose codes crowd around zero.
		add(Quick, n, "near-zero-codes", usual.with(func(s *settings) { s.t = 1 }), 1, func(r *random, n int) (p, m, v, g []float32) {
			p, m, v, g = firstStep(r, n)
			for i := range g {
				g[i] = float32(g[i] * 0x1p-9)
				if i%256 == 17 {
					g[i] = 3
				}
			}
			return p, m, v, g
		}, func(_ *random, m, v []float32) *optim.State8 { return optim.NewState8(n) })
	}
	fresh := func(_ *random, m, _ []float32) *optim.State8 { return optim.NewState8(len(m)) }
	for range 6 {
		forgetful := usual.with(func(s *settings) { s.t, s.Beta1, s.Beta2 = 1, 0, 0 })
		add(Quick, 768, "tie", forgetful, 1, ties8, fresh)
		add(Quick, 600, "reciprocal", forgetful, 1, undecidedMoments, fresh)
	}
}

func quantized8(m, v []float32) *optim.State8 {
	s := &optim.State8{}
	s.M, s.AbsmaxM = quant.Quantize8(m, quant.DynamicSigned, optim.Blocksize8, quant.Spec)
	s.V, s.AbsmaxV = quant.Quantize8(v, quant.DynamicUnsigned, optim.Blocksize8, quant.Spec)
	return s
}

// undecidedMoments are gradients for which quotient and product lie on other sides of a middle of the signed map, in the last, short block,
// too. With betas of 0 they are the moments.
func undecidedMoments(r *random, n int) (p, m, v, g []float32) {
	for len(g) < n {
		g = append(g, undecided8(r, middles(quant.DynamicSigned))...)
	}
	return r.normal(n, 0.1), make([]float32, n), make([]float32, n), g[:n]
}

// ties8 are gradients in blocks of absmax 1 that lie at the middle of two values of the signed map, or beside it. With betas of 0
// they are the moments.
func ties8(r *random, n int) (p, m, v, g []float32) {
	g = make([]float32, n)
	for i := range g {
		c := r.below(255)
		middle := float32(float32(quant.DynamicSigned[c]+quant.DynamicSigned[c+1]) * 0.5)
		g[i] = []float32{middle, math.Nextafter32(middle, 2), math.Nextafter32(middle, -2)}[r.below(3)]
		if i%optim.Blocksize8 == 0 {
			g[i] = 1
		}
	}
	return r.normal(n, 0.1), make([]float32, n), make([]float32, n), g
}
