package second

import "qlora/ref/op"

func (d *Device) Linear(at op.At, y, x *op.Tensor, w op.Weight, bias *op.Tensor) {
	linearShapes(at, y, x, w, bias)
	d.do(at, func() error {
		d.linear(y, x, w, bias)
		return nil
	})
}

func linearShapes(at op.At, y, x *op.Tensor, w op.Weight, bias *op.Tensor) {
	shaped(at, x.Rows, w.In(), x)
	shaped(at, x.Rows, w.Out(), y)
	shaped(at, 1, w.Out(), bias)
}

// linear sets y = round(x·Wᵀ + bias).
func (d *Device) linear(y, x *op.Tensor, w op.Weight, bias *op.Tensor) {
	sums := d.rowsByRows(d.widen(x, x.DType), d.weight(w, x.DType))
	if b := of(bias); bias != nil {
		d.apply(sums, func(i int, s float32) float32 { return s + b.at(i%sums.cols) })
	}
	d.store(y, sums)
}

func (d *Device) LinearBackward(at op.At, dx, dw, dbias, dy, x *op.Tensor, w op.Weight) {
	linearShapes(at, dy, x, w, dbias)
	shaped(at, x.Rows, x.Cols, dx)
	shaped(at, w.Out(), w.In(), dw)
	full(at, dw, dbias)
	d.do(at, func() error {
		g := d.widen(dy, dy.DType)
		if dx != nil {
			d.add(dx, d.rowsByColumns(g, d.weight(w, x.DType)))
		}
		d.addColumnsByColumns(dw, g, d.widen(x, x.DType))
		if sums := of(dbias); dbias != nil {
			d.each(g.cols, func(j int) {
				for i := range g.rows {
					sums.add(j, g.row(i)[j])
				}
			})
		}
		return nil
	})
}
