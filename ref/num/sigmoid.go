package num

// Sigmoid is the correctly rounded 1/(1 + e^-x); below 2^-126 it is 0.
func Sigmoid(x float32) float32 {
	switch {
	case x != x:
		return x
	case x > 88:
		return 1
	case x < -88:
		return 0
	}
	y := 1 / (1 + exp64(-float64(x)))
	if isMidpoint(y, 8) {
		return flush(dd1.div(dd1.add(expDD(dd{-float64(x), 0}))).round())
	}
	return flush(float32(y))
}
