package num

import "math"

// What follows runs on the host alone: its results are uploaded as tables and scalars, and no device computes them.

// halfPi is π/2 in four parts: an integer below 2^20 times any of the first three is exact.
var halfPi = [4]float64{0x1.921fb544p+0, 0x1.0b4611a6p-34, 0x1.3198a2ep-69, 0x1.b839a252049c1p-104}

// SinCos gives the correctly rounded sine and cosine of an angle in radians, |angle| < 2^18; beyond, and for NaN, both are
// NaN.
func SinCos(angle float32) (sin, cos float32) {
	if !(angle > -1<<18 && angle < 1<<18) {
		return float32(math.NaN()), float32(math.NaN())
	}
	quarter, r := reduce(float64(angle))
	s, c := sinCosSeries(r)
	switch quarter & 3 {
	case 1:
		s, c = c, s.neg()
	case 2:
		s, c = s.neg(), c.neg()
	case 3:
		s, c = c.neg(), s
	}
	if angle == 0 {
		return angle, 1
	}
	return flush(s.round()), flush(c.round())
}

// reduce splits x into quarter·π/2 + r, |r| ≤ π/4.
func reduce(x float64) (quarter int, r dd) {
	quarter = nearest(float64(x * (2 / math.Pi)))
	r = dd{x, 0}
	for _, part := range halfPi {
		r = r.add(dd{-float64(quarter), 0}.mul(dd{part, 0}))
	}
	return quarter, r
}

// sinCosSeries sums Taylor's series to r^28, past 2^-100.
func sinCosSeries(r dd) (sin, cos dd) {
	term := dd1
	for n := 1; n <= 28; n++ {
		switch n % 4 {
		case 1:
			cos = cos.add(term)
		case 2:
			sin = sin.add(term)
		case 3:
			cos = cos.add(term.neg())
		case 0:
			sin = sin.add(term.neg())
		}
		term = term.mul(r).div(dd{float64(n), 0})
	}
	return sin, cos
}

// RoPEInvFreq gives the dim/2 frequencies of rotary embeddings as Hugging Face computes them in float32:
// round(1/round(base^x)), x = round(2i/dim).
func RoPEInvFreq(base float64, dim int) []float32 {
	f := make([]float32, dim/2)
	for i := range f {
		f[i] = 1 / Pow(base, float64(float32(2*i)/float32(dim)))
	}
	return f
}

// Pow is the correctly rounded x^y of a positive normal x whose power is well within float32's range.
func Pow(x, y float64) float32 {
	return expDD(logDD(x, wideLog(x)).mul(dd{y, 0})).round()
}

// wideLog is ln x for any positive normal float64 to about 2^-40, the start for logDD.
func wideLog(x float64) float64 {
	bits := math.Float64bits(x)
	e := int(bits>>52) - 1023
	return float64(float64(e)*ln2[0]) + log64(math.Float64frombits(bits&(1<<52-1)|1023<<52))
}

// RoPEAngle is the float32 angle that defines a position's rotation: round(float32(position)·invFreq).
func RoPEAngle(position int, invFreq float32) float32 { return float32(float32(position) * invFreq) }

// PowInt is x^n for n ≥ 0 by squaring and multiplying, the bits of n from the lowest up.
func PowInt(x float64, n int) float64 {
	y := 1.0
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			y = float64(y * x)
		}
		x = float64(x * x)
	}
	return y
}
