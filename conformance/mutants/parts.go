package mutants

import (
	"slices"
	"strconv"

	"qlora/conformance"
	"qlora/ref/checkpoint"
	"qlora/ref/num"
)

// Names that every mutant needs.
type (
	Case    = conformance.Case
	Param   = conformance.Param
	Tensor  = conformance.Tensor
	Tensors = conformance.Tensors
	Func    = conformance.Func
)

const f32, bf16 = conformance.F32, conformance.BF16

// compute is a case's compute type.
func compute(c *Case) num.DType { return numType(c.DType) }

func numType(t conformance.DType) num.DType { return checkpoint.DTypes[string(t)] }

func seedOf(c *Case) uint64 {
	seed, err := strconv.ParseUint(c.Param("seed"), 10, 64)
	if err != nil {
		panic(err)
	}
	return seed
}

func number(c *Case, name string) float64 {
	x, err := strconv.ParseFloat(c.Param(name), 64)
	if err != nil {
		panic(err)
	}
	return x
}

// reference is the right answer.
func reference(operation string, c *Case, in Tensors) (Tensors, error) {
	o, err := conformance.Lookup(operation)
	if err != nil {
		panic(err)
	}
	return o.Reference(c, in)
}

// asked is the reference, asked another question.
func asked(operation string, change func(c *Case, in Tensors)) Func {
	return func(c *Case, in Tensors) (Tensors, error) {
		other, changed := *c, copied(in)
		other.Params = slices.Clone(c.Params)
		change(&other, changed)
		return reference(operation, &other, changed)
	}
}

// spoiled is the reference, and then a change of its answer.
func spoiled(operation string, change func(c *Case, in, out Tensors)) Func {
	return func(c *Case, in Tensors) (Tensors, error) {
		out, err := reference(operation, c, in)
		if err != nil {
			return nil, err
		}
		out = copied(out) // for some outputs are inputs
		change(c, in, out)
		return out, nil
	}
}

// set gives a case's parameter another value.
func set(c *Case, p Param) {
	for i := range c.Params {
		if c.Params[i].Name == p.Name {
			c.Params[i] = p
		}
	}
}

// unset takes a flag away.
func unset(c *Case, name string) {
	c.Params = slices.DeleteFunc(c.Params, func(p Param) bool { return p.Name == name })
}

func copied(in Tensors) Tensors {
	out := Tensors{}
	for name, t := range in {
		out[name] = copyOf(t)
	}
	return out
}

func copyOf(t Tensor) Tensor {
	t.F, t.I, t.B = slices.Clone(t.F), slices.Clone(t.I), slices.Clone(t.B)
	return t
}

// only are copies of those of the named inputs that there are: gradients, to which an operation adds.
func only(in Tensors, names ...string) Tensors {
	out := Tensors{}
	for _, name := range names {
		if t, ok := in[name]; ok {
			out[name] = copyOf(t)
		}
	}
	return out
}

// row is row i of a matrix of cols columns.
func row[T any](x []T, i, cols int) []T { return x[i*cols : (i+1)*cols] }

// rounded is a copy, rounded to t.
func rounded(x []float32, t num.DType) []float32 {
	y := slices.Clone(x)
	t.RoundAll(y)
	return y
}

func abs(x float32) float32 {
	if x < 0 {
		return -x
	}
	return x
}

// plainSum adds one after the other.
func plainSum(x []float32) (s float32) {
	for _, v := range x {
		s += v
	}
	return s
}

// wideSum adds in float64 and rounds once.
func wideSum(x []float32) float32 {
	var s float64
	for _, v := range x {
		s += float64(v)
	}
	return float32(s)
}
