package mutants

import (
	"math"

	"qlora/conformance"
	"qlora/ref/num"
)

// each is a function of single numbers; its output y has a type.
func each(t conformance.DType, f func(x float32) float32) Func {
	return func(_ *Case, in Tensors) (Tensors, error) {
		y := make([]float32, in["x"].Len())
		for i, x := range in["x"].F {
			y[i] = f(x)
		}
		return Tensors{"y": {DType: t, Shape: in["x"].Shape, F: y}}, nil
	}
}

// summing is operation sum.
func summing(sum func(x []float32) float32) Func {
	return func(_ *Case, in Tensors) (Tensors, error) {
		return Tensors{"y": conformance.Floats(f32, []float32{sum(in["x"].F)})}, nil
	}
}

// pairwise adds the sums of two halves.
func pairwise(x []float32) float32 {
	if len(x) < 2 {
		return plainSum(x)
	}
	half := len(x) / 2
	return pairwise(x[:half]) + pairwise(x[half:])
}

// lanes adds element i in lane i mod n, and then the lanes by fold.
func lanes(x []float32, n int, fold func(lane []float32) float32) float32 {
	lane := make([]float32, n)
	for i, v := range x {
		lane[i%n] += v
	}
	return fold(lane)
}

// neighbours folds lanes in pairs of neighbours.
func neighbours(lane []float32) float32 {
	for n := len(lane); n > 1; n /= 2 {
		for i := range n / 2 {
			lane[i] = lane[2*i] + lane[2*i+1]
		}
	}
	return lane[0]
}

// flushedInput takes subnormals for zeros.
func flushedInput(f func(float32) float32) func(float32) float32 {
	return func(x float32) float32 { return f(flushed(x)) }
}

const log2e float32 = 1.4426950408889634

// halfUp rounds to float16 by adding half a unit: ties go up, not to the even one.
func halfUp(x float32) float32 {
	y := num.Float16.Round(x)
	if x-x != 0 || y-y != 0 {
		return y
	}
	up := num.FromFloat16(num.ToFloat16(abs(y)) + 1)
	if float64(abs(x))-float64(abs(y)) == (float64(up)-float64(abs(y)))/2 {
		return float32(math.Copysign(float64(up), float64(x)))
	}
	return y
}

