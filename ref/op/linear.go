package op

import "qlora/ref/num"

// Linear computes y = x·Wᵀ + bias in float32, for the caller to round once: x [m, k], W [n, k], bias [n] or nil.
func Linear(y, x, w, bias []float32, m, n, k int) {
	MatMul(y, x, w, m, n, k)
	if bias == nil {
		return
	}
	for i := range m {
		for j, b := range bias {
			y[i*n+j] += b
		}
	}
}

// LinearBackward adds, where they are not nil,
//
//	dx += round(dy·W)        rounded again after the addition
//	dW += dyᵀ·x              float32, tokens ascending
//	dbias += Σ dy            likewise
func LinearBackward(dx, dw, dbias, dy, x, w []float32, m, n, k int, t num.DType) {
	if dx != nil {
		g := make([]float32, m*k)
		MatMulInput(g, dy, w, m, n, k)
		addRounded(dx, g, t)
	}
	if dw != nil {
		MatMulWeight(dw, dy, x, m, n, k)
	}
	if dbias != nil {
		for i := range m {
			for j := range n {
				dbias[j] += dy[i*n+j]
			}
		}
	}
}
