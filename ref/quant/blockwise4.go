package quant

import (
	"fmt"
	"math"

	"qlora/ref/num"
)

// Quantize4 turns x, flat and row-major, into codes, two a byte (element 2k in the high nibble), and one absmax for each
// block of blocksize elements; the last block may be short. NaN and infinities are errors under the profile Spec.
func Quantize4(x []float32, c *Codebook, blocksize int, p Profile) (packed []byte, absmax []float32, err error) {
	if err := CheckBlocksize(blocksize); err != nil {
		return nil, nil, err
	}
	if p == Spec {
		if err := CheckFinite(x); err != nil {
			return nil, nil, err
		}
	}
	codes := make([]uint8, len(x), len(x)+1)
	for from := 0; from < len(x); from += blocksize {
		to := min(from+blocksize, len(x))
		absmax = append(absmax, p.block4(codes[from:to], x[from:to], c, to-from < blocksize))
	}
	if len(x)%2 == 1 {
		codes = append(codes, c.zero)
	}
	return pack(codes), absmax, nil
}

// block4 sets the codes of a block and returns its absmax. A block whose reciprocal overflows is a block of zeros.
func block4(codes []uint8, x []float32, c *Codebook) float32 {
	m := absmax(x)
	r := 1 / m
	if math.IsInf(float64(r), 0) {
		for i := range codes {
			codes[i] = c.zero
		}
		return 0
	}
	for i, v := range x {
		codes[i] = c.Code(float32(v * r))
	}
	return m
}

// Dequantize4 is the way back for the elements from first on: dst[i] = round(value·absmax), rounded to float32, then to t.
func (p Profile) Dequantize4(dst []float32, first int, packed []byte, absmax []float32, c *Codebook, blocksize int, t num.DType) {
	values := p.values4(c, blocksize, t)
	for i := range dst {
		at := first + i
		dst[i] = t.Round(float32(values[nibble(packed, at)] * absmax[at/blocksize]))
	}
}

// pack joins pairs of codes.
func pack(codes []uint8) []byte {
	packed := make([]byte, len(codes)/2)
	for i := range packed {
		packed[i] = codes[2*i]<<4 | codes[2*i+1]
	}
	return packed
}

// nibble is the code of element i.
func nibble(packed []byte, i int) uint8 {
	if i%2 == 0 {
		return packed[i/2] >> 4
	}
	return packed[i/2] & 15
}

// CheckBlocksize wants a power of two from 32 to 4096, as bitsandbytes does.
func CheckBlocksize(n int) error {
	if n < 32 || n > 4096 || n&(n-1) != 0 {
		return fmt.Errorf("blocksize %d: want a power of two from 32 to 4096", n)
	}
	return nil
}

// CheckFinite is an error that names the first element that is NaN or infinite.
func CheckFinite(x []float32) error {
	for i, v := range x {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("element %d is %v: weights must be finite", i, v)
		}
	}
	return nil
}
