package op

import "qlora/ref/num"

// RMSNorm computes, for each row of x [rows, d], where a row may be one head of a token,
//
//	r = 1/√(Sum(x²)/d + eps)
//	y = round(w · round(x·r))
//
// with both roundings to t, as transformers' LlamaRMSNorm has them. r is kept a row, for backward.
func RMSNorm(y, r, x, w []float32, d int, eps float32, t num.DType) {
	square := make([]float32, d)
	for i := range r {
		xi, yi := x[i*d:(i+1)*d], y[i*d:(i+1)*d]
		for j, v := range xi {
			square[j] = float32(v * v)
		}
		r[i] = num.Rsqrt(num.Sum(square)/float32(d) + eps)
		for j, v := range xi {
			yi[j] = t.Round(float32(w[j] * t.Round(float32(v*r[i]))))
		}
	}
}

// RMSNormBackward adds to dx (rounding to t) and, where dw is not nil, to dw. With n = x·r and g = dy·w,
//
//	dx += r·(g − n·Sum(g·n)/d)
//	dw += dy·round(n), tokens ascending
func RMSNormBackward(dx, dw, dy, x, w, r []float32, d int, t num.DType) {
	product := make([]float32, d)
	for i, ri := range r {
		xi, dyi, dxi := x[i*d:(i+1)*d], dy[i*d:(i+1)*d], dx[i*d:(i+1)*d]
		for j, v := range xi {
			product[j] = float32(float32(dyi[j]*w[j]) * float32(v*ri))
		}
		mean := num.Sum(product) / float32(d)
		for j, v := range xi {
			n := float32(v * ri)
			g := float32(dyi[j] * w[j])
			dxi[j] = t.Round(dxi[j] + t.Round(float32(ri*(g-float32(n*mean)))))
			if dw != nil {
				dw[j] += float32(dyi[j] * t.Round(n))
			}
		}
	}
}
