package cpu

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

// keptLogits is how many bytes of logits exist at a time: chunks are of tokens, so that sums over the vocabulary keep their order. The more
// tokens there are in a chunk, the less often the head's weights are packed.
const keptLogits = 64 << 20

// HeadLoss computes each token's cross-entropy from rounded logits z (op.HeadLoss):
//
//	lse = max z + log(Sum(exp(z − max z))),  loss = lse − z[label]; 0 where the label is ignored
//
// Tokens with ignored labels have no logits computed.
func (d *Device) HeadLoss(at op.At, loss, lse, x *op.Tensor, w op.Weight, labels *op.Ints) {
	op.CheckHeadLoss(at, loss, lse, x)
	d.within(at, func() workspace { return d.forLogits(x, w, labels) }, func() error {
		of(loss).zero()
		of(lse).zero()
		return d.eachLogits(x, w, labels, func(c chunk) {
			d.tasks(len(c.tokens), func(s *scratch, i int) {
				k, token := d.kernel, c.tokens[i]
				z := s.floats(slotX, w.Out())
				c.logits.row(i).get(k, z)
				m, label := k.Max(z), z[ints(labels)[token]]
				k.ExpMinus(z, z, m)
				of(lse).full[token] = m + num.Log(d.sum(z))
				of(loss).full[token] = of(lse).full[token] - label
			})
		})
	})
}

// HeadLossBackward adds, with g the gradient of every token's loss (op.HeadLossBackward),
//
//	dz = round(g·(exp(z − lse) − [j = label])),  dx += round(dz·W),  dW += dzᵀ·x, tokens ascending
func (d *Device) HeadLossBackward(at op.At, dx, dw, lse, x *op.Tensor, w op.Weight, labels *op.Ints, g *op.Tensor) {
	op.CheckHeadLossBackward(at, dx, dw, x, g)
	d.within(at, func() workspace { return d.forHeadLossBackward(dx, dw, x, w, labels) }, func() error {
		return d.eachLogits(x, w, labels, func(c chunk) {
			d.tasks(len(c.tokens), func(s *scratch, i int) {
				k, token := d.kernel, c.tokens[i]
				z := s.floats(slotX, w.Out())
				c.logits.row(i).get(k, z)
				k.ExpMinus(z, z, of(lse).full[token])
				z[ints(labels)[token]]--
				k.Scale(z, z, of(g).full[0])
				c.logits.row(i).put(k, z)
			})
			d.headGradients(dx, dw, c, weightOf(w, x.DType))
		})
	})
}

func (d *Device) headGradients(dx, dw *op.Tensor, c chunk, w matrix) {
	tokens := len(c.tokens)
	if dx != nil {
		into := of(dx)
		d.product(product{m: tokens, n: dx.Cols, k: c.logits.cols, a: c.logits, b: w.across(), t: c.logits.t, store: func(s *scratch, i, j int, v []float32) {
			at := c.tokens[i]*dx.Cols + j
			into.part(at, at+len(v)).add(d.kernel, v, s.floats(slotX, len(v)))
		}})
	}
	if dw != nil {
		d.gradientOfWeight(of(dw).full, c.logits, c.x, tokens)
	}
}

// chunk is some tokens whose labels count, their rows of x, and their logits.
type chunk struct {
	tokens []int
	x      matrix
	logits matrix
}

// row is row i of a dense matrix.
func (x matrix) row(i int) values { return x.dense.part(i*x.cols, (i+1)*x.cols) }

// eachLogits computes the rounded logits of as many counted tokens as may exist at a time, and hands them on.
func (d *Device) eachLogits(x *op.Tensor, w op.Weight, labels *op.Ints, f func(c chunk)) error {
	vocab, t := w.Out(), x.DType
	if err := op.CheckIndices(labels.Name, ints(labels), vocab, "label", true); err != nil {
		return err
	}
	var counted []int
	for i, l := range ints(labels) {
		if l != op.IgnoredLabel {
			counted = append(counted, i)
		}
	}
	most := mostLogits(vocab, t)
	for len(counted) > 0 {
		n := min(most, len(counted))
		c := chunk{tokens: counted[:n]}
		counted = counted[n:]
		c.x = d.gathered(x, c.tokens)
		c.logits = matrix{dense: d.shared.values(slotZ, t, n*vocab), cols: vocab, t: t}
		d.product(product{m: n, n: vocab, k: x.Cols, a: c.x, b: weightOf(w, t), t: t, store: c.logits.dense.rows(d.kernel, vocab)})
		f(c)
	}
	return nil
}

// mostLogits is of how many tokens logits exist at a time.
func mostLogits(vocab int, t num.DType) int { return max(keptLogits/(vocab*t.Size()), 1) }

// forLogits is what eachLogits takes, whether the tokens whose labels count follow each other or are gathered, and each row of logits.
func (d *Device) forLogits(x *op.Tensor, w op.Weight, labels *op.Ints) workspace {
	vocab, t := w.Out(), x.DType
	var need workspace
	for _, n := range chunksOf(labels, w, x) {
		chunk := d.forProduct(n, vocab, x.Cols, blocksize(w))
		chunk.shared[slotZ], chunk.shared[slotV] = inFloats(t, n*vocab), inFloats(t, n*x.Cols)
		need = need.and(chunk)
	}
	need.each[slotX] = max(need.each[slotX], vocab)
	return need
}

func (d *Device) forHeadLossBackward(dx, dw, x *op.Tensor, w op.Weight, labels *op.Ints) workspace {
	need := d.forLogits(x, w, labels)
	for _, n := range chunksOf(labels, w, x) {
		if dx != nil {
			need = need.and(d.forProduct(n, x.Cols, w.Out(), blocksize(w)))
		}
		if dw != nil {
			need = need.and(d.forProduct(w.Out(), x.Cols, n, 0))
		}
	}
	return need
}

// chunksOf is how many tokens a chunk has: all but the last, and that. Either can take more than the other, for a product of fewer rows packs
// more of each.
func chunksOf(labels *op.Ints, w op.Weight, x *op.Tensor) []int {
	counted, most := 0, mostLogits(w.Out(), x.DType)
	for _, l := range ints(labels) {
		if l != op.IgnoredLabel {
			counted++
		}
	}
	return []int{min(counted, most), counted % most}
}

// gathered is the rows of x of some tokens: x's own memory if they follow each other.
func (d *Device) gathered(x *op.Tensor, tokens []int) matrix {
	n, first := len(tokens), tokens[0]
	if tokens[n-1]-first == n-1 {
		return matrixOf(x.View(first, first+n))
	}
	y := matrix{dense: d.shared.values(slotV, x.DType, n*x.Cols), cols: x.Cols, t: x.DType}
	for i, token := range tokens {
		from := of(x.View(token, token+1))
		copy(y.row(i).full, from.full)
		copy(y.row(i).half, from.half)
	}
	return y
}
