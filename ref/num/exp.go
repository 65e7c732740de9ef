package num

import "math"

// Every function below follows one plan. A float64 evaluation is within a few float64 units of the true value; unless it
// falls that near to a midpoint of two float32, rounding it gives the correctly rounded float32. Else double-double decides.

// expTable[j] is 2^(j/32).
var expTable = func() (t [32]float64) {
	for j := range t {
		t[j] = expDD(dd{ln2[0], ln2[1]}.add(dd{ln2[2], 0}).mul(dd{float64(j) / 32, 0})).hi
	}
	return t
}()

// Exp is the correctly rounded e^x; below 2^-126 it is 0.
func Exp(x float32) float32 {
	switch {
	case x != x:
		return x
	case x > 89:
		return float32(math.Inf(1))
	case x < -88:
		return 0
	}
	y := exp64(float64(x))
	if isMidpoint(y, 4) {
		return flush(expDD(dd{float64(x), 0}).round())
	}
	return flush(float32(y))
}

// exp64 is e^x within 2 float64 units, |x| < 700: x = k·ln2/32 + r, e^x = 2^(k/32)·e^r.
func exp64(x float64) float64 {
	k := nearest(float64(x * (32 * invLn2)))
	kf := float64(k)
	r := x - float64(kf*(ln2[0]/32)) - float64(kf*(ln2[1]/32))
	r2 := float64(r * r)
	// e^r − 1, |r| < 0.011, by Taylor's series to r^6: the next term is below 2^-57.
	p := r + float64(r2*(0.5+float64(r*(1.0/6))+float64(r2*(1.0/24+float64(r*(1.0/120))+float64(r2*(1.0/720))))))
	t := expTable[k&31]
	return float64((t + float64(t*p)) * math.Float64frombits(uint64(1023+k>>5)<<52))
}

// nearest is the integer nearest to x, |x| < 2^31.
func nearest(x float64) int {
	if x < 0 {
		return int(x - 0.5)
	}
	return int(x + 0.5)
}

// expDD is e^x to about 95 bits, |x| < 700: x = k·ln2 + 256·r, Taylor's series for e^r, squared eight times.
func expDD(x dd) dd {
	k := nearest(float64(x.hi * invLn2))
	kf := float64(k)
	r := x.add(dd{-float64(kf * ln2[0]), 0}).add(dd{-float64(kf * ln2[1]), 0}).add(dd{kf, 0}.mul(dd{-ln2[2], 0})).scale(-8)
	y := dd1
	for i := 12; i > 0; i-- { // |r| < 0.0014: the next term is below 2^-155
		y = y.mul(r).div(dd{float64(i), 0}).add(dd1)
	}
	for range 8 {
		y = y.mul(y)
	}
	return y.scale(k)
}
