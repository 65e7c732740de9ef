package conformance

import (
	"encoding/binary"
	"math"

	"qlora/ref/optim"
)

// What the host computes for a step of the optimizer, and which pages of its state are on the device.
func init() {
	register(
		&Operation{
			Name: "learning_rate", Of: "optim.Schedule.LR",
			Formula: "steps I32 [n], each a number of optimizer steps taken; kind, peak, warmup, of: the steps of the whole course → lr U8 [n, 8]: " +
				"for each step a float64, little-endian. kind constant: peak, whatever warmup is. The others: peak·(step/warmup) where step < " +
				"warmup, from there on constant_with_warmup: peak; linear: peak·x, x = max(0, (of − step)/max(1, of − warmup)); cosine and " +
				"cosine_with_restarts: peak·s², s the correctly rounded float32 sine of round32(π/2·x); polynomial: (peak − e)·x + e, e = min(peak, 1e-7); " +
				"inverse_sqrt: peak/√((step − warmup + w)/w), w = warmup, but 10000 for a warmup of 0. All but s in float64, each step rounded. Another " +
				"kind must be rejected.",
			Cases: learningRateCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				s := optim.Schedule{Kind: c.Param("kind"), Warmup: c.Int("warmup"), Steps: c.Int("of")}
				if err := s.Check(); err != nil {
					return nil, err
				}
				var b []byte
				for _, step := range in["steps"].I {
					b = binary.LittleEndian.AppendUint64(b, math.Float64bits(s.LR(c.float64("peak"), int(step))))
				}
				return Tensors{"lr": Bytes(b, len(b)/8, 8)}, nil
			},
		},
		&Operation{
			Name: "adamw_scalars", Of: "optim.NewScalars",
			Formula: "lr, beta1, beta2, eps, weight_decay (float64), max_norm (float32), t from 1 → scalars F32 [9]: 1 − " +
				"lr·weight_decay, β1, 1 − β1, β2, 1 − β2, √(1 − β2^t), ε, −lr/(1 − β1^t), max_norm. " +
				"Each in float64, rounded once; powers by squaring and multiplying, the bits of t from the lowest up.",
			Cases: scalarsCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				config := optim.AdamWConfig{
					LR: c.float64("lr"), Beta1: c.float64("beta1"), Beta2: c.float64("beta2"), Eps: c.float64("eps"), WeightDecay: c.float64("weight_decay"),
				}
				return Tensors{"scalars": Floats(F32, optim.NewScalars(config, c.Float("max_norm"), c.Int("t")))}, nil
			},
		},
		&Operation{
			Name: "clip_scale", Of: "optim.ClipScale",
			Formula: "norm F32 [n], max_norm → scale F32 [n] = min(1, max_norm/(norm + 1e-6)), each step in float32; 1 " +
				"where max_norm is 0. NaN stays.",
			Cases: clipCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				y := make([]float32, in["norm"].Len())
				for i, v := range in["norm"].F {
					y[i] = optim.ClipScale(v, c.Float("max_norm"))
				}
				return Tensors{"scale": Floats(F32, y)}, nil
			},
		},
		&Operation{
			Name: "pager", Of: "optim.Pager.Use",
			Formula: "uses I32 [n]: pages in the order of their use; a use u < 0 is of no page, but sets cap to −1 − u; bytes I32 [pages]; cap → in I32 " +
				"[n]: 1 where the page has to be brought in; out I32: the pages that leave, in order: " +
				"the least recently used ones, only as many as must; used I32 [n]: the bytes there after each use. A page " +
				"larger than cap is an error.",
			Cases:     pagerCases,
			Reference: pager,
		})
}

func learningRateCases(m *Maker) {
	add := func(level Level, kind string, peak float64, warmup, of int, reason string) {
		var steps []int32
		for i := 0; i <= of+2; i += 1 + of/50 {
			steps = append(steps, int32(i))
		}
		steps = append(steps, int32(max(0, warmup-1)), int32(warmup), int32(warmup+1), int32(of-1), int32(of))
		m.Add(level, "", reason, []Param{Text("kind", kind), Float("peak", peak), Int("warmup", warmup), Int("of", of), Int("n", len(steps))},
			func(*random) Tensors { return Tensors{"steps": Ints(steps)} })
	}
	for _, kind := range []string{"constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"} {
		for _, peak := range []float64{2e-4, 1e-3, 0.1} {
			for _, c := range [][2]int{{0, 1}, {0, 10}, {1, 10}, {3, 10}, {10, 10}, {0, 1000}, {100, 1875}, {30, 7}} {
				level := Quick
				if peak == 2e-4 && c[0] == 3 {
					level = Smoke
				}
				reason := "random"
				if c[0] >= c[1] || c[1] == 1 {
					reason = "limit"
				}
				add(level, kind, peak, c[0], c[1], reason)
			}
		}
	}
	add(Quick, "polynomial", 1e-8, 1, 10, "limit")
	add(Quick, "exponential", 1e-3, 1, 10, "unknown")
}

