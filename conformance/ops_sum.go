package conformance

import (
	"math"

	"qlora/ref/num"
)

// Sum, in the one order that every device reproduces.
func init() {
	register(&Operation{
		Name: "sum", Of: "num.Sum",
		Formula: "x F32 [n] → y F32 [1]. 32 lanes: lane l adds x[l], x[l+32], x[l+64], … in order, from +0; then lanes fold " +
			"16, 8, 4, 2, 1: lane i takes lane i+half. " +
			"For n > 65,536, x is cut into runs of 65,536, each summed so, and the partial sums are summed so again. Each " +
			"addition rounds to float32.",
		Cases: sumCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			return Tensors{"y": Floats(F32, []float32{num.Sum(in["x"].F)})}, nil
		},
	})
}

func sumCases(m *Maker) {
	add := func(level Level, n int, reason string, values func(r *random) []float32) {
		m.Add(level, "", reason, []Param{Int("n", n)}, func(r *random) Tensors {
			return Tensors{"x": Tensor{DType: F32, Shape: []int{n}, F: values(r)}}
		})
	}
	sizes := []int{127, 128, 129, 255, 256, 257, 511, 512, 513, 1000, 4095, 4096, 4097, 65535, 65536, 65537, 65568, 131072, 131073, 200000}
	for n := range 101 {
		sizes = append(sizes, n)
	}
	smoke := map[int]bool{1: true, 31: true, 33: true, 64: true, 100: true, 257: true, 65537: true}
	for _, n := range sizes {
		level := Quick
		if smoke[n] {
			level = Smoke
		}
		add(level, n, "random", func(r *random) []float32 { return r.normal(n, 1) })
		add(Quick, n, "cancellation", func(r *random) []float32 { return r.cancelling(n) })
		if n < 30 || n%16 > 1 && n != 200000 {
			continue
		}
		add(Quick, n, "order-of-sum", func(r *random) []float32 { // 2^24 in one lane, ones about it: which are lost tells the order
			x := repeated(n, 1)
			x[r.below(n)] = 0x1p24
			return x
		})
		add(Quick, n, "integers", func(r *random) []float32 { return r.integers(n, 40) })
	}
	for _, n := range []int{1, 32, 33, 300, 65537} {
		add(Quick, n, "signed-zero", func(*random) []float32 { return repeated(n, float32(math.Copysign(0, -1))) })
		add(Quick, n, "subnormal", func(r *random) []float32 { return r.normal(n, 0x1p-140) })
		for _, special := range [][]float64{{math.Inf(1)}, {math.Inf(-1)}, {math.Inf(1), math.Inf(-1)}, {math.NaN()}} {
			add(Quick, n, "nan-inf", func(r *random) []float32 {
				x := r.normal(n, 1)
				for _, v := range special {
					x[r.below(n)] = float32(v)
				}
				return x
			})
		}
	}
	for _, n := range []int{64, 65, 96, 1024, 65600} {
		add(Quick, n, "sum-overflow", func(r *random) []float32 { // the whole sum is finite, that of a lane is not
			x := make([]float32, n)
			l := r.below(16)
			x[l], x[l+32], x[l+16] = 0x1.8p127, 0x1.8p127, -0x1.8p127
			return x
		})
		add(Quick, n, "sum-overflow", func(r *random) []float32 { // in another order it would not be
			x := make([]float32, n)
			l := r.below(16)
			x[l], x[l+16], x[l+32] = 0x1.8p127, 0x1p127, -0x1.8p127
			return x
		})
	}
	for _, n := range []int{1 << 20, 1<<21 + 33} {
		add(Full, n, "random", func(r *random) []float32 { return r.normal(n, 1) })
		add(Full, n, "cancellation", func(r *random) []float32 { return r.cancelling(n) })
	}
}

// cancelling are numbers of magnitudes from 2^-20 to 2^20, of which most are there with either sign.
func (r *random) cancelling(n int) []float32 {
	x := r.normal(n, 1)
	for i := range x {
		x[i] = float32(math.Ldexp(float64(x[i]), r.below(41)-20))
		if j := r.below(i + 1); j < i && i%3 > 0 {
			x[i] = -x[j]
		}
	}
	return x
}
