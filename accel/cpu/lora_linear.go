package cpu

import (
	"qlora/accel/cpu/kernel"
	"qlora/ref/num"
	"qlora/ref/op"
)

// branch is the type in which an adapter's branch is computed, for compute type t.
func branch(a *op.Adapter, t num.DType) num.DType {
	if a.Float32 {
		return num.Float32
	}
	return t
}

// LoRALinear is Linear and two products more (op.LoRAForward):
//
//	u = round_R(x'·round_R(A)ᵀ)
//	y = round_T(y + round_T(round_R(s·round_R(u·round_R(B)ᵀ))))
func (d *Device) LoRALinear(at op.At, y, u, x *op.Tensor, w op.Weight, bias *op.Tensor, a *op.Adapter) {
	op.CheckLoRALinear(at, y, u, x, w, bias, a)
	d.within(at, func() workspace { return d.forLoRALinear(x, w, bias, a) }, func() error {
		d.linear(y, matrixOf(x), weightOf(w, x.DType), bias, false)
		r := branch(a, x.DType)
		d.linear(u, d.dropped(at, x, a, r), rounded(a.A, r), nil, a.Dropout.P == 0 && r == x.DType)
		out := of(y)
		d.product(product{m: y.Rows, n: y.Cols, k: u.Cols, a: rounded(u, r), b: rounded(a.B, r), t: r, store: func(w *scratch, i, j int, c []float32) {
			round(d.kernel, r, c)
			d.kernel.Scale(c, c, a.Scale)
			round(d.kernel, r, c)
			at := i*y.Cols + j
			out.part(at, at+len(c)).add(d.kernel, c, w.floats(slotX, len(c)))
		}})
		return nil
	})
}

func (d *Device) forLoRALinear(x *op.Tensor, w op.Weight, bias *op.Tensor, a *op.Adapter) workspace {
	return d.forLinear(x, w, bias).and(d.forDropped(x, a)).
		and(d.forProduct(x.Rows, a.A.Rows, w.In(), 0)).
		and(d.forProduct(x.Rows, w.Out(), a.A.Rows, 0))
}

// forDropped is what dropped takes.
func (d *Device) forDropped(x *op.Tensor, a *op.Adapter) (w workspace) {
	if a.Dropout.P != 0 {
		w.shared[slotY] = inFloats(branch(a, x.DType), x.Len())
	}
	return w
}

// LoRALinearBackward adds (op.LinearBackward, op.LoRABackward)
//
//	dx += round(dy·W), then the branch's round_T(mask(dx')),  dx' = round_R(du·round_R(A))
//	dB += dvᵀ·u,   dv = round_R(s·dy)
//	dA += duᵀ·x',  du = round_R(dv·round_R(B))
func (d *Device) LoRALinearBackward(at op.At, dx, dy, u, x *op.Tensor, w op.Weight, a *op.Adapter) {
	op.CheckLoRALinearBackward(at, dx, dy, u, x, w, a)
	d.within(at, func() workspace { return d.forLoRALinearBackward(dx, dy, u, x, w, a) }, func() error {
		if dx != nil {
			d.gradientOfInput(dx, matrixOf(dy), weightOf(w, x.DType))
		}
		r := branch(a, x.DType)
		dv := matrix{dense: d.shared.values(slotV, r, dy.Len()), cols: dy.Cols, t: r}
		d.scaled(dv.dense, of(dy), a.Scale)
		if a.GradB != nil {
			d.gradientOfWeight(of(a.GradB).full, dv, rounded(u, r), x.Rows)
		}
		du := matrix{dense: d.shared.values(slotU, r, u.Len()), cols: u.Cols, t: r}
		d.product(product{m: u.Rows, n: u.Cols, k: dy.Cols, a: dv, b: rounded(a.B, r).across(), t: r, store: du.dense.rows(d.kernel, u.Cols)})
		if a.GradA != nil {
			d.gradientOfWeight(of(a.GradA).full, du, d.dropped(at, x, a, r), x.Rows)
		}
		if dx != nil {
			d.branchBackward(at, dx, du, a, r)
		}
		return nil
	})
}

func (d *Device) forLoRALinearBackward(dx, dy, u, x *op.Tensor, w op.Weight, a *op.Adapter) workspace {
	tokens, out, in, rank, r := x.Rows, w.Out(), w.In(), a.A.Rows, branch(a, x.DType)
	need := d.forLinearBackward(dx, nil, x, w).and(d.forDropped(x, a)).and(d.forProduct(tokens, rank, out, 0))
	need.shared[slotV], need.shared[slotU] = inFloats(r, dy.Len()), inFloats(r, u.Len())
	if a.GradB != nil {
		need = need.and(d.forProduct(out, rank, tokens, 0))
	}
	if a.GradA != nil {
		need = need.and(d.forProduct(rank, in, tokens, 0))
	}
	if dx != nil {
		need = need.and(d.forProduct(tokens, in, rank, 0))
	}
	return need
}

// rows stores rows of c in v, which has so many columns.
func (v values) rows(k *kernel.Set, cols int) func(w *scratch, i, j int, c []float32) {
	return func(_ *scratch, i, j int, c []float32) {
		at := i*cols + j
		v.part(at, at+len(c)).put(k, c)
	}
}

// scaled: y = round(s·x).
func (d *Device) scaled(y, x values, s float32) {
	d.elements(y.len(), func(w *scratch, from, to int) {
		z := w.floats(slotX, to-from)
		d.kernel.Scale(z, x.part(from, to).at(d.kernel, z), s)
		y.part(from, to).put(d.kernel, z)
	})
}

// branchBackward: dx = round_T(dx + round_T(mask(round_R(du·round_R(A))))).
func (d *Device) branchBackward(at op.At, dx *op.Tensor, du matrix, a *op.Adapter, r num.DType) {
	mask := d.mask(at, a.Dropout)
	into := of(dx)
	d.product(product{m: dx.Rows, n: dx.Cols, k: du.cols, a: du, b: rounded(a.A, r).across(), t: r, store: func(w *scratch, i, j int, c []float32) {
		round(d.kernel, r, c)
		at := i*dx.Cols + j
		mask.apply(c, c, dx.Cols, at, r)
		into.part(at, at+len(c)).add(d.kernel, c, w.floats(slotX, len(c)))
	}})
}

// dropped is the input of the adapter's branch, in type r.
func (d *Device) dropped(at op.At, x *op.Tensor, a *op.Adapter, r num.DType) matrix {
	if a.Dropout.P == 0 {
		return rounded(x, r)
	}
	y := matrix{dense: d.shared.values(slotY, r, x.Len()), cols: x.Cols, t: r}
	mask, from := d.mask(at, a.Dropout), of(x)
	d.elements(x.Len(), func(w *scratch, i, j int) {
		z := w.floats(slotX, j-i)
		from.part(i, j).get(d.kernel, z)
		mask.apply(z, z, x.Cols, i, r)
		y.dense.part(i, j).put(d.kernel, z)
	})
	return y
}
