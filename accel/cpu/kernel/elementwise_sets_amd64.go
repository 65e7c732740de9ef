package kernel

func (s *Set) elementwiseAVX2() {
	s.Add = eightsOfTwo(addAVX2, s.Add)
	s.Mul = eightsOfTwo(mulAVX2, s.Mul)
	s.Scale = eightsOfOne(scaleAVX2, s.Scale)
	s.Shift = eightsOfOne(shiftAVX2, s.Shift)
	s.Divide = eightsOfOne(divideAVX2, s.Divide)
	s.Sum = sumAVX2
	s.Max = largestThirtyTwos
	s.AdamW = adamWEights
}

// eightsOfTwo leaves to rest what is beyond the last block of 8 elements.
func eightsOfTwo(blocks, rest func(y, a, b []float32)) func(y, a, b []float32) {
	return func(y, a, b []float32) {
		n := len(y) &^ 7
		blocks(y[:n], a[:n], b[:n])
		if n < len(y) {
			rest(y[n:], a[n:], b[n:])
		}
	}
}

func eightsOfOne(blocks, rest func(y, a []float32, s float32)) func(y, a []float32, s float32) {
	return func(y, a []float32, s float32) {
		n := len(y) &^ 7
		blocks(y[:n], a[:n], s)
		if n < len(y) {
			rest(y[n:], a[n:], s)
		}
	}
}

func largestThirtyTwos(x []float32) float32 {
	n := len(x) &^ 31
	if n == 0 {
		return largest(x)
	}
	m := largestAVX2(x[:n])
	if n < len(x) {
		m = max(m, largest(x[n:]))
	}
	return m
}

func adamWEights(p, m, v, g, scalars []float32, clip float32) {
	n := len(p) &^ 7
	adamWAVX2(p[:n], m[:n], v[:n], g[:n], scalars, clip)
	if n < len(p) {
		adamW(p[n:], m[n:], v[n:], g[n:], scalars, clip)
	}
}
