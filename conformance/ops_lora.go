package conformance

import (
	"math"
	"strconv"

	"qlora/ref/num"
	"qlora/ref/op"
)

const loraText = "R is the case's type, or float32 with branch_f32. x' is x after dropout in type R (the operation dropout, where p is given), else x. "

func init() {
	register(&Operation{
		Name: "lora_linear", Of: "op.LoRAForward", Needs: "LoRALinear",
		Formula: "x [m, k], W [n, k], bias [1, n] or none, a F32 [r, k], b F32 [n, r] → y [m, n], u [m, r] in type R. " + weightText + loraText +
			"u = round_R(x'·round_R(a)ᵀ); y = round(round(x·Wᵀ + bias) + round(round_R(scale·round_R(u·round_R(b)ᵀ)))). Sums as in linear.",
		Cases: loraCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			y, err := linear(c, in)
			u := loraForward(layerOf(c), c.DType, y.F, in)
			return Tensors{"y": y, "u": u}, err
		},
		Device: func(b *Bench, in Tensors) Tensors {
			l := layerOf(b.Case)
			y, u := b.Result("y", b.Case.DType, l.m, l.n), b.Result("u", l.branch(b.Case.DType), l.m, l.rank)
			b.Device.LoRALinear(Place, y, u, b.Tensor("x", in["x"]), b.weight(in), b.Optional("bias", in), b.adapter(l, in))
			return Tensors{"y": b.Read(y, l.m, l.n), "u": b.Read(u, l.m, l.rank)}
		},
	}, &Operation{
		Name: "lora_linear_backward", Of: "op.LoRABackward", Needs: "LoRALinearBackward",
		Formula: "dy [m, n], u [m, r] in type R as forward gave it, x [m, k], W [n, k], a, da F32 [r, k], b, db F32 [n, r], dx [m, k]; dx, da and db each of them or not → dx, da, db. " + weightText + loraText +
			"dx = round(dx + round(dy·W)), n ascending. dv = round_R(scale·dy); db += dvᵀ·u; du = round_R(dv·round_R(b)); da += duᵀ·x'; dx' = round_R(du·round_R(a)); " +
			"dx = round(dx + round(dx' after dropout, rounded to R)). da and db add in float32 to what is there, tokens ascending. Dropout is the mask of forward, on dx'.",
		Cases: loraBackwardCases, Optional: map[string]string{"da": "a", "db": "b"},
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			w, err := weightValues(c, in)
			l, out := layerOf(c), copies(in, "dx", "da", "db")
			t := floats[c.DType].num
			if in["dx"].F != nil {
				op.LinearBackward(out["dx"].F, nil, nil, in["dy"].F, in["x"].F, w, l.m, l.n, l.k, t)
			}
			dx := make([]float32, l.m*l.k)
			op.LoRABackward(dx, out["da"].F, out["db"].F, in["dy"].F, in["u"].F, l.dropped(in["x"].F, c.DType), in["a"].F, in["b"].F, l.shape(c.DType))
			if in["dx"].F != nil {
				branch := Floats(c.DType, l.dropped(dx, c.DType), l.m, l.k)
				op.Add(out["dx"].F, out["dx"].F, branch.F, t)
			}
			return out, err
		},
		Device: func(b *Bench, in Tensors) Tensors {
			l, g := layerOf(b.Case), b.gradients(in, "dx", "da", "db")
			a := b.adapter(l, in)
			a.GradA, a.GradB = g["da"], g["db"]
			b.Device.LoRALinearBackward(Place, g["dx"], b.Tensor("dy", in["dy"]), b.Tensor("u", in["u"]), b.Tensor("x", in["x"]), b.weight(in), a)
			return b.readAll(g, in)
		},
	})
}

// dropoutSetting says which elements are dropped; p = 0 is none.
type dropoutSetting struct {
	p                 float32
	seed, step, first int
}

// shortest is the shortest text that is p as a float32.
func shortest(p float32) string { return strconv.FormatFloat(float64(p), 'g', -1, 32) }

