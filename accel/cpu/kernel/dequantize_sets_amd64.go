package kernel

import "unsafe"

func (s *Set) dequantizeAVX2() {
	s.Dequantize4 = thirtyTwos(dequantize4AVX2, dequantize4)
	s.Dequantize4Rounded = thirtyTwos(dequantize4RoundedAVX2, dequantize4Rounded)
	s.Dequantize4BFloat16 = thirtyTwos(dequantize4BFloat16AVX2, dequantize4BFloat16)
	s.Dequantize4BFloat16Past = aligned(thirtyTwos(dequantize4BFloat16PastAVX2, dequantize4BFloat16), s.Dequantize4BFloat16)
	s.Dequantize8 = dequantize8Eights
}

func (s *Set) dequantizeAVX512() {
	s.Dequantize4 = thirtyTwos(dequantize4AVX512, dequantize4)
	s.Dequantize4Rounded = thirtyTwos(dequantize4RoundedAVX512, dequantize4Rounded)
	s.Dequantize4BFloat16 = thirtyTwos(dequantize4BFloat16AVX512, dequantize4BFloat16)
}

type dequantizer4[T any] = func(dst []T, packed []byte, absmax []float32, values *[16]float32, blocksize int)

// thirtyTwos leaves to rest what is beyond the last 32 elements, which lies in one block.
func thirtyTwos[T any](most, rest dequantizer4[T]) dequantizer4[T] {
	return func(dst []T, packed []byte, absmax []float32, values *[16]float32, blocksize int) {
		n := len(dst) &^ 31
		most(dst[:n], packed[:n/2], absmax[:(n+blocksize-1)/blocksize], values, blocksize)
		if n < len(dst) {
			rest(dst[n:], packed[n/2:], absmax[n/blocksize:], values, blocksize)
		}
	}
}

// aligned leaves to other what does not begin at a multiple of 32 bytes.
func aligned[T any](f, other dequantizer4[T]) dequantizer4[T] {
	return func(dst []T, packed []byte, absmax []float32, values *[16]float32, blocksize int) {
		if uintptr(unsafe.Pointer(unsafe.SliceData(dst)))%32 == 0 {
			f(dst, packed, absmax, values, blocksize)
		} else {
			other(dst, packed, absmax, values, blocksize)
		}
	}
}

func dequantize8Eights(dst []float32, codes []byte, absmax []float32, values *[256]float32, offset float32) {
	n := len(dst) &^ 7
	dequantize8AVX2(dst[:n], codes[:n], absmax[:(n+255)/256], values, offset)
	if n < len(dst) {
		dequantize8(dst[n:], codes[n:], absmax[n/256:], values, offset)
	}
}
