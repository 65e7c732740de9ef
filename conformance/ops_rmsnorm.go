package conformance

import (
	"math"

	"qlora/ref/op"
)

func init() {
	register(&Operation{
		Name: "rmsnorm", Of: "op.RMSNorm", Needs: "RMSNorm",
		Formula: "x [rows, parts·d], w F32 [1, d] → y like x, r F32 [rows, parts]. Each part of a row is normalized alone, by the same w: " +
			"r = 1/√(Sum(x²)/d + eps), y = round(w·round(x·r)). Squares, quotient and sum are rounded to float32, 1/√ correctly; Sum is that of the operation sum.",
		Cases: rmsNormCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			x := in["x"]
			y, r := make([]float32, x.Len()), make([]float32, x.Len()/c.Int("d"))
			op.RMSNorm(y, r, x.F, in["w"].F, c.Int("d"), c.Float("eps"), floats[c.DType].num)
			return Tensors{"y": Floats(c.DType, y, x.Shape...), "r": Floats(F32, r, x.Rows(), c.Int("parts"))}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			x := in["x"]
			y, r := b.Result("y", x.DType, x.Rows(), x.Cols()), b.Result("r", F32, x.Rows(), b.Case.Int("parts"))
			b.Device.RMSNorm(Place, y, r, b.Tensor("x", x), b.Tensor("w", in["w"]), b.Case.Float("eps"))
			return Tensors{"y": b.Read(y, x.Shape...), "r": b.Read(r, r.Rows, r.Cols)}
		},
	}, &Operation{
		Name: "rmsnorm_backward", Of: "op.RMSNormBackward", Needs: "RMSNormBackward",
		Formula: "dy, x, dx [rows, parts·d], w F32 [1, d], r F32 [rows, parts] of forward, dw F32 [1, d]; dx and dw each of them or not → dx, dw. With n = x·r and g = dy·w: " +
			"dx = round(dx + round(r·(g − n·(Sum(g·n)/d)))); dw += dy·round(n) in float32, a part after the other from the first. " +
			"Every product, quotient and difference is rounded to float32.",
		Cases: rmsNormBackwardCases, Optional: map[string]string{"dx": "x"},
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			out := copies(in, "dx", "dw")
			op.RMSNormBackward(out["dx"].F, out["dw"].F, in["dy"].F, in["x"].F, in["w"].F, in["r"].F, c.Int("d"), floats[c.DType].num)
			return out, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			g := b.gradients(in, "dx", "dw")
			b.Device.RMSNormBackward(Place, g["dx"], g["dw"], b.Tensor("dy", in["dy"]), b.Tensor("x", in["x"]), b.Tensor("w", in["w"]), b.Tensor("r", in["r"]))
			return b.readAll(g, in)
		},
	})
}

// normCase is what a case of a norm is made of.
type normCase struct {
	rows, d, parts int
	eps            float64
	reason         string
	x, w           func(r *random, n int) []float32
}

func (n normCase) params() []Param {
	return []Param{Int("rows", n.rows), Int("d", n.d), Int("parts", n.parts), Float("eps", n.eps)}
}

func (n normCase) inputs(r *random, t DType) Tensors {
	return Tensors{"x": Floats(t, n.x(r, n.rows*n.parts*n.d), n.rows, n.parts*n.d), "w": Floats(F32, n.w(r, n.d), 1, n.d)}
}

func scaled(by float32) func(r *random, n int) []float32 {
	return func(r *random, n int) []float32 { return r.normal(n, by) }
}

// normWeights are around 1, as those of norms are, with all bits of float32.
func normWeights(r *random, n int) []float32 {
	w := r.normal(n, 0.3)
	for i := range w {
		w[i]++
	}
	return w
}

