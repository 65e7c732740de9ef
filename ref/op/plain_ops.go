package op

import (
	"errors"
	"fmt"
	"slices"

	"qlora/ref/num"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

func (p *Plain) Embedding(at At, y, table *Tensor, ids *Ints) {
	shaped(at, y, ids.Len, table.Cols)
	p.do(at, func() error {
		if err := within(ids, table.Rows, "token id", false); err != nil {
			return err
		}
		out := load(y)
		Embedding(out, load(table), ints(ids), table.Cols)
		store(y, out)
		return nil
	})
}

func (p *Plain) EmbeddingBackward(at At, dtable, dy *Tensor, ids *Ints) {
	shaped(at, dy, ids.Len, dtable.Cols)
	full(at, dtable)
	p.do(at, func() error {
		if err := within(ids, dtable.Rows, "token id", false); err != nil {
			return err
		}
		EmbeddingBackward(load(dtable), load(dy), ints(ids), dtable.Cols)
		return nil
	})
}

// within checks that every value is an index below n.
func within(x *Ints, n int, what string, ignored bool) error {
	for i, v := range ints(x) {
		if (v < 0 || int(v) >= n) && !(ignored && v == IgnoredLabel) {
			return fmt.Errorf("%s: %s %d at %d is outside 0…%d", x.Name, what, v, i, n-1)
		}
	}
	return nil
}

func (p *Plain) Linear(at At, y, x *Tensor, w Weight, bias *Tensor) {
	shaped(at, x, x.Rows, w.In())
	shaped(at, y, x.Rows, w.Out())
	shaped(at, bias, 1, w.Out())
	p.do(at, func() error {
		wf, err := p.weight(w, x.DType)
		if err != nil {
			return err
		}
		out := make([]float32, y.Len())
		Linear(out, load(x), wf, load(bias), x.Rows, w.Out(), w.In())
		store(y, out)
		return nil
	})
}

func (p *Plain) LinearBackward(at At, dx, dw, dbias, dy, x *Tensor, w Weight) {
	shaped(at, dy, x.Rows, w.Out())
	shaped(at, dx, x.Rows, w.In())
	shaped(at, dw, w.Out(), w.In())
	shaped(at, dbias, 1, w.Out())
	full(at, dw, dbias)
	p.do(at, func() error {
		wf, err := p.weight(w, x.DType)
		if err != nil {
			return err
		}
		into := load(dx)
		LinearBackward(into, load(dw), load(dbias), load(dy), load(x), wf, x.Rows, w.Out(), w.In(), dy.DType)
		store(dx, into)
		return nil
	})
}

func (p *Plain) LoRALinear(at At, y, u, x *Tensor, w Weight, bias *Tensor, a *Adapter) {
	p.Linear(at, y, x, w, bias)
	shaped(at, u, x.Rows, a.A.Rows)
	p.do(at, func() error {
		out, kept := load(y), make([]float32, u.Len())
		LoRAForward(out, kept, p.dropped(at, x, a), load(a.A), load(a.B), loraShape(x, w, a))
		store(y, out)
		store(u, kept)
		return nil
	})
}

func (p *Plain) LoRALinearBackward(at At, dx, dy, u, x *Tensor, w Weight, a *Adapter) {
	p.LinearBackward(at, dx, nil, nil, dy, x, w)
	shaped(at, u, x.Rows, a.A.Rows)
	full(at, a.GradA, a.GradB)
	p.do(at, func() error {
		s := loraShape(x, w, a)
		branch := make([]float32, x.Len())
		LoRABackward(branch, gradient(a.GradA, a.A.Len()), gradient(a.GradB, a.B.Len()), load(dy), load(u), p.dropped(at, x, a), load(a.A), load(a.B), s)
		if dx == nil {
			return nil
		}
		masked(at, branch, branch, x.Cols, a.Dropout, s.R)
		into := load(dx)
		addRounded(into, branch, s.T)
		store(dx, into)
		return nil
	})
}

// dropped is the input of the adapter's branch.
func (p *Plain) dropped(at At, x *Tensor, a *Adapter) []float32 {
	if a.Dropout.P == 0 {
		return load(x)
	}
	y := make([]float32, x.Len())
	masked(at, y, load(x), x.Cols, a.Dropout, a.branch(x.DType))
	return y
}

// masked is ApplyDropout at a place. Without dropout y is x, whatever the clock, which need not be there.
func masked(at At, y, x []float32, cols int, d Dropout, t num.DType) {
	if d.P == 0 {
		copy(y, x)
		return
	}
	ApplyDropout(y, x, cols, d.P, d.Seed, dropoutCounter(at, d), firstToken(d), t)
}

func loraShape(x *Tensor, w Weight, a *Adapter) LoRAShape {
	return LoRAShape{Tokens: x.Rows, Out: w.Out(), In: w.In(), Rank: a.A.Rows, Scale: a.Scale, T: x.DType, R: a.branch(x.DType)}
}

func (p *Plain) RMSNorm(at At, y, r, x, w *Tensor, eps float32) {
	shaped(at, y, x.Rows, x.Cols)
	shaped(at, w, 1, w.Cols)
	shaped(at, r, x.Rows, groups(at, x, w))
	full(at, r)
	p.do(at, func() error {
		out := make([]float32, y.Len())
		RMSNorm(out, load(r), load(x), load(w), w.Cols, eps, y.DType)
		store(y, out)
		return nil
	})
}

func (p *Plain) RMSNormBackward(at At, dx, dw, dy, x, w, r *Tensor) {
	shaped(at, dx, x.Rows, x.Cols)
	shaped(at, dy, x.Rows, x.Cols)
	shaped(at, r, x.Rows, groups(at, x, w))
	full(at, dw)
	p.do(at, func() error {
		into := gradient(dx, x.Len())
		RMSNormBackward(into, load(dw), load(dy), load(x), load(w), load(r), w.Cols, x.DType)
		store(dx, into)
		return nil
	})
}

// groups is the number of parts of a row of x that w normalizes one by one.
func groups(at At, x, w *Tensor) int {
	if x.Cols%w.Cols != 0 {
		panic(fmt.Sprintf("op: %v: rows of %d values cannot be normalized by %d", at, x.Cols, w.Cols))
	}
	return x.Cols / w.Cols
}

func (p *Plain) RoPE(at At, y, x, cos, sin *Tensor, positions *Ints) {
	shaped(at, y, positions.Len, x.Cols)
	p.do(at, func() error {
		if err := within(positions, cos.Rows, "position", false); err != nil {
			return err
		}
		d := 2 * cos.Cols
		out := make([]float32, y.Len())
		RoPE(out, load(x), load(cos), load(sin), ints(positions), x.Cols/d, d, y.DType)
		store(y, out)
		return nil
	})
}

func (p *Plain) RoPEBackward(at At, dx, dy, cos, sin *Tensor, positions *Ints) {
	shaped(at, dx, positions.Len, dy.Cols)
	p.do(at, func() error {
		if err := within(positions, cos.Rows, "position", false); err != nil {
			return err
		}
		d := 2 * cos.Cols
		into := gradient(dx, dy.Len())
		RoPEBackward(into, load(dy), load(cos), load(sin), ints(positions), dy.Cols/d, d, dy.DType)
		store(dx, into)
		return nil
	})
}

func (p *Plain) Attention(at At, y, stats, q, k, v *Tensor, segmentsQ, segmentsKV *Ints, bias *Tensor, s AttentionShape) {
	shaped(at, y, q.Rows, s.Heads*s.Dim)
	shaped(at, q, q.Rows, s.Heads*s.Dim)
	shaped(at, k, v.Rows, s.KVHeads*s.Dim)
	shaped(at, stats, q.Rows, 2*s.Heads)
	full(at, stats)
	sameSegments(at, segmentsQ, segmentsKV, bias)
	s.T = q.DType
	p.do(at, func() error {
		if err := errors.Join(bounds(segmentsQ, q.Rows), bounds(segmentsKV, k.Rows)); err != nil {
			return err
		}
		out, kept := make([]float32, y.Len()), make([]float32, stats.Len())
		Attention(out, kept, load(q), load(k), load(v), ints(segmentsQ), ints(segmentsKV), load(bias), s)
		store(y, out)
		store(stats, kept)
		return nil
	})
}

// sameSegments panics unless there are as many segments of queries as of keys, and one if each pair of them has a bias.
func sameSegments(at At, segmentsQ, segmentsKV *Ints, bias *Tensor) {
	if n := segmentsQ.Len; n != segmentsKV.Len || bias != nil && n != 2 {
		panic(fmt.Sprintf("op: %v: %d bounds of segments of queries and %d of keys: want as many, and two with a bias", at, n, segmentsKV.Len))
	}
}

// bounds checks that segments ascend from 0 to at most rows.
func bounds(x *Ints, rows int) error {
	before := int32(0)
	for i, v := range ints(x) {
		if v < before || int(v) > rows || i == 0 && v != 0 {
			return fmt.Errorf("%s: segment bound %d at %d: want bounds that ascend from 0 to at most %d", x.Name, v, i, rows)
		}
		before = v
	}
	return nil
}

func (p *Plain) AttentionBackward(at At, dq, dk, dv, dbias, dy, q, k, v, stats *Tensor, segmentsQ, segmentsKV *Ints, bias *Tensor, s AttentionShape) {
	shaped(at, dq, q.Rows, q.Cols)
	shaped(at, dk, k.Rows, k.Cols)
	shaped(at, dv, v.Rows, v.Cols)
	shaped(at, dy, q.Rows, q.Cols)
	full(at, dbias)
	sameSegments(at, segmentsQ, segmentsKV, bias)
	s.T = q.DType
	p.do(at, func() error {
		if err := errors.Join(bounds(segmentsQ, q.Rows), bounds(segmentsKV, k.Rows)); err != nil {
			return err
		}
		gq, gk, gv := gradient(dq, q.Len()), gradient(dk, k.Len()), gradient(dv, v.Len())
		AttentionBackward(gq, gk, gv, load(dbias), load(dy), load(q), load(k), load(v), load(stats),
			ints(segmentsQ), ints(segmentsKV), load(bias), s)
		store(dq, gq)
		store(dk, gk)
		store(dv, gv)
		return nil
	})
}

func (p *Plain) CacheAppend(at At, cache, x *Tensor, position *Ints) {
	shaped(at, x, x.Rows, cache.Cols)
	p.do(at, func() error {
		first := int(ints(position)[0])
		if first < 0 || first+x.Rows > cache.Rows {
			return fmt.Errorf("%s holds %d positions: no room for %d at %d", cache.Name, cache.Rows, x.Rows, first)
		}
		store(cache.View(first, first+x.Rows), load(x))
		return nil
	})
}

func (p *Plain) Gate(at At, y, gate, up *Tensor, act Activation) {
	shaped(at, y, gate.Rows, gate.Cols)
	shaped(at, up, gate.Rows, gate.Cols)
	p.do(at, func() error {
		out := make([]float32, y.Len())
		Gate(out, load(gate), load(up), act, y.DType)
		store(y, out)
		return nil
	})
}

func (p *Plain) GateBackward(at At, dgate, dup, dy, gate, up *Tensor, act Activation) {
	shaped(at, dgate, gate.Rows, gate.Cols)
	shaped(at, dup, gate.Rows, gate.Cols)
	shaped(at, dy, gate.Rows, gate.Cols)
	p.do(at, func() error {
		dg, du := gradient(dgate, gate.Len()), gradient(dup, up.Len())
		GateBackward(dg, du, load(dy), load(gate), load(up), act, dy.DType)
		store(dgate, dg)
		store(dup, du)
		return nil
	})
}

func (p *Plain) Add(at At, y, a, b *Tensor) {
	shaped(at, y, a.Rows, a.Cols)
	shaped(at, b, a.Rows, a.Cols)
	p.do(at, func() error {
		out := make([]float32, y.Len())
		Add(out, load(a), load(b), y.DType)
		store(y, out)
		return nil
	})
}

func (p *Plain) Dropout(at At, y, x *Tensor, d Dropout) {
	shaped(at, y, x.Rows, x.Cols)
	p.do(at, func() error {
		out := make([]float32, y.Len())
		masked(at, out, load(x), x.Cols, d, y.DType)
		store(y, out)
		return nil
	})
}

func (p *Plain) DropoutBackward(at At, dx, dy *Tensor, d Dropout) {
	shaped(at, dx, dy.Rows, dy.Cols)
	p.do(at, func() error {
		g := make([]float32, dy.Len())
		masked(at, g, load(dy), dy.Cols, d, dy.DType)
		into := gradient(dx, dy.Len())
		addRounded(into, g, dy.DType)
		store(dx, into)
		return nil
	})
}

func (p *Plain) HeadLoss(at At, loss, lse, x *Tensor, w Weight, labels *Ints) {
	shaped(at, loss, x.Rows, 1)
	shaped(at, lse, x.Rows, 1)
	full(at, loss, lse)
	p.do(at, func() error {
		if err := within(labels, w.Out(), "label", true); err != nil {
			return err
		}
		wf, err := p.weight(w, x.DType)
		if err != nil {
			return err
		}
		HeadLoss(load(loss), load(lse), load(x), wf, ints(labels), w.Out(), w.In(), x.DType)
		return nil
	})
}

func (p *Plain) HeadLossBackward(at At, dx, dw, lse, x *Tensor, w Weight, labels *Ints, g *Tensor) {
	shaped(at, dx, x.Rows, x.Cols)
	shaped(at, g, 1, 1)
	full(at, dw)
	p.do(at, func() error {
		if err := within(labels, w.Out(), "label", true); err != nil {
			return err
		}
		wf, err := p.weight(w, x.DType)
		if err != nil {
			return err
		}
		into := gradient(dx, x.Len())
		HeadLossBackward(into, load(dw), load(lse), load(x), wf, ints(labels), load(g)[0], w.Out(), w.In(), x.DType)
		store(dx, into)
		return nil
	})
}

func (p *Plain) Choose(at At, token *Ints, logits *Tensor, c Choice, clock *Ints) {
	shaped(at, logits, 1, logits.Cols)
	p.do(at, func() error {
		z := load(logits)
		if i := slices.IndexFunc(z, func(v float32) bool { return v != v }); i >= 0 {
			return fmt.Errorf("the logit of token %d is NaN", i)
		}
		ints(token)[0] = int32(Choose(z, c, int(ints(clock)[ClockStep])))
		return nil
	})
}

func (p *Plain) GradNorm(at At, norm *Tensor, grads []*Tensor) {
	shaped(at, norm, 1, 1)
	p.do(at, func() error {
		var all [][]float32
		for _, g := range grads {
			all = append(all, load(g))
		}
		store(norm, []float32{optim.Norm(all)})
		return nil
	})
}

func (p *Plain) AdamW(at At, x, m, v, g, scalars, norm *Tensor) {
	for _, t := range []*Tensor{m, v, g} {
		shaped(at, t, x.Rows, x.Cols)
	}
	full(at, x, m, v, g)
	p.do(at, func() error {
		optim.AdamW(load(x), load(m), load(v), load(g), load(scalars), load(norm)[0])
		return nil
	})
}

func (p *Plain) AdamW8(at At, x *Tensor, s *State8, g, scalars, norm *Tensor) {
	shaped(at, g, x.Rows, x.Cols)
	full(at, x, g)
	p.do(at, func() error {
		optim.AdamW8(load(x), s.Handle.(*optim.State8), load(g), load(scalars), load(norm)[0], quant.Spec)
		return nil
	})
}
