package op

// The three products of a linear layer y = x·Wᵀ with x [m, k], W [n, k], y [m, n]. Each element is one float32 accumulator
// that takes its products in ascending order of the summed index; every product is rounded before it is added. Going over
// four columns at a time changes no bits, for the columns have accumulators of their own.

// MatMul computes y = x·Wᵀ, from +0.
func MatMul(y, x, w []float32, m, n, k int) {
	for i := range m {
		xi, yi := x[i*k:i*k+k], y[i*n:i*n+n]
		j := 0
		for ; j+4 <= n; j += 4 {
			yi[j], yi[j+1], yi[j+2], yi[j+3] = dot4(xi, w[j*k:], k)
		}
		for ; j < n; j++ {
			yi[j] = dot(xi, w[j*k:j*k+k])
		}
	}
}

func dot(x, w []float32) float32 {
	var s float32
	w = w[:len(x)]
	for i, v := range x {
		s += float32(v * w[i])
	}
	return s
}

// dot4 is dot with four rows of w, stride apart.
func dot4(x, w []float32, stride int) (s0, s1, s2, s3 float32) {
	n := len(x)
	w0, w1, w2, w3 := w[:n], w[stride:stride+n], w[2*stride:2*stride+n], w[3*stride:3*stride+n]
	for i, v := range x {
		s0 += float32(v * w0[i])
		s1 += float32(v * w1[i])
		s2 += float32(v * w2[i])
		s3 += float32(v * w3[i])
	}
	return
}

// MatMulInput computes dx = dy·W, the gradient of the input, from +0: n ascending.
func MatMulInput(dx, dy, w []float32, m, n, k int) {
	clear(dx[:m*k])
	for i := range m {
		addRows(dx[i*k:i*k+k], dy[i*n:i*n+n], 1, w)
	}
}

// MatMulWeight computes dW += dyᵀ·x, the gradient of the weight: tokens ascending, on top of what dW holds, so that cutting
// a batch into micro-batches does not change bits.
func MatMulWeight(dw, dy, x []float32, m, n, k int) {
	for j := range n {
		addRows(dw[j*k:j*k+k], dy[j:], n, x[:m*k])
	}
}

// addRows computes acc += Σ_r a[r·stride]·rows[r], r ascending, for the len(rows)/len(acc) rows.
func addRows(acc, a []float32, stride int, rows []float32) {
	k := len(acc)
	n := len(rows) / k
	r := 0
	for ; r+4 <= n; r += 4 {
		a0, a1, a2, a3 := a[r*stride], a[(r+1)*stride], a[(r+2)*stride], a[(r+3)*stride]
		r0, r1 := rows[r*k:(r+1)*k], rows[(r+1)*k:(r+2)*k]
		r2, r3 := rows[(r+2)*k:(r+3)*k], rows[(r+3)*k:(r+4)*k]
		r0, r1, r2, r3 = r0[:len(acc)], r1[:len(acc)], r2[:len(acc)], r3[:len(acc)]
		for i, s := range acc {
			s += float32(a0 * r0[i])
			s += float32(a1 * r1[i])
			s += float32(a2 * r2[i])
			s += float32(a3 * r3[i])
			acc[i] = s
		}
	}
	for ; r < n; r++ {
		ar, row := a[r*stride], rows[r*k:(r+1)*k]
		for i, v := range row {
			acc[i] += float32(ar * v)
		}
	}
}
