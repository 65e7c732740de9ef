package conformance

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"qlora/ref/num"
	"qlora/ref/op"
)

func init() {
	register(&Operation{
		Name: "choose", Of: "op.Choose", Needs: "Choose",
		Formula: "logits z [1, vocab] → token I32 [1]. temperature 0: the index of the largest, the lowest of equals (−0 equals +0). Else " +
			"candidates go from the largest down, equals by index; top_k > 0 keeps the first top_k; e_i = exp((z_i − z_max)/temperature) in their " +
			"order, difference and quotient rounded to float32; 0 < top_p < 1 keeps them up to the first at which the running sum of e is at least " +
			"top_p·Sum(e), all if none does; then they are kept up to the one before the first with e < min_p or e = 0, but the first always; the token is " +
			"the first kept one at which the running sum exceeds u·Sum(e kept), the last kept one if none does. " +
			"Running sums and both products are rounded to float32. u is the uniform (operation uniform) of seed, purpose \"choose\", layer 65535, " +
			"the step and element 0. Sum is that of the operation sum. Logits may be infinite: −∞ is masked; where z_max is +∞, e is NaN of those " +
			"that are, and no comparison of it holds. A logit that is NaN must be rejected, and so must logits that are all −∞.",
		Cases:     chooseCases,
		Reference: choose,
		Device: func(b *Bench, in Tensors) Tensors {
			token := b.Ints("token", Ints([]int32{-1}))
			b.Device.Choose(Place, token, b.Tensor("logits", in["logits"]), b.Case.choice(), b.Clock(b.Case.Int("step"), 0))
			return Tensors{"token": b.ReadInts(token)}
		},
	})
}

func choose(c *Case, in Tensors) (Tensors, error) {
	z := in["logits"].F
	if i := slices.IndexFunc(z, func(v float32) bool { return v != v }); i >= 0 {
		return nil, fmt.Errorf("the logit of token %d is NaN", i)
	}
	if slices.Max(z) == float32(math.Inf(-1)) {
		return nil, errors.New("all logits are −∞: there is nothing to choose")
	}
	return Tensors{"token": Ints([]int32{int32(op.Choose(z, c.choice(), c.Int("step")))})}, nil
}

func (c *Case) choice() op.Choice {
	choice := op.Choice{Temperature: c.Float("temperature"), TopK: c.Int("top_k"), TopP: c.Float("top_p"), Seed: c.seed()}
	if c.Has("min_p") {
		choice.MinP = c.Float("min_p")
	}
	return choice
}

func chooseCases(m *Maker) {
	add := func(level Level, t DType, vocab int, choice op.Choice, step int, reason string, logits func(r *random, n int) []float32) {
		params := []Param{Int("vocab", vocab), single("temperature", choice.Temperature), Int("top_k", choice.TopK),
			single("top_p", choice.TopP), seed(choice.Seed), Int("step", step)}
		if choice.MinP != 0 {
			params = append(params, single("min_p", choice.MinP))
		}
		m.Add(level, t, reason, params, func(r *random) Tensors { return Tensors{"logits": Floats(t, logits(r, vocab), 1, vocab)} })
	}
	for _, t := range []DType{F32, BF16, F16} {
		for _, vocab := range []int{1, 2, 3, 31, 32, 33, 64, 65, 129, 257, 1000} {
			level := Quick
			if vocab == 33 {
				level = Smoke
			}
			add(level, t, vocab, op.Choice{}, 0, "greedy", scaled(3))
			for step, c := range []op.Choice{{Temperature: 1}, {Temperature: 0.7, TopK: 5}, {Temperature: 1.5, TopP: 0.9}, {Temperature: 1, TopK: 20, TopP: 0.5}} {
				c.Seed = uint64(vocab)
				add(level, t, vocab, c, step, "random", scaled(2))
			}
		}
		// The largest logit stands at several places, of both signs of zero.
		for _, vocab := range []int{2, 33, 40, 257, 1000} {
			level := Quick
			if vocab == 33 || vocab == 1000 {
				level = Smoke
			}
			add(level, t, vocab, op.Choice{TopK: 3, TopP: 0.2, Seed: 1}, 0, "greedy-tie", func(r *random, n int) []float32 {
				z := r.normal(n, 1)
				for range 4 {
					z[r.below(n)] = 9
				}
				return z
			})
			add(Quick, t, vocab, op.Choice{}, 0, "greedy-tie", func(r *random, n int) []float32 { return repeated(n, -2) })
			add(Quick, t, vocab, op.Choice{}, 0, "greedy-tie", func(r *random, n int) []float32 {
				z := repeated(n, float32(math.Copysign(0, -1)))
				z[n-1] = 0
				return z
			})
		}
	}
	chooseNaNs(add)
	chooseDraws(add)
	chooseBoundaries(add)
	chooseMasked(add)
	chooseMinP(add)
	add(Quick, BF16, 32000, op.Choice{Temperature: 0.7, TopP: 0.9, Seed: 4}, 7, "large-vocabulary", scaled(3))
	add(Quick, F32, 32003, op.Choice{Temperature: 1, Seed: 4}, 8, "large-vocabulary", scaled(1))
	add(Quick, F32, 65537, op.Choice{}, 0, "large-vocabulary", scaled(1))
	for step := range 8 {
		add(Full, BF16, 128256, op.Choice{Temperature: 0.7, TopP: 0.9, Seed: 4}, step, "large-vocabulary", scaled(3))
	}
}

