package second

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

func (d *Device) LoRALinear(at op.At, y, u, x *op.Tensor, w op.Weight, bias *op.Tensor, a *op.Adapter) {
	linearShapes(at, y, x, w, bias)
	adapterShapes(at, u, x, w, a)
	adapter := *a // as it is now
	d.do(at, func() error {
		d.linear(y, x, w, bias)
		t := branch(adapter, x.DType)
		inner := d.rounded(d.rowsByRows(d.dropped(at, x, adapter), d.widen(adapter.A, t)), t)
		d.store(u, inner)
		outer := d.rowsByRows(inner, d.widen(adapter.B, t))
		d.apply(outer, func(_ int, v float32) float32 { return t.Round(float32(adapter.Scale * t.Round(v))) })
		d.add(y, outer)
		return nil
	})
}

func (d *Device) LoRALinearBackward(at op.At, dx, dy, u, x *op.Tensor, w op.Weight, a *op.Adapter) {
	linearShapes(at, dy, x, w, nil)
	adapterShapes(at, u, x, w, a)
	shaped(at, x.Rows, x.Cols, dx)
	adapter := *a
	d.do(at, func() error {
		t, dv := branch(adapter, x.DType), d.widen(dy, dy.DType)
		if dx != nil {
			d.add(dx, d.rowsByColumns(dv, d.weight(w, x.DType)))
		}
		d.apply(dv, func(_ int, g float32) float32 { return t.Round(float32(adapter.Scale * g)) })
		d.addColumnsByColumns(adapter.GradB, dv, d.widen(u, t))
		du := d.rounded(d.rowsByColumns(dv, d.widen(adapter.B, t)), t)
		d.addColumnsByColumns(adapter.GradA, du, d.dropped(at, x, adapter))
		if dx != nil {
			inner := d.rounded(d.rowsByColumns(du, d.widen(adapter.A, t)), t)
			d.apply(inner, mask(at, adapter.Dropout, x.Cols, t))
			d.add(dx, inner)
		}
		return nil
	})
}

func adapterShapes(at op.At, u, x *op.Tensor, w op.Weight, a *op.Adapter) {
	rank := a.A.Rows
	shaped(at, rank, w.In(), a.A, a.GradA)
	shaped(at, w.Out(), rank, a.B, a.GradB)
	shaped(at, x.Rows, rank, u)
	full(at, a.A, a.B, a.GradA, a.GradB)
}

// branch is the type of the adapter's branch.
func branch(a op.Adapter, t num.DType) num.DType {
	if a.Float32 {
		return num.Float32
	}
	return t
}

// dropped is the branch's input.
func (d *Device) dropped(at op.At, x *op.Tensor, a op.Adapter) matrix {
	kept := d.widen(x, x.DType)
	d.apply(kept, mask(at, a.Dropout, x.Cols, branch(a, x.DType)))
	return kept
}

func (d *Device) rounded(a matrix, t num.DType) matrix {
	d.apply(a, func(_ int, x float32) float32 { return t.Round(x) })
	return a
}
