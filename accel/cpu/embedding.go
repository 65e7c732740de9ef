package cpu

import "qlora/ref/op"

// Embedding copies row ids[i] of the table to row i of y, rounded to y's type.
func (d *Device) Embedding(at op.At, y, table *op.Tensor, ids *op.Ints) {
	op.CheckEmbedding(at, y, table, ids)
	d.within(at, func() workspace { return ofRows(y.Cols) }, func() error {
		if err := op.CheckIndices(ids.Name, ints(ids), table.Rows, "token id", false); err != nil {
			return err
		}
		to, from := of(y), of(table)
		d.rows(y.Rows, y.Cols, func(w *scratch, first, last int) {
			for i := first; i < last; i++ {
				id := int(ints(ids)[i])
				row := from.part(id*y.Cols, (id+1)*y.Cols).at(d.kernel, w.floats(slotX, y.Cols))
				to.part(i*y.Cols, (i+1)*y.Cols).put(d.kernel, row)
			}
		})
		return nil
	})
}

// EmbeddingBackward adds row i of dy to row ids[i] of dtable, tokens ascending: threads take columns.
func (d *Device) EmbeddingBackward(at op.At, dtable, dy *op.Tensor, ids *op.Ints) {
	op.CheckEmbeddingBackward(at, dtable, dy, ids)
	d.do(at, func() error {
		if err := op.CheckIndices(ids.Name, ints(ids), dtable.Rows, "token id", false); err != nil {
			return err
		}
		to, from, cols := of(dtable).full, of(dy), dy.Cols
		d.spread(cols, 256, dy.Len(), func(w *scratch, j, end int) {
			for i, id := range ints(ids) {
				row := to[int(id)*cols+j : int(id)*cols+end]
				d.kernel.Add(row, row, from.part(i*cols+j, i*cols+end).at(d.kernel, w.floats(slotX, end-j)))
			}
		})
		return nil
	})
}
