package mutants

import (
	"math"

	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/op"
)

// noising is noise in parts.
type noising struct {
	length  func(bounds []int32, s, rows int) int // L of sequence s
	size    func(length, d int) float32           // what is under the root
	number  func(seed uint64, c num.Counter) float32
	seed    func(c *Case) uint64
	step    func(c *Case) int
	element func(first, token, column, d int) uint64
	cut     func(noise float32, t num.DType) float32 // before it is added
	rows    func(bounds []int32, rows int) int       // that are changed
}

// noiseWith is the operation with a part or more spoiled.
func noiseWith(spoil func(n *noising)) Func {
	n := noising{
		length: func(bounds []int32, s, _ int) int { return int(bounds[s+1] - bounds[s]) },
		size:   func(length, d int) float32 { return float32(length) * float32(d) },
		number: func(seed uint64, c num.Counter) float32 { return float32(2*num.Uniform(seed, c)) - 1 },
		seed:   seedOf,
		step:   func(c *Case) int { return c.Int("step") },
		element: func(first, token, column, d int) uint64 {
			return uint64(first+token)*uint64(d) + uint64(column)
		},
		cut:  func(noise float32, t num.DType) float32 { return t.Round(noise) },
		rows: func(bounds []int32, _ int) int { return int(bounds[len(bounds)-1]) },
	}
	spoil(&n)
	return n.of
}

func (n noising) of(c *Case, in Tensors) (Tensors, error) {
	x, bounds, d := in["x"], in["segments"].I, in["x"].Cols()
	if err := op.CheckSegments("segments", bounds, x.Rows()); err != nil {
		return nil, err
	}
	y, alpha := copyOf(x), c.Float("alpha")
	if alpha == 0 {
		return Tensors{"y": y}, nil
	}
	counter := num.Counter{Purpose: num.Purpose("noise/" + conformance.Place.Name), Layer: conformance.Place.Layer, Step: uint32(n.step(c))}
	s := 0
	for row := range n.rows(bounds, x.Rows()) {
		for s+2 < len(bounds) && row >= int(bounds[s+1]) {
			s++
		}
		m := alpha / float32(math.Sqrt(float64(n.size(n.length(bounds, s, x.Rows()), d))))
		for column := range d {
			counter.Element = n.element(c.Int("first"), row, column, d)
			i := row*d + column
			y.F[i] = compute(c).Round(x.F[i] + n.cut(float32(m*n.number(n.seed(c), counter)), compute(c)))
		}
	}
	return Tensors{"y": y}, nil
}

var noiseMutants = []Mutant{
	{
		Name: "noise of the longest", Bug: "L is the longest sequence's length.",
		Seen: "transformers' NEFTune takes the length to which the batch is padded", Op: "noise",
		Func: noiseWith(func(n *noising) {
			n.length = func(bounds []int32, _, _ int) int {
				longest := 0
				for s := range bounds[1:] {
					longest = max(longest, int(bounds[s+1]-bounds[s]))
				}
				return longest
			}
		}),
	},
	{
		Name: "noise of the batch", Bug: "L is the number of all tokens that are packed together.", Op: "noise",
		Func: noiseWith(func(n *noising) { n.length = func(_ []int32, _, rows int) int { return rows } }),
	},
	{
		Name: "noise of the sequence before", Bug: "L is the length of the sequence before.", Op: "noise",
		Func: noiseWith(func(n *noising) {
			n.length = func(bounds []int32, s, _ int) int { return int(bounds[max(1, s)] - bounds[max(1, s)-1]) }
		}),
	},
	{
		Name: "noise by length alone", Bug: "α/√L: the number of columns is left out.", Op: "noise",
		Func: noiseWith(func(n *noising) { n.size = func(length, _ int) float32 { return float32(length) } }),
	},
	{
		Name: "noise without a root", Bug: "α/(L·d).", Op: "noise",
		Func: noiseWith(func(n *noising) {
			n.size = func(length, d int) float32 { return float32(length) * float32(d) * float32(length) * float32(d) }
		}),
	},
	{
		Name: "noise to one side", Bug: "Uniform from 0 to m: embeddings are moved, not shaken.", Op: "noise",
		Func: noiseWith(func(n *noising) { n.number = num.Uniform }),
	},
	{
		Name: "normal noise", Bug: "Normally distributed in place of uniform.", Op: "noise",
		Func: noiseWith(func(n *noising) { n.number = num.Normal }),
	},
	{
		Name: "noise restarts with each micro-batch", Bug: "The index of the micro-batch's first token is not added.", Op: "noise",
		Func: noiseWith(func(n *noising) {
			n.element = func(_, token, column, d int) uint64 { return uint64(token*d + column) }
		}),
	},
	{
		Name: "noise: element in 32 bits", Bug: "The element's index wraps around at 2^32.", Op: "noise",
		Func: noiseWith(func(n *noising) {
			n.element = func(first, token, column, d int) uint64 {
				return uint64(uint32(first+token)*uint32(d) + uint32(column))
			}
		}),
	},
	{
		Name: "one noise for all tokens", Bug: "Only the column enters the counter.", Op: "noise",
		Func: noiseWith(func(n *noising) { n.element = func(_, _, column, _ int) uint64 { return uint64(column) } }),
	},
	{
		Name: "noise: seed in 32 bits", Bug: "The upper half of the seed does not count.", Op: "noise",
		Func: noiseWith(func(n *noising) { n.seed = func(c *Case) uint64 { return uint64(uint32(seedOf(c))) } }),
	},
	{
		Name: "same noise in every step", Bug: "The step does not enter the counter.", Op: "noise",
		Func: noiseWith(func(n *noising) { n.step = func(*Case) int { return 0 } }),
	},
	{
		Name: "noise behind the end", Bug: "Rows that are in no sequence are shaken, too.", Op: "noise",
		Func: noiseWith(func(n *noising) {
			n.rows = func(bounds []int32, rows int) int {
				if len(bounds) == 1 {
					return 0
				}
				return rows
			}
		}),
	},
	{
		Name: "noise not rounded", Bug: "The noise is added in float32, without a rounding of its own.", Op: "noise",
		Func: noiseWith(func(n *noising) { n.cut = func(noise float32, _ num.DType) float32 { return noise } }), Rounding: true,
	},
}
