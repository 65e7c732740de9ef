package conformance

import (
	"bytes"
	"math"
	"unsafe"
)

// alike is how many elements are compared at once: most of what is compared has the same bits.
const alike = 1024

// differFloats counts the elements of which the bits differ and gives the first. NaN equals NaN.
func differFloats(a, b []float32) (n, first int) {
	first = -1
	for from := 0; from < len(a); from += alike {
		x, y := a[from:min(from+alike, len(a))], b[from:min(from+alike, len(a))]
		if bytes.Equal(inBytes(x), inBytes(y)) {
			continue
		}
		for i := range x {
			if math.Float32bits(x[i]) != math.Float32bits(y[i]) && (x[i] == x[i] || y[i] == y[i]) {
				if n++; n == 1 {
					first = from + i
				}
			}
		}
	}
	return n, first
}

// inBytes is x as it lies in memory, for the library's vectorized comparison.
func inBytes(x []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

// used is the largest share of its bound that an element uses, and where. Bits that are the reference's use nothing. Where the
// reference is not finite they are all that counts.
func used(want, got Tensor, bound []approx) (share float64, worst int) {
	for i, b := range bound {
		if want.bits(i) == got.bits(i) {
			continue
		}
		s := math.Abs(float64(got.F[i])-b.v) / b.e
		if want.F[i]-want.F[i] != 0 || math.IsNaN(s) {
			s = math.Inf(1)
		}
		if s > share {
			share, worst = s, i
		}
	}
	return share, worst
}
