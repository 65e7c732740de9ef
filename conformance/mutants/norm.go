package mutants

import (
	"math"

	"qlora/conformance"
	"qlora/ref/num"
)

// norm is RMSNorm in parts: forward's, then backward's.
type norm struct {
	width  func(c *Case) int // elements that are normalized together
	value  func(x float32, row []float32) float32
	square func(x float32, t num.DType) float32
	sum    func(x []float32) float32
	root   func(sum, d, eps float32) float32
	scaled func(w, n float32, t num.DType) float32 // w·n, n not rounded yet

	mean   func(products []float32, d float32) float32
	slope  func(r, g, n, mean float32) float32
	weight func(w float32) float32
	inDW   func(n float32, t num.DType) float32
	joins  func(there, g float32, t num.DType) float32
	adds   func(there, product float32) float32
}

func normParts(spoil func(n *norm)) norm {
	n := norm{
		width:  func(c *Case) int { return c.Int("d") },
		value:  func(x float32, _ []float32) float32 { return x },
		square: func(x float32, _ num.DType) float32 { return x * x },
		sum:    num.Sum,
		root:   func(sum, d, eps float32) float32 { return num.Rsqrt(sum/d + eps) },
		scaled: func(w, n float32, t num.DType) float32 { return t.Round(w * t.Round(n)) },
		mean:   func(products []float32, d float32) float32 { return num.Sum(products) / d },
		slope:  func(r, g, n, mean float32) float32 { return r * (g - float32(n*mean)) },
		weight: func(w float32) float32 { return w },
		inDW:   func(n float32, t num.DType) float32 { return t.Round(n) },
		joins:  joined,
		adds:   func(there, product float32) float32 { return there + product },
	}
	spoil(&n)
	return n
}

func (n norm) forward(c *Case, in Tensors) (Tensors, error) {
	d, wide, t, x, w := c.Int("d"), n.width(c), compute(c), in["x"], in["w"].F
	y, r := make([]float32, x.Len()), make([]float32, x.Len()/d)
	for at := 0; at < x.Len(); at += wide {
		part := x.F[at : at+wide]
		squares := make([]float32, wide)
		for j, v := range part {
			squares[j] = n.square(n.value(v, part), t)
		}
		root := n.root(n.sum(squares), float32(wide), c.Float("eps"))
		for j, v := range part {
			y[at+j], r[(at+j)/d] = n.scaled(w[j%d], float32(n.value(v, part)*root), t), root
		}
	}
	return Tensors{"y": {DType: c.DType, Shape: x.Shape, F: y}, "r": conformance.Floats(f32, r, x.Rows(), c.Int("parts"))}, nil
}

func (n norm) backward(c *Case, in Tensors) (Tensors, error) {
	d, t, out := c.Int("d"), compute(c), only(in, "dx", "dw")
	for i, r := range in["r"].F {
		x, dy, dx := row(in["x"].F, i, d), row(in["dy"].F, i, d), row(out["dx"].F, i, d)
		g, normal, products := make([]float32, d), make([]float32, d), make([]float32, d)
		for j := range d {
			g[j], normal[j] = dy[j]*n.weight(in["w"].F[j]), x[j]*r
			products[j] = g[j] * normal[j]
		}
		mean := n.mean(products, float32(d))
		for j := range d {
			dx[j] = n.joins(dx[j], n.slope(r, g[j], normal[j], mean), t)
			if dw, ok := out["dw"]; ok {
				dw.F[j] = n.adds(dw.F[j], float32(dy[j]*n.inDW(normal[j], t)))
			}
		}
	}
	return out, nil
}

func normWith(spoil func(n *norm)) Func         { return normParts(spoil).forward }
func normBackwardWith(spoil func(n *norm)) Func { return normParts(spoil).backward }

func meanOf(x []float32) float32 { return num.Sum(x) / float32(len(x)) }