// branch is the type of the adapter's branch.
func (l layer) branch(t DType) DType {
	if l.float32 {
		return F32
	}
	return t
}

func (l layer) shape(t DType) op.LoRAShape {
	return op.LoRAShape{Tokens: l.m, Out: l.n, In: l.k, Rank: l.rank, Scale: float32(l.scale), T: floats[t].num, R: floats[l.branch(t)].num}
}

// dropped is x [m, k] after the adapter's dropout.
func (l layer) dropped(x []float32, t DType) []float32 {
	d := l.dropout
	if d.p == 0 {
		return x
	}
	y := make([]float32, len(x))
	op.ApplyDropout(y, x, l.k, d.p, uint64(d.seed), maskCounter(l.at, d.step), d.first, floats[l.branch(t)].num)
	return y
}

// loraForward adds the branch to y and gives u.
func loraForward(l layer, t DType, y []float32, in Tensors) (u Tensor) {
	values := make([]float32, l.m*l.rank)
	op.LoRAForward(y, values, l.dropped(in["x"].F, t), in["a"].F, in["b"].F, l.shape(t))
	return Floats(l.branch(t), values, l.m, l.rank)
}

// adapter brings the case's adapter to the device.
func (b *Bench) adapter(l layer, in Tensors) *op.Adapter {
	a := &op.Adapter{A: b.Tensor("a", in["a"]), B: b.Tensor("b", in["b"]), Scale: float32(l.scale), Float32: l.float32}
	if l.dropout.p > 0 {
		a.Dropout = b.dropout()
	}
	return a
}

// loraSizes are [m, n, k, r].
var loraSizes = [][4]int{
	{1, 1, 1, 1}, {3, 5, 7, 2}, {1, 33, 64, 4}, {5, 64, 33, 8}, {7, 31, 65, 16}, {17, 16, 127, 3}, {1, 129, 128, 64}, {33, 9, 40, 5},
	{64, 17, 31, 7}, {2, 63, 96, 33}, {129, 3, 5, 1}, {4, 40, 129, 65}, {8, 128, 16, 32}, {9, 2, 300, 17}, {255, 2, 3, 2},
}

// loraSettings goes over sizes, weights, scales, the branch's type and dropout: what forward and backward have in common.
func loraSettings(t DType, add func(level Level, reason string, l layer, changes ...change)) {
	for _, full := range []bool{false, true} {
		if full && t == F32 {
			continue
		}
		reason := "random"
		if full {
			reason = "float32-branch"
		}
		for i, s := range loraSizes {
			l := layer{m: s[0], n: s[1], k: s[2], rank: s[3], scale: 0.5, float32: full, weight: dense}
			add(smokeIf(i == 3), reason, l)
			l.weight, l.bs = []string{"nf4_dq", "nf4", "fp4"}[i%3], 64
			add(smokeIf(i == 4), reason, l)
		}
		for i, scale := range []float64{0.03, 0.25, 0.7, 1, 2, 5.656854, 1.0 / 3} {
			// W is zero: nothing hides what the branch gives.
			add(smokeIf(i == 2), "branch-alone", layer{m: 5, n: 33, k: 20, rank: 6, scale: scale, float32: full, weight: dense}, without("w"))
			add(Quick, "adapter-scale", layer{m: 6, n: 17, k: 33, rank: 8, scale: scale, float32: full, weight: dense})
			add(Quick, "adapter-scale", layer{m: 3, n: 9, k: 65, rank: 3, scale: scale, float32: full, weight: "nf4", bs: 64})
		}
		for i, p := range []float32{0.05, 0.1, 0.5, 0.9} {
			for j, at := range []dropoutSetting{{p, 1, 0, 0}, {p, 7, 3, 0}, {p, 7, 3, 100}, {p, 123456789, 1, 65536}} {
				l := layer{m: 7, n: 12, k: 33 + i, rank: 4, scale: 2, float32: full, weight: dense, dropout: at}
				add(smokeIf(i == 1 && j == 2), "dropout", l)
				if j == 2 {
					l.weight, l.bs = "nf4_dq", 64
					add(Quick, "dropout", l)
					add(Quick, "dropout", l, without("w"))
				}
			}
		}
	}
	for _, l := range []layer{
		{m: 40, n: 256, k: 300, rank: 64, scale: 0.25, weight: "nf4_dq", bs: 64, dropout: dropoutSetting{0.05, 3, 2, 77}},
		{m: 130, n: 100, k: 70, rank: 16, scale: 2, weight: "nf4", bs: 64},
	} {
		add(Full, "random", l)
	}
}

