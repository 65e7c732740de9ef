package conformance

import (
	"fmt"

	"qlora/ref/op"
)

func init() {
	register(&Operation{
		Name: "head_loss", Of: "op.HeadLoss", Needs: "HeadLoss",
		Formula: "x [tokens, d], w [vocab, d], labels I32 [tokens] → loss, lse F32 [tokens, 1]. z = round(x·wᵀ) as in linear, m = max z, lse = m + log(Sum(exp(z − m))), loss = lse − z[label], every step rounded to float32. " +
			"Both are 0 where the label is −100. Any other label outside 0…vocab−1 must be rejected.",
		Cases: headCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			if err := goodLabels(in["labels"].I, c.Int("vocab")); err != nil {
				return nil, err
			}
			loss, lse := headLoss(c.Int("vocab"), c.Int("d"), c.DType, in)
			return Tensors{"loss": loss, "lse": lse}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			tokens := b.Case.Int("tokens")
			loss, lse := b.Result("loss", F32, tokens, 1), b.Result("lse", F32, tokens, 1)
			b.Device.HeadLoss(Place, loss, lse, b.Tensor("x", in["x"]), op.Weight{Dense: b.Tensor("w", in["w"])}, b.Ints("labels", in["labels"]))
			return Tensors{"loss": b.Read(loss, tokens, 1), "lse": b.Read(lse, tokens, 1)}
		},
	}, &Operation{
		Name: "head_loss_backward", Of: "op.HeadLossBackward", Needs: "HeadLossBackward",
		Formula: "x, dx [tokens, d], w [vocab, d], labels I32 [tokens], lse F32 [tokens, 1] as forward gave it, g F32 [1], dw F32 [vocab, d]; dx and dw each of them or not → dx, dw. With z as in forward: " +
			"dz = round(g·(exp(z − lse) − [j = label])), every step rounded to float32; " +
			"dx = round(dx + round(Σ dz·w)), from +0, the vocabulary ascending; dw += dzᵀ·x in float32, tokens ascending. A token of which the label is −100 adds nothing; any other label outside 0…vocab−1 must be rejected.",
		Cases: headBackwardCases, Optional: map[string]string{"dx": "x"},
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			if err := goodLabels(in["labels"].I, c.Int("vocab")); err != nil {
				return nil, err
			}
			out := copies(in, "dx", "dw")
			op.HeadLossBackward(out["dx"].F, out["dw"].F, in["lse"].F, in["x"].F, in["w"].F, in["labels"].I, in["g"].F[0],
				c.Int("vocab"), c.Int("d"), floats[c.DType].num)
			return out, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			g := b.gradients(in, "dx", "dw")
			b.Device.HeadLossBackward(Place, g["dx"], g["dw"], b.Tensor("lse", in["lse"]), b.Tensor("x", in["x"]),
				op.Weight{Dense: b.Tensor("w", in["w"])}, b.Ints("labels", in["labels"]), b.Tensor("g", in["g"]))
			return b.readAll(g, in)
		},
	})
}

func goodLabels(labels []int32, vocab int) error {
	for i, v := range labels {
		if (v < 0 || int(v) >= vocab) && v != op.IgnoredLabel {
			return fmt.Errorf("label %d at %d is outside 0…%d", v, i, vocab-1)
		}
	}
	return nil
}

func headLoss(vocab, d int, t DType, in Tensors) (loss, lse Tensor) {
	tokens := in["labels"].Len()
	losses, lses := make([]float32, tokens), make([]float32, tokens)
	op.HeadLoss(losses, lses, in["x"].F, in["w"].F, in["labels"].I, vocab, d, floats[t].num)
	return Floats(F32, losses, tokens, 1), Floats(F32, lses, tokens, 1)
}

// head is a head's settings. g, the gradient of every token's loss, is backward's.
type head struct {
	tokens, vocab, d int
	labels           func(r *random, h head) []int32
	g                float32
}

func headOf(tokens, vocab, d int, labels func(r *random, h head) []int32) head {
	return head{tokens: tokens, vocab: vocab, d: d, labels: labels}
}

func anyLabels(r *random, h head) []int32 { return r.indices(h.tokens, h.vocab) }

// someIgnored ignores about every third label.
func someIgnored(r *random, h head) []int32 {
	labels := anyLabels(r, h)
	for i := range labels {
		if r.below(3) == 0 {
			labels[i] = op.IgnoredLabel
		}
	}
	return labels
}

func labelsOf(labels ...int32) func(*random, head) []int32 {
	return func(r *random, h head) []int32 {
		all := make([]int32, h.tokens)
		for i := range all {
			all[i] = labels[i%len(labels)]
		}
		return all
	}
}

type headChange func(r *random, h head, v values)

