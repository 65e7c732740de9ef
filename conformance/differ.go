package conformance

import "math"

// differFloats counts the elements of which the bits differ and gives the first. NaN equals NaN.
//
// Most of what is compared is equal: eight elements at a time are, or are looked at one by one.
func differFloats(a, b []float32) (n, first int) {
	first = -1
	one := func(i int) {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) && (a[i] == a[i] || b[i] == b[i]) {
			if n++; n == 1 {
				first = i
			}
		}
	}
	i := 0
	for ; i+8 <= len(a); i += 8 {
		x, y := a[i:i+8:i+8], b[i:i+8:i+8]
		d := math.Float32bits(x[0]) ^ math.Float32bits(y[0])
		d |= math.Float32bits(x[1]) ^ math.Float32bits(y[1])
		d |= math.Float32bits(x[2]) ^ math.Float32bits(y[2])
		d |= math.Float32bits(x[3]) ^ math.Float32bits(y[3])
		d |= math.Float32bits(x[4]) ^ math.Float32bits(y[4])
		d |= math.Float32bits(x[5]) ^ math.Float32bits(y[5])
		d |= math.Float32bits(x[6]) ^ math.Float32bits(y[6])
		d |= math.Float32bits(x[7]) ^ math.Float32bits(y[7])
		if d != 0 {
			for j := range 8 {
				one(i + j)
			}
		}
	}
	for ; i < len(a); i++ {
		one(i)
	}
	return n, first
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
