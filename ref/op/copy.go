package op

import "qlora/ref/num"

// Copy computes y = round(x): what a model computes with, of its float32 master.
func Copy(y, x []float32, t num.DType) {
	for i, v := range x {
		y[i] = t.Round(v)
	}
}