var normMutants = []Mutant{
	{
		Name: "ε outside the root", Bug: "1/(√mean + ε).", Op: "rmsnorm",
		Func: normWith(func(n *norm) {
			n.root = func(sum, d, eps float32) float32 { return 1 / (float32(math.Sqrt(float64(sum/d))) + eps) }
		}),
	},
	{
		Name: "ε forgotten", Bug: "1/√mean: a row of zeros becomes NaN.", Op: "rmsnorm",
		Func: normWith(func(n *norm) { n.root = func(sum, d, _ float32) float32 { return num.Rsqrt(sum / d) } }),
	},
	{
		Name: "ε of the default", Bug: "ε is 1e-6, whatever the model's is.", Op: "rmsnorm",
		Func: asked("rmsnorm", func(c *Case, _ Tensors) { set(c, conformance.Float("eps", 1e-6)) }),
	},
	{
		Name: "sum for mean", Bug: "The squares are not divided by d.", Op: "rmsnorm",
		Func: normWith(func(n *norm) { n.root = func(sum, _, eps float32) float32 { return num.Rsqrt(sum + eps) } }),
	},
	{
		Name: "d − 1", Bug: "The squares are divided by d − 1, as an unbiased variance is.", Op: "rmsnorm",
		Func: normWith(func(n *norm) { n.root = func(sum, d, eps float32) float32 { return num.Rsqrt(sum/max(1, d-1) + eps) } }),
	},
	{
		Name: "LayerNorm", Bug: "The mean is taken away first.", Op: "rmsnorm",
		Func: normWith(func(n *norm) { n.value = func(x float32, row []float32) float32 { return x - meanOf(row) } }),
	},
	{
		Name: "weight before the rounding", Bug: "round(w·x·r), as in Gemma and in fused kernels, for round(w·round(x·r)).",
		Seen: "transformers PR #25421, #29974 discuss both", Op: "rmsnorm",
		Func:     normWith(func(n *norm) { n.scaled = func(w, x float32, t num.DType) float32 { return t.Round(w * x) } }),
		Rounding: true,
	},
	{
		Name: "weight in the type", Bug: "The float32 weight is rounded to the compute type.", Op: "rmsnorm",
		Func: normWith(func(n *norm) {
			n.scaled = func(w, x float32, t num.DType) float32 { return t.Round(t.Round(w) * t.Round(x)) }
		}),
	},
	{
		Name: "1 + weight", Bug: "Gemma's weights are around 0, LLaMA's around 1.", Op: "rmsnorm",
		Func: normWith(func(n *norm) {
			n.scaled = func(w, x float32, t num.DType) float32 { return t.Round((1 + w) * t.Round(x)) }
		}),
	},
	{
		Name: "squares in the type", Bug: "Squares are rounded to the compute type: in float16 they overflow from 256 on.",
		Seen: "meta-llama/llama #1048", Op: "rmsnorm",
		Func: normWith(func(n *norm) { n.square = func(x float32, t num.DType) float32 { return t.Round(x * x) } }),
	},
	{
		Name: "heads together", Bug: "A head norm takes all heads of the row together.", Op: "rmsnorm",
		Func: normWith(func(n *norm) { n.width = func(c *Case) int { return c.Int("d") * c.Int("parts") } }),
	},
	{
		Name: "squares in plain order", Bug: "Squares are summed one after the other.", Op: "rmsnorm",
		Func: normWith(func(n *norm) { n.sum = plainSum }), Rounding: true,
	},
	{
		Name: "root, then quotient", Bug: "1/√ is the reciprocal of a rounded root.", Op: "rmsnorm",
		Func: normWith(func(n *norm) {
			n.root = func(sum, d, eps float32) float32 { return 1 / float32(math.Sqrt(float64(sum/d+eps))) }
		}),
		Rounding: true,
	},
	{
		Name: "mean term forgotten", Bug: "dx = r·g: that x moves r, too, is left out.", Op: "rmsnorm_backward",
		Func: normBackwardWith(func(n *norm) { n.mean = func([]float32, float32) float32 { return 0 } }),
	},
	{
		Name: "mean term not divided", Bug: "The sum of g·n is not divided by d.", Op: "rmsnorm_backward",
		Func: normBackwardWith(func(n *norm) { n.mean = func(products []float32, _ float32) float32 { return num.Sum(products) } }),
	},
	{
		Name: "r forgotten", Bug: "dx lacks the factor 1/root.", Op: "rmsnorm_backward",
		Func: normBackwardWith(func(n *norm) { n.slope = func(_, g, n, mean float32) float32 { return g - float32(n*mean) } }),
	},
	{
		Name: "weight forgotten in dx", Bug: "g = dy.", Op: "rmsnorm_backward",
		Func: normBackwardWith(func(n *norm) { n.weight = func(float32) float32 { return 1 } }),
	},
	{
		Name: "rmsnorm_backward: overwrites", Bug: "dx replaces what came along the residual path.", Op: "rmsnorm_backward",
		Func: normBackwardWith(func(n *norm) { n.joins = overwritten }),
	},
	{
		Name: "dw of the last token", Bug: "dw replaces what is there, token after token.", Op: "rmsnorm_backward",
		Func: normBackwardWith(func(n *norm) { n.adds = func(_, product float32) float32 { return product } }),
	},
	{
		Name: "dw of the unrounded norm", Bug: "dw takes x·r as it was before it was rounded.", Op: "rmsnorm_backward",
		Func:     normBackwardWith(func(n *norm) { n.inDW = func(x float32, _ num.DType) float32 { return x } }),
		Rounding: true,
	},
}
