package num

import "math"

// logTable[i] holds, for the centre c = (i+90)/128 of an interval, 1/c rounded to 24 bits and −ln of that in two parts.
var logTable = func() (t [93]struct{ inv, hi, lo float64 }) {
	for i := range t {
		inv := float64(float32(128 / float64(i+90)))
		l := logDD(inv, logSeries(inv))
		t[i].inv, t[i].hi, t[i].lo = inv, -l.hi, -l.lo
	}
	return t
}()

// Log is the correctly rounded natural logarithm.
func Log(x float32) float32 {
	switch {
	case x != x || x < 0:
		return float32(math.NaN())
	case x == 0:
		return float32(math.Inf(-1))
	case x > math.MaxFloat32:
		return x
	}
	y := log64(float64(x))
	if isMidpoint(y, 8) {
		return logDD(float64(x), y).round()
	}
	return float32(y)
}

// log64 is ln x within a few float64 units, for x a float32: x = 2^e·m, m in [0.70, 1.41), m·(1/c) = 1 + r exactly.
func log64(x float64) float64 {
	bits := math.Float64bits(x)
	e := int(bits>>52) - 1023
	m := math.Float64frombits(bits&(1<<52-1) | 1023<<52)
	if m >= 181.5/128 {
		e, m = e+1, m/2
	}
	t := &logTable[nearest(float64(m*128))-90]
	r := float64(m*t.inv) - 1
	ef := float64(e)
	return float64(ef*ln2[0]) + t.hi + (log1p(r) + (t.lo + float64(ef*ln2[1])))
}

// log1p is ln(1+r) by its series, |r| < 2^-7: the next term is below 2^-66.
func log1p(r float64) float64 {
	r2 := float64(r * r)
	odd := 1.0/3 + float64(r2*(1.0/5+float64(r2*(1.0/7))))
	even := 0.5 + float64(r2*(0.25+float64(r2*(1.0/6+float64(r2*(1.0/8))))))
	return r - float64(r2*(even-float64(r*odd)))
}

// logDD improves y ≈ ln x to about 95 bits: with δ = x·e^-y − 1, ln x = y + δ − δ²/2 + ….
func logDD(x, y float64) dd {
	delta := expDD(dd{-y, 0}).mul(dd{x, 0}).add(dd1.neg())
	return dd{y, 0}.add(delta).add(delta.mul(delta).scale(-1).neg())
}

// logSeries is ln x to about 2^-40 for 0.7 < x < 1.5, from ln x = 2·artanh((x−1)/(x+1)): the start for logDD in the table.
func logSeries(x float64) float64 {
	z := (x - 1) / (x + 1)
	z2 := float64(z * z)
	s := 0.0
	for n := 15; n > 0; n -= 2 {
		s = float64(s*z2) + 1/float64(n)
	}
	return float64(2 * float64(z*s))
}
