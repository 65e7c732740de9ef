package conformance

import (
	"strings"

	"qlora/ref/op"
	"qlora/ref/quant"
)

// A linear layer's weight W [n, k] is dense, the input w, or 4-bit blocks: codes and absmax, or, where the scales are nested,
// codes, absmax (their codes), absmax2, map and offset. The parameter w says which: dense, or the 4-bit type's name with _dq
// behind it for nested scales; bs is the block size then.

const (
	dense  = "dense"
	nested = "_dq"
)

// weightInputs are the inputs that bring the values w, in type t where they are dense and quantized from float32 where not.
func weightInputs(w []float32, t DType, kind string, n, k, bs int) Tensors {
	if kind == dense {
		return Tensors{"w": Floats(t, w, n, k)}
	}
	name, double := strings.CutSuffix(kind, nested)
	book, err := quant.ParseCodebook(name)
	if err != nil {
		panic("conformance: " + err.Error())
	}
	q, err := quant.Quantize(w, []int{n, k}, quant.Options{Type: book, Blocksize: bs, DoubleQuant: double})
	if err != nil {
		panic("conformance: " + err.Error())
	}
	return quantizedInputs(q)
}

// quantizedInputs are the inputs that bring q.
func quantizedInputs(q *quant.Tensor) Tensors {
	in := Tensors{"codes": Bytes(q.Packed)}
	if q.Nested == nil {
		in["absmax"] = Floats(F32, q.Absmax)
		return in
	}
	in["absmax"], in["absmax2"] = Bytes(q.Nested.Codes), Floats(F32, q.Nested.Absmax)
	in["map"], in["offset"] = Floats(F32, q.Nested.Map[:]), Floats(F32, []float32{q.Nested.Offset})
	return in
}

// quantizedWeight is the 4-bit weight among a case's inputs; nil where it is dense.
func quantizedWeight(c *Case, in Tensors) *quant.Tensor {
	kind := c.Param("w")
	if kind == dense {
		return nil
	}
	name, double := strings.CutSuffix(kind, nested)
	book, err := quant.ParseCodebook(name)
	if err != nil {
		panic("conformance: " + err.Error())
	}
	q := &quant.Tensor{Type: book, Blocksize: c.Int("bs"), DType: floats[c.DType].num, Shape: []int{c.Int("n"), c.Int("k")}, Packed: in["codes"].B}
	if !double {
		q.Absmax = in["absmax"].F
		return q
	}
	q.Nested = nestedOf(in["absmax"].B, in)
	return q
}

// weightValues is W as products of the case's type see it: 4 bits are dequantized to it.
func weightValues(c *Case, in Tensors) ([]float32, error) {
	q := quantizedWeight(c, in)
	if q == nil {
		return in["w"].F, nil
	}
	w := make([]float32, c.Int("n")*c.Int("k"))
	return w, q.Dequantize(w, floats[c.DType].num)
}

// weight brings the case's W to the device.
func (b *Bench) weight(in Tensors) op.Weight {
	if q := quantizedWeight(b.Case, in); q != nil {
		return op.Weight{Quantized: b.Device.NewQuantized("conformance/w", q)}
	}
	return op.Weight{Dense: b.Tensor("w", in["w"])}
}

// dequantizeOnDevice gives W [out, in] in type t as a device sees it: the product of the identity and Wᵀ. Each sum has one
// product that is not zero, so the values are W's own, but for the sign of zero: a sum begins at +0. An infinity in W would
// make NaN of its row.
func dequantizeOnDevice(b *Bench, w op.Weight, t DType) Tensor {
	out, in := w.Out(), w.In()
	identity := make([]float32, in*in)
	for i := range in {
		identity[i*in+i] = 1
	}
	y := b.Result("w", t, in, out)
	b.Device.Linear(Place, y, b.Tensor("identity", Floats(t, identity, in, in)), w, nil)
	columns := b.Read(y, in, out).F
	rows := make([]float32, len(columns))
	for i := range in {
		for o := range out {
			rows[o*in+i] = columns[i*out+o]
		}
	}
	return Floats(t, rows, out, in)
}