func (h head) params() []Param {
	return []Param{Int("tokens", h.tokens), Int("vocab", h.vocab), Int("d", h.d)}
}

// inputs of forward, and the gradients of backward that are asked for.
func (h head) inputs(r *random, t DType, gradients []string, changes ...headChange) Tensors {
	v := values{"x": r.normal(h.tokens*h.d, 1), "w": r.normal(h.vocab*h.d, 1)}
	shape := map[string][]int{"x": {h.tokens, h.d}, "dx": {h.tokens, h.d}, "w": {h.vocab, h.d}, "dw": {h.vocab, h.d}}
	for _, name := range gradients {
		v[name] = r.normal(shape[name][0]*shape[name][1], 1)
	}
	in := Tensors{"labels": Ints(h.labels(r, h))}
	for _, f := range changes {
		f(r, h, v)
	}
	for name, x := range v {
		full := t
		if name == "dw" {
			full = F32
		}
		in[name] = Floats(full, x, shape[name]...)
	}
	return in
}

// headSettings goes over sizes, labels and values: what forward and backward have in common.
func headSettings(t DType, add func(level Level, reason string, h head, changes ...headChange)) {
	for i, s := range [][3]int{
		{1, 1, 1}, {1, 2, 1}, {3, 5, 2}, {5, 32, 8}, {7, 33, 16}, {2, 31, 64}, {4, 64, 33}, {9, 65, 5}, {1, 1000, 32}, {33, 127, 7}, {65, 129, 3},
		{17, 257, 63}, {6, 4097, 4}, {31, 63, 65}, {2, 512, 128},
	} {
		add(smokeIf(i == 4), "random", headOf(s[0], s[1], s[2], anyLabels))
		add(smokeIf(i == 9), "ignored-labels", headOf(s[0], s[1], s[2], someIgnored))
		add(Quick, "first-and-last", headOf(s[0], s[1], s[2], labelsOf(int32(s[1]-1), 0)))
	}
	for _, n := range []int{1, 40} {
		add(smokeIf(n == 40), "ignored-labels", headOf(n, 37, 5, labelsOf(op.IgnoredLabel)))
		add(Quick, "first-and-last", headOf(n, 37, 5, labelsOf(0)))
		add(smokeIf(n == 40), "first-and-last", headOf(n, 37, 5, labelsOf(36)))
	}
	for i, tokens := range []int{255, 256, 257, 300, 513} {
		add(smokeIf(i == 3), "chunk", headOf(tokens, 17, 3, someIgnored))
		add(Quick, "chunk", headOf(tokens, 40, 9, anyLabels))
	}
	for _, s := range [][2]int{{3, 33}, {5, 100}, {2, 1000}} {
		add(Quick, "all-equal", headOf(s[0], s[1], 8, anyLabels), func(r *random, h head, v values) { clear(v["x"]) })
		add(smokeIf(s[0] == 5), "one-large", headOf(s[0], s[1], 8, anyLabels), func(r *random, h head, v values) { multiply(v["x"], 20) })
		add(Quick, "one-large", headOf(s[0], s[1], 8, anyLabels), func(r *random, h head, v values) { multiply(v["x"], 200) })
		add(Quick, "exp-underflow", headOf(s[0], s[1], 1, anyLabels), func(r *random, h head, v values) {
			copy(v["x"], repeated(len(v["x"]), 1))
			for j := range v["w"] {
				v["w"][j] = float32(-86 - 20*float64(j)/float64(h.vocab))
			}
			v["w"][r.below(h.vocab)] = 0
		})
		if t != F16 {
			add(Quick, "product-underflow", headOf(s[0], 1, s[1], anyLabels), func(r *random, h head, v values) { // lse is z
				along(underflow, underflowFactor, true)(r, v["x"], v["w"], h.d)
			})
		}
	}
	// One logit is 0 and the others small: the logarithm of their sum is small, too, and shows its last bits.
	for _, vocab := range []int{65536, 65537, 100001, 131073} {
		if t == F16 {
			break
		}
		add(Quick, "long-sum", headOf(5, vocab, 1, anyLabels), func(r *random, h head, v values) {
			for i := range v["x"] {
				v["x"][i] = 1 + float32(float32(i)/16)
			}
			for j := range v["w"] {
				v["w"][j] -= 14
			}
			v["w"][r.below(vocab)] = 0
		})
	}
	add(Full, "random", headOf(300, 5000, 64, someIgnored))
	add(Full, "long-sum", headOf(3, 151936, 16, anyLabels))
}

