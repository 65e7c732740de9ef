package mutants

import (
	"fmt"

	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/op"
)

// heading is the head with its loss in parts: those of both, then forward's, then backward's.
type heading struct {
	label   func(labels []int32, token, vocab int) int32
	ignores func(label int32) bool
	rejects func(label int32, vocab int) bool
	x       func(token int) int // the row of x whose logits are taken
	logit   func(z float32, t num.DType) float32
	dot     func(x, w []float32) float32

	lse  func(z []float32) float32
	loss func(loss float32, labels []int32) float32

	probability func(z []float32, j int, lse float32) float32
	oneHot      func(j, label int) float32
	slope       func(g, p float32, t num.DType, labels []int32) float32
	joins       func(there, sum float32, t num.DType) float32
	adds        func(there, product float32) float32
}

func headingParts(spoil func(h *heading)) heading {
	h := heading{
		label:   func(labels []int32, token, _ int) int32 { return labels[token] },
		ignores: func(label int32) bool { return label == op.IgnoredLabel },
		rejects: func(label int32, vocab int) bool { return label < 0 || int(label) >= vocab },
		x:       func(token int) int { return token },
		logit:   func(z float32, t num.DType) float32 { return t.Round(z) },
		dot:     dot,
		lse:     func(z []float32) float32 { return logSumExp(z, largestOf(z), num.Sum) },
		loss:    func(loss float32, _ []int32) float32 { return loss },

		probability: func(z []float32, j int, lse float32) float32 { return num.Exp(z[j] - lse) },
		oneHot: func(j, label int) float32 {
			if j == label {
				return 1
			}
			return 0
		},
		slope: func(g, p float32, t num.DType, _ []int32) float32 { return t.Round(g * p) },
		joins: joined,
		adds:  func(there, product float32) float32 { return there + product },
	}
	spoil(&h)
	return h
}

func largestOf(z []float32) float32 {
	m := z[0]
	for _, v := range z {
		m = max(m, v)
	}
	return m
}

func logSumExp(z []float32, m float32, sum func([]float32) float32) float32 {
	e := make([]float32, len(z))
	for j, v := range z {
		e[j] = num.Exp(v - m)
	}
	return m + num.Log(sum(e))
}

// eachToken hands on the logits of the tokens that count.
func (h heading) eachToken(c *Case, in Tensors, f func(token, label int, z []float32)) error {
	vocab, d, labels := c.Int("vocab"), c.Int("d"), in["labels"].I
	for token := range labels {
		label := h.label(labels, token, vocab)
		if h.ignores(label) {
			continue
		}
		if h.rejects(label, vocab) {
			return fmt.Errorf("label %d", label)
		}
		x, z := row(in["x"].F, h.x(token), d), make([]float32, vocab)
		for j := range z {
			z[j] = h.logit(h.dot(x, row(in["w"].F, j, d)), compute(c))
		}
		f(token, int(label), z)
	}
	return nil
}

func (h heading) forward(c *Case, in Tensors) (Tensors, error) {
	losses, lses := make([]float32, c.Int("tokens")), make([]float32, c.Int("tokens"))
	err := h.eachToken(c, in, func(token, label int, z []float32) {
		lses[token] = h.lse(z)
		losses[token] = h.loss(lses[token]-z[label], in["labels"].I)
	})
	return Tensors{"loss": conformance.Floats(f32, losses, len(losses), 1), "lse": conformance.Floats(f32, lses, len(lses), 1)}, err
}

func (h heading) backward(c *Case, in Tensors) (Tensors, error) {
	d, t, g, out := c.Int("d"), compute(c), in["g"].F[0], only(in, "dx", "dw")
	err := h.eachToken(c, in, func(token, label int, z []float32) {
		dz, sum := make([]float32, len(z)), make([]float32, d)
		for j := range z {
			p := h.probability(z, j, in["lse"].F[token])
			dz[j] = h.slope(g, p-h.oneHot(j, label), t, in["labels"].I)
			axpy(sum, dz[j], row(in["w"].F, j, d))
			if dw, ok := out["dw"]; ok {
				for i, v := range row(in["x"].F, token, d) {
					dw.F[j*d+i] = h.adds(dw.F[j*d+i], float32(dz[j]*v))
				}
			}
		}
		for i, v := range sum {
			out["dx"].F[token*d+i] = h.joins(out["dx"].F[token*d+i], v, t)
		}
	})
	return out, err
}