var numberMutants = []Mutant{
	{
		Name: "exp flushed late", Bug: "Results below 2^-126 are subnormal, where the specification has zeros.", Op: "exp",
		Func: each(f32, func(x float32) float32 { return float32(math.Exp(float64(x))) }),
	},
	{
		Name: "exp by 2^x", Bug: "exp2(x·log2 e) in float32.", Seen: "flash attention", Op: "exp",
		Func: each(f32, func(x float32) float32 { return flushed(float32(math.Exp2(float64(float32(x * log2e))))) }), Rounding: true,
	},
	{
		Name: "log of subnormals", Bug: "Subnormals count as zero: their logarithm is −∞.", Seen: "CUDA's -ftz=true", Op: "log",
		Func: each(f32, flushedInput(num.Log)),
	},
	{
		Name: "log by log2", Bug: "log2(x)·ln 2 in float32.", Seen: "CUDA's __logf", Op: "log",
		Func: each(f32, func(x float32) float32 { return float32(math.Log2(float64(x))) * float32(math.Ln2) }), Rounding: true,
	},
	{
		Name: "tanh by exp", Bug: "(exp(2x) − 1)/(exp(2x) + 1): ∞/∞ where x is large, nothing left where it is small.", Op: "tanh",
		Func: each(f32, func(x float32) float32 { e := num.Exp(2 * x); return (e - 1) / (e + 1) }),
	},
	{
		Name: "sigmoid by exp(x)", Bug: "exp(x)/(1 + exp(x)): ∞/∞ where x is large.", Op: "sigmoid",
		Func: each(f32, func(x float32) float32 { e := num.Exp(x); return e / (1 + e) }),
	},
	{
		Name: "rsqrt by one step", Bug: "An estimate and one step of Newton's method.", Op: "rsqrt",
		Func: each(f32, func(x float32) float32 {
			y := num.BFloat16.Round(num.Rsqrt(x))
			if y-y != 0 || y == 0 {
				return num.Rsqrt(x)
			}
			return y * (1.5 - float32(float32(0.5*x)*float32(y*y)))
		}),
		Rounding: true,
	},
	{
		Name: "rsqrt of subnormals", Bug: "Subnormals count as zero: 1/√ is infinite.", Seen: "CUDA's -ftz=true", Op: "rsqrt",
		Func: each(f32, flushedInput(num.Rsqrt)),
	},
	{
		Name: "bfloat16 cut", Bug: "The upper half of the bits.", Op: "to_bfloat16",
		Func: each(bf16, func(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ 0xffff) }),
	},
	{
		Name: "bfloat16: ties away", Bug: "Ties go away from zero.", Op: "to_bfloat16",
		Func: each(bf16, func(x float32) float32 { return awayFromZero(x, num.BFloat16) }),
	},
	{
		Name: "bfloat16 of NaN", Bug: "0x7fff is added to NaN, too, which may become an infinity or a zero.",
		Seen: "bitsandbytes on CPUs, scalar and NEON", Op: "to_bfloat16",
		Func: each(bf16, func(x float32) float32 {
			b := math.Float32bits(x)
			return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
		}),
	},
	{
		Name: "bfloat16: subnormals flushed", Bug: "Subnormals become zeros.", Op: "to_bfloat16",
		Func: each(bf16, func(x float32) float32 { return num.BFloat16.Round(flushed(x)) }),
	},
	{
		Name: "float16: ties up", Bug: "Ties go up in magnitude, not to the even one.", Seen: "bitsandbytes on CPUs without F16C", Op: "to_float16",
		Func: each(conformance.F16, halfUp),
	},
	{
		Name: "float16 is clamped", Bug: "What is too large becomes 65504.", Op: "to_float16",
		Func: each(conformance.F16, func(x float32) float32 { return clampedFloat16(x, num.Float16) }),
	},
	{
		Name: "float16: subnormals flushed", Bug: "What is below 2^-14 becomes zero.", Op: "to_float16",
		Func: each(conformance.F16, func(x float32) float32 {
			if y := num.Float16.Round(x); abs(y) >= 0x1p-14 || y != y {
				return y
			}
			return float32(math.Copysign(0, float64(x)))
		}),
	},
	{
		Name: "float16 read as bfloat16", Bug: "The bits of float16 are read as bfloat16.", Op: "from_float16",
		Func: each(f32, func(x float32) float32 { return num.FromBFloat16(num.ToFloat16(x)) }),
	},
	{
		Name: "float16: subnormals read as zero", Bug: "A subnormal float16 is read as 0.", Op: "from_float16",
		Func: each(f32, func(x float32) float32 {
			if abs(x) < 0x1p-14 {
				return float32(math.Copysign(0, float64(x)))
			}
			return x
		}),
	},
	{
		Name: "sum in plain order", Bug: "One after the other.", Op: "sum", Func: summing(plainSum), Rounding: true,
	},
	{
		Name: "sum in float64", Bug: "float64, rounded at the end.", Op: "sum", Func: summing(wideSum), Rounding: true,
	},
	{
		Name: "sum in pairs", Bug: "Halves of halves, as numpy does.", Seen: "numpy, by design", Op: "sum", Func: summing(pairwise), Rounding: true,
	},
	{
		Name: "sum in 8 lanes", Bug: "Eight lanes, as a vector has.", Op: "sum",
		Func: summing(func(x []float32) float32 { return lanes(x, 8, neighbours) }), Rounding: true,
	},
	{
		Name: "lanes folded by neighbours", Bug: "Lane i takes lane i + 1, not lane i + 16.", Op: "sum",
		Func: summing(func(x []float32) float32 { return lanes(x, 32, neighbours) }), Rounding: true,
	},
	{
		Name: "long sums not cut", Bug: "More than 65,536 values are summed in one run.", Op: "sum",
		Func: summing(func(x []float32) float32 {
			return lanes(x, 32, num.Sum) // which folds 32 values as a run's end does
		}),
		Rounding: true,
	},
	{
		Name: "last run forgotten", Bug: "The values behind the last whole run of 32 are not summed.", Op: "sum",
		Func: summing(func(x []float32) float32 { return num.Sum(x[:len(x)&^31]) }),
	},
}

// generating is a random number in parts: words of a counter and a key, and what is made of the bits.
type generating struct {
	rounds int
	key    func(seed uint64) [2]uint32
	words  func(c num.Counter) [4]uint32
	word   func(block [4]uint32, element uint64) uint32
}

func (g generating) bits(seed uint64, c num.Counter) uint32 {
	return g.word(philox(g.rounds, g.words(c), g.key(seed)), c.Element)
}

// philox is Philox 4x32 of so many rounds.
func philox(rounds int, ctr [4]uint32, key [2]uint32) [4]uint32 {
	for range rounds {
		p0, p1 := uint64(ctr[0])*0xD2511F53, uint64(ctr[2])*0xCD9E8D57
		ctr = [4]uint32{uint32(p1>>32) ^ ctr[1] ^ key[0], uint32(p1), uint32(p0>>32) ^ ctr[3] ^ key[1], uint32(p0)}
		key[0], key[1] = key[0]+0x9E3779B9, key[1]+0xBB67AE85
	}
	return ctr
}

