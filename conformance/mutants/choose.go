package mutants

import (
	"errors"
	"math"
	"slices"
	"sort"

	"qlora/conformance"
	"qlora/ref/num"
)

// choosing is the choice of a token in parts.
type choosing struct {
	before func(za, zb float32, a, b int) bool
	keepK  func(z []float32, order []int, k int) []int
	weight func(z, top, temperature float32) float32
	inTopP func(z, top, temperature float32) float32 // the weight as top_p sees it; nil is weight
	cut    func(e []float32, p float32) int          // how many are kept
	minP   func(z, e []float32, p float32) int       // likewise, by the likeliest one
	zeros  func(e []float32) int                     // how many are kept of those that have a weight
	drawn  func(e []float32, limit float32) int
	sum    func(e []float32) float32
	seed   func(c *Case) uint64
	step   func(c *Case) int
	pFirst bool
	greedy func(temperature float32) bool
	bad    func(z float32) bool
	none   func(z []float32) bool
}

func choosingWith(spoil func(p *choosing)) Func {
	p := choosing{
		before: func(za, zb float32, a, b int) bool { return za > zb || za == zb && a < b },
		keepK: func(_ []float32, order []int, k int) []int {
			if k > 0 && k < len(order) {
				return order[:k]
			}
			return order
		},
		weight: func(z, top, temperature float32) float32 { return num.Exp((z - top) / temperature) },
		minP:   func(_, e []float32, p float32) int { return below(e, p) },
		zeros:  func(e []float32) int { return below(e, math.SmallestNonzeroFloat32) },
		drawn:  func(e []float32, limit float32) int { return firstAbove(e, func(s float32) bool { return s > limit }) },
		sum:    num.Sum,
		seed:   seedOf,
		step:   func(c *Case) int { return c.Int("step") },
		greedy: func(temperature float32) bool { return temperature == 0 },
		bad:    func(z float32) bool { return z != z },
		none:   func(z []float32) bool { return math.IsInf(float64(slices.Max(z)), -1) },
	}
	p.cut = func(e []float32, top float32) int {
		limit := top * p.sum(e)
		return firstAbove(e, func(s float32) bool { return s >= limit }) + 1
	}
	spoil(&p)
	if p.inTopP == nil {
		p.inTopP = p.weight
	}
	return func(c *Case, in Tensors) (Tensors, error) {
		if slices.ContainsFunc(in["logits"].F, p.bad) {
			return nil, errors.New("a logit is NaN")
		}
		if p.none(in["logits"].F) {
			return nil, errors.New("nothing to choose")
		}
		return Tensors{"token": conformance.Ints([]int32{int32(p.token(c, in["logits"].F))})}, nil
	}
}

// below is how many come before the first that is less than p; the first is kept.
func below(e []float32, p float32) int {
	for i := 1; i < len(e); i++ {
		if e[i] < p {
			return i
		}
	}
	return len(e)
}

// firstAbove is the first index at which the running sum is enough; the last where it never is.
func firstAbove(e []float32, enough func(s float32) bool) int {
	var s float32
	for i, v := range e {
		if s += v; enough(s) {
			return i
		}
	}
	return len(e) - 1
}

func (p choosing) token(c *Case, z []float32) int {
	order := ascending(len(z))
	sort.SliceStable(order, func(a, b int) bool { return p.before(z[order[a]], z[order[b]], order[a], order[b]) })
	temperature, k, top := c.Float("temperature"), c.Int("top_k"), c.Float("top_p")
	if p.greedy(temperature) {
		return order[0]
	}
	weights := func(weight func(z, top, temperature float32) float32) []float32 {
		e := make([]float32, len(order))
		for i, id := range order {
			e[i] = weight(z[id], z[order[0]], temperature)
		}
		return e
	}
	nucleus := func() {
		if top > 0 && top < 1 {
			order = order[:p.cut(weights(p.inTopP), top)]
		}
	}
	if p.pFirst {
		nucleus()
	}
	order = p.keepK(z, order, k)
	if !p.pFirst {
		nucleus()
	}
	e := weights(p.weight)
	if c.Has("min_p") {
		kept := make([]float32, len(order))
		for i, id := range order {
			kept[i] = z[id]
		}
		e = e[:p.minP(kept, e, c.Float("min_p"))]
	}
	e = e[:p.zeros(e)]
	u := num.Uniform(p.seed(c), num.Counter{Purpose: num.Purpose("choose"), Step: uint32(p.step(c)), Layer: num.NoLayer})
	return order[p.drawn(e, u*p.sum(e))]
}

