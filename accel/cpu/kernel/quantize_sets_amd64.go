package kernel

func (s *Set) quantizeAVX2() {
	s.Absmax = absmaxThirtyTwos
	s.Codes4 = codes4ThirtyTwos
}

func absmaxThirtyTwos(x []float32) float32 {
	n := len(x) &^ 31
	m := absmaxAVX2(x[:n])
	if n < len(x) {
		m = max(m, absmax(x[n:]))
	}
	return m
}

func codes4ThirtyTwos(packed []byte, x []float32, r float32, thresholds *[15]float32, ascending *[16]uint8) {
	n := len(packed) &^ 15
	codes4AVX2(packed[:n], x[:2*n], r, thresholds, ascending)
	if n < len(packed) {
		codes4(packed[n:], x[2*n:], r, thresholds, ascending)
	}
}
