// Package plan says how much memory a training run will take, part by part, before it runs.
//
// Nothing is estimated: the model and the trainer themselves run, on a device that only accounts for memory (accel.Options.AccountOnly), from
// shapes alone. So a plan is right wherever the device's own account is, to the byte.
package plan

import (
	"fmt"
	"sort"

	"qlora/accel"
	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
	"qlora/ref/train"
)

// Run is a training run as far as memory depends on it.
type Run struct {
	Device        string // a name that accel knows
	Fast          bool
	Config        llama.Config
	Options       llama.Options
	FourBit       *FourBit // of a base whose files hold weights in 4 bits; nil for another
	Step          train.Config
	Checkpointing bool
	Noise         op.Noise // llama.Model's

	Seq        int // tokens a sequence
	Batch      int // sequences at a time
	Accumulate int // such batches a step
}

// FourBit is how a base's files hold weights that are in 4 bits already.
type FourBit struct {
	Holds       func(weight string) bool // by its Hugging Face name
	Blocksize   int
	DoubleQuant bool
}

// Memory is what a run takes when it takes the most.
type Memory struct {
	Peak  int64  `json:"peak"` // bytes
	Parts []Part `json:"parts"`
}

// Part is what a part of the program holds at the peak: all add up to it.
type Part struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// Of is the size of a part, 0 if there is none of that name.
func (m Memory) Of(name string) int64 {
	for _, p := range m.Parts {
		if p.Name == name {
			return p.Bytes
		}
	}
	return 0
}

// Memory is what the run takes under a limit, 0 for none. Pages of optimizer state leave where the limit asks for it. It is an error if the
// run needs more.
func (r Run) Memory(limit int64) (Memory, error) {
	d, err := accel.Open(r.Device, accel.Options{Cap: limit, Fast: r.Fast, AccountOnly: true})
	if err != nil {
		return Memory{}, err
	}
	c := &constants{Device: d}
	options := r.Options
	options.Context = max(options.Context, r.Seq)
	m, err := llama.New(c, r.Config, options, &shapes{fourBit: r.FourBit})
	if err != nil {
		return Memory{}, err
	}
	m.Checkpointing, m.Noise = r.Checkpointing, r.Noise
	r.Step.Paged = r.Step.Paged && limit > 0 // without one no page leaves
	t := train.New(c, m, r.Step)
	if err := d.Sync(); err != nil {
		return Memory{}, err
	}
	// Of many micro-batches a few are enough: they take the same memory, one after the other, but for their losses, which wait for the step's end.
	micro := r.step(min(r.Accumulate, 2))
	d.New(op.Run, "batch/loss", num.Float32, (r.Accumulate-len(micro))*r.Batch*r.Seq, 1)
	for range 2 { // the first step takes what it computes in as it goes, the second begins with it
		if _, err := t.Step(micro); err != nil {
			return Memory{}, err
		}
	}
	return account(d.Arena(), c.bytes, gradients(m)), nil
}

// step is a batch of so many micro-batches, in which every token has a label.
func (r Run) step(accumulate int) (micro []train.Sequences) {
	s := train.Sequence{IDs: make([]int32, r.Seq), Labels: make([]int32, r.Seq)}
	for range accumulate {
		var m train.Sequences
		for range r.Batch {
			m = append(m, s)
		}
		micro = append(micro, m)
	}
	return micro
}

// gradients is what the parameters' gradients take.
func gradients(m *llama.Model) (bytes int64) {
	for _, p := range m.Parameters() {
		for _, t := range []*op.Tensor{p.Grad, p.Tied} {
			if t != nil {
				bytes += int64(t.Len()) * int64(t.DType.Size())
			}
		}
	}
	return bytes
}

// constants counts what the quantization constants take, which the arena counts as weights.
type constants struct {
	op.Device
	bytes int64
}

func (c *constants) Accounts() bool { return true }

func (c *constants) Quantize(at op.At, name string, x *op.Tensor, o quant.Options) *op.Quantized {
	n := int64(x.Len())
	c.bytes += o.Bytes(n) - (n+1)/2
	return c.Device.Quantize(at, name, x, o)
}

func (c *constants) NewQuantized(name string, w *quant.Tensor) *op.Quantized {
	c.bytes += int64(w.Bytes() - len(w.Packed))
	return c.Device.NewQuantized(name, w)
}