// chooser adds a case of choose.
type chooser func(level Level, t DType, vocab int, choice op.Choice, step int, reason string, logits func(r *random, n int) []float32)

// chooseNaNs have one NaN among the logits, or several, where a choice that does not look for it would come across it or would not.
func chooseNaNs(add chooser) {
	nan := float32(math.NaN())
	for _, t := range []DType{F32, BF16, F16} {
		level := Quick
		if t == F32 {
			level = Smoke
		}
		for _, c := range []op.Choice{{}, {Temperature: 1, Seed: 7}, {Temperature: 1, TopK: 3, TopP: 0.5, Seed: 7}} {
			for _, at := range []int{0, 20, 32} {
				add(level, t, 33, c, 0, "nan-inf", func(r *random, n int) []float32 {
					z := r.normal(n, 2)
					z[at] = nan
					return z
				})
			}
			add(level, t, 1000, c, 0, "nan-inf", func(r *random, n int) []float32 {
				z := r.normal(n, 2)
				for range 10 {
					z[r.below(n)] = nan
				}
				return z
			})
			add(Quick, t, 5, c, 0, "nan-inf", func(_ *random, n int) []float32 { return repeated(n, nan) })
		}
	}
}

// chooseDraws draw again and again from distributions for which a wrong choice comes up sooner or later.
func chooseDraws(add chooser) {
	for step := range 20 {
		level := Quick
		if step == 1 {
			level = Smoke
		}
		add(level, F32, 12, op.Choice{Temperature: 1, Seed: 1}, step, "step", func(r *random, n int) []float32 { return repeated(n, 1) })
		add(level, F32, 12, op.Choice{Temperature: 1, Seed: 1<<32 + uint64(step)}, 0, "seed", func(r *random, n int) []float32 { return repeated(n, 1) })
		add(level, F32, 30, op.Choice{Temperature: 0.25, Seed: 2}, step, "temperature", scaled(0.5))
		add(Quick, F32, 30, op.Choice{Temperature: 8, Seed: 2}, step, "temperature", scaled(4))
		// Equals on both sides of what top_k keeps: those of lower index stay.
		add(level, F32, 24, op.Choice{Temperature: 1, TopK: 9, Seed: 3}, step, "top-k-tie", func(r *random, n int) []float32 {
			z := repeated(n, 1)
			for range 4 {
				z[r.below(n)] = 2
			}
			return z
		})
		// k and p together: p is of what k keeps.
		add(Quick, F32, 40, op.Choice{Temperature: 1, TopK: 4, TopP: 0.6, Seed: 4}, step, "top-k-and-p", scaled(0.3))
		// Eight equals: the running sum meets top_p·Sum exactly.
		if step == 2 { // which would draw the fifth of eight, were it kept
			level = Smoke
		}
		add(level, F32, 8, op.Choice{Temperature: 1, TopP: 0.5, Seed: 5}, step, "top-p-boundary", func(r *random, n int) []float32 { return repeated(n, 3) })
		add(Quick, F32, 8, op.Choice{Temperature: 1, TopP: float32(math.Nextafter32(0.5, 0)), Seed: 5}, step, "top-p-boundary",
			func(r *random, n int) []float32 { return repeated(n, 3) })
		add(Quick, F32, 10, op.Choice{Temperature: 1, TopP: 0.01, Seed: 6}, step, "top-p-first", scaled(0.1))
		add(Quick, F32, 50, op.Choice{Temperature: 1, TopK: 1, Seed: 6}, step, "top-k-first", scaled(0.1))
	}
	for _, c := range []op.Choice{{Temperature: 1, TopK: 5}, {Temperature: 1, TopK: 6}, {Temperature: 1, TopP: 1}, {Temperature: 1}} {
		for step := range 6 {
			add(Quick, F32, 5, c, step, "keeps-all", scaled(0.1))
		}
	}
}

