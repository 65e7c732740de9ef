// Package train takes training steps. A step is one optimizer step over a batch that may be cut into micro-batches; a run is
// its steps, and its State is everything that the next step depends on.
package train

import (
	"errors"
	"fmt"
	"math"

	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
)

// Sequence is a training example: Labels[i] is what is to be predicted at IDs[i], op.IgnoredLabel for nothing.
type Sequence struct{ IDs, Labels []int32 }

// Sequences are packed into one micro-batch.
type Sequences []Sequence

// Config is what a step depends on besides its data.
type Config struct {
	AdamW       optim.AdamWConfig // its LR is the schedule's peak
	Schedule    optim.Schedule
	MaxGradNorm float32 // 0 does not clip
	EightBit    bool    // AdamW's moments in 8 bits, from optim.Min8BitSize elements on; not with Lion
	Lion        bool    // Lion in place of AdamW, with a learning rate, betas and a decay of its own in AdamW's fields; its moment has 32 bits
	Paged       bool    // the optimizer's state leaves memory where there is no room for it; no bit depends on that
}

// Trainer holds a run's optimizer on a device, beside the model that it trains.
type Trainer struct {
	config Config
	device op.Device
	model  *llama.Model
	params []param // in the order of their names
	step   int     // optimizer steps taken

	gradient, norm, scalars *op.Tensor
	undecayed               *op.Tensor // scalars without weight decay
}

// New prepares to train every parameter of the model.
func New(d op.Device, m *llama.Model, c Config) *Trainer {
	if c.Lion && c.EightBit {
		panic("train: 8-bit moments are AdamW's, and Lion is asked for")
	}
	t := &Trainer{config: c, device: d, model: m}
	for _, p := range m.Parameters() {
		t.params = append(t.params, t.param(p))
	}
	t.gradient = d.New(op.Run, "optimizer/gradient of a loss", num.Float32, 1, 1)
	t.norm = d.New(op.Run, "optimizer/norm", num.Float32, 1, 1)
	t.scalars = d.New(op.Run, "optimizer/scalars", num.Float32, 1, optim.NumScalars)
	t.undecayed = d.New(op.Run, "optimizer/scalars", num.Float32, 1, optim.NumScalars)
	return t
}

// Report is what a step measured.
type Report struct {
	Step     int     // from 1
	Loss     float32 // mean over the counted tokens, before the update
	GradNorm float32 // before clipping
	LR       float64
	Tokens   int // all tokens, counted or not
}

// Step trains on micro-batches: the bits of the result do not depend on how the batch is cut into them. For each token
// keeps its own loss until all are summed at once, and gradients add up in float32 in the order of the tokens.
func (t *Trainer) Step(micro []Sequences) (Report, error) {
	tokens, counted := count(micro)
	if counted == 0 {
		return Report{}, fmt.Errorf("step %d: no token of the batch has a label", t.step+1)
	}
	d := t.device
	mark := d.Mark(op.Step)
	defer d.Release(mark)
	loss := d.New(op.Step, "batch/loss", num.Float32, tokens, 1)
	d.Write(t.gradient, []float32{float32(1 / float64(counted))})
	for _, p := range t.params {
		p.ZeroGradients(d)
	}
	first := 0
	for _, m := range micro {
		first += t.accumulate(m, first, loss)
	}
	for _, p := range t.params {
		p.JoinGradients(d)
	}
	r := Report{Step: t.step + 1, LR: t.config.Schedule.LR(t.config.AdamW.LR, t.step), Tokens: tokens}
	t.update(r.LR)
	return t.finish(r, loss, counted)
}

func count(micro []Sequences) (tokens, counted int) {
	for _, m := range micro {
		for _, s := range m {
			tokens += len(s.IDs)
			for _, l := range s.Labels {
				if l != op.IgnoredLabel {
					counted++
				}
			}
		}
	}
	return tokens, counted
}

// accumulate runs forward and backward on a micro-batch whose first token is the first-th of the batch, and returns its
// number of tokens.
func (t *Trainer) accumulate(m Sequences, first int, loss *op.Tensor) int {
	d := t.device
	mark := d.Mark(op.Step)
	defer d.Release(mark)
	d.WriteInts(t.model.Clock, []int32{op.ClockStep: int32(t.step), op.ClockFirstToken: int32(first)})
	b := NewBatch(d, m)
	trace := t.model.Loss(b, loss.View(first, first+b.Tokens))
	t.model.Backward(b, trace, t.gradient)
	return b.Tokens
}

// NewBatch packs sequences on the device.
func NewBatch(d op.Device, m Sequences) *llama.Batch {
	var ids, labels [][]int32
	for _, s := range m {
		ids, labels = append(ids, s.IDs), append(labels, s.Labels)
	}
	return llama.NewBatch(d, ids, labels)
}

// finish waits for the step's results.
func (t *Trainer) finish(r Report, loss *op.Tensor, counted int) (Report, error) {
	losses, err := t.device.Read(loss)
	if err != nil {
		return r, fmt.Errorf("step %d: %w", r.Step, err)
	}
	norm, err := t.device.Read(t.norm)
	if err != nil {
		return r, fmt.Errorf("step %d: %w", r.Step, err)
	}
	t.step++
	r.Loss, r.GradNorm = num.Sum(losses)/float32(counted), norm[0]
	if !finite(r.Loss) || !finite(r.GradNorm) {
		return r, fmt.Errorf("step %d: loss is %v and the gradient's norm %v: the run has diverged; train again with a lower learning_rate, or find the first operation that makes one with --check-numerics", r.Step, r.Loss, r.GradNorm)
	}
	return r, nil
}

func finite(x float32) bool { return !math.IsNaN(float64(x)) && !math.IsInf(float64(x), 0) }

// Steps is the number of optimizer steps taken.
func (t *Trainer) Steps() int { return t.step }

// ErrStopped says that an evaluation was not wanted any more.
var ErrStopped = errors.New("stopped")

// Evaluate is the mean loss over sequences, each micro-batch at a time, without gradients and without dropout. wanted is asked before each.
func Evaluate(d op.Device, m *llama.Model, micro []Sequences, wanted func() bool) (loss float32, counted int, err error) {
	_, counted = count(micro)
	if counted == 0 {
		return 0, 0, fmt.Errorf("nothing to evaluate: no token has a label")
	}
	var all []float32
	for _, seqs := range micro {
		if !wanted() {
			return 0, 0, ErrStopped
		}
		losses, err := losses(d, m, seqs)
		if err != nil {
			return 0, 0, err
		}
		all = append(all, losses...)
	}
	return num.Sum(all) / float32(counted), counted, nil
}

func losses(d op.Device, m *llama.Model, s Sequences) ([]float32, error) {
	mark := d.Mark(op.Step)
	defer d.Release(mark)
	b := NewBatch(d, s)
	loss := d.New(op.Step, "batch/loss", num.Float32, b.Tokens, 1)
	m.Evaluate(b, loss)
	return d.Read(loss)
}
