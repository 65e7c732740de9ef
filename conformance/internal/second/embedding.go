package second

import (
	"fmt"

	"qlora/ref/num"
	"qlora/ref/op"
)

func (d *Device) Embedding(at op.At, y, table *op.Tensor, ids *op.Ints) {
	shaped(at, ids.Len, table.Cols, y)
	d.do(at, func() error {
		if err := within(ids, table.Rows, "token id"); err != nil {
			return err
		}
		to, from := of(y), of(table)
		d.each(table.Cols, func(c int) {
			for i, id := range ints(ids) {
				to.put(i*y.Cols+c, from.at(int(id)*y.Cols+c))
			}
		})
		return nil
	})
}

func (d *Device) EmbeddingBackward(at op.At, dtable, dy *op.Tensor, ids *op.Ints) {
	shaped(at, ids.Len, dtable.Cols, dy)
	full(at, dtable)
	d.do(at, func() error {
		if err := within(ids, dtable.Rows, "token id"); err != nil {
			return err
		}
		to, g := of(dtable), of(dy)
		d.each(dy.Cols, func(c int) {
			for i, id := range ints(ids) {
				to.add(int(id)*dy.Cols+c, g.at(i*dy.Cols+c))
			}
		})
		return nil
	})
}

// within is an error that names the first index that a table of so many rows has not, save those that are excepted.
func within(x *op.Ints, rows int, what string, excepted ...int32) error {
	for i, v := range ints(x) {
		if (v < 0 || int(v) >= rows) && !(len(excepted) > 0 && v == excepted[0]) {
			return fmt.Errorf("%s: %s %d at %d: there are %d", x.Name, what, v, i, rows)
		}
	}
	return nil
}

func (d *Device) CacheAppend(at op.At, cache, x *op.Tensor, position *op.Ints) {
	shaped(at, x.Rows, cache.Cols, x)
	d.do(at, func() error {
		first := int(ints(position)[0])
		if first < 0 || first > cache.Rows-x.Rows {
			return fmt.Errorf("%s has %d rows: %d rows at %d do not fit", cache.Name, cache.Rows, x.Rows, first)
		}
		d.store(cache.View(first, first+x.Rows), d.widen(x, num.Float32))
		return nil
	})
}