// chooseMinP have candidates around the least probability that is kept.
func chooseMinP(add chooser) {
	// Weights are 1 and, at temperature 1, exactly min_p: they are kept; of a min_p that is a little larger they are not.
	half := func(_ *random, n int) []float32 {
		z := repeated(n, -0.75)
		z[0], z[1] = 0, 0
		return z
	}
	meets := num.Exp(-0.75)
	for step := range 12 {
		for _, t := range []DType{F32, BF16, F16} {
			add(smokeIf(step == 3), t, 33, op.Choice{Temperature: 1, MinP: 0.3, Seed: 11}, step, "min-p", scaled(1))
			add(Quick, t, 33, op.Choice{Temperature: 2, MinP: 0.3, Seed: 11}, step, "min-p", scaled(1))
			add(Quick, t, 33, op.Choice{Temperature: 0.5, TopK: 9, TopP: 0.9, MinP: 0.1, Seed: 11}, step, "min-p", scaled(0.5))
			add(Quick, t, 33, op.Choice{Temperature: 1, TopP: 0.6, MinP: 0.2, Seed: 11}, step, "min-p", scaled(0.5))
		}
		add(smokeIf(step == 3), F32, 12, op.Choice{Temperature: 1, MinP: meets, Seed: 12}, step, "min-p-boundary", half)
		add(smokeIf(step == 3), F32, 12, op.Choice{Temperature: 1, MinP: math.Nextafter32(meets, 1), Seed: 12}, step, "min-p-boundary", half)
		add(Quick, F32, 8, op.Choice{Temperature: 1, MinP: 1, Seed: 13}, step, "min-p-boundary", func(_ *random, n int) []float32 { return repeated(n, 2) })
		add(Quick, F32, 20, op.Choice{Temperature: 1, MinP: 2, Seed: 13}, step, "min-p-first", scaled(0.1))
		// Far more than 1/min_p equals: each is as likely as the likeliest, none has a probability of min_p.
		add(smokeIf(step == 5), F32, 40, op.Choice{Temperature: 1, MinP: 0.25, Seed: 14}, step, "min-p", func(_ *random, n int) []float32 { return repeated(n, 1) })
	}
	infinite := func(_ *random, n int) []float32 {
		z := repeated(n, 0)
		z[2], z[4] = float32(math.Inf(1)), float32(math.Inf(-1))
		return z
	}
	add(Quick, F32, 9, op.Choice{Temperature: 1, MinP: 0.1, Seed: 15}, 0, "masked", infinite)
	add(Quick, F32, 9, op.Choice{Temperature: 1, Seed: 15}, 0, "masked", infinite)
	add(Quick, F32, 9, op.Choice{MinP: 0.5}, 0, "greedy", scaled(1))
}

