package llama

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

// saved is what a block's backward needs of its forward. All are [tokens, …].
type saved struct {
	x        *op.Tensor // the block's input, hidden
	n1, r1   *op.Tensor // RMSNorm(x) and its 1/root
	qn, kn   *headNorm  // nil without norms of q and k
	q, k, v  *op.Tensor // after RoPE for q and k
	stats    *op.Tensor // attention's row maxima and sums
	attn     *op.Tensor
	h        *op.Tensor // x + o_proj(attn)
	n2, r2   *op.Tensor
	gate, up *op.Tensor
	act      *op.Tensor
	u        [7]*op.Tensor // each adapter's x'·Aᵀ, in the order of projections
}

// pass is where a block's forward or backward runs: its device, the lifetime of what it allocates, its batch.
type pass struct {
	*Model
	d    op.Device
	life op.Lifetime
	b    *Batch
	rope tables
	kv   *layerCache // nil but in generation

	training bool // dropout and noise are on
}

func (p *pass) hidden(name string, cols int) *op.Tensor {
	return p.d.New(p.life, "activations/"+name, p.Compute, p.b.Tokens, cols)
}

func (p *pass) column(name string, cols int) *op.Tensor {
	return p.d.New(p.life, "activations/"+name, num.Float32, p.b.Tokens, cols)
}

// gradient is a tensor of zeros of x's shape and type.
func (p *pass) gradient(x *op.Tensor) *op.Tensor {
	return p.d.New(p.life, "gradients/activations", x.DType, x.Rows, x.Cols)
}

// forward computes y [tokens, hidden] from x:
//
//	h = x + o(attention(rope(q(n1)), rope(k(n1)), v(n1))),  n1 = norm(x)
//	y = h + down(silu(gate(n2))·up(n2)),                    n2 = norm(h)
//
// Where the architecture has norms of q and k, they come before the turning.
func (bl *block) forward(p *pass, y, x *op.Tensor) *saved {
	d, s := p.d, &saved{x: x}
	place := func(name string) op.At { return op.At{Layer: bl.layer, Name: name} }

	s.n1, s.r1 = p.hidden("input_layernorm", x.Cols), p.column("input_layernorm", 1)
	d.RMSNorm(place("input_layernorm"), s.n1, s.r1, x, bl.inputNorm, p.RMSNormEps)
	q, k := bl.q.forward(p, s, 0, s.n1), bl.k.forward(p, s, 1, s.n1)
	if bl.qNorm != nil {
		q, s.qn = p.normed(place("self_attn.q_norm"), q, bl.qNorm)
		k, s.kn = p.normed(place("self_attn.k_norm"), k, bl.kNorm)
	}
	s.q, s.k = p.rotated(place("rope.q"), q), p.rotated(place("rope.k"), k)
	s.v = bl.v.forward(p, s, 2, s.n1)
	allK, allV, segmentsKV := s.k, s.v, p.b.Segments
	if p.kv != nil {
		allK, allV, segmentsKV = p.kv.append(p, place("cache"), s.k, s.v)
	}
	s.attn, s.stats = p.hidden("attention", s.q.Cols), p.column("attention.stats", 2*p.NumAttentionHeads)
	d.Attention(place("self_attn"), s.attn, s.stats, s.q, allK, allV, p.b.Segments, segmentsKV, nil, p.attention(bl.window))
	s.h = p.hidden("residual", x.Cols)
	d.Add(place("self_attn.residual"), s.h, x, bl.o.forward(p, s, 3, s.attn))

	s.n2, s.r2 = p.hidden("post_attention_layernorm", x.Cols), p.column("post_attention_layernorm", 1)
	d.RMSNorm(place("post_attention_layernorm"), s.n2, s.r2, s.h, bl.postNorm, p.RMSNormEps)
	s.gate = bl.gate.forward(p, s, 4, s.n2)
	s.up = bl.up.forward(p, s, 5, s.n2)
	s.act = p.hidden("mlp.act", p.IntermediateSize)
	d.Gate(place("mlp.act"), s.act, s.gate, s.up, p.HiddenAct)
	d.Add(place("mlp.residual"), y, s.h, bl.down.forward(p, s, 6, s.act))
	return s
}