func headWith(spoil func(h *heading)) Func         { return headingParts(spoil).forward }
func headBackwardWith(spoil func(h *heading)) Func { return headingParts(spoil).backward }

// counted is the number of labels that are not ignored.
func counted(labels []int32) (n int) {
	for _, l := range labels {
		if l != op.IgnoredLabel {
			n++
		}
	}
	return n
}

// ignoredAsZero takes an ignored label for class 0.
func ignoredAsZero(h *heading) {
	h.ignores = func(int32) bool { return false }
	h.label = func(labels []int32, token, _ int) int32 {
		if labels[token] == op.IgnoredLabel {
			return 0
		}
		return labels[token]
	}
}

// nextLabel is the label of the next token: shifted once more.
func nextLabel(labels []int32, token, _ int) int32 {
	if token+1 == len(labels) {
		return op.IgnoredLabel
	}
	return labels[token+1]
}

var headMutants = []Mutant{
	{
		Name: "labels shifted twice", Bug: "Labels that are shifted already are shifted again: each token learns the one after the next.",
		Seen: "transformers PR #47395, #37830, #46898", Op: "head_loss",
		Func: headWith(func(h *heading) { h.label = nextLabel }),
	},
	{
		Name: "labels not shifted", Bug: "Each token learns itself.", Seen: "transformers #35066 asks who shifts", Op: "head_loss",
		Func: headWith(func(h *heading) {
			h.label = func(labels []int32, token, _ int) int32 { return labels[max(0, token-1)] }
		}),
	},
	{
		Name: "ignored labels are class 0", Bug: "−100 is taken for class 0.", Op: "head_loss",
		Func: headWith(ignoredAsZero),
	},
	{
		Name: "ignored label −1", Bug: "−1 is ignored, too, in place of rejected.", Op: "head_loss",
		Func: headWith(func(h *heading) { h.ignores = func(label int32) bool { return label < 0 } }),
	},
	{
		Name: "label clamped", Bug: "A label beyond the vocabulary takes its last class in place of an error.", Op: "head_loss",
		Func: headWith(func(h *heading) {
			h.label = func(labels []int32, token, vocab int) int32 { return min(labels[token], int32(vocab-1)) }
		}),
	},
	{
		Name: "loss is a mean already", Bug: "Each token's loss is divided by the number of counted tokens.", Op: "head_loss",
		Func: headWith(func(h *heading) {
			h.loss = func(loss float32, labels []int32) float32 { return loss / float32(counted(labels)) }
		}),
	},
	{
		Name: "log Σ exp without the maximum", Bug: "exp of the logits themselves: it overflows from 89 on.", Op: "head_loss",
		Func: headWith(func(h *heading) { h.lse = func(z []float32) float32 { return logSumExp(z, 0, num.Sum) } }),
	},
	{
		Name: "maximum of the logits from 0", Bug: "The search for the largest logit begins at 0.", Op: "head_loss",
		Func: headWith(func(h *heading) {
			h.lse = func(z []float32) float32 { return logSumExp(z, max(0, largestOf(z)), num.Sum) }
		}),
		Rounding: true,
	},
	{
		Name: "log Σ exp in chunks", Bug: "The vocabulary is cut in chunks, whose log Σ exp are joined by another.",
		Seen: "unsloth's cross entropy: chunks of 65,536", Op: "head_loss",
		Func: headWith(func(h *heading) {
			h.lse = func(z []float32) float32 {
				var parts []float32
				for ; len(z) > 0; z = z[min(16, len(z)):] {
					part := z[:min(16, len(z))]
					parts = append(parts, logSumExp(part, largestOf(part), num.Sum))
				}
				return logSumExp(parts, largestOf(parts), num.Sum)
			}
		}),
		Rounding: true,
	},
	{
		Name: "Σ exp in plain order", Bug: "exp is summed one after the other.", Op: "head_loss",
		Func:     headWith(func(h *heading) { h.lse = func(z []float32) float32 { return logSumExp(z, largestOf(z), plainSum) } }),
		Rounding: true,
	},
	{
		Name: "logits not rounded", Bug: "Logits stay float32.", Op: "head_loss",
		Func: headWith(func(h *heading) { h.logit = func(z float32, _ num.DType) float32 { return z } }), Rounding: true,
	},
	{
		Name: "chunk's first tokens again", Bug: "From the second chunk on, the logits are those of the first chunk's tokens.", Op: "head_loss",
		Func: headWith(func(h *heading) { h.x = func(token int) int { return token % op.HeadChunk } }),
	},
	{
		Name: "negative loss", Bug: "z[label] − lse.", Op: "head_loss",
		Func: headWith(func(h *heading) { h.loss = func(loss float32, _ []int32) float32 { return -loss } }),
	},
	{
		Name: "logits capped", Bug: "Logits go through 30·tanh(z/30), as Gemma's do.", Op: "head_loss",
		Func: headWith(func(h *heading) {
			h.logit = func(z float32, t num.DType) float32 { return t.Round(30 * num.Tanh(t.Round(z)/30)) }
		}),
	},
	{
		Name: "no one-hot", Bug: "dz = g·p: the 1 of the label is not taken away.", Op: "head_loss_backward",
		Func: headBackwardWith(func(h *heading) { h.oneHot = func(int, int) float32 { return 0 } }),
	},
	{
		Name: "g forgotten", Bug: "The gradient of the loss is taken for 1.", Op: "head_loss_backward",
		Func: headBackwardWith(func(h *heading) {
			h.slope = func(_, p float32, t num.DType, _ []int32) float32 { return t.Round(p) }
		}),
	},
	{
		Name: "divided once more", Bug: "dz is divided by the number of counted tokens, which g holds already.", Op: "head_loss_backward",
		Func: headBackwardWith(func(h *heading) {
			h.slope = func(g, p float32, t num.DType, labels []int32) float32 {
				return t.Round(float32(g/float32(counted(labels))) * p)
			}
		}),
	},
	{
		Name: "ignored tokens have a gradient", Bug: "−100 is taken for class 0 in backward.", Op: "head_loss_backward",
		Func: headBackwardWith(ignoredAsZero),
	},
	{
		Name: "p by the logits' sum", Bug: "p = exp(z − max)/Σ, not exp(z − lse).", Op: "head_loss_backward",
		Func: headBackwardWith(func(h *heading) {
			h.probability = func(z []float32, j int, _ float32) float32 {
				e, m := make([]float32, len(z)), largestOf(z)
				for i, v := range z {
					e[i] = num.Exp(v - m)
				}
				return e[j] / num.Sum(e)
			}
		}),
		Rounding: true,
	},
	{
		Name: "dz not rounded", Bug: "dz stays float32.", Op: "head_loss_backward",
		Func: headBackwardWith(func(h *heading) { h.slope = func(g, p float32, _ num.DType, _ []int32) float32 { return g * p } }), Rounding: true,
	},
	{
		Name: "head_loss_backward: overwrites", Bug: "dx replaces what is there.", Op: "head_loss_backward",
		Func: headBackwardWith(func(h *heading) { h.joins = overwritten }),
	},
	{
		Name: "dw of the head overwritten", Bug: "Each token's gradient of the head replaces the one before.", Op: "head_loss_backward",
		Func: headBackwardWith(func(h *heading) { h.adds = func(_, product float32) float32 { return product } }),
	},
	{
		Name: "label smoothed", Bug: "The label has 0.9 and the others share the rest, which was not asked for.", Op: "head_loss_backward",
		Func: headBackwardWith(func(h *heading) {
			h.oneHot = func(j, label int) float32 {
				if j == label {
					return 0.9
				}
				return 0
			}
		}),
	},
	{
		Name: "lse computed anew from rounded logits", Bug: "Backward takes log Σ exp in the compute type.", Op: "head_loss_backward",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			in = copied(in)
			compute(c).RoundAll(in["lse"].F)
			return reference("head_loss_backward", c, in)
		},
	},
}