func headCases(m *Maker) {
	for _, t := range []DType{F32, BF16, F16} {
		add := func(level Level, reason string, h head, changes ...headChange) {
			if t == F16 {
				level = max(level, Quick)
			}
			m.Add(level, t, reason, h.params(), func(r *random) Tensors { return h.inputs(r, t, nil, changes...) })
		}
		headSettings(t, add)
		// x is large: what is left of the sums is seen in the logits.
		for _, s := range [][3]int{{3, 33, 8}, {2, 100, 31}, {5, 64, 64}, {2, 33, 257}, {2, 9, 3001}, {2, 5, 8203}} {
			add(smokeIf(s[0] == 5), "cancellation", headOf(s[0], s[1], s[2], anyLabels), func(r *random, h head, v values) {
				large := float32(0x1p20)
				if t == F16 {
					large = 0x1p6
				}
				opposites(r, v["x"], v["w"], h.d, false, large)
			})
		}
		add(Quick, "empty", headOf(0, 5, 3, anyLabels))
		for i, bad := range []int32{11, -1, -99, -101, 1 << 30} {
			add(smokeIf(i == 0), "out-of-range", headOf(5, 11, 4, func(r *random, h head) []int32 {
				labels := someIgnored(r, h)
				labels[r.below(len(labels))] = bad
				return labels
			}))
		}
	}
}

func headBackwardCases(m *Maker) {
	for _, t := range []DType{F32, BF16} {
		for i, gradients := range [][]string{{"dx", "dw"}, {"dx"}, {"dw"}} {
			number := 0
			add := func(level Level, reason string, h head, changes ...headChange) {
				if number++; h.g == 0 {
					h.g = []float32{1, 0.125, 1.0 / 3, 1.0 / 497}[number%4]
				}
				m.Add(level, t, reason, append(h.params(), Text("g", shortest(h.g)), Flag("dx", i != 2), Flag("dw", i != 1)), func(r *random) Tensors {
					in := h.inputs(r, t, gradients, changes...)
					_, in["lse"] = headLoss(h.vocab, h.d, t, in)
					in["g"] = Floats(F32, []float32{h.g})
					return in
				})
			}
			if i > 0 {
				for _, s := range [][3]int{{1, 1, 1}, {3, 5, 2}, {7, 33, 16}, {33, 127, 7}, {2, 1000, 5}, {300, 17, 3}} {
					add(Quick, "optional", headOf(s[0], s[1], s[2], someIgnored))
				}
				continue
			}
			headSettings(t, add)
			badLabels(m, t)
			for _, vocab := range []int{6, 33, 64, 257, 1025, 3001} {
				add(smokeIf(vocab == 64), "cancellation", headOf(3, vocab, 5, labelsOf(0)), equalLogits, overVocabulary(func(r *random, a []float32, k int) {
					opposites(r, a, nil, k, false, 1)
				}))
			}
			for i, tokens := range []int{3, 40} { // dz is 2^-70 for all but the label
				h := headOf(tokens, 16, 5, labelsOf(0))
				h.g = 0x1p-66
				add(smokeIf(i == 1), "product-underflow", h, equalLogits, overVocabulary(func(r *random, a []float32, k int) {
					along(underflow, underflowFactor, true)(r, a, nil, k)
				}), func(r *random, h head, v values) {
					x := turned(v["x"], h.d)
					along(underflow, underflowFactor, true)(r, x, nil, h.tokens)
					v["x"] = turned(x, h.tokens)
					clear(v["dw"])
				})
			}
			for _, tokens := range []int{3, 31, 65, 300} {
				add(smokeIf(tokens == 65), "token-order", headOf(tokens, 9, 4, anyLabels), func(r *random, h head, v values) { clear(v["dw"]) })
				add(Quick, "adds", headOf(tokens, 9, 4, anyLabels), func(r *random, h head, v values) { multiply(v["dw"], 4) })
			}
		}
	}
}

// badLabels must be rejected by backward, too.
func badLabels(m *Maker, t DType) {
	h := headOf(5, 11, 4, anyLabels)
	for i, bad := range []int32{11, -1, -99, 1 << 30} {
		m.Add(smokeIf(i == 0), t, "out-of-range", h.params(), func(r *random) Tensors {
			in := h.inputs(r, t, []string{"dx", "dw"})
			_, in["lse"] = headLoss(h.vocab, h.d, t, in)
			in["g"] = Floats(F32, []float32{1})
			in["labels"].I[r.below(h.tokens)] = bad
			return in
		})
	}
}

// equalLogits are zeros.
func equalLogits(_ *random, _ head, v values) {
	clear(v["x"])
	clear(v["dx"])
}

// overVocabulary hands on the columns of w but for the first row's, which is zero: it is that of the label.
func overVocabulary(f func(r *random, a []float32, k int)) headChange {
	return func(r *random, h head, v values) {
		clear(v["w"][:h.d])
		rest := turned(v["w"][h.d:], h.d)
		f(r, rest, h.vocab-1)
		copy(v["w"][h.d:], turned(rest, h.vocab-1))
	}
}
