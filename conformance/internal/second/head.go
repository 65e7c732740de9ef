package second

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

// headChunk is how many tokens' logits exist at a time.
const headChunk = 100

func (d *Device) HeadLoss(at op.At, loss, lse, x *op.Tensor, w op.Weight, labels *op.Ints) {
	headShapes(at, lse, x, w, labels)
	shaped(at, x.Rows, 1, loss)
	full(at, loss)
	d.do(at, func() error {
		if err := within(labels, w.Out(), "label", op.IgnoredLabel); err != nil {
			return err
		}
		losses, lses := of(loss), of(lse)
		clear(losses.b)
		clear(lses.b)
		d.logits(x, w, labels, func(c counted) {
			d.each(len(c.tokens), func(i int) {
				z, label := c.z.row(i), c.labels[i]
				total := logSumExp(z)
				losses.put(c.tokens[i], total-z[label])
				lses.put(c.tokens[i], total)
			})
		})
		return nil
	})
}

func headShapes(at op.At, lse, x *op.Tensor, w op.Weight, labels *op.Ints) {
	shaped(at, labels.Len, w.In(), x)
	shaped(at, x.Rows, 1, lse)
	full(at, lse)
}

// counted are some of the tokens that have a label, with their rows of x and of z = round(x·Wᵀ).
type counted struct {
	tokens, labels []int
	x, z           matrix
}

// logits hands on the tokens that have a label, in their order, a chunk at a time.
func (d *Device) logits(x *op.Tensor, w op.Weight, labels *op.Ints, f func(c counted)) {
	all, weight := d.widen(x, x.DType), d.weight(w, x.DType)
	var c counted
	flush := func() {
		c.x = zeros(len(c.tokens), all.cols)
		for i, token := range c.tokens {
			copy(c.x.row(i), all.row(token))
		}
		c.z = d.rounded(d.rowsByRows(c.x, weight), x.DType)
		f(c)
		c = counted{}
	}
	for token, label := range ints(labels) {
		if label == op.IgnoredLabel {
			continue
		}
		c.tokens, c.labels = append(c.tokens, token), append(c.labels, int(label))
		if len(c.tokens) == headChunk {
			flush()
		}
	}
	flush()
}

// logSumExp is m + log(Sum(exp(z − m))), m the largest.
func logSumExp(z []float32) float32 {
	m := z[0]
	for _, v := range z {
		m = max(m, v)
	}
	e := make([]float32, len(z))
	for j, v := range z {
		e[j] = num.Exp(v - m)
	}
	return m + num.Log(sum(e))
}

func (d *Device) HeadLossBackward(at op.At, dx, dw, lse, x *op.Tensor, w op.Weight, labels *op.Ints, g *op.Tensor) {
	headShapes(at, lse, x, w, labels)
	shaped(at, x.Rows, x.Cols, dx)
	shaped(at, w.Out(), w.In(), dw)
	shaped(at, 1, 1, g)
	full(at, dw, g)
	d.do(at, func() error {
		if err := within(labels, w.Out(), "label", op.IgnoredLabel); err != nil {
			return err
		}
		to, lses, scale, weight := of(dx), of(lse), of(g).at(0), d.turned(d.weight(w, x.DType))
		d.logits(x, w, labels, func(c counted) {
			dz := c.z
			d.each(len(c.tokens), func(i int) {
				total := lses.at(c.tokens[i])
				for j, z := range dz.row(i) {
					p := num.Exp(z - total)
					if j == c.labels[i] {
						p--
					}
					dz.row(i)[j] = x.DType.Round(float32(scale * p))
				}
			})
			if dx != nil {
				into := d.rowsByRows(dz, weight)
				d.elements(len(into.v), func(i int) { to.add(c.tokens[i/into.cols]*into.cols+i%into.cols, into.v[i]) })
			}
			d.addColumnsByColumns(dw, dz, c.x)
		})
		return nil
	})
}
