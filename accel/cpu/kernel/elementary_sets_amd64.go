package kernel

func (s *Set) elementaryAVX2() {
	s.elementary(16, expMinusAVX2, tanhAVX2, siluAVX2, siluSlopeAVX2)
}

func (s *Set) elementaryAVX512() {
	s.elementary(32, expMinusAVX512, tanhAVX512, siluAVX512, siluSlopeAVX512)
}

// elementary completes kernels that stop before a block in doubt and say how far they got: the portable ones do that block. When all is
// done, those are called with nothing.
func (s *Set) elementary(block int, exp func(y, x []float32, m float32) int, tanhs, silus func(y, x []float32) int,
	slopes func(y, slope, x []float32) int) {
	s.ExpMinus = func(y, x []float32, m float32) {
		for i := 0; i < len(y); i += block {
			i += exp(y[i:], x[i:], m)
			end := min(i+block, len(y))
			expMinus(y[i:end], x[i:end], m)
		}
	}
	s.Tanh = inBlocks(block, tanhs, tanh)
	withoutSlope := inBlocks(block, silus, func(y, x []float32) { silu(y, nil, x) })
	s.SiLU = func(y, slope, x []float32) {
		if slope == nil {
			withoutSlope(y, x)
			return
		}
		for i := 0; i < len(y); i += block {
			i += slopes(y[i:], slope[i:], x[i:])
			end := min(i+block, len(y))
			silu(y[i:end], slope[i:end], x[i:end])
		}
	}
}

func inBlocks(block int, kernel func(y, x []float32) int, decide func(y, x []float32)) func(y, x []float32) {
	return func(y, x []float32) {
		for i := 0; i < len(y); i += block {
			i += kernel(y[i:], x[i:])
			end := min(i+block, len(y))
			decide(y[i:end], x[i:end])
		}
	}
}
