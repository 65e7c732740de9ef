package num

import "math"

// Normal gives a standard normal float32: the quantile of p = (k + 1/2)·2^-23, k the upper 23 bits of Bits, by the 7-digit
// rational approximations of Wichura's algorithm AS 241 (1988), every step in float32.
func Normal(seed uint64, c Counter) float32 {
	return normalQuantile(float32(float32(Bits(seed, c)>>9)+0.5), 0x1p23)
}

// normalQuantile is the quantile of k/n: both tails are k or n−k away from an end, so neither loses bits.
func normalQuantile(k, n float32) float32 {
	q := float32(k/n) - 0.5
	if q >= -0.425 && q <= 0.425 {
		r := 0.180625 - float32(q*q)
		return float32(q*horner(r, 59.109374720, 159.29113202, 50.434271938, 3.3871327179)) /
			horner(r, 67.187563600, 78.757757664, 17.895169469, 1)
	}
	r := float32(math.Sqrt(float64(-Log(min(k, n-k) / n))))
	var v float32
	if r <= 5 {
		r -= 1.6
		v = horner(r, 0.17023821103, 1.3067284816, 2.7568153900, 1.4234372777) / horner(r, 0.12021132975, 0.73700164250, 1)
	} else {
		r -= 5
		v = horner(r, 0.017337203997, 0.42868294337, 3.0812263860, 6.6579051150) / horner(r, 0.012258202635, 0.24197894225, 1)
	}
	if q < 0 {
		return -v
	}
	return v
}

// horner evaluates a polynomial, its highest coefficient first.
func horner(x float32, coefficients ...float32) float32 {
	y := coefficients[0]
	for _, c := range coefficients[1:] {
		y = float32(y*x) + c
	}
	return y
}