// rankOpposites lets the sum over the rank cancel: pairs of rows of a are equal, and so are those columns of b but for their signs.
func rankOpposites(r *random, l layer, v values) {
	a := turned(v["a"], l.k)
	opposites(r, v["b"], a, l.rank, false, 1)
	v["a"] = turned(a, l.rank)
}

func loraCases(m *Maker) {
	for _, t := range []DType{F32, BF16, F16} {
		for _, bias := range []bool{false, true} {
			names := []string{"x", "w", "a", "b"}
			if bias {
				names = append(names, "bias")
			}
			add := func(level Level, reason string, l layer, changes ...change) {
				if t == F16 || bias {
					level = max(level, Quick)
				}
				m.Add(level, t, reason, append(l.params(), Flag("bias", bias)), func(r *random) Tensors {
					return l.inputs(r, t, names, changes...)
				})
			}
			if bias {
				for _, s := range loraSizes[:8] {
					add(Quick, "bias", layer{m: s[0], n: s[1], k: s[2], rank: s[3], scale: 2, weight: dense})
				}
				continue
			}
			loraSettings(t, add)
			for _, rank := range []int{2, 8, 16, 33, 64, 129} {
				add(Quick, "cancellation", layer{m: 3, n: 9, k: 17, rank: rank, scale: 2, weight: dense}, rankOpposites, without("w"))
			}
			for _, k := range []int{6, 31, 64, 257, 3001, 8203} {
				add(Quick, "cancellation", layer{m: 3, n: 4, k: k, rank: 5, scale: 2, weight: dense}, func(r *random, l layer, v values) {
					opposites(r, v["x"], v["a"], l.k, false, 1)
				}, without("w"))
			}
			for _, rank := range []int{1, 4, 16} {
				l := layer{m: 5, n: 33, k: 40, rank: rank, scale: 2, weight: dense}
				add(smokeIf(rank == 4), "integers", l, wholeNumbers(7), wholeAdapter(3))
				add(Quick, "zero-adapter", l, without("b"))
				if t != F16 {
					add(Quick, "product-underflow", l, func(r *random, l layer, v values) {
						along(underflow, underflowFactor, false)(r, v["x"], v["a"], l.k)
						clear(v["w"])
					})
				}
				add(Quick, "nan-inf", l, func(r *random, l layer, v values) {
					v["x"][r.below(l.k)] = float32(math.NaN())
					v["x"][len(v["x"])-1-r.below(l.k)] = float32(math.Inf(1))
				})
			}
		}
	}
}

// wholeAdapter makes the adapter whole numbers, too.
func wholeAdapter(top int) change {
	return func(r *random, l layer, v values) {
		for _, name := range []string{"a", "b", "da", "db"} {
			if v[name] != nil {
				v[name] = r.integers(len(v[name]), top)
			}
		}
	}
}

func loraBackwardCases(m *Maker) {
	for _, t := range []DType{F32, BF16} {
		for _, input := range []bool{true, false} {
			names := []string{"dy", "x", "w", "a", "b", "da", "db"}
			if input {
				names = append(names, "dx")
			}
			add := func(level Level, reason string, l layer, changes ...change) {
				m.gradients(level, t, reason, append(l.params(), Flag("dx", input)), []string{"da", "db"}, func(r *random) Tensors {
					in := l.inputs(r, t, names, changes...)
					in["u"] = loraForward(l, t, make([]float32, l.m*l.n), in)
					return in
				})
			}
			if !input {
				for _, s := range loraSizes[:8] {
					add(Quick, "optional", layer{m: s[0], n: s[1], k: s[2], rank: s[3], scale: 2, weight: dense})
				}
				add(Quick, "optional", layer{m: 7, n: 20, k: 30, rank: 4, scale: 2, weight: "nf4_dq", bs: 64, dropout: dropoutSetting{0.1, 5, 6, 7}})
				continue
			}
			loraSettings(t, add)
			loraBackwardSums(t, add)
		}
	}
}

