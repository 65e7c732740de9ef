package second

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

func (d *Device) RMSNorm(at op.At, y, r, x, w *op.Tensor, eps float32) {
	normShapes(at, y, r, x, w)
	d.do(at, func() error {
		to, roots, from, weights, n := of(y), of(r), of(x), of(w), w.Cols
		d.each(r.Len(), func(part int) {
			squares := make([]float32, n)
			for c := range squares {
				v := from.at(part*n + c)
				squares[c] = float32(v * v)
			}
			root := num.Rsqrt(sum(squares)/float32(n) + eps)
			for c := range n {
				i := part*n + c
				to.put(i, float32(weights.at(c)*y.DType.Round(float32(from.at(i)*root))))
			}
			roots.put(part, root)
		})
		return nil
	})
}

// normShapes: a row of x is parts of w's length, r has a number for each.
func normShapes(at op.At, y, r, x, w *op.Tensor) {
	shaped(at, 1, w.Cols, w)
	want(x.Cols%w.Cols == 0, "%v: rows of %d values are no parts of %d", at, x.Cols, w.Cols)
	shaped(at, x.Rows, x.Cols, y)
	shaped(at, x.Rows, x.Cols/w.Cols, r)
	full(at, r)
}

func (d *Device) RMSNormBackward(at op.At, dx, dw, dy, x, w, r *op.Tensor) {
	normShapes(at, dx, r, x, w)
	shaped(at, x.Rows, x.Cols, dy)
	shaped(at, 1, w.Cols, dw)
	full(at, dw)
	d.do(at, func() error {
		if dx != nil {
			d.normInput(dx, dy, x, w, r)
		}
		if dw != nil {
			d.normWeight(dw, dy, x, r)
		}
		return nil
	})
}

// normInput adds r·(g − n·Sum(g·n)/d) to dx, with n = x·r and g = dy·w.
func (d *Device) normInput(dx, dy, x, w, r *op.Tensor) {
	to, dys, from, weights, roots, n := of(dx), of(dy), of(x), of(w), of(r), w.Cols
	d.each(r.Len(), func(part int) {
		root := roots.at(part)
		g, normed, both := make([]float32, n), make([]float32, n), make([]float32, n)
		for c := range n {
			i := part*n + c
			g[c], normed[c] = float32(dys.at(i)*weights.at(c)), float32(from.at(i)*root)
			both[c] = float32(g[c] * normed[c])
		}
		mean := sum(both) / float32(n)
		for c := range n {
			to.add(part*n+c, float32(root*(g[c]-float32(normed[c]*mean))))
		}
	})
}

// normWeight adds dy·round(n) to dw, the parts in their order.
func (d *Device) normWeight(dw, dy, x, r *op.Tensor) {
	to, dys, from, roots, n := of(dw), of(dy), of(x), of(r), dw.Cols
	d.each(n, func(c int) {
		for part := range r.Len() {
			i := part*n + c
			to.add(c, float32(dys.at(i)*x.DType.Round(float32(from.at(i)*roots.at(part)))))
		}
	})
}
