package cpu

import "qlora/ref/op"

// Add: y = round(a + b).
func (d *Device) Add(at op.At, y, a, b *op.Tensor) {
	op.CheckAdd(at, y, a, b)
	d.do(at, func() error {
		vy, va, vb := of(y), of(a), of(b)
		d.elements(y.Len(), func(w *scratch, i, j int) {
			n := j - i
			sum := w.floats(slotX, n)
			d.kernel.Add(sum, va.part(i, j).at(d.kernel, sum), vb.part(i, j).at(d.kernel, w.floats(slotY, n)))
			vy.part(i, j).put(d.kernel, sum)
		})
		return nil
	})
}