func scalarsCases(m *Maker) {
	add := func(level Level, lr, beta1, beta2, eps, decay, maxNorm float64, t int, reason string) {
		m.Add(level, "", reason, []Param{Float("lr", lr), Float("beta1", beta1), Float("beta2", beta2), Float("eps", eps), Float("weight_decay", decay),
			Float("max_norm", maxNorm), Int("t", t)}, func(*random) Tensors { return Tensors{} })
	}
	for _, t := range []int{1, 2, 3, 4, 7, 10, 100, 1000, 1875, 10000, 100000, 1 << 30} {
		level := Quick
		if t <= 3 {
			level = Smoke
		}
		add(level, 2e-4, 0.9, 0.999, 1e-8, 0, 0.3, t, "random")
		add(Quick, 1e-3, 0.9, 0.95, 1e-6, 0.1, 1, t, "random")
		add(Quick, 0.02, 0.5, 0.98, 1e-10, 0.01, 0, t, "random")
	}
	add(Quick, 0, 0.9, 0.999, 1e-8, 0.1, 1, 5, "limit")
	add(Quick, 1e-3, 0, 0, 1e-8, 0.1, 1, 5, "limit")
	add(Quick, 1e-3, 0, 0.999, 0, 0, 0, 1, "limit")
}

func clipCases(m *Maker) {
	for _, top := range []float64{0, 0.3, 1, 1e-6, 10} {
		add := func(level Level, reason string, n int, values func(r *random) []float32) {
			m.Add(level, "", reason, []Param{Float("max_norm", top), Int("n", n)}, func(r *random) Tensors { return Tensors{"norm": Floats(F32, values(r))} })
		}
		add(Smoke, "random", 1000, func(r *random) []float32 { return r.scales(1000) })
		add(Quick, "random", 1000, func(r *random) []float32 { return multiplied(r.scales(1000), 100) })
		limits := around([]float32{float32(top), 1, 0x1p-126}, 40)
		add(Quick, "limit", len(limits), func(*random) []float32 { return limits })
		add(Quick, "nan-inf", 3, func(*random) []float32 { return []float32{float32(math.NaN()), float32(math.Inf(1)), 0} })
	}
}

func pagerCases(m *Maker) {
	add := func(level Level, n, pages, top int, reason string) {
		m.Add(level, "", reason, []Param{Int("n", n), Int("pages", pages), Int("cap", top)}, func(r *random) Tensors {
			bytes := r.indices(pages, 100)
			return Tensors{"uses": Ints(r.indices(n, pages)), "bytes": Ints(bytes)}
		})
	}
	for _, pages := range []int{1, 2, 5, 20} {
		for _, top := range []int{100, 150, 300, 1000, 10000} {
			level := Quick
			if pages == 5 {
				level = Smoke
			}
			add(level, 200, pages, top, "random")
		}
	}
	for range 3 {
		add(Quick, 50, 20, 60, "too-large")
	}
	for _, pages := range []int{5, 20} {
		m.Add(Smoke, "", "room", []Param{Int("n", 300), Int("pages", pages), Int("cap", 1000)}, func(r *random) Tensors {
			uses := r.indices(300, pages)
			for i := range uses {
				if r.below(10) == 0 {
					uses[i] = -1 - int32(100+r.below(900))
				}
			}
			return Tensors{"uses": Ints(uses), "bytes": Ints(r.indices(pages, 100))}
		})
	}
}

func pager(c *Case, in Tensors) (Tensors, error) {
	p := optim.Pager{Cap: int64(c.Int("cap"))}
	index := map[string]int32{}
	brought, left, used := []int32{}, []int32{}, []int32{}
	for _, page := range in["uses"].I {
		var comes bool
		var out []string
		if page < 0 {
			out = p.Room(int64(-1 - page))
		} else {
			name := string(rune('A' + page))
			index[name] = page
			var err error
			if comes, out, err = p.Use(name, int64(in["bytes"].I[page])); err != nil {
				return nil, err
			}
		}
		if brought = append(brought, 0); comes {
			brought[len(brought)-1] = 1
		}
		for _, o := range out {
			left = append(left, index[o])
		}
		used = append(used, int32(p.Used()))
	}
	return Tensors{"in": Ints(brought), "out": Ints(left), "used": Ints(used)}, nil
}
