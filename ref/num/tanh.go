package num

// Tanh is the correctly rounded hyperbolic tangent; below 2^-126 in magnitude it is a zero of x's sign.
func Tanh(x float32) float32 {
	switch {
	case x != x || x == 0:
		return x
	case x > 20:
		return 1
	case x < -20:
		return -1
	}
	y := tanh64(float64(x))
	if isMidpoint(y, 256) {
		return flush(tanhDD(float64(x)).round())
	}
	return flush(float32(y))
}

// tanh64 is tanh x within 2^-46 of its size: the series near 0, where the other formula would cancel.
func tanh64(x float64) float64 {
	if x < 1.0/32 && x > -1.0/32 {
		x2 := float64(x * x)
		s := 1.0/3 - float64(x2*(2.0/15-float64(x2*(17.0/315-float64(x2*(62.0/2835))))))
		return x - float64(float64(x*x2)*s)
	}
	return 1 - 2/(exp64(float64(2*x))+1)
}

// tanhDD is used above 2^-13 only: nearer to 0, x − x³/3 is too near to x for a midpoint. It loses 14 of its 95 bits there.
func tanhDD(x float64) dd {
	e := expDD(dd{float64(2 * x), 0})
	return e.add(dd1.neg()).div(e.add(dd1))
}
