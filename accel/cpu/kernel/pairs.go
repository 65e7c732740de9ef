package kernel

import (
	"math"

	"qlora/ref/num"
)

// DotPair is what VDPBF16PS does in each lane, as Intel defines it: c + a's high half · b's, then + a's low half · b's, bfloat16, each in
// one rounding to nearest. Operands and results below 2^-126 are zeros of their sign, whatever the thread's rounding mode says.
func DotPair(c float32, a, b uint32) float32 {
	c = multiplyAddFlushed(num.FromBFloat16(uint16(a>>16)), num.FromBFloat16(uint16(b>>16)), flushed(c))
	return multiplyAddFlushed(num.FromBFloat16(uint16(a)), num.FromBFloat16(uint16(b)), c)
}

// multiplyAddFlushed: the product is exact in float64; the sum is rounded to odd there, so that rounding it again to float32 is as if it had
// been rounded once (Boldo and Melquiond, 2008).
func multiplyAddFlushed(x, y, c float32) float32 {
	product := float64(float64(flushed(x)) * float64(flushed(y)))
	sum := product + float64(c)
	back := sum - product
	if lost := (product - (sum - back)) + (float64(c) - back); lost != 0 && lost == lost && math.Float64bits(sum)&1 == 0 {
		sum = math.Nextafter(sum, math.Copysign(math.Inf(1), lost))
	}
	if r := float32(sum * 0x1p64); r < 0x1p-62 && r > -0x1p-62 { // tiny after rounding to 24 bits
		return float32(math.Copysign(0, sum))
	}
	return float32(sum)
}

func flushed(x float32) float32 {
	if x < 0x1p-126 && x > -0x1p-126 {
		return float32(math.Copysign(0, float64(x)))
	}
	return x
}

func interleave(dst []uint32, a, b []uint16) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = uint32(a[i]) | uint32(b[i])<<16
	}
}