// shapes are the weights of a base of which nobody asks for the values.
type shapes struct {
	fourBit *FourBit
	bytes   []byte // that 4-bit weights share
	floats  []float32
}

func (s *shapes) Float32(name string, shape []int) ([]float32, error) { return nil, nil }

func (s *shapes) Quantized(name string, shape []int) (*quant.Tensor, error) {
	f := s.fourBit
	if f == nil || !f.Holds(name) {
		return nil, nil
	}
	n := shape[0] * shape[1]
	blocks := (n + f.Blocksize - 1) / f.Blocksize
	s.room(max((n+1)/2, blocks))
	q := &quant.Tensor{Blocksize: f.Blocksize, Shape: shape, Packed: s.bytes[:(n+1)/2]}
	if f.DoubleQuant {
		nested := (blocks + quant.NestedBlocksize - 1) / quant.NestedBlocksize
		q.Nested = &quant.Nested{Codes: s.bytes[:blocks], Absmax: s.floats[:nested], Map: new(quant.Map8)}
	} else {
		q.Absmax = s.floats[:blocks]
	}
	return q, nil
}

func (s *shapes) room(n int) {
	if len(s.bytes) < n {
		s.bytes, s.floats = make([]byte, n), make([]float32, n)
	}
}

// The names of parts that the arena does not tell apart, or has under another name.
const (
	Weights   = "weights"
	Constants = "quantization constants"
	Adapters  = "adapters"
	Gradients = "gradients"
	Optimizer = "optimizer"
	Backward  = "activation gradients"
	Rest      = "tables and batch"
)

// order is that in which parts are listed; what is not here comes with Rest.
var order = []string{Weights, Constants, "masters", Adapters, Gradients, Optimizer, "checkpoints", "activations", Backward, "workspace", "loading"}

// account sorts what the arena held at its peak.
func account(a *op.Arena, constants, gradients int64) Memory {
	at := map[string]int64{}
	for _, p := range a.Parts() {
		name := p.Name
		if name == "adapter" {
			name = Adapters
		}
		at[name] = p.AtPeak
	}
	move := func(from, to string, bytes int64) {
		bytes = min(bytes, at[from])
		at[from] -= bytes
		at[to] += bytes
	}
	move(Weights, Constants, constants)
	move(Gradients, Backward, at[Gradients]-min(gradients, at[Gradients]))
	m := Memory{Peak: a.Peak()}
	rest := m.Peak
	for _, name := range order {
		if at[name] > 0 {
			m.Parts = append(m.Parts, Part{name, at[name]})
			rest -= at[name]
		}
	}
	m.Parts = append(m.Parts, Part{Rest, rest})
	return m
}

// Fits says whether the run takes no more than a limit, be it that optimizer state leaves memory.
func (r Run) Fits(limit int64) bool {
	m, err := r.Memory(0)
	if err == nil && m.Peak > limit && r.Step.Paged {
		m, err = r.Memory(limit)
	}
	return err == nil && m.Peak <= limit
}

// Least is the smallest limit under which the run goes: its peak, or, where optimizer state can leave memory, less, to a part in 4096 of it.
func (r Run) Least() (int64, error) {
	m, err := r.Memory(0)
	if err != nil || !r.Step.Paged {
		return m.Peak, err
	}
	const parts = 4096
	limit := func(i int) int64 { return m.Peak * int64(i+1) / parts }
	return limit(sort.Search(parts, func(i int) bool { return r.Fits(limit(i)) })), nil
}

// Longest is how long sequences can be under a limit, at most as long as the model's context; 0 if none fits.
func (r Run) Longest(limit int64) int {
	return sort.Search(r.Config.MaxContext(), func(n int) bool {
		r.Seq = n + 1
		return !r.Fits(limit)
	})
}

// Check says what of a run cannot be planned.
func (r Run) Check() error {
	if r.Seq < 1 || r.Batch < 1 || r.Accumulate < 1 {
		return fmt.Errorf("sequences of %d tokens, %d at a time, %d times a step: want at least 1 of each", r.Seq, r.Batch, r.Accumulate)
	}
	if longest := r.Config.MaxContext(); r.Seq > longest {
		return fmt.Errorf("sequences of %d tokens: the model's context has %d", r.Seq, longest)
	}
	return nil
}
