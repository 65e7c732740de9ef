package op

import (
	"errors"
	"fmt"

	"qlora/ref/num"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

// Quantize accounts for the matrix once its size is known.
func (p *Plain) Quantize(at At, name string, x *Tensor, o quant.Options) *Quantized {
	q := &Quantized{Name: name, Out: x.Rows, In: x.Cols}
	p.do(at, func() error {
		w, err := quant.Quantize(load(x), []int{x.Rows, x.Cols}, o)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		q.Handle = w
		return p.arena.Alloc(Run, name, int64(w.Bytes()))
	})
	return q
}

func (p *Plain) Dequantize(at At, y *Tensor, w *Quantized) {
	CheckDequantize(at, y, w)
	p.do(at, func() error {
		out, err := p.weight(Weight{Quantized: w}, y.DType)
		if err != nil {
			return err
		}
		store(y, out)
		return nil
	})
}

func (p *Plain) Embedding(at At, y, table *Tensor, ids *Ints) {
	CheckEmbedding(at, y, table, ids)
	p.do(at, func() error {
		if err := CheckIndices(ids.Name, ints(ids), table.Rows, "token id", false); err != nil {
			return err
		}
		out := load(y)
		Embedding(out, load(table), ints(ids), table.Cols)
		store(y, out)
		return nil
	})
}

func (p *Plain) EmbeddingBackward(at At, dtable, dy *Tensor, ids *Ints) {
	CheckEmbeddingBackward(at, dtable, dy, ids)
	p.do(at, func() error {
		if err := CheckIndices(ids.Name, ints(ids), dtable.Rows, "token id", false); err != nil {
			return err
		}
		EmbeddingBackward(load(dtable), load(dy), ints(ids), dtable.Cols)
		return nil
	})
}

func (p *Plain) Linear(at At, y, x *Tensor, w Weight, bias *Tensor) {
	CheckLinear(at, y, x, w, bias)
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
	CheckLinearBackward(at, dx, dw, dbias, dy, x, w)
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
	CheckLoRALinear(at, y, u, x, w, bias, a)
	p.Linear(at, y, x, w, bias)
	p.do(at, func() error {
		out, kept := load(y), make([]float32, u.Len())
		LoRAForward(out, kept, p.dropped(at, x, a), load(a.A), load(a.B), loraShape(x, w, a))
		store(y, out)
		store(u, kept)
		return nil
	})
}

func (p *Plain) LoRALinearBackward(at At, dx, dy, u, x *Tensor, w Weight, a *Adapter) {
	CheckLoRALinearBackward(at, dx, dy, u, x, w, a)
	p.LinearBackward(at, dx, nil, nil, dy, x, w)
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
	CheckRMSNorm(at, y, r, x, w)
	p.do(at, func() error {
		out := make([]float32, y.Len())
		RMSNorm(out, load(r), load(x), load(w), w.Cols, eps, y.DType)
		store(y, out)
		return nil
	})
}

func (p *Plain) RMSNormBackward(at At, dx, dw, dy, x, w, r *Tensor) {
	CheckRMSNormBackward(at, dx, dw, dy, x, w, r)
	p.do(at, func() error {
		into := gradient(dx, x.Len())
		RMSNormBackward(into, load(dw), load(dy), load(x), load(w), load(r), w.Cols, x.DType)
		store(dx, into)
		return nil
	})
}

func (p *Plain) RoPE(at At, y, x, cos, sin *Tensor, positions *Ints) {
	CheckRoPE(at, y, x, positions)
	p.do(at, func() error {
		if err := CheckIndices(positions.Name, ints(positions), cos.Rows, "position", false); err != nil {
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
	CheckRoPE(at, dx, dy, positions)
	p.do(at, func() error {
		if err := CheckIndices(positions.Name, ints(positions), cos.Rows, "position", false); err != nil {
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
	CheckAttention(at, y, stats, q, k, v, segmentsQ, segmentsKV, bias, s)
	s.T = q.DType
	p.do(at, func() error {
		if err := errors.Join(CheckSegments(segmentsQ.Name, ints(segmentsQ), q.Rows), CheckSegments(segmentsKV.Name, ints(segmentsKV), k.Rows)); err != nil {
			return err
		}
		out, kept := make([]float32, y.Len()), make([]float32, stats.Len())
		Attention(out, kept, load(q), load(k), load(v), ints(segmentsQ), ints(segmentsKV), load(bias), s)
		store(y, out)
		store(stats, kept)
		return nil
	})
}

func (p *Plain) AttentionBackward(at At, dq, dk, dv, dbias, dy, q, k, v, stats *Tensor, segmentsQ, segmentsKV *Ints, bias *Tensor, s AttentionShape) {
	CheckAttentionBackward(at, dq, dk, dv, dbias, dy, q, k, v, segmentsQ, segmentsKV, bias)
	s.T = q.DType
	p.do(at, func() error {
		if err := errors.Join(CheckSegments(segmentsQ.Name, ints(segmentsQ), q.Rows), CheckSegments(segmentsKV.Name, ints(segmentsKV), k.Rows)); err != nil {
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
	CheckCacheAppend(at, cache, x)
	p.do(at, func() error {
		first := int(ints(position)[0])
		if err := CheckRoom(cache, first, x.Rows); err != nil {
			return err
		}
		store(cache.View(first, first+x.Rows), load(x))
		return nil
	})
}

func (p *Plain) Gate(at At, y, gate, up *Tensor, act Activation) {
	CheckGate(at, y, gate, up)
	p.do(at, func() error {
		out := make([]float32, y.Len())
		Gate(out, load(gate), load(up), act, y.DType)
		store(y, out)
		return nil
	})
}

func (p *Plain) GateBackward(at At, dgate, dup, dy, gate, up *Tensor, act Activation) {
	CheckGateBackward(at, dgate, dup, dy, gate, up)
	p.do(at, func() error {
		dg, du := gradient(dgate, gate.Len()), gradient(dup, up.Len())
		GateBackward(dg, du, load(dy), load(gate), load(up), act, dy.DType)
		store(dgate, dg)
		store(dup, du)
		return nil
	})
}

func (p *Plain) Add(at At, y, a, b *Tensor) {
	CheckAdd(at, y, a, b)
	p.do(at, func() error {
		out := make([]float32, y.Len())
		Add(out, load(a), load(b), y.DType)
		store(y, out)
		return nil
	})
}

func (p *Plain) Copy(at At, y, x *Tensor) {
	CheckCopy(at, y, x)
	p.do(at, func() error {
		out := make([]float32, y.Len())
		Copy(out, load(x), y.DType)
		store(y, out)
		return nil
	})
}

func (p *Plain) Dropout(at At, y, x *Tensor, d Dropout) {
	CheckDropout(at, y, x)
	p.do(at, func() error {
		out := make([]float32, y.Len())
		masked(at, out, load(x), x.Cols, d, y.DType)
		store(y, out)
		return nil
	})
}

func (p *Plain) DropoutBackward(at At, dx, dy *Tensor, d Dropout) {
	CheckDropout(at, dx, dy)
	p.do(at, func() error {
		g := make([]float32, dy.Len())
		masked(at, g, load(dy), dy.Cols, d, dy.DType)
		into := gradient(dx, dy.Len())
		addRounded(into, g, dy.DType)
		store(dx, into)
		return nil
	})
}

func (p *Plain) Noise(at At, y, x *Tensor, segments *Ints, n Noise) {
	CheckNoise(at, y, x)
	p.do(at, func() error {
		if err := CheckSegments(segments.Name, ints(segments), x.Rows); err != nil {
			return err
		}
		out := append([]float32(nil), load(x)...)
		if n.Alpha != 0 { // without noise there need not be a clock
			clock := ints(n.Clock)
			AddNoise(out, load(x), ints(segments), x.Cols, n.Alpha, n.Seed, noiseCounter(at, clock[ClockStep]), int(clock[ClockFirstToken]), y.DType)
		}
		store(y, out)
		return nil
	})
}

func (p *Plain) HeadLoss(at At, loss, lse, x *Tensor, w Weight, labels *Ints) {
	CheckHeadLoss(at, loss, lse, x)
	p.do(at, func() error {
		if err := CheckIndices(labels.Name, ints(labels), w.Out(), "label", true); err != nil {
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
	CheckHeadLossBackward(at, dx, dw, x, g)
	p.do(at, func() error {
		if err := CheckIndices(labels.Name, ints(labels), w.Out(), "label", true); err != nil {
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

func (p *Plain) Penalize(at At, y, logits *Tensor, seen, banned *Ints, penalty float32) {
	CheckPenalize(at, y, logits)
	p.do(at, func() error {
		if err := errors.Join(CheckIndices(seen.Name, ints(seen), logits.Cols, "token id", true),
			CheckIndices(banned.Name, ints(banned), logits.Cols, "token id", true)); err != nil {
			return err
		}
		Penalize(load(y), load(logits), ints(seen), ints(banned), penalty)
		return nil
	})
}

func (p *Plain) Choose(at At, token *Ints, logits *Tensor, c Choice, clock *Ints) {
	CheckChoose(at, logits)
	p.do(at, func() error {
		z := load(logits)
		if err := CheckLogits(z); err != nil {
			return err
		}
		ints(token)[0] = int32(Choose(z, c, int(ints(clock)[ClockStep])))
		return nil
	})
}

func (p *Plain) GradNorm(at At, norm *Tensor, grads []*Tensor) {
	CheckGradNorm(at, norm)
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
	CheckAdamW(at, x, m, v, g)
	p.paged(at, func() { optim.AdamW(load(x), load(m), load(v), load(g), load(scalars), load(norm)[0]) }, m.Handle, v.Handle)
}

func (p *Plain) AdamW8(at At, x *Tensor, s *State8, g, scalars, norm *Tensor) {
	CheckAdamW8(at, x, g)
	p.paged(at, func() { optim.AdamW8(load(x), state8(s), load(g), load(scalars), load(norm)[0], quant.Spec) }, s.Handle)
}

func (p *Plain) Lion(at At, x, m, g, scalars, norm *Tensor) {
	CheckLion(at, x, m, g)
	p.paged(at, func() { optim.Lion(load(x), load(m), load(g), load(scalars), load(norm)[0]) }, m.Handle)
}

// paged runs an operation that changes what may lie in pages.
func (p *Plain) paged(at At, f func(), handles ...any) {
	p.do(at, func() error { return p.pages.With(f, true, PagesOf(handles...)...) })
}
