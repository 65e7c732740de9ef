package batch

import (
	"fmt"
	"math"

	"qlora/ref/train"
)

// Mode says how sequences share the slots of a batch. A batch has per_device_train_batch_size × gradient_accumulation_steps slots.
type Mode int

const (
	Packing Mode = iota // a slot holds as many sequences as fit
	Grouped             // a slot holds one sequence; batches are of similar lengths
	Plain               // a slot holds one sequence
)

// Options say what a batch is.
type Options struct {
	Mode       Mode
	Seed       uint64
	Max        int // tokens of a slot, when packing
	Micro      int // slots of a micro-batch
	Accumulate int // micro-batches of a batch
}

// Batches gives the batches of a run, each by its step alone. The slots of all epochs stand one behind the other, each epoch's in the
// order that order.go says; step s has the slots from s × Micro × Accumulate on. So a batch may reach into the next epoch, and the
// sequences of a step do not depend on how they are cut into micro-batches.
type Batches struct {
	sequences train.Sequences
	options   Options
	slots     int // of an epoch

	epoch int
	order [][]int // of that epoch: the sequences of each slot; nil before the first
}

// New prepares batches of sequences.
func New(s train.Sequences, o Options) (*Batches, error) {
	if len(s) == 0 {
		return nil, fmt.Errorf("there is no sequence to train on")
	}
	b := &Batches{sequences: s, options: o, slots: len(s)}
	if o.Mode == Packing {
		for i, x := range s {
			if len(x.IDs) > o.Max {
				return nil, fmt.Errorf("sequence %d has %d tokens, a slot %d", i, len(x.IDs), o.Max)
			}
		}
		b.slots = len(b.epochOrder(0)) // of every epoch: the number of bins depends on the lengths alone
	}
	return b, nil
}

// Batch gives the micro-batches of a step, from 0: Accumulate of them, with the sequences of Micro slots each.
func (b *Batches) Batch(step int) []train.Sequences {
	micro := make([]train.Sequences, b.options.Accumulate)
	first := step * b.slotsOfStep()
	for i := range b.slotsOfStep() {
		m := &micro[i/b.options.Micro]
		for _, s := range b.slot(first + i) {
			*m = append(*m, b.sequences[s])
		}
	}
	return micro
}

func (b *Batches) slotsOfStep() int { return b.options.Micro * b.options.Accumulate }

// slot is the i-th of the run.
func (b *Batches) slot(i int) []int {
	if epoch := i / b.slots; b.order == nil || epoch != b.epoch {
		b.epoch, b.order = epoch, b.epochOrder(epoch)
	}
	return b.order[i%b.slots]
}

// Slots is how many slots an epoch has.
func (b *Batches) Slots() int { return b.slots }

// Longest is the tokens of the slot that has most. Every epoch has slots of the same lengths.
func (b *Batches) Longest() (most int) {
	for i := range b.slots {
		tokens := 0
		for _, s := range b.slot(i) {
			tokens += len(b.sequences[s].IDs)
		}
		most = max(most, tokens)
	}
	return most
}

// Steps is how many steps some epochs take; the last may reach beyond them.
func (b *Batches) Steps(epochs float64) int {
	return int(math.Ceil(epochs * float64(b.slots) / float64(b.slotsOfStep())))
}
