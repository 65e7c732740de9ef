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

// weightKind is the type of a weight that is not dense, and whether its scales are nested.
func weightKind(kind string) (book *quant.Codebook, double bool) {
	name, double := strings.CutSuffix(kind, nested)
	book, err := quant.ParseCodebook(name)
	if err != nil {
		panic("conformance: " + err.Error())
	}
	return book, double
}

// weightInputs are the inputs that bring the values w, in type t where they are dense and quantized from float32 where not.
func weightInputs(w []float32, t DType, kind string, n, k, bs int) Tensors {
	if kind == dense {
		return Tensors{"w": Floats(t, w, n, k)}
	}
	book, double := weightKind(kind)
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
	book, double := weightKind(kind)
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