// besideRounded moves values off what they are in bfloat16, by less than what rounds back.
func besideRounded(r *random, x []float32) {
	for i, v := range x {
		x[i] = float32(num.BFloat16.Round(v) * (1 + float32(float32(r.below(3)-1)*0x1p-10)))
	}
}

func loraBackwardSums(t DType, add func(level Level, reason string, l layer, changes ...change)) {
	for i, n := range []int{6, 31, 64, 100, 257, 3001, 8203} {
		// du = dv·b cancels over n; then dx' over the rank; then da and db over tokens.
		add(Quick, "cancellation", layer{m: 3, n: n, k: 7, rank: 5, scale: 2, weight: dense}, func(r *random, l layer, v values) {
			b := turned(v["b"], l.rank)
			opposites(r, v["dy"], b, l.n, false, 1)
			v["b"] = turned(b, l.n)
		}, without("w", "dx"))
		add(Quick, "cancellation", layer{m: 3, n: 7, k: 9, rank: min(n, 129), scale: 2, weight: dense}, func(r *random, l layer, v values) {
			a := turned(v["a"], l.k)
			opposites(r, a, v["b"], l.rank, false, 1)
			v["a"] = turned(a, l.rank)
		}, without("w", "dx"))
		add(smokeIf(i == 2), "token-order", layer{m: n, n: 3, k: 4, rank: 2, scale: 2, weight: dense})
		add(Quick, "token-order", layer{m: n, n: 3, k: 4, rank: 2, scale: 2, weight: dense}, onTokens(func(r *random, a, b []float32, k int) {
			opposites(r, a, b, k, false, 1)
		}), without("da", "db"))
	}
	if t == BF16 {
		for _, n := range []int{64, 257, 1025} {
			// As above, but what cancels is what the masters are rounded to.
			add(Quick, "masters", layer{m: 3, n: n, k: 7, rank: 5, scale: 2, weight: dense}, func(r *random, l layer, v values) {
				b := turned(v["b"], l.rank)
				opposites(r, v["dy"], b, l.n, false, 1)
				besideRounded(r, b)
				v["b"] = turned(b, l.n)
			}, without("w", "dx"))
			add(Quick, "masters", layer{m: 3, n: 7, k: 9, rank: n, scale: 2, weight: dense}, func(r *random, l layer, v values) {
				a := turned(v["a"], l.k)
				opposites(r, a, v["b"], l.rank, false, 1)
				besideRounded(r, a)
				v["a"] = turned(a, l.rank)
			}, without("w", "dx"))
		}
	}
	for i, s := range loraSizes[1:6] {
		l := layer{m: s[0], n: s[1], k: s[2], rank: s[3], scale: 2, weight: dense}
		add(smokeIf(i == 0), "adds", l, func(r *random, l layer, v values) {
			for _, name := range []string{"dx", "da", "db"} {
				for i := range v[name] {
					v[name][i] *= 8
				}
			}
		})
		add(Quick, "adds", l, without("dx", "da", "db"))
		add(Quick, "integers", l, wholeNumbers(7), wholeAdapter(2))
		add(Quick, "zero-adapter", l, without("b"))
		add(Quick, "signed-zero", l, func(r *random, l layer, v values) {
			v["dy"] = negative(l.m * l.n)
			for _, name := range []string{"dx", "da", "db"} {
				v[name] = negative(len(v[name]))
			}
		})
		add(Quick, "product-underflow", l, func(r *random, l layer, v values) {
			v["dy"], v["x"] = r.normal(l.m*l.n, 0x1p-68), r.normal(l.m*l.k, 0x1p-67)
		}, without("dx", "da", "db"))
	}
}
