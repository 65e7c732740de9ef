package llama

import (
	"math"

	"qlora/ref/num"
	"qlora/ref/op"
)

// Batch is packed sequences on the device: Segments bounds them, Positions restart with each.
type Batch struct {
	Tokens, Longest                  int // all tokens, and those of the longest sequence
	IDs, Labels, Positions, Segments *op.Ints
}

// NewBatch brings sequences to the device, for the step. labels[i] belong to the prediction made at ids[i] (already
// shifted); op.IgnoredLabel is not counted.
func NewBatch(d op.Device, ids, labels [][]int32) *Batch {
	var flatIDs, flatLabels, positions []int32
	bounds, longest := []int32{0}, 0
	for i, seq := range ids {
		flatIDs, flatLabels = append(flatIDs, seq...), append(flatLabels, labels[i]...)
		for p := range seq {
			positions = append(positions, int32(p))
		}
		bounds, longest = append(bounds, int32(len(flatIDs))), max(longest, len(seq))
	}
	up := func(name string, x []int32) *op.Ints {
		t := d.NewInts(op.Step, "batch/"+name, len(x))
		d.WriteInts(t, x)
		return t
	}
	return &Batch{len(flatIDs), longest, up("ids", flatIDs), up("labels", flatLabels), up("positions", positions), up("segments", bounds)}
}

// Trace is what backward needs of the whole forward.
type Trace struct {
	inputs []*op.Tensor // each block's input, then the last block's output
	saved  []*saved     // empty with checkpointing
	n, r   *op.Tensor   // the final norm
	lse    *op.Tensor
	rope   tables
}

// Loss sets loss [tokens, 1] to each token's cross-entropy, 0 where its label is ignored, for training: with dropout and noise.
func (m *Model) Loss(b *Batch, loss *op.Tensor) *Trace { return m.loss(b, loss, true) }

// Evaluate is Loss without dropout and noise, which keeps nothing for backward.
func (m *Model) Evaluate(b *Batch, loss *op.Tensor) {
	forgetting := *m
	forgetting.Checkpointing = true
	forgetting.loss(b, loss, false)
}

func (m *Model) loss(b *Batch, loss *op.Tensor, training bool) *Trace {
	d := m.device
	t := &Trace{rope: m.tablesFor(op.Step, b.Longest)}
	p := &pass{Model: m, d: d, life: op.Step, b: b, rope: t.rope, training: training}
	x := p.embedded()
	t.inputs = append(t.inputs, x)
	for i := range m.blocks {
		x = m.blockForward(p, &m.blocks[i], x, t)
	}
	t.n, t.r, t.lse = p.hidden("norm", m.HiddenSize), p.column("norm", 1), p.column("lse", 1)
	d.RMSNorm(outside("norm"), t.n, t.r, x, m.norm, m.RMSNormEps)
	d.HeadLoss(outside("lm_head"), loss, t.lse, t.n, m.head, b.Labels)
	return t
}

// embedded is the first block's input: the tokens' embeddings, in training with noise, through which a gradient goes unchanged.
func (p *pass) embedded() *op.Tensor {
	at, x, noise := outside("embed_tokens"), p.input("embedding"), p.Noise
	if !p.training || noise.Alpha == 0 {
		p.d.Embedding(at, x, p.embedding, p.b.IDs)
		return x
	}
	mark := p.d.Mark(op.Block)
	defer p.d.Release(mark)
	plain := p.d.New(op.Block, "activations/embedding", p.Compute, p.b.Tokens, p.HiddenSize)
	p.d.Embedding(at, plain, p.embedding, p.b.IDs)
	noise.Clock = p.Clock
	p.d.Noise(at, x, plain, p.b.Segments, noise)
	return x
}

// input is what a block reads, and what checkpointing keeps of it.
func (p *pass) input(name string) *op.Tensor {
	if !p.Checkpointing {
		return p.hidden(name, p.HiddenSize)
	}
	return p.d.New(p.life, "checkpoints/"+name, p.Compute, p.b.Tokens, p.HiddenSize)
}

func (m *Model) blockForward(p *pass, bl *block, x *op.Tensor, t *Trace) *op.Tensor {
	y := p.input("block")
	t.inputs = append(t.inputs, y)
	if !m.Checkpointing {
		t.saved = append(t.saved, bl.forward(p, y, x))
		return y
	}
	mark := m.device.Mark(op.Block)
	inBlock := *p
	inBlock.life = op.Block
	bl.forward(&inBlock, y, x)
	m.device.Release(mark)
	return y
}

// Backward adds to the gradients of every parameter; g [1, 1] is the gradient of each token's loss.
func (m *Model) Backward(b *Batch, t *Trace, g *op.Tensor) {
	d := m.device
	p := &pass{Model: m, d: d, life: op.Block, b: b, rope: t.rope, training: true}
	last := t.inputs[len(t.inputs)-1]
	grad := d.New(op.Step, "gradients/activations", m.Compute, b.Tokens, m.HiddenSize)

	mark := d.Mark(op.Block)
	dn := p.gradient(t.n)
	d.HeadLossBackward(outside("lm_head"), dn, m.headGradient(), t.lse, t.n, m.head, b.Labels, g)
	d.RMSNormBackward(outside("norm"), grad, m.gradientOf(m.norm), dn, last, m.norm, t.r)
	d.Release(mark)

	for i := len(m.blocks) - 1; i >= 0; i-- {
		mark := d.Mark(op.Block)
		m.blocks[i].backward(p, grad, m.recalled(p, i, t))
		d.Release(mark)
	}
	if table := m.gradientOf(m.embedding); table != nil {
		d.EmbeddingBackward(outside("embed_tokens"), table, grad, b.IDs)
	}
}

// recalled is what block i's forward kept, or, with checkpointing, what it keeps when it is called again.
func (m *Model) recalled(p *pass, i int, t *Trace) *saved {
	if !m.Checkpointing {
		return t.saved[i]
	}
	return m.blocks[i].forward(p, p.hidden("block", m.HiddenSize), t.inputs[i])
}

func outside(name string) op.At { return op.At{Layer: num.NoLayer, Name: name} }

// rsqrtInt is 1/√n, computed in float64 and rounded once.
func rsqrtInt(n int) float32 { return float32(1 / math.Sqrt(float64(n))) }
