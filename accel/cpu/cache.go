package cpu

import "qlora/ref/op"

// CacheAppend copies x to the rows of cache that begin at position[0].
func (d *Device) CacheAppend(at op.At, cache, x *op.Tensor, position *op.Ints) {
	op.CheckCacheAppend(at, cache, x)
	d.do(at, func() error {
		first := int(ints(position)[0])
		if err := op.CheckRoom(cache, first, x.Rows); err != nil {
			return err
		}
		to := of(cache.View(first, first+x.Rows))
		d.elements(x.Len(), func(w *scratch, i, j int) {
			to.part(i, j).put(d.kernel, of(x).part(i, j).at(d.kernel, w.floats(slotX, j-i)))
		})
		return nil
	})
}
