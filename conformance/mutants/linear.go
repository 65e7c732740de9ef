package mutants

import (
	"math"

	"qlora/ref/num"
)

// layer is a linear layer in parts.
type layer struct {
	operand func(x float32, t num.DType) float32 // of x and of a dense W
	weight  func(c *Case, in Tensors) []float32
	dot     func(x, w []float32) float32
	biased  func(sum, bias float32, t num.DType) float32
	bias    func(bias []float32, i, j, n int) float32
	store   func(x float32, t num.DType) float32
}

func (l layer) forward(c *Case, in Tensors) (Tensors, error) {
	m, n, k, t := c.Int("m"), c.Int("n"), c.Int("k"), compute(c)
	x, w, bias := make([]float32, m*k), l.weight(c, in), in["bias"].F
	for i, v := range in["x"].F {
		x[i] = l.operand(v, t)
	}
	y := make([]float32, m*n)
	for i := range m {
		for j := range n {
			s := l.dot(row(x, i, k), row(w, j, k))
			if bias != nil {
				s = l.biased(s, l.bias(bias, i, j, n), t)
			}
			y[i*n+j] = l.store(s, t)
		}
	}
	return Tensors{"y": {DType: c.DType, Shape: []int{m, n}, F: y}}, nil
}

func layerWith(spoil func(l *layer)) Func {
	l := layer{
		operand: func(x float32, _ num.DType) float32 { return x },
		weight:  weightOf, dot: dot,
		biased: func(sum, bias float32, _ num.DType) float32 { return sum + bias },
		bias:   func(bias []float32, _, j, _ int) float32 { return bias[j] },
		store:  func(x float32, t num.DType) float32 { return t.Round(x) },
	}
	spoil(&l)
	return l.forward
}

// dot takes the products in ascending order, each rounded before it is added.
func dot(x, w []float32) (s float32) {
	for i, v := range x {
		s += float32(v * w[i])
	}
	return s
}

// The wrong ways to sum products.

func dotReversed(x, w []float32) (s float32) {
	for i := len(x) - 1; i >= 0; i-- {
		s += float32(x[i] * w[i])
	}
	return s
}

func dotSplit(x, w []float32) float32 {
	half := (len(x) + 1) / 2
	return dot(x[:half], w) + dot(x[half:], w[half:])
}

func dotFused(x, w []float32) (s float32) {
	for i, v := range x {
		s = float32(math.FMA(float64(v), float64(w[i]), float64(s)))
	}
	return s
}

func dotWide(x, w []float32) float32 {
	var s float64
	for i, v := range x {
		s += float64(v) * float64(w[i])
	}
	return float32(s)
}

func dotLanes(x, w []float32) float32 {
	products := make([]float32, len(x))
	for i, v := range x {
		products[i] = v * w[i]
	}
	return num.Sum(products)
}

// dotIn rounds the accumulator to t after each product.
func dotIn(t num.DType) func(x, w []float32) float32 {
	return func(x, w []float32) (s float32) {
		for i, v := range x {
			s = t.Round(s + float32(v*w[i]))
		}
		return s
	}
}

// awayFromZero rounds to bfloat16, ties away from zero.
func awayFromZero(x float32, t num.DType) float32 {
	if t != num.BFloat16 || x-x != 0 {
		return t.Round(x)
	}
	return math.Float32frombits((math.Float32bits(x) + 0x8000) &^ 0xffff)
}

func cutToBFloat16(x float32, t num.DType) float32 {
	if t != num.BFloat16 || x != x {
		return t.Round(x)
	}
	return math.Float32frombits(math.Float32bits(x) &^ 0xffff)
}

func clampedFloat16(x float32, t num.DType) float32 {
	if t != num.Float16 {
		return t.Round(x)
	}
	return t.Round(max(-65504, min(65504, x)))
}

