package mutants

import (
	"fmt"
	"math"

	"qlora/conformance"
	"qlora/ref/num"
)

// rotation is a rotary embedding in parts.
type rotation struct {
	pair     func(i, half int) (lo, hi int)
	position func(positions []int32, token, rows int) (int, error)
	table    func(v float32, t num.DType) float32
	sine     float32 // its sign
	heads    func(heads int) int
	product  func(x, y float32, t num.DType) float32
	joins    func(there, g float32, t num.DType) float32
}

// turn hands on the turned values of x.
func (r rotation) turn(c *Case, in Tensors, x Tensor, f func(i int, v float32)) error {
	heads, d, t, half := c.Int("heads"), c.Int("d"), compute(c), c.Int("d")/2
	for token := range in["positions"].I {
		p, err := r.position(in["positions"].I, token, in["cos"].Rows())
		if err != nil {
			return err
		}
		for h := range heads {
			at := (token*heads + h) * d
			for i := range half {
				lo, hi := r.pair(i, half)
				cos, sin := r.table(in["cos"].F[p*half+i], t), r.sine*r.table(in["sin"].F[p*half+i], t)
				if h >= r.heads(heads) {
					cos, sin = 1, 0
				}
				f(at+lo, r.product(x.F[at+lo], cos, t)-r.product(x.F[at+hi], sin, t))
				f(at+hi, r.product(x.F[at+hi], cos, t)+r.product(x.F[at+lo], sin, t))
			}
		}
	}
	return nil
}

func rotationParts(spoil func(r *rotation)) rotation {
	r := rotation{
		pair:     func(i, half int) (lo, hi int) { return i, i + half },
		position: checkedRow,
		table:    func(v float32, _ num.DType) float32 { return v },
		sine:     1,
		heads:    func(heads int) int { return heads },
		product:  func(x, y float32, _ num.DType) float32 { return x * y },
		joins:    joined,
	}
	spoil(&r)
	return r
}

func checkedRow(positions []int32, token, rows int) (int, error) {
	p := int(positions[token])
	if p < 0 || p >= rows {
		return 0, fmt.Errorf("position %d of %d", p, rows)
	}
	return p, nil
}

func rope(spoil func(r *rotation)) Func {
	r := rotationParts(spoil)
	return func(c *Case, in Tensors) (Tensors, error) {
		y := copyOf(in["x"])
		err := r.turn(c, in, in["x"], func(i int, v float32) { y.F[i] = compute(c).Round(v) })
		return Tensors{"y": y}, err
	}
}

func ropeBackward(spoil func(r *rotation)) Func {
	r := rotationParts(func(r *rotation) { r.sine = -1; spoil(r) })
	return func(c *Case, in Tensors) (Tensors, error) {
		dx := copyOf(in["dx"])
		err := r.turn(c, in, in["dy"], func(i int, v float32) { dx.F[i] = r.joins(dx.F[i], v, compute(c)) })
		return Tensors{"dx": dx}, err
	}
}

// tables are cosines and sines of a default rotary embedding, in parts.
func tables(freq func(c *Case, i int) float32, angle func(position int32, freq float32) float32) Func {
	return func(c *Case, in Tensors) (Tensors, error) {
		out, err := reference("rope_table", c, in)
		if err != nil || c.Param("type") != "default" {
			return out, err
		}
		half := c.Int("dim") / 2
		for i := range half {
			f := freq(c, i)
			out["inv_freq"].F[i] = f
			for token, p := range in["positions"].I {
				out["sin"].F[token*half+i], out["cos"].F[token*half+i] = num.SinCos(angle(p, f))
			}
		}
		return out, nil
	}
}

func rightFreq(c *Case, i int) float32 { return num.RoPEInvFreq(number(c, "base"), c.Int("dim"))[i] }

func rightAngle(position int32, freq float32) float32 { return num.RoPEAngle(int(position), freq) }