// drawing is a random operation: one float32, or int32, for each counter.
func drawing(spoil func(g *generating), value func(bits uint32) float32) Func {
	g := generating{
		rounds: 10,
		key:    func(seed uint64) [2]uint32 { return [2]uint32{uint32(seed), uint32(seed >> 32)} },
		words: func(c num.Counter) [4]uint32 {
			block := c.Element / 4
			return [4]uint32{uint32(block), uint32(c.Layer)<<16 | uint32(block>>32), c.Step, c.Purpose}
		},
		word: func(block [4]uint32, element uint64) uint32 { return block[element%4] },
	}
	spoil(&g)
	return func(c *Case, in Tensors) (Tensors, error) {
		var bits []int32
		var y []float32
		for x := in["counters"].I; len(x) > 0; x = x[5:] {
			element := uint64(uint32(x[3])) | uint64(uint32(x[4]))<<32
			b := g.bits(seedOf(c), num.Counter{Purpose: uint32(x[0]), Step: uint32(x[1]), Layer: uint16(x[2]), Element: element})
			if value == nil {
				bits = append(bits, int32(b))
			} else {
				y = append(y, value(b))
			}
		}
		if value == nil {
			return Tensors{"bits": conformance.Ints(bits)}, nil
		}
		return Tensors{"y": conformance.Floats(f32, y)}, nil
	}
}

func rightly(*generating) {}

var randomMutants = []Mutant{
	{
		Name: "seven rounds", Bug: "Philox of 7 rounds.", Op: "random_bits",
		Func: drawing(func(g *generating) { g.rounds = 7 }, nil),
	},
	{
		Name: "key's words exchanged", Bug: "The high half of the seed comes first.", Op: "random_bits",
		Func: drawing(func(g *generating) {
			g.key = func(seed uint64) [2]uint32 { return [2]uint32{uint32(seed >> 32), uint32(seed)} }
		}, nil),
	},
	{
		Name: "first word alone", Bug: "Each block of four numbers gives its first one four times.", Op: "random_bits",
		Func: drawing(func(g *generating) { g.word = func(block [4]uint32, _ uint64) uint32 { return block[0] } }, nil),
	},
	{
		Name: "element's high half lost", Bug: "Elements beyond 2^34 repeat.", Op: "random_bits",
		Func: drawing(func(g *generating) {
			g.words = func(c num.Counter) [4]uint32 {
				return [4]uint32{uint32(c.Element / 4), uint32(c.Layer) << 16, c.Step, c.Purpose}
			}
		}, nil),
	},
	{
		Name: "uniform in (0, 1]", Bug: "(bits + 1)·2^-24.", Seen: "curand_uniform, by design", Op: "uniform",
		Func: drawing(rightly, func(bits uint32) float32 { return float32(bits>>8+1) * 0x1p-24 }),
	},
	{
		Name: "uniform of all bits", Bug: "bits·2^-32 rounds to 1 at the end.", Op: "uniform",
		Func: drawing(rightly, func(bits uint32) float32 { return float32(bits) * 0x1p-32 }),
	},
	{
		Name: "uniform of 23 bits", Bug: "The fraction of a float in 1…2, less 1: a bit fewer.", Op: "uniform",
		Func: drawing(rightly, func(bits uint32) float32 { return math.Float32frombits(0x3f800000|bits>>9) - 1 }),
	},
	{
		Name: "normal by the sum of twelve", Bug: "An approximation by uniforms: no tails.", Op: "normal",
		Func: drawing(rightly, func(bits uint32) float32 { return (float32(float32(bits>>8)*0x1p-24) - 0.5) * 3.4641016 }),
	},
	{
		Name: "normal in float64", Bug: "The exact quantile, rounded once.", Op: "normal",
		Func: drawing(rightly, func(bits uint32) float32 {
			return float32(-math.Sqrt2 * math.Erfcinv(2*(float64(bits>>9)+0.5)*0x1p-23))
		}),
		Rounding: true,
	},
	{
		Name: "FNV-1", Bug: "The product comes before the exclusive or.", Op: "purpose",
		Func: func(_ *Case, in Tensors) (Tensors, error) {
			h := uint32(0x811c9dc5)
			for _, b := range in["name"].B {
				h = h*0x01000193 ^ uint32(b)
			}
			return Tensors{"purpose": conformance.Ints([]int32{int32(h)})}, nil
		},
	},
	{
		Name: "philox: keys not moved", Bug: "The key stays the same in all rounds.", Op: "philox",
		Func: func(_ *Case, in Tensors) (Tensors, error) {
			var bits []int32
			for i := range in["keys"].Rows() {
				ctr, key := in["counters"].I[4*i:], in["keys"].I[2*i:]
				block := [4]uint32{uint32(ctr[0]), uint32(ctr[1]), uint32(ctr[2]), uint32(ctr[3])}
				for range 10 {
					block = philox(1, block, [2]uint32{uint32(key[0]), uint32(key[1])})
				}
				for _, word := range block {
					bits = append(bits, int32(word))
				}
			}
			return Tensors{"bits": conformance.Ints(bits, len(bits)/4, 4)}, nil
		},
	},
}
