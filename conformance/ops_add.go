package conformance

import (
	"math"

	"qlora/ref/op"
)

func init() {
	register(&Operation{
		Name: "add", Of: "op.Add", Needs: "Add",
		Formula: "a, b [n] → y [n]. y = round(a + b): the sum in float32, then rounded to the type, to nearest, ties to even.",
		Cases:   addCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			y := make([]float32, in["a"].Len())
			op.Add(y, in["a"].F, in["b"].F, floats[c.DType].num)
			return Tensors{"y": Floats(c.DType, y, in["a"].Shape...)}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			x := b.Tensor("a", in["a"])
			y := b.Result("y", in["a"].DType, x.Rows, x.Cols)
			b.Device.Add(Place, y, x, b.Tensor("b", in["b"]))
			return Tensors{"y": b.Read(y, in["a"].Shape...)}
		},
	})
}

func addCases(m *Maker) {
	add := func(level Level, t DType, n int, reason string, values func(r *random) (a, b []float32)) {
		m.Add(level, t, reason, []Param{Int("n", n)}, func(r *random) Tensors {
			a, b := values(r)
			return Tensors{"a": Floats(t, a), "b": Floats(t, b)}
		})
	}
	for _, t := range []DType{F32, BF16, F16} {
		for _, n := range []int{1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000, 4097} {
			level := Quick
			if n == 33 || n == 257 {
				level = Smoke
			}
			add(level, t, n, "random", func(r *random) (a, b []float32) { return r.normal(n, 1), r.normal(n, 1) })
			// The second is far smaller: most sums are close to a tie or lose it.
			add(Quick, t, n, "cancellation", func(r *random) (a, b []float32) {
				a, b = r.normal(n, 1), r.normal(n, 0x1p-7)
				for i := range b {
					b[i] -= a[i]
				}
				return a, b
			})
			add(Quick, t, n, "half", func(r *random) (a, b []float32) { return halves(r, n, t) })
		}
		for _, x := range everything {
			for _, y := range everything {
				level := Quick
				if x.reason == y.reason && t == BF16 {
					level = Smoke
				}
				add(level, t, 200, x.reason, func(r *random) (a, b []float32) { return x.values(r, 200, t), y.values(r, 200, t) })
			}
		}
	}
}

// halves are sums that lie exactly in the middle of two numbers of t, or just beside it.
func halves(r *random, n int, t DType) (a, b []float32) {
	half := map[DType]float64{F32: 0x1p-24, BF16: 0x1p-8, F16: 0x1p-11}[t]
	a, b = make([]float32, n), make([]float32, n)
	for i := range a {
		a[i] = float32(1 + float64(2*half*float64(r.below(int(1/(2*half))))))
		b[i] = float32(half * []float64{1, 1, 1 + float64(4*half), 1 - float64(2*half)}[r.below(4)])
		if r.below(2) == 1 {
			a[i], b[i] = -a[i], -b[i]
		}
		scale := math.Ldexp(1, r.below(9)-4)
		a[i], b[i] = float32(float64(a[i])*scale), float32(float64(b[i])*scale)
	}
	return a, b
}
