package quant

import "math"

// Quantize8 turns x into one code a value and one absmax a block; the last block may be short. x must be finite. A block
// whose reciprocal overflows has the code of 0.0 and absmax 0.
func Quantize8(x []float32, m *Map8, blocksize int, p Profile) (codes []byte, absmax []float32) {
	codes = make([]byte, len(x))
	bounds := midpoints(m[:])
	for from := 0; from < len(x); from += blocksize {
		to := min(from+blocksize, len(x))
		absmax = append(absmax, p.block8(codes[from:to], x[from:to], m, bounds))
	}
	return codes, absmax
}

func block8(codes []byte, x []float32, m *Map8, bounds []float32) float32 {
	top := absmax(x)
	r := 1 / top
	if math.IsInf(float64(r), 0) {
		for i := range codes {
			codes[i] = m.zero()
		}
		return 0
	}
	for i, v := range x {
		codes[i] = nearest8(bounds, float32(v*r))
	}
	return top
}

// Dequantize8 is the way back: dst[i] = value·absmax in float32.
func Dequantize8(dst []float32, codes []byte, absmax []float32, m *Map8, blocksize int) {
	for i, c := range codes {
		dst[i] = float32(m[c] * absmax[i/blocksize])
	}
}
