package num

import (
	"fmt"
	"math"

	"github.com/x448/float16"
)

// DType names how a number is stored. Arithmetic is always float32: a value is widened when it is read and rounded once
// when it is stored.
type DType uint8

const (
	Float32 DType = iota
	BFloat16
	Float16
)

var dtypeNames = [...]string{Float32: "float32", BFloat16: "bfloat16", Float16: "float16"}

// String gives PyTorch's name for t.
func (t DType) String() string { return dtypeNames[t] }

// ParseDType is the inverse of String.
func ParseDType(name string) (DType, error) {
	for t, n := range dtypeNames {
		if n == name {
			return DType(t), nil
		}
	}
	return 0, fmt.Errorf("unknown number format %q: want float32, bfloat16 or float16", name)
}

// Size is the number of bytes of one stored value.
func (t DType) Size() int {
	if t == Float32 {
		return 4
	}
	return 2
}

// Round is the float32 that a store to t followed by a load gives: nearest, ties to even. A value too large for t becomes
// an infinity.
func (t DType) Round(x float32) float32 {
	switch t {
	case BFloat16:
		return FromBFloat16(ToBFloat16(x))
	case Float16:
		return FromFloat16(ToFloat16(x))
	}
	return x
}

// RoundAll rounds every element in place.
func (t DType) RoundAll(x []float32) {
	switch t {
	case BFloat16:
		for i, v := range x {
			x[i] = FromBFloat16(ToBFloat16(v))
		}
	case Float16:
		for i, v := range x {
			x[i] = FromFloat16(ToFloat16(v))
		}
	}
}

// ToBFloat16 rounds x to the upper half of its bits, to nearest, ties to even. A NaN stays a NaN (quieted).
func ToBFloat16(x float32) uint16 {
	b := math.Float32bits(x)
	if x == x {
		b += 0x7fff + b>>16&1
	} else {
		b |= 1 << 22
	}
	return uint16(b >> 16)
}

// FromBFloat16 widens b, exactly.
func FromBFloat16(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }

// ToFloat16 rounds x to IEEE 754 binary16, to nearest, ties to even. A NaN stays a NaN (quieted).
func ToFloat16(x float32) uint16 { return float16.Fromfloat32(x).Bits() }

// FromFloat16 widens h, exactly.
func FromFloat16(h uint16) float32 { return float16.Frombits(h).Float32() }
