package conformance

import (
	"math"

	"qlora/ref/num"
)

// kind is a kind of floating-point data, with the reason for which it is chosen.
type kind struct {
	reason string
	values func(r *random, n int, t DType) []float32
}

// ordinary is what most cases are made of, finite is every finite kind of data, and everything is that and NaN and infinities.
var (
	ordinary   = kind{"random", func(r *random, n int, t DType) []float32 { return r.normal(n, 1) }}
	finite     = []kind{ordinary, {"signed-zero", signedZeros}, {"subnormal", subnormals}, {"near-overflow", nearOverflow}, {"any-bits", anyBits}}
	everything = append(finite[:len(finite):len(finite)], kind{"nan-inf", nansAndInfinities})
)

func signedZeros(r *random, n int, t DType) []float32 {
	x := r.normal(n, 1)
	for i := range x {
		switch r.below(3) {
		case 0:
			x[i] = 0
		case 1:
			x[i] = float32(math.Copysign(0, -1))
		}
	}
	return x
}

// subnormals are normally distributed around the smallest normal number of t.
func subnormals(r *random, n int, t DType) []float32 {
	if t == F16 {
		return r.normal(n, 0x1p-15)
	}
	return r.normal(n, 0x1p-127)
}

// nearOverflow is between a quarter and all of t's largest number.
func nearOverflow(r *random, n int, t DType) []float32 {
	top := float32(0x1.fep127)
	if t == F16 {
		top = 65504
	}
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(top * float32(0.25+float32(float32(r.below(1<<20))*0x1.8p-21)))
		if r.below(2) == 1 {
			x[i] = -x[i]
		}
	}
	return x
}

func anyBits(r *random, n int, t DType) []float32 {
	if t == F32 {
		return r.bits(n)
	}
	x := make([]float32, n)
	for i := range x {
		for {
			if x[i] = widened(uint16(r.below(1<<16)), t); x[i]-x[i] == 0 {
				break
			}
		}
	}
	return x
}

// widened is the value of 16 bits of t.
func widened(bits uint16, t DType) float32 {
	if t == BF16 {
		return num.FromBFloat16(bits)
	}
	return num.FromFloat16(bits)
}

func nansAndInfinities(r *random, n int, t DType) []float32 {
	x := r.normal(n, 1)
	for i := range x {
		if k := r.below(6); k < 3 {
			x[i] = float32([]float64{math.NaN(), math.Inf(1), math.Inf(-1)}[k])
		}
	}
	return x
}

// integers are whole numbers from −top to top.
func (r *random) integers(n, top int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.below(2*top+1) - top)
	}
	return x
}

// indices are from 0 to below.
func (r *random) indices(n, below int) []int32 {
	x := make([]int32, n)
	for i := range x {
		x[i] = int32(r.below(below))
	}
	return x
}