var chooseMutants = []Mutant{
	{
		Name: "NaN chosen from", Bug: "Logits of a model that has diverged are sorted as if NaN were a number.", Op: "choose",
		Func: choosingWith(func(p *choosing) { p.bad = func(float32) bool { return false } }),
	},
	{
		Name: "chosen though all are banned", Bug: "Where every logit is −∞ the first token is the largest, or weights are NaN: a token all the same.", Op: "choose",
		Func: choosingWith(func(p *choosing) { p.none = func([]float32) bool { return false } }),
	},
	{
		Name: "greedy takes the last of equals", Bug: "≥ in place of > in the search for the largest logit.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			p.before = func(za, zb float32, a, b int) bool { return za > zb || za == zb && a > b }
		}),
	},
	{
		Name: "top-k keeps ties", Bug: "All logits that equal the k-th are kept, for the k-th is taken as a threshold.",
		Seen: "transformers' TopKLogitsWarper", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			right := p.keepK
			p.keepK = func(z []float32, order []int, k int) []int {
				kept := right(z, order, k)
				for len(kept) < len(order) && z[order[len(kept)]] == z[kept[len(kept)-1]] {
					kept = order[:len(kept)+1]
				}
				return kept
			}
		}),
	},
	{
		Name: "top-k one too many", Bug: "k + 1 are kept.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			right := p.keepK
			p.keepK = func(z []float32, order []int, k int) []int {
				if k == 0 {
					return order
				}
				return right(z, order, k+1)
			}
		}),
	},
	{
		Name: "top-p without the crossing token", Bug: "The token that takes the sum over p is not kept.",
		Seen: "reasoning-from-scratch #164; fish-speech PR #1171; esm PR #360", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			right := p.cut
			p.cut = func(e []float32, top float32) int { return max(1, right(e, top)-1) }
		}),
	},
	{
		Name: "top-p waits for more", Bug: "Where the sum meets p exactly one more token is kept.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			p.cut = func(e []float32, top float32) int {
				limit := top * num.Sum(e)
				return firstAbove(e, func(s float32) bool { return s > limit }) + 1
			}
		}),
	},
	{
		Name: "top-p may keep none", Bug: "A p below the likeliest token's probability keeps nothing, which is taken for everything.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			right := p.cut
			p.cut = func(e []float32, top float32) int {
				if e[0] > top*num.Sum(e) {
					return len(e)
				}
				return right(e, top)
			}
		}),
	},
	{
		Name: "top-p before top-k", Bug: "p is of all tokens, then k cuts.", Op: "choose",
		Func: choosingWith(func(p *choosing) { p.pFirst = true }),
	},
	{
		Name: "temperature after top-p", Bug: "The nucleus is that of temperature 1.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			p.inTopP = func(z, top, _ float32) float32 { return num.Exp(z - top) }
		}),
	},
	{
		Name: "min-p of all", Bug: "min_p is taken for a probability, not for a part of the likeliest candidate's.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			p.minP = func(_, e []float32, least float32) int { return below(e, least*num.Sum(e)) }
		}),
	},
	{
		Name: "min-p without its boundary", Bug: "Candidates exactly min_p times as likely as the likeliest are left out.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			p.minP = func(_, e []float32, least float32) int { return below(e, math.Nextafter32(least, 2)) }
		}),
	},
	{
		Name: "min-p before temperature", Bug: "min_p is of the probabilities at temperature 1.", Seen: "llama.cpp, by default", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			p.minP = func(z, _ []float32, least float32) int {
				plain := make([]float32, len(z))
				for i, v := range z {
					plain[i] = num.Exp(v - z[0])
				}
				return below(plain, least)
			}
		}),
	},
	{
		Name: "min-p ignored", Bug: "min_p is not read.", Op: "choose",
		Func: choosingWith(func(p *choosing) { p.minP = func(_, e []float32, _ float32) int { return len(e) } }),
	},
	{
		Name: "min-p may keep none", Bug: "A min_p above 1 keeps nothing, which is taken for everything.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			p.minP = func(_, e []float32, least float32) int {
				if e[0] < least {
					return len(e)
				}
				return below(e, least)
			}
		}),
	},
	{
		Name: "temperature multiplies", Bug: "(z − max)·temperature.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			p.weight = func(z, top, temperature float32) float32 { return num.Exp((z - top) * temperature) }
		}),
	},
	{
		Name: "temperature before the maximum", Bug: "z/temperature overflows before the largest is taken away.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			p.weight = func(z, top, temperature float32) float32 { return num.Exp(z/temperature - top/temperature) }
		}),
	},
	{
		Name: "temperature 0 divides", Bug: "Temperature 0 is no case of its own: 0/0.", Op: "choose",
		Func: choosingWith(func(p *choosing) { p.greedy = func(float32) bool { return false } }),
	},
	{
		Name: "drawn at equality", Bug: "A running sum that is exactly u·Sum is enough.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			p.drawn = func(e []float32, limit float32) int { return firstAbove(e, func(s float32) bool { return s >= limit }) }
		}),
	},
	{
		Name: "drawn from all", Bug: "u is scaled by the sum of all tokens, not of the kept ones: the last kept one comes too often.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			var whole float32
			cut := p.cut
			p.cut = func(e []float32, top float32) int { whole = num.Sum(e); return cut(e, top) }
			p.drawn = func(e []float32, limit float32) int {
				if own := num.Sum(e); whole > own {
					limit = limit / own * whole
				}
				whole = 0
				return firstAbove(e, func(s float32) bool { return s > limit })
			}
		}),
	},
	{
		Name: "banned token at the end", Bug: "Where no running sum exceeds the limit the last of all is chosen, which has no weight: a banned token.",
		Seen: "torch.multinomial (pytorch #4858, #48841)", Op: "choose",
		Func: choosingWith(func(p *choosing) { p.zeros = func(e []float32) int { return len(e) } }),
	},
	{
		Name: "running sum in float64", Bug: "The running sum does not round: where none exceeds the limit, one does.", Op: "choose",
		Func: choosingWith(func(p *choosing) {
			p.drawn = func(e []float32, limit float32) int {
				var s float64
				for i, v := range e {
					if s += float64(v); s > float64(limit) {
						return i
					}
				}
				return len(e) - 1
			}
		}),
		Rounding: true,
	},
	{
		Name: "choose: seed in 32 bits", Bug: "The upper half of the seed does not count.", Op: "choose",
		Func: choosingWith(func(p *choosing) { p.seed = func(c *Case) uint64 { return uint64(uint32(seedOf(c))) } }),
	},
	{
		Name: "choose: same number in every step", Bug: "The step does not enter the counter.", Op: "choose",
		Func: choosingWith(func(p *choosing) { p.step = func(*Case) int { return 0 } }),
	},
}
