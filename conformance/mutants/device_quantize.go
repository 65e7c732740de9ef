package mutants

import (
	"errors"
	"fmt"

	"qlora/ref/op"
	"qlora/ref/quant"
)

// Faulty devices that quantize. See device.go.

// quantizesLate copies small tensors, and of large ones keeps where they lie until the weight is used.
type quantizesLate struct {
	op.Device
	late map[*op.Quantized]func() *op.Quantized
}

func (d quantizesLate) Quantize(at op.At, name string, x *op.Tensor, o quant.Options) *op.Quantized {
	if x.Len() <= 512 {
		return d.Device.Quantize(at, name, x, o)
	}
	w := &op.Quantized{Name: name, Out: x.Rows, In: x.Cols}
	d.late[w] = func() *op.Quantized { return d.Device.Quantize(at, name, x, o) }
	return w
}

func (d quantizesLate) Linear(at op.At, y, x *op.Tensor, w op.Weight, bias *op.Tensor) {
	if f := d.late[w.Quantized]; f != nil {
		w.Quantized = f()
	}
	d.Device.Linear(at, y, x, w, bias)
}

// keepsByName quantizes a matrix of a name and a shape once.
type keepsByName struct {
	op.Device
	kept map[string]*op.Quantized
}

func (d keepsByName) Quantize(at op.At, name string, x *op.Tensor, o quant.Options) *op.Quantized {
	key := fmt.Sprint(name, x.Rows, x.Cols, o)
	if d.kept[key] == nil {
		d.kept[key] = d.Device.Quantize(at, name, x, o)
	}
	return d.kept[key]
}

// sparesNesting quantizes the scales only where it saves something.
type sparesNesting struct{ op.Device }

func (d sparesNesting) Quantize(at op.At, name string, x *op.Tensor, o quant.Options) *op.Quantized {
	o.DoubleQuant = o.DoubleQuant && x.Len() > quant.NestedBlocksize*o.Blocksize
	return d.Device.Quantize(at, name, x, o)
}

// recordsOwnType records the type that it was given the values in.
type recordsOwnType struct{ op.Device }

func (d recordsOwnType) Quantize(at op.At, name string, x *op.Tensor, o quant.Options) *op.Quantized {
	o.DType = x.DType
	return d.Device.Quantize(at, name, x, o)
}

// namesNoElement says that something is wrong, and not where.
type namesNoElement struct{ op.Device }

func (d namesNoElement) ReadQuantized(w *op.Quantized) (*quant.Tensor, error) {
	t, err := d.Device.ReadQuantized(w)
	if err != nil {
		err = errors.New("weights must be finite")
	}
	return t, err
}

// passesOverNaN looks for the largest magnitude by an instruction that gives the other operand where one is NaN.
type passesOverNaN struct{ op.Device }

func (d passesOverNaN) Quantize(at op.At, name string, x *op.Tensor, o quant.Options) *op.Quantized {
	values, err := d.Read(x)
	if err != nil {
		return d.Device.Quantize(at, name, x, o)
	}
	for i, v := range values {
		if v != v {
			values[i] = 0
		}
	}
	other := d.New(op.Step, "mutant", x.DType, x.Rows, x.Cols)
	d.Write(other, values)
	return d.Device.Quantize(at, name, other, o)
}

// addsToZeros makes a weight's values as products of it are made: by accumulators that begin at +0.
type addsToZeros struct{ op.Device }

func (d addsToZeros) Dequantize(at op.At, y *op.Tensor, w *op.Quantized) {
	d.Device.Dequantize(at, y, w)
	d.Device.Add(at, y, y, d.New(op.Step, "mutant", y.DType, y.Rows, y.Cols))
}

// hasOneMap knows one map of scales, and writes that beside weights that had another.
type hasOneMap struct{ op.Device }

func (d hasOneMap) ReadQuantized(w *op.Quantized) (*quant.Tensor, error) {
	t, err := d.Device.ReadQuantized(w)
	if err == nil && t.Nested != nil {
		other, n := *t, *t.Nested
		n.Map = quant.DynamicSigned
		other.Nested = &n
		return &other, nil
	}
	return t, err
}

var deviceQuantizeMutants = []Mutant{
	{
		Name: "quantizes late", Bug: "Large tensors are read when the weight is first used: other values lie there then.", Op: "quantize_linear",
		Device: func(d op.Device) op.Device { return quantizesLate{d, map[*op.Quantized]func() *op.Quantized{}} },
	},
	{
		Name: "keeps weights by name", Bug: "A weight of a name and a shape that were there before is taken for the same.", Op: "nf4_quantize",
		Device: func(d op.Device) op.Device { return keepsByName{d, map[string]*op.Quantized{}} },
	},
	{
		Name: "small weights not nested", Bug: "Scales that fit one block of 256 are not quantized.", Op: "nf4_dq_quantize",
		Device: func(d op.Device) op.Device { return sparesNesting{d} },
	},
	{
		Name: "type of the original lost", Bug: "The weight records the type in which its values came to the device.", Op: "fp4_quantize",
		Device: func(d op.Device) op.Device { return recordsOwnType{d} },
	},
	{
		Name: "names no element", Bug: "The error about a weight that is not finite does not say where.", Op: "int4_quantize",
		Device: func(d op.Device) op.Device { return namesNoElement{d} },
	},
	{
		Name: "NaN passed over", Bug: "The largest magnitude is that of the other elements where one is NaN: the block is quantized.",
		Seen: "bitsandbytes on CUDA: fmaxf passes over NaN", Op: "e2m1_quantize",
		Device: func(d op.Device) op.Device { return passesOverNaN{d} },
	},
	{
		Name: "dequantizes onto zeros", Bug: "Values are added to +0, as if they were products: −0 is lost.", Op: "nf4_dequantize",
		Device: func(d op.Device) op.Device { return addsToZeros{d} },
	},
	{
		Name: "map not given back", Bug: "The device's own map of scales is given back beside a weight that came with another.", Op: "fp4_dq_dequantize",
		Device: func(d op.Device) op.Device { return hasOneMap{d} },
	},
}
