package llama

import (
	"fmt"
	"slices"

	"qlora/ref/num"
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
func (m *Model) Logits(c *Cache, ids []int32) *op.Tensor { return m.logits(m.feed(c, ids)) }

// feed gives the last block's output [tokens, hidden].
func (m *Model) feed(c *Cache, ids []int32) *op.Tensor {
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
	x, y := p.hidden("embedding", m.HiddenSize), p.hidden("block", m.HiddenSize)
	p.life = op.Block
	d.Embedding(outside("embed_tokens"), x, m.embedding, b.IDs)
	for i := range m.blocks {
		mark := d.Mark(op.Block)
		p.kv = &c.layers[i]
		m.blocks[i].forward(p, y, x)
		x, y = y, x
		d.Release(mark)
	}
	return x
}

// logits are [rows, vocab], of the last block's output.
func (m *Model) logits(x *op.Tensor) *op.Tensor {
	d := m.device
	n, r := d.New(op.Step, "activations/norm", m.Compute, x.Rows, x.Cols), d.New(op.Step, "activations/norm", num.Float32, x.Rows, 1)
	d.RMSNorm(outside("norm"), n, r, x, m.norm, m.RMSNormEps)
	logits := d.New(op.Step, "activations/logits", m.Compute, x.Rows, m.VocabSize)
	d.Linear(outside("lm_head"), logits, n, m.head, nil)
	return logits
}

// Sampling says how the tokens of an answer are chosen: by op.Choice, after some were made less likely (op.Penalize).
type Sampling struct {
	op.Choice
	RepetitionPenalty float32 // of all tokens so far, the prompt's included; 0 and 1 are none
	NoRepeat          int     // no run of so many tokens comes twice, the prompt's included; 0 is no limit
	MinTokens         int     // as long as there are fewer, none of Ends is chosen
	Ends              []int32 // token ids
}

func (s Sampling) penalizes() bool {
	return s.RepetitionPenalty != 0 && s.RepetitionPenalty != 1 || s.NoRepeat > 0 || s.MinTokens > 0
}

// ban gives the tokens that must not come behind ids, as the step-th of an answer.
func (s Sampling) ban(ids []int32, step int) (out []int32) {
	if step < s.MinTokens {
		out = append(out, s.Ends...)
	}
	if n := s.NoRepeat; n > 0 && len(ids) >= n {
		last := ids[len(ids)-n+1:]
		for i := n - 1; i < len(ids); i++ {
			if slices.Equal(ids[i-n+1:i], last) {
				out = append(out, ids[i])
			}
		}
	}
	return out
}

// Session continues one sequence after the other. The keys and values of what two that follow each other begin with are computed once;
// they have the same bits however they came into the cache.
type Session struct {
	Sampling // of which all but Choice is fixed

	m            *Model
	room         int
	cache        *Cache
	held         []int32 // the tokens in the cache, and the last one chosen
	token        *op.Ints
	seen, banned *op.Ints // nil if nothing is penalized
}

// NewSession has room for sequences of so many tokens, what is generated included, for the run.
func (m *Model) NewSession(room int, how Sampling) *Session {
	d := m.device
	s := &Session{Sampling: how, m: m, room: room, cache: m.NewCache(room), token: d.NewInts(op.Run, "cache/token", 1)}
	if how.penalizes() {
		s.seen, s.banned = d.NewInts(op.Run, "cache/seen", room), d.NewInts(op.Run, "cache/banned", room+len(how.Ends))
	}
	return s
}

// Generate continues prompt by up to n tokens, handing each to emit, which returns false to stop.
func (s *Session) Generate(prompt []int32, n int, emit func(id int32) bool) error {
	if len(prompt) == 0 {
		return fmt.Errorf("nothing to continue: the prompt has no tokens")
	}
	if err := checkRoom(len(prompt), n, s.room, "session's room"); err != nil {
		return err
	}
	s.cache.seen = min(common(s.held, prompt), s.cache.seen, len(prompt)-1)
	s.held = slices.Clone(prompt)
	for step := range n {
		id, err := s.next(step)
		if err != nil {
			return err
		}
		if !emit(id) {
			return nil
		}
		s.held = append(s.held, id)
	}
	return nil
}

// next feeds what the cache has not seen yet and chooses the step-th token of the answer.
func (s *Session) next(step int) (int32, error) {
	d := s.m.device
	mark := d.Mark(op.Step)
	defer d.Release(mark)
	x := s.m.feed(s.cache, s.held[s.cache.seen:])
	logits := s.m.logits(x.View(x.Rows-1, x.Rows))
	if s.seen != nil {
		logits = s.penalized(logits, step)
	}
	d.WriteInts(s.m.Clock, []int32{op.ClockStep: int32(step), op.ClockFirstToken: 0})
	d.Choose(outside("choose"), s.token, logits, s.Choice, s.m.Clock)
	id, err := d.ReadInts(s.token)
	if err != nil {
		return 0, err
	}
	return id[0], nil
}

func (s *Session) penalized(logits *op.Tensor, step int) *op.Tensor {
	d, penalty := s.m.device, s.RepetitionPenalty
	d.WriteInts(s.banned, padded(s.ban(s.held, step), s.banned.Len))
	if penalty == 0 || penalty == 1 {
		d.WriteInts(s.seen, padded(nil, s.seen.Len))
		penalty = 1
	} else {
		d.WriteInts(s.seen, padded(s.held, s.seen.Len))
	}
	y := d.New(op.Step, "activations/logits", num.Float32, 1, logits.Cols)
	d.Penalize(outside("penalize"), y, logits, s.seen, s.banned, penalty)
	return y
}

// padded is ids and then op.IgnoredLabel, n in all.
func padded(ids []int32, n int) []int32 {
	out := make([]int32, n)
	for i := copy(out, ids); i < n; i++ {
		out[i] = op.IgnoredLabel
	}
	return out
}

// common is the number of tokens with which both begin.
func common(a, b []int32) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// checkRoom wants a prompt and n tokens more to fit in, of which there are room.
func checkRoom(prompt, n, room int, in string) error {
	if prompt+n > room {
		return fmt.Errorf("a prompt of %d tokens and %d more exceed the %s of %d", prompt, n, in, room)
	}
	return nil
}

// Generate is that of a session of its own, whose memory it gives back.
func (m *Model) Generate(prompt []int32, n int, how Sampling, emit func(id int32) bool) error {
	if err := checkRoom(len(prompt), n, m.MaxContext(), "model's context"); err != nil {
		return err
	}
	run := m.device.Mark(op.Run)
	defer m.device.Release(run)
	return m.NewSession(len(prompt)+n, how).Generate(prompt, n, emit)
}
