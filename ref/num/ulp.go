package num

import "math"

// ULPDistance counts the float32 between a and b: 0 for equal values (+0 and −0 are), 1 for neighbours. A NaN is as far from
// everything but a NaN as can be.
func ULPDistance(a, b float32) uint32 {
	if a != a || b != b {
		if a != a && b != b {
			return 0
		}
		return math.MaxUint32
	}
	x, y := ordered(a), ordered(b)
	if x < y {
		x, y = y, x
	}
	return uint32(x - y)
}

// ordered maps float32 to integers so that neighbours are neighbours and both zeros are 0.
func ordered(x float32) int64 {
	bits := math.Float32bits(x)
	if bits>>31 == 1 {
		return -int64(bits & (1<<31 - 1))
	}
	return int64(bits)
}
