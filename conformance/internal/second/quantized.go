package second

import (
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// quantized is a 4-bit matrix in the device's memory.
type quantized struct {
	book      *quant.Codebook
	blocksize int
	codes     []byte // two a byte, the even element in the high nibble
	absmax    values // of each block; none where they are nested
	nested    bytes8 // 8-bit codes of them
	table     values // by 8-bit code
	offset    values
}

// bytes8 are 8-bit codes with a scale for each block.
type bytes8 struct {
	codes  []byte
	absmax values
}

// quantizedBytes are a weight's as they lie in memory: codes, scales and, of nested ones, the second scales, map and offset.
func quantizedBytes(w *quant.Tensor) []byte {
	if n := w.Nested; n != nil {
		return join(w.Packed, n.Codes, bytesOf(n.Absmax), bytesOf(n.Map[:]), bytesOf([]float32{n.Offset}))
	}
	return join(w.Packed, bytesOf(w.Absmax))
}

// newQuantized finds the parts in memory b, which has none if there was no room.
func newQuantized(w *quant.Tensor, b []byte) *quantized {
	q := &quantized{book: w.Type, blocksize: w.Blocksize}
	if b == nil {
		return q
	}
	next := func(n int) (part []byte) {
		part, b = b[:n], b[n:]
		return part
	}
	q.codes = next(len(w.Packed))
	if n := w.Nested; n != nil {
		q.nested.codes, q.nested.absmax.b = next(len(n.Codes)), next(4*len(n.Absmax))
		q.table.b, q.offset.b = next(4*len(n.Map)), next(4)
	} else {
		q.absmax.b = next(4 * len(w.Absmax))
	}
	return q
}

// scale is a block's absmax.
func (q *quantized) scale(block int) float32 {
	if q.nested.codes == nil {
		return q.absmax.at(block)
	}
	return float32(q.table.at(int(q.nested.codes[block]))*q.nested.absmax.at(block/quant.NestedBlocksize)) + q.offset.at(0)
}

// weight gives W as products of compute type t see it.
func (d *Device) weight(w op.Weight, t num.DType) matrix {
	if w.Quantized == nil {
		return d.widen(w.Dense, t)
	}
	q, a := w.Quantized.Handle.(*quantized), zeros(w.Out(), w.In())
	d.each(blocks(len(a.v), q.blocksize), func(block int) {
		scale := q.scale(block)
		for i := block * q.blocksize; i < min(len(a.v), (block+1)*q.blocksize); i++ {
			code := q.codes[i/2] >> (4 * (1 - i%2)) & 15
			a.v[i] = t.Round(float32(q.book.Values[code] * scale))
		}
	})
	return a
}
