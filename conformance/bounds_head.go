package conformance

import (
	"math"

	"qlora/ref/op"
)

// logits are those of a token, stored.
func (a arithmetic) logits(c *Case, in Tensors, w []approx, token int) []approx {
	d := c.Int("d")
	x := row(in["x"].F, token, d)
	z := make([]approx, c.Int("vocab"))
	for j := range z {
		wj := row(w, j, d)
		z[j] = a.store(a.dot(d, func(i int) (approx, approx) { return exactly(x[i]), wj[i] }), c.num())
	}
	return z
}

func boundHeadLoss(c *Case, in Tensors, a arithmetic) map[string][]approx {
	w := allExactly(in["w"].F)
	losses, lses := make([]approx, in["labels"].Len()), make([]approx, in["labels"].Len())
	for token, label := range in["labels"].I {
		if label == op.IgnoredLabel {
			continue
		}
		z := a.logits(c, in, w, token)
		_, m, l, worst := a.softmax(z, 0)
		lse := a.add(approx{v: m.v, over: m.over}, a.function(l, math.Log))
		lse.e += worst // the logarithm of Σ exp(z) is off by no more than the worst logit
		losses[token], lses[token] = a.sub(lse, z[label]), lse
	}
	return map[string][]approx{"loss": losses, "lse": lses}
}

func boundHeadLossBackward(c *Case, in Tensors, a arithmetic) map[string][]approx {
	d, vocab, t := c.Int("d"), c.Int("vocab"), c.num()
	w, g := allExactly(in["w"].F), exactly(in["g"].F[0])
	out := map[string][]approx{"dx": allExactly(in["dx"].F)}
	var dw []accumulator
	if there, ok := in["dw"]; ok {
		dw = started(there.F)
	}
	for token, label := range in["labels"].I {
		if label == op.IgnoredLabel {
			continue
		}
		dz := a.logits(c, in, w, token)
		for j := range dz {
			p := a.function(a.sub(dz[j], a.input(in, "lse", token)), math.Exp)
			if j == int(label) {
				p = a.sub(p, unity)
			}
			dz[j] = a.store(a.mul(g, p), t)
		}
		for i := range d {
			at := token*d + i
			out["dx"][at] = a.joined(out["dx"][at], a.dot(vocab, func(j int) (approx, approx) { return dz[j], w[j*d+i] }), t)
		}
		if dw != nil {
			for j := range vocab {
				for i := range d {
					dw[j*d+i].add(dz[j], exactly(in["x"].F[token*d+i]))
				}
			}
		}
	}
	if dw != nil {
		out["dw"] = a.results(dw)
	}
	return out
}
