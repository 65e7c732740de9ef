package conformance

import "qlora/ref/op"

func init() {
	register(&Operation{
		Name: "copy", Of: "op.Copy", Needs: "Copy",
		Formula: "x F32 [n] → y [n]. y = x, rounded to the type, to nearest, ties to even: what a model computes with, of a parameter that is trained in float32. " +
			"Subnormals stay, what is too large becomes an infinity.",
		Cases: copyCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			y := make([]float32, in["x"].Len())
			op.Copy(y, in["x"].F, floats[c.DType].num)
			return Tensors{"y": Floats(c.DType, y, in["x"].Shape...)}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			x := b.Tensor("x", in["x"])
			y := b.Result("y", b.Case.DType, x.Rows, x.Cols)
			b.Device.Copy(Place, y, x)
			return Tensors{"y": b.Read(y, in["x"].Shape...)}
		},
	})
}

func copyCases(m *Maker) {
	for _, t := range []DType{F32, BF16, F16} {
		add := func(level Level, n int, reason string, values func(r *random) []float32) {
			m.Add(level, t, reason, []Param{Int("n", n)}, func(r *random) Tensors { return Tensors{"x": Floats(F32, values(r))} })
		}
		for _, n := range []int{0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 257, 4097} {
			reason := "random"
			if n == 0 {
				reason = "empty"
			}
			add(smokeIf(n == 33), n, reason, func(r *random) []float32 { return r.normal(n, 1) })
		}
		for _, k := range everything[1:] {
			add(smokeIf(k.reason == "subnormal"), 300, k.reason, func(r *random) []float32 { return k.values(r, 300, t) })
			add(Quick, 300, k.reason, func(r *random) []float32 { return k.values(r, 300, F32) })
		}
		add(Smoke, 300, "half", func(r *random) []float32 {
			x, b := halves(r, 300, t)
			for i := range x {
				x[i] += b[i]
			}
			return x
		})
	}
}