// backward turns g from the gradient of the block's output into that of its input, in place: both residual sums hand g on
// unchanged, and each branch adds to it.
func (bl *block) backward(p *pass, g *op.Tensor, s *saved) {
	d := p.d
	place := func(name string) op.At { return op.At{Layer: bl.layer, Name: name} }

	dact, dgate, dup, dn2 := p.gradient(s.act), p.gradient(s.gate), p.gradient(s.up), p.gradient(s.n2)
	bl.down.backward(p, dact, g, s, 6, s.act)
	d.GateBackward(place("mlp.act"), dgate, dup, dact, s.gate, s.up, p.HiddenAct)
	bl.gate.backward(p, dn2, dgate, s, 4, s.n2)
	bl.up.backward(p, dn2, dup, s, 5, s.n2)
	d.RMSNormBackward(place("post_attention_layernorm"), g, p.gradientOf(bl.postNorm), dn2, s.h, bl.postNorm, s.r2)

	dattn, dn1 := p.gradient(s.attn), p.gradient(s.n1)
	bl.o.backward(p, dattn, g, s, 3, s.attn)
	dq, dk, dv := p.gradient(s.q), p.gradient(s.k), p.gradient(s.v)
	d.AttentionBackward(place("self_attn"), dq, dk, dv, nil, dattn, s.q, s.k, s.v, s.stats, p.b.Segments, p.b.Segments, nil, p.attention(bl.window))
	dq, dk = p.rotatedBackward(place("rope.q"), dq), p.rotatedBackward(place("rope.k"), dk)
	if bl.qNorm != nil {
		dq = p.normedBackward(place("self_attn.q_norm"), dq, bl.qNorm, s.qn)
		dk = p.normedBackward(place("self_attn.k_norm"), dk, bl.kNorm, s.kn)
	}
	bl.q.backward(p, dn1, dq, s, 0, s.n1)
	bl.k.backward(p, dn1, dk, s, 1, s.n1)
	bl.v.backward(p, dn1, dv, s, 2, s.n1)
	d.RMSNormBackward(place("input_layernorm"), g, p.gradientOf(bl.inputNorm), dn1, s.x, bl.inputNorm, s.r1)
}

func (p *pass) attention(window int) op.AttentionShape {
	return op.AttentionShape{
		Heads: p.NumAttentionHeads, KVHeads: p.NumKeyValueHeads, Dim: p.HeadDim,
		Scale: rsqrtInt(p.HeadDim), Mask: op.Mask{Causal: true, Window: window},
	}
}

// headNorm is what backward needs of a norm of heads: its input and each head's 1/root.
type headNorm struct{ x, r *op.Tensor }

func (p *pass) normed(at op.At, x, w *op.Tensor) (*op.Tensor, *headNorm) {
	y, r := p.hidden(at.Name, x.Cols), p.column(at.Name, x.Cols/p.HeadDim)
	p.d.RMSNorm(at, y, r, x, w, p.RMSNormEps)
	return y, &headNorm{x, r}
}

func (p *pass) normedBackward(at op.At, dy, w *op.Tensor, n *headNorm) *op.Tensor {
	dx := p.gradient(n.x)
	p.d.RMSNormBackward(at, dx, p.gradientOf(w), dy, n.x, w, n.r)
	return dx
}

func (p *pass) rotated(at op.At, x *op.Tensor) *op.Tensor {
	y := p.hidden(at.Name, x.Cols)
	p.d.RoPE(at, y, x, p.rope.cos, p.rope.sin, p.b.Positions)
	return y
}

func (p *pass) rotatedBackward(at op.At, dy *op.Tensor) *op.Tensor {
	dx := p.gradient(dy)
	p.d.RoPEBackward(at, dx, dy, p.rope.cos, p.rope.sin, p.b.Positions)
	return dx
}

// forward is the layer's output, with its adapter if it has one; slot i of s.u keeps the adapter's inner activation.
func (l *projection) forward(p *pass, s *saved, i int, x *op.Tensor) *op.Tensor {
	y := p.hidden(l.at.Name, l.w.Out())
	if l.adapter == nil {
		p.d.Linear(l.at, y, x, l.w, l.bias)
		return y
	}
	t := p.Compute
	if l.adapter.Float32 {
		t = num.Float32
	}
	s.u[i] = p.d.New(p.life, "activations/"+l.at.Name+".lora", t, p.b.Tokens, l.adapter.A.Rows)
	p.d.LoRALinear(l.at, y, s.u[i], x, l.w, l.bias, p.adapter(l))
	return y
}

// adapter is a layer's, whose dropout is for training alone.
func (p *pass) adapter(l *projection) *op.Adapter {
	a := *l.adapter
	if !p.training {
		a.Dropout.P = 0
	}
	return &a
}

func (l *projection) backward(p *pass, dx, dy *op.Tensor, s *saved, i int, x *op.Tensor) {
	if l.adapter == nil {
		p.d.LinearBackward(l.at, dx, p.gradientOf(l.w.Dense), p.gradientOf(l.bias), dy, x, l.w)
		return
	}
	p.d.LoRALinearBackward(l.at, dx, dy, s.u[i], x, l.w, l.adapter)
}
