package cpu

import (
	"qlora/ref/op"
	"qlora/ref/optim"
)

// Lion goes once through the memory of p, m and g.
func (d *Device) Lion(at op.At, p, m, g, scalars, norm *op.Tensor) {
	op.CheckLion(at, p, m, g)
	d.paged(at, func() {
		s := of(scalars).full
		clip := optim.Clip(s, of(norm).full[0])
		d.elements(p.Len(), func(_ *scratch, i, j int) {
			d.kernel.Lion(of(p).full[i:j], of(m).full[i:j], of(g).full[i:j], s, clip)
		})
	}, m.Handle)
}
