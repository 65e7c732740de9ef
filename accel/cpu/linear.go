package cpu

import (
	"qlora/ref/op"
	"qlora/ref/quant"
)

// Linear is one product; the bias joins each row before it is rounded.
func (d *Device) Linear(at op.At, y, x *op.Tensor, w op.Weight, bias *op.Tensor) {
	op.CheckLinear(at, y, x, w, bias)
	d.within(at, func() workspace { return d.forLinear(x, w, bias) }, func() error {
		d.linear(y, matrixOf(x), weightOf(w, x.DType), bias, false)
		return nil
	})
}

func (d *Device) forLinear(x *op.Tensor, w op.Weight, bias *op.Tensor) workspace {
	need := d.forProduct(x.Rows, w.Out(), w.In(), blocksize(w))
	if bias != nil {
		need.shared[slotX] = bias.Cols
	}
	return need
}

// blocksize is that of a 4-bit weight, 0 of another.
func blocksize(w op.Weight) int {
	if w.Quantized == nil {
		return 0
	}
	return w.Quantized.Handle.(*quant.Tensor).Blocksize
}

// linear: y = round(x·Wᵀ + bias). again says that x is that of the product before.
func (d *Device) linear(y *op.Tensor, x, w matrix, bias *op.Tensor, again bool) {
	var b []float32
	if bias != nil {
		b = of(bias).at(d.kernel, d.shared.floats(slotX, bias.Cols))
	}
	out := of(y)
	d.product(product{m: y.Rows, n: y.Cols, k: x.cols, a: x, b: w, t: x.t, again: again, store: func(_ *scratch, i, j int, c []float32) {
		if b != nil {
			d.kernel.Add(c, c, b[j:j+len(c)])
		}
		at := i*y.Cols + j
		out.part(at, at+len(c)).put(d.kernel, c)
	}})
}

// LinearBackward is a product for dx, which sums over outputs, and one for dw, over tokens.
func (d *Device) LinearBackward(at op.At, dx, dw, dbias, dy, x *op.Tensor, w op.Weight) {
	op.CheckLinearBackward(at, dx, dw, dbias, dy, x, w)
	d.within(at, func() workspace { return d.forLinearBackward(dx, dw, x, w) }, func() error {
		if dx != nil {
			d.gradientOfInput(dx, matrixOf(dy), weightOf(w, x.DType))
		}
		if dw != nil {
			d.gradientOfWeight(of(dw).full, matrixOf(dy), matrixOf(x), dy.Rows)
		}
		if dbias != nil {
			d.sumOfRows(of(dbias).full, of(dy))
		}
		return nil
	})
}

func (d *Device) forLinearBackward(dx, dw, x *op.Tensor, w op.Weight) (need workspace) {
	if dx != nil {
		need = d.forProduct(x.Rows, w.In(), w.Out(), blocksize(w))
	}
	if dw != nil {
		need = need.and(d.forProduct(w.Out(), w.In(), x.Rows, 0))
	}
	return need
}

// gradientOfInput: dx = round(dx + round(dy·W)).
func (d *Device) gradientOfInput(dx *op.Tensor, dy, w matrix) {
	into := of(dx)
	d.product(product{m: dx.Rows, n: dx.Cols, k: dy.cols, a: dy, b: w.across(), t: dy.t, store: func(w *scratch, i, j int, c []float32) {
		at := i*dx.Cols + j
		into.part(at, at+len(c)).add(d.kernel, c, w.floats(slotX, len(c)))
	}})
}

// gradientOfWeight: dw += dyᵀ·x, tokens ascending.
func (d *Device) gradientOfWeight(dw []float32, dy, x matrix, tokens int) {
	d.product(product{m: dy.cols, n: x.cols, k: tokens, a: dy.across(), b: x.across(), t: dy.t, begin: dw, store: func(_ *scratch, i, j int, c []float32) {
		copy(dw[i*x.cols+j:], c)
	}})
}

// sumOfRows adds the rows of x to y, ascending.
func (d *Device) sumOfRows(y []float32, x values) {
	d.elements(len(y), func(w *scratch, from, to int) {
		buffer := w.floats(slotX, to-from)
		for at := 0; at < x.len(); at += len(y) {
			d.kernel.Add(y[from:to], y[from:to], x.part(at+from, at+to).at(d.kernel, buffer))
		}
	})
}
