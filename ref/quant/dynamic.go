package quant

// Map8 is an 8-bit data type: 256 values in ascending order.
type Map8 [256]float32

// DynamicSigned and DynamicUnsigned are the dynamic tree types of Dettmers (2016; 2021), as bitsandbytes builds them with
// torch 2 on a processor that fuses multiply and add: the bits differ elsewhere, so a map stored in a file wins over these.
var (
	DynamicSigned   = dynamicMap(true)
	DynamicUnsigned = dynamicMap(false)
)

// dynamicMap has seven decades: the i-th spends 2^i values (2^(i+1) unsigned) on 10^(i-6) times the midpoints of a linear
// cut of 0.1…1. To those, their negatives if signed, 0 and 1 are added.
func dynamicMap(signed bool) *Map8 {
	var positive []float32
	scale := [7]float32{1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1}
	for i, s := range scale {
		n := 2 << i
		if signed {
			n = 1 << i
		}
		for _, mean := range midpoints(linspace(0.1, 1, n+1)) {
			positive = append(positive, float32(s*mean))
		}
	}
	m := &Map8{255: 1}
	zero := 255 - len(positive) - 1
	for i, v := range positive {
		m[zero+1+i] = v
		if signed {
			m[zero-1-i] = -v
		}
	}
	return m
}

// linspace is torch's: from the start in the first half and from the end in the second, multiply and add fused.
func linspace(start, end float32, n int) []float32 {
	x := make([]float32, n)
	step := (end - start) / float32(n-1)
	for i := range x {
		if i < n/2 {
			x[i] = fma32(step, float32(i), start)
		} else {
			x[i] = fma32(-step, float32(n-1-i), end)
		}
	}
	return x
}

// fma32 is x·y + z, rounded once: the product of two float32 is exact in float64. The sum is not always, but is for the
// arguments above, as the hashes in the test show.
func fma32(x, y, z float32) float32 {
	return float32(float64(float64(x)*float64(y)) + float64(z))
}

// Thresholds are the midpoints of neighbouring values: the code of x is the number of those below it.
func (m *Map8) Thresholds() []float32 { return midpoints(m[:]) }

// zero is the code of 0.0.
func (m *Map8) zero() uint8 {
	for i, v := range m {
		if v == 0 {
			return uint8(i)
		}
	}
	return 0
}

// nearest8 is the code nearest to x, a tie to the lower: the number of bounds, the midpoints of the map's values, below x.
func nearest8(bounds []float32, x float32) uint8 {
	lo, hi := 0, len(bounds)
	for lo < hi {
		if mid := (lo + hi) / 2; x > bounds[mid] {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return uint8(lo)
}