// chooseBoundaries are draws that fall on an edge.
func chooseBoundaries(add chooser) {
	// The uniforms of these are 0, 1/4, 1/2 and 3/4 to the bit: with four equals the running sum meets u·4 exactly.
	for _, exact := range []struct {
		seed uint64
		step int
	}{{152013, 47}, {227719, 9}, {38100, 19}, {30422, 59}} {
		add(Quick, F32, 4, op.Choice{Temperature: 1, Seed: exact.seed}, exact.step, "draw-boundary", func(r *random, n int) []float32 { return repeated(n, 0.5) })
		add(Quick, F32, 4, op.Choice{Temperature: 0.1, Seed: exact.seed}, exact.step, "draw-boundary", func(r *random, n int) []float32 { return repeated(n, 0.5) })
	}
	// exp(−17.33) is below half a unit of 1: the running sum stays at 1, while Sum, of 32 lanes, grows. So near to 1 is u that
	// none exceeds u·Sum: the last is chosen.
	for _, vocab := range []int{4097, 32768, 65537} {
		add(Quick, F32, vocab, op.Choice{Temperature: 1, Seed: 8}, largestDraw(8), "running-sum", func(r *random, n int) []float32 {
			z := repeated(n, -17.33)
			z[n/2] = 0
			return z
		})
	}
	for step := range 4 {
		// z/temperature overflows, the difference of two does not.
		add(Quick, F32, 20, op.Choice{Temperature: 0.25, Seed: 9}, step, "near-overflow", func(r *random, n int) []float32 { return repeated(n, 0x1p127) })
		// All but a few underflow; infinite logits below are never chosen.
		add(Quick, F32, 60, op.Choice{Temperature: 0.01, Seed: 9}, step, "underflow", scaled(1))
		add(Quick, F32, 60, op.Choice{Temperature: 0x1p-120, Seed: 9}, step, "underflow", scaled(1))
		add(Quick, F32, 60, op.Choice{Temperature: 1, TopP: 0.99, Seed: 9}, step, "masked", func(r *random, n int) []float32 {
			z := r.normal(n, 1)
			for i := range z {
				if r.below(4) > 0 {
					z[i] = float32(math.Inf(-1))
				}
			}
			z[5] = 1
			return z
		})
	}
}

// chooseMasked have tokens without weight behind a running sum that stays below the limit, or nothing else. The uniform of the seed and the
// step is the largest there is, 1 − 2^-24, and exp(−16.75) is below half a unit of 1: the running sum stays at 1, Sum and u·Sum are above.
func chooseMasked(add chooser) {
	const seed, step = 16, 3372181
	// One of 0, and at both ends and in the middle some without weight, the others as much below as low.
	stuck := func(low, without float32) func(*random, int) []float32 {
		return func(_ *random, n int) []float32 {
			z := repeated(n, low)
			z[n/3] = 0
			for _, i := range []int{0, n / 2, n - 2, n - 1} {
				z[i] = without
			}
			return z
		}
	}
	masked := float32(math.Inf(-1))
	for _, t := range []DType{F32, BF16, F16} {
		for _, c := range []op.Choice{{Temperature: 1}, {Temperature: 1, TopP: 0.99999994}, {Temperature: 1, TopK: 31}, {Temperature: 1, TopK: 20}, {Temperature: 1, MinP: 1e-9}} {
			c.Seed = seed
			add(Smoke, t, 33, c, step, "masked-last", stuck(-16.75, masked))
			add(Quick, t, 33, c, step, "masked-last", stuck(-16.75, -200))
			add(Quick, t, 1000, c, step, "masked-last", stuck(-16.75, masked))
		}
		add(Quick, t, 1000, op.Choice{Temperature: 0.5, Seed: seed}, step, "masked-last", stuck(-8.375, masked))
		for _, c := range []op.Choice{{}, {Temperature: 1, Seed: seed}, {Temperature: 1, TopK: 3, TopP: 0.5, MinP: 0.1, Seed: seed}} {
			for _, vocab := range []int{1, 33, 1000} {
				add(smokeIf(vocab == 33), t, vocab, c, 0, "all-masked", func(_ *random, n int) []float32 { return repeated(n, masked) })
			}
			// A single one that is not.
			add(Quick, t, 33, c, 0, "masked", func(_ *random, n int) []float32 {
				z := repeated(n, masked)
				z[20] = -3
				return z
			})
		}
	}
	// As many as a vocabulary has: of draws at random one in a thousand falls behind the running sum.
	add(Full, F32, 128256, op.Choice{Temperature: 1, Seed: seed}, step, "masked-last", stuck(-18.4, masked))
}

// largestDraw is the step below 8192 that has a seed's largest uniform.
func largestDraw(seed uint64) (best int) {
	var top float32
	for step := range 8192 {
		u := num.Uniform(seed, num.Counter{Purpose: num.Purpose("choose"), Step: uint32(step), Layer: num.NoLayer})
		if u > top {
			best, top = step, u
		}
	}
	return best
}
