package conformance

import (
	"fmt"
	"hash/fnv"
	"math"

	"qlora/ref/num"
)

// Tensor is an input or an output of a case, row-major. F holds floating-point values, which DType holds exactly; I holds
// int32; B holds uint8.
type Tensor struct {
	DType DType
	Shape []int
	F     []float32
	I     []int32
	B     []byte
}

// DType is a type by its name in safetensors.
type DType string

// The types of tensors.
const (
	F32  DType = "F32"
	BF16 DType = "BF16"
	F16  DType = "F16"
	I32  DType = "I32"
	U8   DType = "U8"
)

// floats are the types of floating-point tensors, with the short names that stand in the names of cases.
var floats = map[DType]struct {
	num   num.DType
	short string
}{F32: {num.Float32, "f32"}, BF16: {num.BFloat16, "bf16"}, F16: {num.Float16, "f16"}}

// Tensors are inputs or outputs by their names.
type Tensors map[string]Tensor

// Floats is a tensor of floating-point values, rounded to t.
func Floats(t DType, x []float32, shape ...int) Tensor {
	rounded := make([]float32, len(x))
	copy(rounded, x)
	floats[t].num.RoundAll(rounded)
	return shaped(Tensor{DType: t, Shape: shape, F: rounded}, len(x))
}

// Ints is a tensor of int32.
func Ints(x []int32, shape ...int) Tensor {
	return shaped(Tensor{DType: I32, Shape: shape, I: x}, len(x))
}

// Bytes is a tensor of uint8.
func Bytes(x []byte, shape ...int) Tensor {
	return shaped(Tensor{DType: U8, Shape: shape, B: x}, len(x))
}

// shaped makes a vector of what has no shape.
func shaped(t Tensor, n int) Tensor {
	if len(t.Shape) == 0 {
		t.Shape = []int{n}
	}
	if t.Len() != n {
		panic(fmt.Sprintf("conformance: shape %v does not hold %d values", t.Shape, n))
	}
	return t
}

// Len is the number of elements.
func (t Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Rows and Cols see the tensor as a matrix: the last dimension is the columns.
func (t Tensor) Rows() int { return t.Len() / max(1, t.Cols()) }

// Cols is the last dimension.
func (t Tensor) Cols() int { return t.Shape[len(t.Shape)-1] }

// whole says why a tensor, which may be anybody's, does not hold the values that its type and shape promise.
func (t Tensor) whole() error {
	n, held := t.Len(), map[DType]int{U8: len(t.B), I32: len(t.I)}
	for d := range floats {
		held[d] = len(t.F)
	}
	if all := len(t.F) + len(t.I) + len(t.B); n < 0 || held[t.DType] != n || all != n {
		return fmt.Errorf("%s %v holds %d floats, %d int32 and %d bytes", t.DType, t.Shape, len(t.F), len(t.I), len(t.B))
	}
	return nil
}

// clone is a copy that shares nothing.
func (t Tensor) clone() Tensor {
	t.F, t.I, t.B = append([]float32(nil), t.F...), append([]int32(nil), t.I...), append([]byte(nil), t.B...)
	return t
}

func (ts Tensors) clone() Tensors {
	c := Tensors{}
	for name, t := range ts {
		c[name] = t.clone()
	}
	return c
}

// oneNaN makes every NaN the same, whose signs and payloads depend on the machine.
func (ts Tensors) oneNaN() Tensors {
	ts = ts.clone()
	for _, t := range ts {
		for i, v := range t.F {
			if v != v {
				t.F[i] = math.Float32frombits(0x7fc00000)
			}
		}
	}
	return ts
}

// bits is element i as an integer; every NaN is the same, for payloads are not significant.
func (t Tensor) bits(i int) uint32 {
	switch {
	case t.F != nil && t.F[i] != t.F[i]:
		return 0x7fc00000
	case t.F != nil:
		return math.Float32bits(t.F[i])
	case t.I != nil:
		return uint32(t.I[i])
	}
	return uint32(t.B[i])
}

// text shows element i, floating-point values in hexadecimal too, so that no bit is hidden.
func (t Tensor) text(i int) string {
	switch {
	case t.F != nil:
		return fmt.Sprintf("%v (%#08x)", t.F[i], math.Float32bits(t.F[i]))
	case t.I != nil:
		return fmt.Sprint(t.I[i])
	}
	return fmt.Sprintf("%#02x", t.B[i])
}

// random gives numbers of the specification's generator. Each case draws from its own, keyed by its name.
type random struct {
	seed uint64
	n    uint64
}

func newRandom(name string) *random {
	h := fnv.New64a()
	h.Write([]byte(name))
	return &random{seed: h.Sum64()}
}

func (r *random) next() num.Counter {
	r.n++
	return num.Counter{Purpose: num.Purpose("conformance"), Element: r.n - 1}
}

// Normal is n values of a normal distribution of deviation scale.
func (r *random) normal(n int, scale float32) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(num.Normal(r.seed, r.next()) * scale)
	}
	return x
}

// below is an integer from 0 to n−1.
func (r *random) below(n int) int {
	return int(uint64(num.Bits(r.seed, r.next())) * uint64(n) >> 32)
}

// bits is n float32 of random bits, all finite.
func (r *random) bits(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		for {
			x[i] = math.Float32frombits(num.Bits(r.seed, r.next()))
			if !math.IsNaN(float64(x[i])) && !math.IsInf(float64(x[i]), 0) {
				break
			}
		}
	}
	return x
}
