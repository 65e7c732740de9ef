package quant

import (
	"math"
	"slices"
)

// cudaCodebook is a type as bitsandbytes' CUDA kernels decide it. Their thresholds for NF4 are the midpoints; those for FP4
// are literals of which five miss the midpoints by 1 to 14 units.
func cudaCodebook(c *Codebook) *Codebook {
	if c != FP4 {
		return c
	}
	cuda := *c
	cuda.thresholds = nil
	for _, bits := range []uint32{0x3b2aaab9, 0x3db00000, 0x3e555555, 0x3e955555, 0x3ed55556, 0x3f155550, 0x3f555555} {
		cuda.thresholds = append(cuda.thresholds, math.Float32frombits(bits))
	}
	return &cuda
}

// AmbiguousCodes are the codes of NF4 or FP4 that bitsandbytes' CUDA kernels may give v in a block of this absmax, in
// ascending order: their reciprocal is approximate, within one unit of the right one, and subnormal numbers count as zeros.
func AmbiguousCodes(c *Codebook, v, absmax float32) []uint8 {
	r := 1 / absmax
	switch {
	case absmax < 0x1p-126:
		return []uint8{0} // 0·Inf: a NaN exceeds no threshold
	case r < 0x1p-126:
		return []uint8{c.zero}
	}
	cuda := cudaCodebook(c)
	var codes []uint8
	for _, r := range []float32{math.Nextafter32(r, 0), r, math.Nextafter32(r, math.MaxFloat32)} {
		codes = append(codes, cuda.Code(float32(v*r)))
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}