var ropeMutants = []Mutant{
	{
		Name: "neighbours turned", Bug: "Element 2i goes with 2i+1, as in GPT-J and GGUF, for i with i + d/2.",
		Seen: "TinyLlama #24 (llama.cpp); transformers #25199", Op: "rope",
		Func: rope(func(r *rotation) { r.pair = func(i, _ int) (lo, hi int) { return 2 * i, 2*i + 1 } }),
	},
	{
		Name: "positions by row", Bug: "The row of the batch is taken for the position: the second packed sequence does not begin at 0.",
		Seen: "packing without position_ids (trl #1230)", Op: "rope",
		Func: rope(func(r *rotation) {
			r.position = func(positions []int32, token, rows int) (int, error) {
				_, err := checkedRow(positions, token, rows)
				return token % rows, err
			}
		}),
	},
	{
		Name: "positions from 1", Bug: "The first token is turned by the angles of position 1.", Op: "rope",
		Func: rope(func(r *rotation) {
			r.position = func(positions []int32, token, rows int) (int, error) {
				p, err := checkedRow(positions, token, rows)
				return (p + 1) % rows, err
			}
		}),
	},
	{
		Name: "turned backwards", Bug: "The sine has the other sign.", Op: "rope",
		Func: rope(func(r *rotation) { r.sine = -1 }),
	},
	{
		Name: "tables in the type", Bug: "Cosine and sine are rounded to bfloat16.", Seen: "transformers PR #29285; modded-nanogpt #39", Op: "rope",
		Func: rope(func(r *rotation) { r.table = func(v float32, t num.DType) float32 { return t.Round(v) } }),
	},
	{
		Name: "turned in the type", Bug: "Each product is rounded to the compute type before the sum.",
		Seen: "transformers: q·cos + rotate_half(q)·sin in bfloat16", Op: "rope",
		Func: rope(func(r *rotation) { r.product = func(x, y float32, t num.DType) float32 { return t.Round(x * y) } }),
	},
	{
		Name: "first head alone", Bug: "Heads behind the first are not turned.", Op: "rope",
		Func: rope(func(r *rotation) { r.heads = func(int) int { return 1 } }),
	},
	{
		Name: "position clamped", Bug: "A position beyond the tables takes their last row in place of an error.", Op: "rope",
		Func: rope(func(r *rotation) {
			r.position = func(positions []int32, token, rows int) (int, error) {
				return max(0, min(int(positions[token]), rows-1)), nil
			}
		}),
	},
	{
		Name: "rope_backward turns on", Bug: "The gradient is turned forward, not back.", Op: "rope_backward",
		Func: ropeBackward(func(r *rotation) { r.sine = 1 }),
	},
	{
		Name: "rope_backward: overwrites", Bug: "dx replaces what is there.", Op: "rope_backward",
		Func: ropeBackward(func(r *rotation) { r.joins = overwritten }),
	},
	{
		Name: "rope_backward: neighbours", Bug: "Backward turns neighbours, forward halves.", Op: "rope_backward",
		Func: ropeBackward(func(r *rotation) { r.pair = func(i, _ int) (lo, hi int) { return 2 * i, 2*i + 1 } }),
	},
	{
		Name: "angles in bfloat16", Bug: "Positions are rounded to bfloat16: 256 and 257 are one.",
		Seen: "gpt-neox PR #1016; keras-hub #1494", Op: "rope_table",
		Func: tables(rightFreq, func(position int32, freq float32) float32 {
			return num.BFloat16.Round(float32(position)) * freq
		}),
	},
	{
		Name: "frequencies in bfloat16", Bug: "inv_freq is rounded to bfloat16 with the model's parameters.",
		Seen: "gpt-neox PR #1016; okoge-kaz/llm-recipes PR #6", Op: "rope_table",
		Func: tables(func(c *Case, i int) float32 { return num.BFloat16.Round(rightFreq(c, i)) }, rightAngle),
	},
	{
		Name: "angles in float64", Bug: "The angle is not rounded to float32 before its sine.", Op: "rope_table",
		Func: spoiled("rope_table", func(_ *Case, in, out Tensors) {
			half := out["inv_freq"].Len()
			for token, p := range in["positions"].I {
				for i, f := range out["inv_freq"].F {
					sin, cos := math.Sincos(float64(p) * float64(f))
					out["sin"].F[token*half+i], out["cos"].F[token*half+i] = float32(sin), float32(cos)
				}
			}
		}),
		Rounding: true,
	},
	{
		Name: "exponent i/dim", Bug: "base^(i/dim) for base^(2i/dim).", Op: "rope_table",
		Func: tables(func(c *Case, i int) float32 {
			return 1 / num.Pow(number(c, "base"), float64(float32(i)/float32(c.Int("dim"))))
		}, rightAngle),
	},
	{
		Name: "base 10000 always", Bug: "rope_theta is not read.", Op: "rope_table",
		Func: asked("rope_table", func(c *Case, _ Tensors) { set(c, conformance.Float("base", 10000)) }),
	},
	{
		Name: "scaling ignored", Bug: "rope_scaling is not looked at.", Op: "rope_table",
		Func: asked("rope_table", func(c *Case, _ Tensors) { set(c, conformance.Text("type", "default")) }),
	},
	{
		Name: "llama3 taken for linear", Bug: "All frequencies are divided, also the high ones that llama3 keeps.", Op: "rope_table",
		Func: asked("rope_table", func(c *Case, _ Tensors) {
			if c.Param("type") == "llama3" {
				set(c, conformance.Text("type", "linear"))
			}
		}),
	},
	{
		Name: "dynamic scaling always", Bug: "Dynamic scaling stretches also what is shorter than the training's length.", Op: "rope_table",
		Func: asked("rope_table", func(c *Case, _ Tensors) {
			if c.Param("type") == "dynamic" && c.Int("length") <= c.Int("max") {
				set(c, conformance.Int("length", c.Int("max")+1))
			}
		}),
	},
}
