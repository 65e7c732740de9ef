package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"qlora/ref/lora"
	"qlora/ref/lora/peft"
	"qlora/ref/quant"
)

// Change is what could be another way, and what the run would need then.
type Change struct {
	Flags string `json:"flags"`
	Needs int64  `json:"needs"` // bytes: the smallest limit under which the run goes
	Saves int64  `json:"saves"`
}

// change changes a run, and says by which flags; "" where there is nothing to change.
type change func(r *Run, limit int64) (flags string)

// changes are in the order in which they are tried: the first three change no bit of what is trained, the last what it can learn from.
var changes = []change{checkpointing, smallerBatch, pagedOptimizer, doubleQuant, fourBits, eightBitOptimizer, smallerRank, shorterSequence}

func checkpointing(r *Run, _ int64) string {
	if r.Checkpointing {
		return ""
	}
	r.Checkpointing = true
	return "--gradient-checkpointing"
}

func smallerBatch(r *Run, _ int64) string {
	if r.Batch == 1 {
		return ""
	}
	r.Batch, r.Accumulate = 1, r.Accumulate*r.Batch
	return fmt.Sprintf("--per-device-train-batch-size 1 --gradient-accumulation-steps %d", r.Accumulate)
}

func pagedOptimizer(r *Run, _ int64) string {
	if r.Step.Paged {
		return ""
	}
	r.Step.Paged = true
	return r.optimizer()
}

func eightBitOptimizer(r *Run, _ int64) string {
	if r.Step.EightBit || r.Step.Lion {
		return ""
	}
	r.Step.EightBit = true
	return r.optimizer()
}

func (r *Run) optimizer() string {
	name := "adamw"
	if r.Step.Lion {
		name = "lion"
	}
	if r.Step.Paged {
		name = "paged_" + name
	}
	if r.Step.EightBit {
		return "--optim " + name + "_8bit"
	}
	return "--optim " + name + "_32bit"
}

func doubleQuant(r *Run, _ int64) string {
	if r.Options.Quant == nil || r.Options.Quant.DoubleQuant {
		return ""
	}
	double := *r.Options.Quant
	double.DoubleQuant = true
	r.Options.Quant = &double
	return "--double-quant"
}

func fourBits(r *Run, _ int64) string {
	if r.Options.Quant != nil || r.FourBit != nil || r.Options.Full {
		return ""
	}
	r.Options.Quant = &quant.Options{Type: quant.NF4, Blocksize: 64, DoubleQuant: true, DType: r.Options.Compute}
	return "--bits 4 --quant-type nf4"
}

// goodRank is one at which adapters of all linear layers do as well as with larger ones (QLoRA, appendix A.1).
const goodRank = 8

func smallerRank(r *Run, _ int64) string {
	if r.Options.LoRA == nil || r.Options.LoRA.R <= goodRank {
		return ""
	}
	r.Options.LoRA = ofRank(*r.Options.LoRA, goodRank)
	return fmt.Sprintf("--lora-r %d", goodRank)
}

// ofRank is c without a rank above one.
func ofRank(c lora.Config, rank int) *lora.Config {
	c.R, c.Modules = rank, maps.Clone(c.Modules)
	for name, m := range c.Modules {
		c.Modules[name] = peft.Rank{R: min(m.R, rank), Alpha: m.Alpha}
	}
	return &c
}

// shorterSequence takes the longest that fits, but no less than half.
func shorterSequence(r *Run, limit int64) string {
	n := max(r.Longest(limit), r.Seq/2)
	if n == 0 || n >= r.Seq {
		return ""
	}
	r.Seq = n
	return fmt.Sprintf("--max-seq-length %d", n)
}

// Advice is what each change would give by itself, the most first; and changes that together make the run fit, none of them for nothing. There
// are none of those where all of them are not enough.
func (r Run) Advice(limit int64) (each, together []Change, err error) {
	needs, err := r.Least()
	if err != nil {
		return nil, nil, err
	}
	var useful []change
	for _, c := range changes {
		one, err := r.with([]change{c}, limit, needs)
		if err != nil {
			return nil, nil, err
		}
		if len(one) > 0 && one[0].Saves > 0 {
			each, useful = append(each, one[0]), append(useful, c)
		}
	}
	slices.SortStableFunc(each, func(a, b Change) int { return cmp.Compare(b.Saves, a.Saves) })
	n := 1
	for ; n <= len(useful) && !r.after(useful[:n], limit).Fits(limit); n++ {
	}
	if n > len(useful) {
		return each, nil, nil
	}
	useful = useful[:n]
	for i := len(useful) - 1; i >= 0; i-- {
		if fewer := slices.Delete(slices.Clone(useful), i, i+1); r.after(fewer, limit).Fits(limit) {
			useful = fewer
		}
	}
	together, err = r.with(useful, limit, needs)
	return each, together, err
}

// after is the run after changes.
func (r Run) after(cs []change, limit int64) Run {
	for _, c := range cs {
		c(&r, limit)
	}
	return r
}

// with is what each of some changes saves of what the ones before it left.
func (r Run) with(cs []change, limit, needs int64) (done []Change, err error) {
	for _, c := range cs {
		flags := c(&r, limit)
		if flags == "" {
			continue
		}
		n, err := r.Least()
		if err != nil {
			return nil, err
		}
		done = append(done, Change{flags, n, needs - n})
		needs = n
	}
	return done, nil
}
