package mutants

import (
	"fmt"
	"math"

	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/op"
)

// penalizing is the repetition penalty in parts.
type penalizing struct {
	change func(v, penalty float32) float32
	from   func(y, z []float32) []float32 // what is penalized: the logits, or what has become of them
	ban    func(y float32) float32
	index  func(id int32, vocab int) (int, error) // −1 passes over
	store  func(v float32, t num.DType) float32
}

func penalizingWith(spoil func(p *penalizing)) Func {
	p := penalizing{
		change: func(v, penalty float32) float32 {
			if v < 0 {
				return v * penalty
			}
			return v / penalty
		},
		from:  func(_, z []float32) []float32 { return z },
		ban:   func(float32) float32 { return float32(math.Inf(-1)) },
		index: knownToken,
		store: func(v float32, _ num.DType) float32 { return v },
	}
	spoil(&p)
	return func(c *Case, in Tensors) (Tensors, error) {
		z := in["logits"].F
		y := append([]float32(nil), z...)
		for _, id := range in["seen"].I {
			i, err := p.index(id, len(z))
			if err != nil {
				return nil, err
			}
			if i >= 0 {
				y[i] = p.store(p.change(p.from(y, z)[i], c.Float("penalty")), compute(c))
			}
		}
		for _, id := range in["banned"].I {
			i, err := p.index(id, len(z))
			if err != nil {
				return nil, err
			}
			if i >= 0 {
				y[i] = p.ban(y[i])
			}
		}
		return Tensors{"y": conformance.Floats(conformance.F32, y, 1, len(z))}, nil
	}
}

func knownToken(id int32, vocab int) (int, error) {
	switch {
	case id == op.IgnoredLabel:
		return -1, nil
	case id < 0 || int(id) >= vocab:
		return 0, fmt.Errorf("id %d of %d", id, vocab)
	}
	return int(id), nil
}

var penalizeMutants = []Mutant{
	{
		Name: "penalty divides", Bug: "Negative logits are divided, too: a token that was seen becomes likelier.",
		Seen: "the formula of Keskar et al., 2019 (CTRL)", Op: "penalize",
		Func: penalizingWith(func(p *penalizing) { p.change = func(v, penalty float32) float32 { return v / penalty } }),
	},
	{
		Name: "penalty for every time", Bug: "A token that was seen several times is penalized as often.", Op: "penalize",
		Func: penalizingWith(func(p *penalizing) { p.from = func(y, _ []float32) []float32 { return y } }),
	},
	{
		Name: "penalty by a reciprocal", Bug: "Logits are multiplied by 1/penalty, which rounds twice.", Op: "penalize", Rounding: true,
		Func: penalizingWith(func(p *penalizing) {
			p.change = func(v, penalty float32) float32 {
				if v < 0 {
					return v * penalty
				}
				return v * (1 / penalty)
			}
		}),
	},
	{
		Name: "penalty in the compute type", Bug: "Penalized logits are rounded to the type that they came in.", Op: "penalize", Rounding: true,
		Func: penalizingWith(func(p *penalizing) { p.store = func(v float32, t num.DType) float32 { return t.Round(v) } }),
	},
	{
		Name: "penalty subtracted", Bug: "The penalty is taken off the logit, as a presence penalty is.", Op: "penalize",
		Func: penalizingWith(func(p *penalizing) { p.change = func(v, penalty float32) float32 { return v - penalty } }),
	},
	{
		Name: "room is an index", Bug: "−100 counts from the end of the vocabulary, as in Python.", Op: "penalize",
		Func: penalizingWith(func(p *penalizing) {
			p.index = func(id int32, vocab int) (int, error) {
				if id < 0 && int(id) >= -vocab {
					id += int32(vocab)
				}
				return knownToken(id, vocab)
			}
		}),
	},
	{
		Name: "unknown tokens passed over", Bug: "An id that the vocabulary does not have is passed over in place of an error.", Op: "penalize",
		Func: penalizingWith(func(p *penalizing) {
			p.index = func(id int32, vocab int) (int, error) {
				if id < 0 || int(id) >= vocab {
					return -1, nil
				}
				return int(id), nil
			}
		}),
	},
	{
		Name: "banned within reach", Bug: "A banned token's logit becomes −1e4, which others may be below.", Op: "penalize",
		Func: penalizingWith(func(p *penalizing) { p.ban = func(float32) float32 { return -1e4 } }),
	},
	{
		Name: "ban ignored", Bug: "banned is not read.", Op: "penalize",
		Func: penalizingWith(func(p *penalizing) { p.ban = func(y float32) float32 { return y } }),
	},
}
