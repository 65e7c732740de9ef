package op_test

import (
	"math"
	"testing"

	. "qlora/ref/op"
)

// Every product is one float32 accumulator, its terms in ascending order, whatever the loops around it do.
func TestMatMulOrder(t *testing.T) {
	const m, n, k = 3, 7, 13 // no multiples of the four columns that go together
	x, w, dy := random(1, m*k), random(2, n*k), random(3, m*n)
	y, dx, dw := make([]float32, m*n), make([]float32, m*k), random(4, n*k)
	begun := append([]float32(nil), dw...)
	MatMul(y, x, w, m, n, k)
	MatMulInput(dx, dy, w, m, n, k)
	MatMulWeight(dw, dy, x, m, n, k)
	inOrder := func(what string, got, begin float32, terms int, a, b func(int) float32) {
		sum := begin
		for i := range terms {
			sum += float32(a(i) * b(i))
		}
		if math.Float32bits(got) != math.Float32bits(sum) {
			t.Errorf("%s: %x, want %x", what, got, sum)
		}
	}
	for i := range m {
		for j := range n {
			inOrder("y", y[i*n+j], 0, k, func(l int) float32 { return x[i*k+l] }, func(l int) float32 { return w[j*k+l] })
		}
		for l := range k {
			inOrder("dx", dx[i*k+l], 0, n, func(j int) float32 { return dy[i*n+j] }, func(j int) float32 { return w[j*k+l] })
		}
	}
	for j := range n {
		for l := range k {
			inOrder("dw", dw[j*k+l], begun[j*k+l], m, func(i int) float32 { return dy[i*n+j] }, func(i int) float32 { return x[i*k+l] })
		}
	}
}

// BenchmarkMatMul reports the floating-point operations of y = x·Wᵀ a second.
func BenchmarkMatMul(b *testing.B) {
	const m, n, k = 64, 256, 256
	x, w, y := random(1, m*k), random(2, n*k), make([]float32, m*n)
	for b.Loop() {
		MatMul(y, x, w, m, n, k)
	}
	b.ReportMetric(2*m*n*k*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}
