package op

import (
	"sort"

	"qlora/ref/num"
)

// Choice says how the next token is chosen from the logits.
type Choice struct {
	Temperature float32 // 0 is greedy: the largest logit, the lowest index of equals
	TopK        int     // only the k largest are kept; 0 keeps all
	TopP        float32 // only the fewest whose probabilities reach p are kept; 1 (or 0) keeps all
	MinP        float32 // only those at least p times as likely as the likeliest are kept; 0 keeps all
	Seed        uint64
}

// Choose returns a token; the logits are those that CheckLogits allows. Candidates are taken from the largest logit down (equals: lower index
// first); with u uniform and e_i = exp((z_i − z_max)/temperature), the first candidate at which the running sum of e exceeds u·(sum of e
// kept), the last kept one where none does. The settings apply in the order of transformers: the logits may have passed through Penalize;
// then temperature, top-k, top-p of what k keeps, min-p. A candidate with e = 0, as a banned token has, is never kept.
func Choose(z []float32, c Choice, step int) int {
	order := make([]int, len(z))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return z[order[a]] > z[order[b]] })
	return Pick(z, order[:c.Candidates(len(z))], c, step)
}

// Candidates is how many of n logits, from the largest down, can be chosen before their probabilities are looked at.
func (c Choice) Candidates(n int) int {
	switch {
	case c.Temperature == 0:
		return 1
	case c.TopK > 0:
		return min(c.TopK, n)
	}
	return n
}

// Pick is Choose among candidates in their order.
func Pick(z []float32, order []int, c Choice, step int) int {
	if c.Temperature == 0 {
		return order[0]
	}
	e := c.Weights(z, order)
	u := num.Uniform(c.Seed, num.Counter{Purpose: num.Purpose("choose"), Step: uint32(step), Layer: num.NoLayer})
	return order[reach(e, float32(u*num.Sum(e)), false)]
}

// Weights is e of the candidates that top-p and min-p keep, which are the first ones: the likeliest has e = 1, so that min-p keeps e ≥ p.
// Those with e = 0 are not kept: the running sum may stay below Sum, whose lanes lose less, and the draw then falls on the last kept one.
func (c Choice) Weights(z []float32, order []int) []float32 {
	e := make([]float32, len(order))
	for i, id := range order {
		e[i] = num.Exp((z[id] - z[order[0]]) / c.Temperature)
	}
	if c.TopP > 0 && c.TopP < 1 {
		e = e[:reach(e, float32(c.TopP*num.Sum(e)), true)+1]
	}
	for i := 1; i < len(e); i++ {
		if e[i] < c.MinP || e[i] == 0 {
			return e[:i]
		}
	}
	return e
}

// reach is the first index at which the running sum of e exceeds limit, or meets it where that is enough; the last where none does.
func reach(e []float32, limit float32, meets bool) int {
	var s float32
	for i, v := range e {
		if s += v; s > limit || meets && s == limit {
			return i
		}
	}
	return len(e) - 1
}
