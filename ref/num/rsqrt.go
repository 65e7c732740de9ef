package num

import "math"

// Rsqrt is the correctly rounded 1/√x; of a zero it is the infinity of its sign.
func Rsqrt(x float32) float32 {
	y := 1 / math.Sqrt(float64(x))
	if isMidpoint(y, 4) {
		return rsqrtDD(float64(x), y).round()
	}
	return float32(y)
}

// rsqrtDD improves y ≈ 1/√x by a step of Newton: y + y·(1 − x·y²)/2.
func rsqrtDD(x, y float64) dd {
	d := dd{y, 0}
	residual := dd1.add(d.mul(d).mul(dd{-x, 0}))
	return d.add(d.mul(residual).scale(-1))
}
