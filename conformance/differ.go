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

// used is the largest share of its bound that an element uses, and where. Bits that are the reference's use nothing.
func used(want, got Tensor, bound []approx) (share float64, worst int) {
	for i, b := range bound {
		if want.bits(i) == got.bits(i) {
			continue
		}
		if s := b.share(got.F[i]); s > share {
			share, worst = s, i
		}
	}
	return share, worst
}

// share is the part of the radius that a value uses, which is not the reference's.
func (x approx) share(got float32) float64 {
	number := got-got == 0
	switch {
	case x.over == anything && !number, x.over == infinity && math.IsInf(float64(got), int(math.Copysign(1, x.v))):
		return 1
	case !number || x.v-x.v != 0: // of inputs that are no numbers comes what comes of them in the reference
		return math.Inf(1)
	case math.IsInf(x.e, 1) && (x.over == anything || x.over == unlooked):
		return 0
	case !(x.e > 0) || math.IsInf(x.e, 1): // bits alone, or nothing can be said
		return math.Inf(1)
	}
	return math.Abs(float64(got)-x.v) / x.e
}