var linearMutants = []Mutant{
	{
		Name: "k reversed", Bug: "Products are added from the last to the first.", Op: "linear",
		Func: layerWith(func(l *layer) { l.dot = dotReversed }), Rounding: true,
	},
	{
		Name: "k split", Bug: "Two halves of the products are added apart, then their sums.", Op: "linear",
		Func: layerWith(func(l *layer) { l.dot = dotSplit }), Rounding: true,
	},
	{
		Name: "32 lanes", Bug: "Products are added in 32 lanes, which then fold.", Seen: "bitsandbytes' gemv_4bit: a warp", Op: "linear",
		Func: layerWith(func(l *layer) { l.dot = dotLanes }), Rounding: true,
	},
	{
		Name: "fused multiply-add", Bug: "Product and sum are rounded once, not twice.", Op: "linear",
		Func: layerWith(func(l *layer) { l.dot = dotFused }), Rounding: true,
	},
	{
		Name: "float64 accumulator", Bug: "Products are added in float64 and the sum is rounded at the end.", Op: "linear",
		Func: layerWith(func(l *layer) { l.dot = dotWide }), Rounding: true,
	},
	{
		Name: "bfloat16 accumulator", Bug: "The sum is rounded to bfloat16 after every product.",
		Seen: "PyTorch, allow_bf16_reduced_precision_reduction", Op: "linear",
		Func: layerWith(func(l *layer) { l.dot = dotIn(num.BFloat16) }),
	},
	{
		Name: "float16 accumulator", Bug: "The sum is rounded to float16 after every product: it overflows, and small terms are lost.",
		Seen: "PyTorch, allow_fp16_reduced_precision_reduction", Op: "linear",
		Func: layerWith(func(l *layer) { l.dot = dotIn(num.Float16) }),
	},
	{
		Name: "TF32 operands", Bug: "float32 operands are cut to ten bits of fraction.",
		Seen: "PyTorch 1.7 to 1.11, allow_tf32 by default", Op: "linear",
		Func: layerWith(func(l *layer) {
			l.operand = func(x float32, _ num.DType) float32 { return math.Float32frombits(math.Float32bits(x) &^ 0x1fff) }
		}),
	},
	{
		Name: "last products forgotten", Bug: "k is cut to a multiple of 16, the width of a tile.", Op: "linear",
		Func: layerWith(func(l *layer) {
			l.dot = func(x, w []float32) float32 {
				if whole := len(x) &^ 15; whole > 0 {
					x = x[:whole]
				}
				return dot(x, w)
			}
		}),
	},
	{
		Name: "zeros passed over", Bug: "Products with x = 0 are left out: 0·∞ is not NaN.", Op: "linear",
		Func: layerWith(func(l *layer) {
			l.dot = func(x, w []float32) (s float32) {
				for i, v := range x {
					if v != 0 && w[i] != 0 {
						s += float32(v * w[i])
					}
				}
				return s
			}
		}),
	},
	{
		Name: "infinities to NaN to zero", Bug: "What is not finite is stored as 0, to keep a run alive.", Op: "linear",
		Func: layerWith(func(l *layer) {
			l.store = func(x float32, t num.DType) float32 {
				if y := t.Round(x); y-y == 0 {
					return y
				}
				return 0
			}
		}),
	},
	{
		Name: "W transposed", Bug: "W is read as [in, out].", Seen: "bitsandbytes #1862", Op: "linear",
		Func: layerWith(func(l *layer) {
			l.weight = func(c *Case, in Tensors) []float32 {
				w, n, k := weightOf(c, in), c.Int("n"), c.Int("k")
				t := make([]float32, len(w))
				for i := range w {
					t[i] = w[i%k*n%len(w)+i/k]
				}
				return t
			}
		}),
	},
	{
		Name: "W not rounded", Bug: "4-bit weights are multiplied as float32, not rounded to the compute type first.", Op: "linear",
		Func:     layerWith(func(l *layer) { l.weight = func(c *Case, in Tensors) []float32 { return weightIn(c, in, num.Float32) } }),
		Rounding: true,
	},
	{
		Name: "W in float16", Bug: "4-bit weights are dequantized to float16 whatever the compute type is.", Op: "linear",
		Func: layerWith(func(l *layer) {
			l.weight = func(c *Case, in Tensors) []float32 { return rounded(weightIn(c, in, num.Float16), compute(c)) }
		}),
	},
	{
		Name: "bias after the rounding", Bug: "The sum is rounded to the type before the bias is added, and again after.", Op: "linear",
		Func: layerWith(func(l *layer) {
			l.biased = func(sum, bias float32, t num.DType) float32 { return t.Round(sum) + bias }
		}),
	},
	{
		Name: "bias forgotten", Bug: "A layer with a bias is computed without it.", Op: "linear",
		Func: layerWith(func(l *layer) { l.biased = func(sum, _ float32, _ num.DType) float32 { return sum } }),
	},
	{
		Name: "bias by row", Bug: "The bias is added along tokens in place of outputs.", Op: "linear",
		Func: layerWith(func(l *layer) { l.bias = func(bias []float32, i, _, n int) float32 { return bias[i%n] } }),
	},
	{
		Name: "cut at the store", Bug: "bfloat16 is the upper half of the bits, not the nearest.", Op: "linear",
		Func: layerWith(func(l *layer) { l.store = cutToBFloat16 }),
	},
	{
		Name: "ties away from zero", Bug: "A sum in the middle of two bfloat16 goes away from zero, not to the even one.", Op: "linear",
		Func: layerWith(func(l *layer) { l.store = awayFromZero }), Rounding: true,
	},
	{
		Name: "float16 clamped", Bug: "What is too large for float16 becomes 65504 and not an infinity.", Op: "linear",
		Func: layerWith(func(l *layer) { l.store = clampedFloat16 }),
	},
}

// gradients are a linear layer's gradients in parts.
type gradients struct {
	joined func(there, sum float32, t num.DType) float32 // what dx becomes
	order  func(m int) []int                             // of the tokens, for dw and dbias
	dw     func(there, sum, product float32) (float32, float32)
	end    func(there, sum float32) float32
	weight func(c *Case, in Tensors) []float32
	dbias  func(there, dy float32, m int) float32
}

