package second

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"qlora/ref/num"
	"qlora/ref/op"
)

func (d *Device) Choose(at op.At, token *op.Ints, logits *op.Tensor, c op.Choice, clock *op.Ints) {
	shaped(at, 1, logits.Cols, logits)
	d.do(at, func() error {
		z := d.widen(logits, num.Float32).v
		for i, v := range z {
			if v != v {
				return fmt.Errorf("%s: logit %d is NaN", logits.Name, i)
			}
		}
		if slices.Max(z) == float32(math.Inf(-1)) {
			return fmt.Errorf("%s: every token is banned, by no_repeat_ngram_size or min_new_tokens", logits.Name)
		}
		putInt(token.Handle.([]byte), 0, int32(choose(z, c, uint32(ints(clock)[op.ClockStep]))))
		return nil
	})
}

func choose(z []float32, c op.Choice, step uint32) int {
	candidates := make([]int, len(z))
	for i := range z {
		candidates[i] = i
	}
	slices.SortFunc(candidates, func(a, b int) int { return cmp.Or(cmp.Compare(z[b], z[a]), cmp.Compare(a, b)) })
	if c.Temperature == 0 {
		return candidates[0]
	}
	if c.TopK > 0 {
		candidates = candidates[:min(c.TopK, len(z))]
	}
	e := make([]float32, len(candidates))
	for i, j := range candidates {
		e[i] = num.Exp((z[j] - z[candidates[0]]) / c.Temperature)
	}
	if c.TopP > 0 && c.TopP < 1 {
		least := float32(c.TopP * sum(e))
		e = e[:1+reach(e, func(running float32) bool { return running >= least })]
	}
	e = e[:max(1, slices.IndexFunc(append(e, 0), func(v float32) bool { return v == 0 || v < c.MinP }))]
	u := num.Uniform(c.Seed, num.Counter{Purpose: num.Purpose("choose"), Layer: num.NoLayer, Step: step})
	least := float32(u * sum(e))
	return candidates[reach(e, func(running float32) bool { return running > least })]
}

// reach is where the running sum of e is first enough, or the last index.
func reach(e []float32, enough func(running float32) bool) int {
	running := float32(0)
	for i, v := range e {
		if running += v; enough(running) {
			return i
		}
	}
	return len(e) - 1
}