// normCases are those of forward and backward.
func normCases(t DType, add func(level Level, n normCase)) {
	for _, d := range []int{1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 48, 63, 64, 65, 127, 128, 129, 255, 256, 257, 576, 1000} {
		level := Quick
		if d == 33 || d == 64 {
			level = Smoke
		}
		add(level, normCase{5, d, 1, 1e-5, "random", scaled(1), normWeights})
		add(Quick, normCase{3, d, 1, 1e-6, "random", scaled(0.05), scaled(1)})
		add(Quick, normCase{3, d, 1, 0.5, "eps", scaled(0.5), normWeights})
	}
	for _, eps := range []float64{1e-12, 1e-8, 1e-6, 1e-5, 1e-3, 1, 100} {
		root := float32(math.Sqrt(eps))
		add(Quick, normCase{4, 40, 1, eps, "eps", scaled(root), normWeights})
		add(Quick, normCase{4, 40, 1, eps, "eps", scaled(root / 8), normWeights})
		add(Quick, normCase{3, 40, 1, eps, "zero-row", func(r *random, n int) []float32 {
			x := r.normal(n, root)
			clear(x[40:80])
			return x
		}, normWeights})
	}
	for _, s := range []struct{ d, parts int }{{8, 2}, {16, 3}, {33, 4}, {64, 8}, {128, 5}, {1, 6}} {
		level := Quick
		if s.d == 16 || s.d == 33 {
			level = Smoke
		}
		add(level, normCase{7, s.d, s.parts, 1e-6, "parts", func(r *random, n int) []float32 { return growing(r, n, s.d) }, normWeights})
		add(Quick, normCase{1, s.d, s.parts, 1e-6, "parts", func(r *random, n int) []float32 { return growing(r, n, s.d) }, normWeights})
	}
	for _, d := range []int{16, 64, 100} { // all of one power of two: r is one, too, and every sum is exact
		add(Quick, normCase{6, d, 1, 0, "exact-sums", func(r *random, n int) []float32 { return signs(r, n, 4) },
			func(r *random, n int) []float32 { return r.integers(n, 8) }})
	}
	add(Quick, normCase{4, 70, 1, 1e-5, "one-outlier", func(r *random, n int) []float32 {
		x := r.normal(n, 1)
		for i := 13; i < n; i += 70 {
			x[i] = 3000
		}
		return x
	}, normWeights})
	add(Quick, normCase{0, 16, 1, 1e-5, "empty", scaled(1), normWeights})
}

func rmsNormCases(m *Maker) {
	for _, t := range []DType{F32, BF16, F16} {
		add := func(level Level, n normCase) {
			m.Add(level, t, n.reason, n.params(), func(r *random) Tensors { return n.inputs(r, t) })
		}
		normCases(t, add)
		for _, d := range []int{65536, 65537, 100000, 140000, 140001} {
			add(Quick, normCase{1, d, 1, 1e-5, "long-sum", scaled(1), normWeights})
		}
		add(Full, normCase{2, 200000, 1, 1e-5, "long-sum", scaled(1), normWeights})
		add(Quick, normCase{4, 50, 1, 1e-5, "nan-inf", func(r *random, n int) []float32 {
			x := r.normal(n, 1)
			x[7], x[60], x[120] = float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))
			return x
		}, normWeights})
		if t == F16 {
			continue
		}
		add(Quick, normCase{3, 50, 1, 1e-5, "square-overflows", scaled(0x1p66), normWeights})
		add(Quick, normCase{3, 50, 1, 1e-5, "square-overflows", scaled(0x1p62), normWeights})
		add(Quick, normCase{3, 50, 1, 0, "square-underflows", scaled(0x1p-68), normWeights})
		add(Quick, normCase{3, 50, 1, 0, "square-underflows", scaled(0x1p-72), normWeights})
	}
}

func rmsNormBackwardCases(m *Maker) {
	for _, t := range []DType{F32, BF16} {
		add := func(level Level, n normCase, weight bool, dx, dy func(r *random, n int) []float32) {
			var optional []string
			if weight {
				optional = []string{"dx"}
			}
			m.gradients(level, t, n.reason, append(n.params(), Flag("dw", weight)), optional, func(r *random) Tensors {
				in := n.inputs(r, t)
				x := in["x"]
				y, root := make([]float32, x.Len()), make([]float32, x.Len()/n.d)
				op.RMSNorm(y, root, x.F, in["w"].F, n.d, float32(n.eps), floats[t].num)
				in["r"] = Floats(F32, root, n.rows, n.parts)
				in["dy"], in["dx"] = Floats(t, dy(r, x.Len()), x.Shape...), Floats(t, dx(r, x.Len()), x.Shape...)
				if weight {
					in["dw"] = Floats(F32, r.normal(n.d, 1), 1, n.d)
				}
				return in
			})
		}
		normCases(t, func(level Level, n normCase) {
			dy := scaled(0.1)
			if n.reason == "exact-sums" {
				dy = func(r *random, n int) []float32 { return r.integers(n, 4) }
			}
			add(level, n, true, scaled(0.1), dy)
			if n.d%2 == 1 {
				add(Quick, n, false, scaled(1), dy)
			}
		})
		for _, d := range []int{5, 32, 65} {
			add(Quick, normCase{40, d, 1, 1e-5, "cancellation", scaled(1), normWeights}, true, scaled(1),
				func(r *random, n int) []float32 { return canceling(r, n, d) })
		}
		add(Quick, normCase{1, 65537, 1, 1e-5, "long-sum", scaled(1), normWeights}, true, scaled(1), scaled(1))
		add(Quick, normCase{70, 4, 10, 1e-6, "repeated-row", scaled(1), normWeights}, true, scaled(1), scaled(1))
	}
}

// growing is parts of d of which each is larger than the one before, so that none can have another's root.
func growing(r *random, n, d int) []float32 {
	x := r.normal(n, 1)
	for i := range x {
		x[i] = float32(x[i] * float32(1+i/d%5))
	}
	return x
}

// signs is ±v.
func signs(r *random, n int, v float32) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = v
		if r.below(2) == 1 {
			x[i] = -v
		}
	}
	return x
}
