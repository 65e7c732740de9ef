package conformance

import (
	"fmt"
	"math"

	"qlora/ref/op"
)

func init() {
	register(&Operation{
		Name: "embedding", Of: "op.Embedding", Needs: "Embedding",
		Formula: "table [vocab, dim], ids I32 [tokens] → y [tokens, dim]. y[i] = table[ids[i]], every bit. An id below 0 or from vocab on must be rejected.",
		Cases:   embeddingCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			table, ids := in["table"], in["ids"]
			if err := within(ids, table.Rows(), "token id"); err != nil {
				return nil, err
			}
			y := make([]float32, ids.Len()*table.Cols())
			op.Embedding(y, table.F, ids.I, table.Cols())
			return Tensors{"y": Floats(c.DType, y, ids.Len(), table.Cols())}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			table, ids := in["table"], in["ids"]
			y := b.Result("y", table.DType, ids.Len(), table.Cols())
			b.Device.Embedding(Place, y, b.Tensor("table", table), b.Ints("ids", ids))
			return Tensors{"y": b.Read(y, ids.Len(), table.Cols())}
		},
	}, &Operation{
		Name: "embedding_backward", Of: "op.EmbeddingBackward", Needs: "EmbeddingBackward",
		Formula: "dtable F32 [vocab, dim], dy [tokens, dim], ids I32 [tokens] → dtable. dtable[ids[i]] += dy[i] in float32, " +
			"one token after the other from the first, onto what is there. An id below 0 or from vocab on must be rejected.",
		Cases: embeddingBackwardCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			dtable := in["dtable"].clone()
			if err := within(in["ids"], dtable.Rows(), "token id"); err != nil {
				return nil, err
			}
			op.EmbeddingBackward(dtable.F, in["dy"].F, in["ids"].I, dtable.Cols())
			return Tensors{"dtable": dtable}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			dtable := b.State("dtable", in["dtable"])
			b.Device.EmbeddingBackward(Place, dtable, b.Tensor("dy", in["dy"]), b.Ints("ids", in["ids"]))
			return Tensors{"dtable": b.Read(dtable, in["dtable"].Shape...)}
		},
	})
}

// outside are indices that a table of n rows does not have.
func outside(n int32) []int32 { return []int32{-1, -100, n, n + 1, math.MaxInt32, math.MinInt32} }

// withOne is n indices below rows, but for one.
func (r *random) withOne(bad int32, n, rows int) []int32 {
	x := r.indices(n, rows)
	x[r.below(n)] = bad
	return x
}

// within says which index is outside of 0…n−1.
func within(x Tensor, n int, what string) error {
	for i, v := range x.I {
		if v < 0 || int(v) >= n {
			return fmt.Errorf("%s %d at %d is outside 0…%d", what, v, i, n-1)
		}
	}
	return nil
}

func embeddingCases(m *Maker) {
	add := func(level Level, t DType, k kind, tokens, vocab, dim int, reason string, ids func(r *random) []int32) {
		m.Add(level, t, reason, []Param{Int("vocab", vocab), Int("tokens", tokens), Int("dim", dim)}, func(r *random) Tensors {
			return Tensors{"table": Floats(t, k.values(r, vocab*dim, t), vocab, dim), "ids": Ints(ids(r), tokens)}
		})
	}
	for _, t := range []DType{F32, BF16, F16} {
		for _, dim := range []int{1, 2, 3, 7, 8, 31, 32, 33, 64, 65, 127, 128, 129, 255, 257, 576} {
			for _, tokens := range []int{1, 5, 33, 130} {
				level := Quick
				if dim == 33 && tokens == 5 {
					level = Smoke
				}
				add(level, t, ordinary, tokens, 50, dim, "random", func(r *random) []int32 { return r.indices(tokens, 50) })
			}
		}
		for _, k := range everything {
			add(Quick, t, k, 9, 11, 40, k.reason, func(r *random) []int32 { return r.indices(9, 11) })
		}
		add(Smoke, t, ordinary, 4, 37, 20, "first-and-last", func(r *random) []int32 { return []int32{36, 0, 36, 0} })
		add(Quick, t, ordinary, 3, 1, 5, "first-and-last", func(r *random) []int32 { return []int32{0, 0, 0} })
		add(Quick, t, ordinary, 0, 5, 5, "empty", func(r *random) []int32 { return nil })
		for _, bad := range outside(37) {
			add(smokeIf(bad == 37), t, ordinary, 6, 37, 8, "out-of-range", func(r *random) []int32 { return r.withOne(bad, 6, 37) })
		}
	}
	add(Full, BF16, ordinary, 700, 32000, 64, "random", func(r *random) []int32 { return r.indices(700, 32000) })
}

func embeddingBackwardCases(m *Maker) {
	addWith := func(level Level, t DType, tokens, vocab, dim int, reason string, start, dy func(r *random, n int) []float32, ids func(r *random) []int32) {
		m.Add(level, t, reason, []Param{Int("vocab", vocab), Int("tokens", tokens), Int("dim", dim)}, func(r *random) Tensors {
			return Tensors{"dtable": Floats(F32, start(r, vocab*dim), vocab, dim), "dy": Floats(t, dy(r, tokens*dim), tokens, dim),
				"ids": Ints(ids(r), tokens)}
		})
	}
	add := func(level Level, t DType, tokens, vocab, dim int, reason string, start, dy func(r *random, n int) []float32) {
		addWith(level, t, tokens, vocab, dim, reason, start, dy, func(r *random) []int32 { return r.indices(tokens, vocab) })
	}
	normal := func(r *random, n int) []float32 { return r.normal(n, 1) }
	zeros := func(r *random, n int) []float32 { return make([]float32, n) }
	for _, t := range []DType{F32, BF16} {
		for _, dim := range []int{1, 3, 31, 32, 33, 64, 65, 128, 129} {
			for _, s := range []struct{ tokens, vocab int }{{1, 50}, {5, 50}, {33, 7}, {130, 7}} {
				level := Quick
				if dim == 33 {
					level = Smoke
				}
				add(level, t, s.tokens, s.vocab, dim, "random", normal, normal)
			}
			// Everything falls on one or two rows.
			add(Quick, t, 65, 1, dim, "repeated-row", normal, normal)
			add(Quick, t, 40, 2, dim, "repeated-row", zeros, normal)
			add(Quick, t, 40, 3, dim, "cancellation", normal, func(r *random, n int) []float32 { return canceling(r, n, dim) })
			add(Quick, t, 100, 5, dim, "integers", func(r *random, n int) []float32 { return r.integers(n, 1000) },
				func(r *random, n int) []float32 { return r.integers(n, 100) })
		}
		for _, k := range everything {
			add(Quick, t, 30, 5, 7, k.reason, normal, func(r *random, n int) []float32 { return k.values(r, n, t) })
		}
		add(Quick, t, 0, 3, 5, "empty", normal, normal)
		for _, bad := range outside(7) {
			addWith(smokeIf(bad == 7), t, 6, 7, 5, "out-of-range", normal, normal, func(r *random) []int32 { return r.withOne(bad, 6, 7) })
		}
	}
}

// canceling is rows of dim of which every other is large and takes away the one before, but for a little.
func canceling(r *random, n, dim int) []float32 {
	x := r.normal(n, 1)
	for i := range x {
		if i/dim%2 == 0 {
			x[i] = float32(x[i] * 4096)
		} else {
			x[i] -= x[i-dim]
		}
	}
	return x
}
