package kernel

func (s *Set) quantizeAVX2() {
	s.Absmax = absmaxThirtyTwos
	s.QuantizeFloat32 = resumed(quantizeFloat32AVX2, quantizeFloat32)
	s.QuantizeBFloat16 = resumed(quantizeBFloat16AVX2, quantizeBFloat16)
}

func absmaxThirtyTwos(x []float32) float32 {
	n := len(x) &^ 31
	m := absmaxAVX2(x[:n])
	if n < len(x) {
		m = max(m, absmax(x[n:]))
	}
	return m
}

// resumed leaves to rest the blocks that most stops at, those of zeros and those that are not finite.
func resumed[T any](most func(packed []byte, absmax []float32, x []T, blocksize int, thresholds *[16]float32, ascending *[16]uint8) int,
	rest quantizer4[T]) quantizer4[T] {
	return func(packed []byte, absmax []float32, x []T, blocksize int, thresholds *[15]float32, ascending *[16]uint8) int {
		var t [16]float32 // the leaves of the search, the level above them, the three above that
		for i, j := range [15]int{0, 2, 4, 6, 1, 5, 9, 13, 8, 10, 12, 14, 3, 7, 11} {
			t[i] = thresholds[j]
		}
		for b := 0; b < len(absmax); b++ {
			i := b * blocksize
			b += most(packed[i/2:], absmax[b:], x[i:], blocksize, &t, ascending)
			if b == len(absmax) {
				break
			}
			i = b * blocksize
			if rest(packed[i/2:], absmax[b:b+1], x[i:], blocksize, thresholds, ascending) == 0 {
				return b
			}
		}
		return -1
	}
}
