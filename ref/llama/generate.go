package llama

import (
	"fmt"

	"qlora/ref/op"
)

// Cache holds the keys and values of the tokens seen so far, for generation.
type Cache struct {
	layers   []layerCache
	position *op.Ints // where the next tokens go
	segments *op.Ints // 0 and the number of tokens seen, those of this pass included
	rope     tables
	seen     int
}

type layerCache struct {
	k, v  *op.Tensor // [context, key-value heads · head dim]
	cache *Cache
}

// NewCache has room for context tokens, for the run. With dynamic scaling all of them are turned by the angles of that
// length; transformers turns each by those of the length that it has when the token comes.
func (m *Model) NewCache(context int) *Cache {
	d := m.device
	c := &Cache{position: d.NewInts(op.Run, "cache/position", 1), segments: d.NewInts(op.Run, "cache/segments", 2),
		rope: m.tablesFor(op.Run, context)}
	for i := range m.blocks {
		tensor := func(name string) *op.Tensor {
			return d.New(op.Run, fmt.Sprintf("cache/layers.%d.%s", i, name), m.Compute, context, m.NumKeyValueHeads*m.HeadDim)
		}
		c.layers = append(c.layers, layerCache{tensor("k"), tensor("v"), c})
	}
	return c
}

// append puts this pass's keys and values behind those before, and gives all of them.
func (c *layerCache) append(p *pass, at op.At, k, v *op.Tensor) (allK, allV *op.Tensor, segments *op.Ints) {
	p.d.CacheAppend(at, c.k, k, c.cache.position)
	p.d.CacheAppend(at, c.v, v, c.cache.position)
	return c.k, c.v, c.cache.segments
}

// Logits feeds ids behind what the cache holds and gives the logits [tokens, vocab] of all of them, for the step.
func (m *Model) Logits(c *Cache, ids []int32) *op.Tensor {
	d := m.device
	b := NewBatch(d, [][]int32{ids}, [][]int32{make([]int32, len(ids))})
	positions := make([]int32, len(ids))
	for i := range positions {
		positions[i] = int32(c.seen + i)
	}
	d.WriteInts(b.Positions, positions)
	d.WriteInts(c.position, []int32{int32(c.seen)})
	c.seen += len(ids)
	d.WriteInts(c.segments, []int32{0, int32(c.seen)})

	p := &pass{Model: m, d: d, life: op.Step, b: b, rope: c.rope}
	x := p.hidden("embedding", m.HiddenSize)
	d.Embedding(outside("embed_tokens"), x, m.embedding, b.IDs)
	for i := range m.blocks {
		p.kv = &c.layers[i]
		y := p.hidden("block", m.HiddenSize)
		m.blocks[i].forward(p, y, x)
		x = y
	}
	n, r := p.hidden("norm", m.HiddenSize), p.column("norm", 1)
	d.RMSNorm(outside("norm"), n, r, x, m.norm, m.RMSNormEps)
	logits := p.hidden("logits", m.VocabSize)
	d.Linear(outside("lm_head"), logits, n, m.head, nil)
	return logits
}

// Generate continues prompt by up to n tokens, handing each to emit, which returns false to stop.
func (m *Model) Generate(prompt []int32, n int, choice op.Choice, emit func(id int32) bool) error {
	d := m.device
	if len(prompt) == 0 {
		return fmt.Errorf("nothing to continue: the prompt has no tokens")
	}
	if len(prompt)+n > m.MaxContext() {
		return fmt.Errorf("a prompt of %d tokens and %d more exceed the model's context of %d", len(prompt), n, m.MaxContext())
	}
	run := d.Mark(op.Run)
	defer d.Release(run)
	cache, token := m.NewCache(len(prompt)+n), d.NewInts(op.Run, "cache/token", 1)
	next := prompt
	for step := range n {
		mark := d.Mark(op.Step)
		logits := m.Logits(cache, next)
		d.WriteInts(m.Clock, []int32{int32(step), 0})
		d.Choose(outside("choose"), token, logits.View(logits.Rows-1, logits.Rows), choice, m.Clock)
		id, err := d.ReadInts(token)
		d.Release(mark)
		if err != nil {
			return err
		}
		if !emit(id[0]) {
			return nil
		}
		next = id
	}
	return nil
}