func (g gradients) backward(c *Case, in Tensors) (Tensors, error) {
	m, n, k, t := c.Int("m"), c.Int("n"), c.Int("k"), compute(c)
	dy, x, w, out := in["dy"].F, in["x"].F, g.weight(c, in), only(in, "dx", "dw", "dbias")
	if dx, ok := out["dx"]; ok {
		for i := range m {
			for l := range k {
				var s float32
				for j := range n {
					s += float32(dy[i*n+j] * w[j*k+l])
				}
				dx.F[i*k+l] = g.joined(dx.F[i*k+l], s, t)
			}
		}
	}
	if dw, ok := out["dw"]; ok {
		for at := range dw.F {
			there, sum := dw.F[at], float32(0)
			for _, i := range g.order(m) {
				there, sum = g.dw(there, sum, float32(dy[i*n+at/k]*x[i*k+at%k]))
			}
			dw.F[at] = g.end(there, sum)
		}
	}
	if dbias, ok := out["dbias"]; ok {
		for j := range n {
			for _, i := range g.order(m) {
				dbias.F[j] = g.dbias(dbias.F[j], dy[i*n+j], m)
			}
		}
	}
	return out, nil
}

func gradientsWith(spoil func(g *gradients)) Func {
	g := gradients{
		joined: joined, order: ascending, weight: weightOf,
		dw:    func(there, sum, product float32) (float32, float32) { return there + product, sum },
		end:   func(there, _ float32) float32 { return there },
		dbias: func(there, dy float32, _ int) float32 { return there + dy },
	}
	spoil(&g)
	return g.backward
}

// joined is a gradient of an activation that joins what is there.
func joined(there, sum float32, t num.DType) float32 { return t.Round(there + t.Round(sum)) }

func overwritten(_, sum float32, t num.DType) float32 { return t.Round(sum) }

func ascending(n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	return order
}

func descending(n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = n - 1 - i
	}
	return order
}

var linearBackwardMutants = []Mutant{
	{
		Name: "dx overwritten", Bug: "The gradient of the input replaces what is there: one of two paths is lost.", Op: "linear_backward",
		Func: gradientsWith(func(g *gradients) { g.joined = overwritten }),
	},
	{
		Name: "dx rounded once", Bug: "The sum joins what is there before it is rounded.", Op: "linear_backward",
		Func: gradientsWith(func(g *gradients) {
			g.joined = func(there, sum float32, t num.DType) float32 { return t.Round(there + sum) }
		}),
		Rounding: true,
	},
	{
		Name: "dx of the unrounded W", Bug: "Backward multiplies with 4-bit weights as float32, forward with rounded ones.", Op: "linear_backward",
		Func: gradientsWith(func(g *gradients) {
			g.weight = func(c *Case, in Tensors) []float32 { return weightIn(c, in, num.Float32) }
		}),
		Rounding: true,
	},
	{
		Name: "dw from the last token", Bug: "Gradients of weights take tokens from the last to the first.", Op: "linear_backward",
		Func: gradientsWith(func(g *gradients) { g.order = descending }), Rounding: true,
	},
	{
		Name: "dw summed apart", Bug: "The products are summed from 0 and then added to what is there: micro-batches have other bits than the batch.",
		Op: "linear_backward",
		Func: gradientsWith(func(g *gradients) {
			g.dw = func(there, sum, product float32) (float32, float32) { return there, sum + product }
			g.end = func(there, sum float32) float32 { return there + sum }
		}),
		Rounding: true,
	},
	{
		Name: "dw overwritten", Bug: "The gradient of the weight replaces what is there: micro-batches are lost.", Op: "linear_backward",
		Func: gradientsWith(func(g *gradients) {
			g.dw = func(_, sum, product float32) (float32, float32) { return 0, sum + product }
			g.end = func(_, sum float32) float32 { return sum }
		}),
	},
	{
		Name: "dw in bfloat16", Bug: "The gradient of the weight is rounded to bfloat16 after every token.", Op: "linear_backward",
		Func: gradientsWith(func(g *gradients) {
			g.dw = func(there, sum, product float32) (float32, float32) { return num.BFloat16.Round(there + product), sum }
		}),
	},
	{
		Name: "last token forgotten", Bug: "Gradients of weights and biases leave the last token out.", Op: "linear_backward",
		Func: gradientsWith(func(g *gradients) { g.order = func(m int) []int { return ascending(max(m-1, min(m, 1))) } }),
	},
	{
		Name: "dbias is a mean", Bug: "The gradient of the bias is divided by the number of tokens.", Op: "linear_backward",
		Func: gradientsWith(func(g *gradients) { g.dbias = func(there, dy float32, m int) float32 { return there + dy/float32(m) } }),
	},
}
