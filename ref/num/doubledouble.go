package num

import "math"

// dd is an unevaluated sum of two float64, |lo| ≤ ulp(hi)/2: about 106 bits. The elementary functions decide with it the few
// inputs whose float64 result is too near a rounding boundary of float32 (Dekker, 1971; Knuth, TAOCP 4.2.2).
type dd struct{ hi, lo float64 }

// twoSum is a + b without error.
func twoSum(a, b float64) dd {
	s := a + b
	t := s - a
	return dd{s, (a - (s - t)) + (b - t)}
}

func (x dd) add(y dd) dd {
	s, t := twoSum(x.hi, y.hi), twoSum(x.lo, y.lo)
	s = twoSum(s.hi, s.lo+t.hi)
	return twoSum(s.hi, s.lo+t.lo)
}

func (x dd) neg() dd { return dd{-x.hi, -x.lo} }

func (x dd) mul(y dd) dd {
	p := float64(x.hi * y.hi)
	e := math.FMA(x.hi, y.hi, -p)
	return twoSum(p, e+(float64(x.hi*y.lo)+float64(x.lo*y.hi)))
}

func (x dd) div(y dd) dd {
	q := x.hi / y.hi
	r := x.add(y.mul(dd{-q, 0}))
	p := r.hi / y.hi
	r = r.add(y.mul(dd{-p, 0}))
	return twoSum(q, p).add(dd{r.hi / y.hi, 0})
}

// scale is x·2^n, exact while nothing overflows or becomes subnormal.
func (x dd) scale(n int) dd {
	s := math.Float64frombits(uint64(1023+n) << 52)
	return dd{float64(x.hi * s), float64(x.lo * s)}
}

// round is the nearest float32, ties to even. float32(hi) alone is wrong only where hi is a midpoint of two float32 and lo
// is what decides.
func (x dd) round() float32 {
	hi := x.hi
	if isMidpoint(hi, 0) && x.lo != 0 {
		bits := math.Float64bits(hi)
		if (x.lo > 0) == (hi > 0) {
			bits++
		} else {
			bits--
		}
		hi = math.Float64frombits(bits)
	}
	return float32(hi)
}

// isMidpoint says whether y is within margin float64 units of a point half-way between two normal float32.
func isMidpoint(y float64, margin uint64) bool {
	const low, half = 1<<29 - 1, 1 << 28
	return math.Float64bits(y)&low-(half-margin) <= 2*margin
}

// ln2 in three parts: an integer below 2^15 times either of the first two is exact.
var ln2 = [3]float64{0x1.62e42fefap-1, 0x1.cf79abc9ep-40, 0x1.d9cc01f97b57ap-79}

var dd1 = dd{1, 0}

const (
	invLn2  = 0x1.71547652b82fep+0 // 1/ln 2
	minNorm = 0x1p-126             // the smallest normal float32
)

// flush makes results below the smallest normal float32 a zero of their sign, so that devices which flush subnormals agree.
func flush(y float32) float32 {
	if y < minNorm && y > -minNorm {
		return float32(y * 0)
	}
	return y
}
