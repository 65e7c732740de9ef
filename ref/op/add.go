package op

import "qlora/ref/num"

// Add computes y = round(a + b), the residual sum. Its backward is itself: a gradient flows to both sides unchanged.
func Add(y, a, b []float32, t num.DType) {
	for i, v := range a {
		y[i] = t.Round(v + b[i])
	}
}
