package cpu

import "qlora/ref/op"

// Copy: y = round(x).
func (d *Device) Copy(at op.At, y, x *op.Tensor) {
	op.CheckCopy(at, y, x)
	d.do(at, func() error {
		to, from := of(y), of(x)
		d.elements(x.Len(), func(_ *scratch, i, j int) { to.part(i, j).put(d.kernel, from.full[i:j]) })
		return nil
	})
}
