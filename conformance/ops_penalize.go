package conformance

import (
	"cmp"
	"fmt"
	"math"

	"qlora/ref/op"
)

func init() {
	register(&Operation{
		Name: "penalize", Of: "op.Penalize", Needs: "Penalize",
		Formula: "logits z [1, vocab], seen I32 [n], banned I32 [m] → y F32 [1, vocab]. y = z, every bit; then, once for each id in seen, however often it is there, " +
			"y[id] = z[id]·penalty where z[id] < 0, else z[id]/penalty, in float32, rounded once; then y[id] = −∞ for each id in banned. An id of −100 is passed over " +
			"in both; any other below 0, or from vocab on, must be rejected.",
		Cases:     penalizeCases,
		Reference: penalize,
		Device: func(b *Bench, in Tensors) Tensors {
			z := in["logits"]
			y := b.Result("y", F32, 1, z.Cols())
			b.Device.Penalize(Place, y, b.Tensor("logits", z), b.Ints("seen", in["seen"]), b.Ints("banned", in["banned"]), b.Case.Float("penalty"))
			return Tensors{"y": b.Read(y, z.Shape...)}
		},
	})
}

func penalize(c *Case, in Tensors) (Tensors, error) {
	z := in["logits"]
	if err := cmp.Or(withinOrPassedOver(in["seen"], z.Cols()), withinOrPassedOver(in["banned"], z.Cols())); err != nil {
		return nil, err
	}
	y := make([]float32, z.Len())
	op.Penalize(y, z.F, in["seen"].I, in["banned"].I, c.Float("penalty"))
	return Tensors{"y": Floats(F32, y, z.Shape...)}, nil
}

// withinOrPassedOver says which id a vocabulary of n tokens does not have.
func withinOrPassedOver(ids Tensor, n int) error {
	for i, id := range ids.I {
		if id != op.IgnoredLabel && (id < 0 || int(id) >= n) {
			return fmt.Errorf("token id %d at %d is outside 0…%d", id, i, n-1)
		}
	}
	return nil
}

func penalizeCases(m *Maker) {
	add := func(level Level, t DType, vocab int, penalty float32, reason string, logits func(r *random, n int) []float32, seen, banned func(r *random) []int32) {
		m.Add(level, t, reason, []Param{Int("vocab", vocab), single("penalty", penalty)}, func(r *random) Tensors {
			return Tensors{"logits": Floats(t, logits(r, vocab), 1, vocab), "seen": Ints(seen(r)), "banned": Ints(banned(r))}
		})
	}
	none := func(*random) []int32 { return nil }
	for _, t := range []DType{F32, BF16, F16} {
		for _, vocab := range []int{1, 2, 31, 33, 257, 1000} {
			for _, penalty := range []float32{1.1, 1.3, 2, 0.7} {
				some := func(r *random) []int32 { return r.indices(vocab/3+1, vocab) }
				add(smokeIf(vocab == 33 && penalty != 2), t, vocab, penalty, "random", scaled(4), some, none)
				add(Quick, t, vocab, penalty, "random", scaled(4), some, func(r *random) []int32 { return r.indices(3, vocab) })
			}
		}
		for _, penalty := range []float32{1, 1.1, 3, 0x1p-4} {
			for _, k := range everything {
				add(smokeIf(penalty == 1.1), t, 65, penalty, k.reason, func(r *random, n int) []float32 { return k.values(r, n, t) },
					func(r *random) []int32 { return r.indices(40, 65) }, func(r *random) []int32 { return r.indices(4, 65) })
			}
		}
		// Ids that come again, side by side and far apart; all of the vocabulary; room that is not used yet.
		add(Smoke, t, 40, 1.5, "seen-again", scaled(3), func(r *random) []int32 { return []int32{7, 7, 9, 39, 7, 0, 9, 0} }, none)
		add(Quick, t, 5, 1.25, "seen-again", scaled(3), func(r *random) []int32 { return r.indices(500, 5) }, none)
		add(Smoke, t, 140, 1.2, "passed-over", scaled(3), func(r *random) []int32 { return []int32{3, -100, 7, -100, -100} },
			func(r *random) []int32 { return []int32{-100, 5, -100} })
		add(Quick, t, 140, 1.2, "passed-over", scaled(3), func(r *random) []int32 { return []int32{-100, -100} }, func(r *random) []int32 { return []int32{-100} })
		add(Quick, t, 40, 1.2, "empty", scaled(3), none, none)
		add(Smoke, t, 40, 1.2, "banned", scaled(3), func(r *random) []int32 { return []int32{4, 5, 6} }, func(r *random) []int32 { return []int32{6, 7, 39, 0, 7} })
		add(Quick, t, 3, 1.2, "banned", scaled(3), none, func(r *random) []int32 { return []int32{2, 0, 1} })
		add(Quick, t, 40, 1.2, "first-and-last", scaled(3), func(r *random) []int32 { return []int32{0, 39} }, none)
		for _, bad := range outside(37) {
			if bad == op.IgnoredLabel {
				continue
			}
			add(smokeIf(bad == 37), t, 37, 1.2, "out-of-range", scaled(3), func(r *random) []int32 { return r.withOne(bad, 6, 37) }, none)
			add(smokeIf(bad == -1), t, 37, 1.2, "out-of-range", scaled(3), none, func(r *random) []int32 { return r.withOne(bad, 6, 37) })
		}
	}
	// Subnormal quotients, and products that overflow.
	add(Quick, F32, 64, 0x1.8p100, "underflow", scaled(1), func(r *random) []int32 { return r.indices(64, 64) }, none)
	add(Quick, F32, 64, 0x1.8p-126, "near-overflow", func(r *random, n int) []float32 {
		z := r.normal(n, 1)
		z[0] = math.MaxFloat32
		return z
	}, func(r *random) []int32 { return append(r.indices(40, 64), 0) }, none)
	add(Quick, BF16, 32000, 1.1, "large-vocabulary", scaled(3), func(r *random) []int32 { return r.indices(300, 32000) }, none)
	add(Full, F32, 128256, 1.1, "large-vocabulary", scaled(3), func(r *random) []int32 { return r.indices(900, 128256) },
		func(r *random) []int32 { return r.indices(90, 128256) })
}
