package conformance

// Cases against devices that round worse than they declare: see bounds.md.

// linearAdversaries have float32 operands, so that no store hides what the sum has lost.
func linearAdversaries(m *Maker) {
	for _, k := range []int{129, 1025, 4097} {
		l := layer{m: 2, n: 3, k: k, weight: dense}
		m.Add(Quick, F32, "truncation", l.params(), func(r *random) Tensors {
			return Tensors{"x": Floats(F32, truncated(2*k, k), 2, k), "w": Floats(F32, repeated(3*k, 1), 3, k)}
		})
		m.Add(Quick, F32, "flushing", l.params(), func(r *random) Tensors {
			return Tensors{"x": Floats(F32, repeated(2*k, 0x1p-70), 2, k), "w": Floats(F32, repeated(3*k, -0x1p-70), 3, k)}
		})
	}
}

// weightGradientAdversaries have 16-bit operands, whose gradients of W are sums in float32 all the same.
func weightGradientAdversaries(m *Maker, t DType) {
	const tokens = 4097
	l := layer{m: tokens, n: 1, k: 1, weight: dense}
	m.Add(Quick, t, "truncation", append(l.params(), Flag("dw", true)), func(r *random) Tensors {
		return Tensors{
			"dy": Floats(t, truncated(tokens, tokens), tokens, 1), "x": Floats(t, repeated(tokens, 1), tokens, 1),
			"w": Floats(t, []float32{1}, 1, 1), "dw": Floats(F32, []float32{0}, 1, 1),
		}
	})
}

// truncated is, in each row of k, a 1, then values that are just under one unit in the last place of 1.
func truncated(n, k int) []float32 {
	x := repeated(n, 0x1.fcp-24)
	for i := 0; i < n; i += k {
		x[i] = 1
	}
	return x
}
