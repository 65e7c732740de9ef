package quant

import (
	"fmt"
	"math"
	"sort"

	"qlora/ref/num"
)

// Profile names whose arithmetic is followed. Spec is this specification. The others are what bitsandbytes does on a CPU,
// for those who compare with it; each deviation is in this file and is tested with vectors that bitsandbytes made.
//
// What bitsandbytes does on CUDA has no profile: the reciprocal of its kernels is approximate. AmbiguousCodes judges it.
type Profile string

// The profiles.
const (
	Spec          Profile = "spec"
	BnBCPU049     Profile = "bnb-cpu-0.49"
	BnBCPU050     Profile = "bnb-cpu-0.50"
	smallestScale         = 1e-38 // below this, 0.50 divides by it instead
)

// ParseProfile finds a profile by its name.
func ParseProfile(name string) (Profile, error) {
	switch p := Profile(name); p {
	case Spec, BnBCPU049, BnBCPU050:
		return p, nil
	}
	return "", fmt.Errorf("profile %q: want %s, %s or %s", name, Spec, BnBCPU049, BnBCPU050)
}

func (p Profile) block4(codes []uint8, x []float32, c *Codebook, short bool) float32 {
	switch p {
	case BnBCPU049:
		return block4BnB049(codes, x, c)
	case BnBCPU050:
		return block4BnB050(codes, x, c, short)
	}
	return block4(codes, x, c)
}

func (p Profile) block8(codes []byte, x []float32, m *Map8, bounds []float32) float32 {
	switch p {
	case BnBCPU049:
		return block8BnB049(codes, x, m)
	case BnBCPU050:
		return block8BnB050(codes, x, bounds)
	}
	return block8(codes, x, m, bounds)
}

// values4 are what codes stand for on the way back to t. In 0.49 block sizes from 2048 on are left to a torch kernel, which
// rounds the values to t first and has FP4's with four decimals.
func (p Profile) values4(c *Codebook, blocksize int, t num.DType) [16]float32 {
	if p != BnBCPU049 || blocksize < 2048 {
		return c.Values
	}
	values := valuesBnB049(c)
	t.RoundAll(values[:])
	return values
}

// nestedMap is the map of double quantization. The C++ of 0.49 writes −1 over the lowest value of the map it is given.
func (p Profile) nestedMap() *Map8 {
	m := *DynamicSigned
	if p == BnBCPU049 {
		m[0] = -1
	}
	return &m
}

// block4BnB050 multiplies with the reciprocal in full blocks but divides in a short one, whose absmax it stores at least as
// smallestScale; clamps; keeps NaN, which goes to the last code.
func block4BnB050(codes []uint8, x []float32, c *Codebook, short bool) float32 {
	m := absmaxNaN(x)
	scale := m
	if !(m >= smallestScale) && m == m {
		scale = smallestScale
	}
	r := 1 / scale
	for i, v := range x {
		s := float32(v * r)
		if short {
			s = v / scale
		}
		codes[i] = codeBnB050(c, clamp(s))
	}
	if short {
		return scale
	}
	return m
}

// fp4Sorted is the order in which 0.50 sorts FP4's values: +0 (nibble 0) before −0 (nibble 8), with the threshold 0 between
// them. So small negative values get the nibble of +0 and small positive ones that of −0.
var fp4Sorted = [16]uint8{11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3}

// codeBnB050 counts thresholds over all sorted values, so a tie of FP4 goes to the more negative one; NaN exceeds all.
func codeBnB050(c *Codebook, x float32) uint8 {
	sorted := fp4Sorted
	if !c.signBit {
		sorted = [16]uint8(c.ascending)
	}
	if x != x {
		return sorted[15]
	}
	var values [16]float32
	for i, nibble := range sorted {
		values[i] = c.Values[nibble]
	}
	return sorted[below(midpoints(values[:]), x)]
}

// fp4Rounded are the magnitudes of FP4 as 0.49 has them: four decimals.
var fp4Rounded = [8]float32{0, 0.0052, 0.6667, 1, 0.3333, 0.5, 0.1667, 0.25}

// block4BnB049 takes the code whose float32 distance is least, the first of equals; so does NaN, which a block of zeros is
// full of, take code 0.
func block4BnB049(codes []uint8, x []float32, c *Codebook) float32 {
	m := absmaxNaN(x)
	r := 1 / m
	for i, v := range x {
		codes[i] = codeBnB049(c, clamp(float32(v*r)))
	}
	return m
}

func valuesBnB049(c *Codebook) [16]float32 {
	values := c.Values
	if c.signBit {
		for i, v := range fp4Rounded {
			values[i], values[i|8] = v, 0-v
		}
	}
	return values
}

func codeBnB049(c *Codebook, x float32) (best uint8) {
	values := valuesBnB049(c)
	least := float32(math.Inf(1))
	for i, v := range values {
		if d := float32(math.Abs(float64(x - v))); d < least {
			best, least = uint8(i), d
		}
	}
	return best
}

// block8BnB049 is the C++ of 0.49: of the two values around x the one whose float32 distance is less, the lower of equals.
// Rounding makes distances equal that are not. A block of zeros gets code 0.
func block8BnB049(codes []byte, x []float32, m *Map8) float32 {
	top := absmax(x)
	if top == 0 {
		clear(codes)
		return 0
	}
	r := 1 / top
	for i, v := range x {
		s := clamp(float32(v * r))
		above := sort.Search(256, func(c int) bool { return m[c] > s })
		codes[i] = uint8(max(above-1, 0))
		if above > 0 && above < 256 && m[above]-s < s-m[above-1] {
			codes[i] = uint8(above)
		}
	}
	return top
}

// block8BnB050 is the C++ of 0.50: x first goes to the centre of one of 65,536 equal bins of −1…1, and that to the nearest
// code. Zero itself lands in a bin whose centre is 1.5e-5, so it does not come back as zero.
func block8BnB050(codes []byte, x []float32, bounds []float32) float32 {
	top := absmax(x)
	if top == 0 {
		clear(codes)
		return 0
	}
	r := 1 / top
	for i, v := range x {
		bin := int(float32(float32((clamp(float32(v*r))+1)*0.5)*65535) + 0.5)
		codes[i] = nearest8(bounds, -1+float32(2*float32(bin))/65535)
	}
	return top
}

func clamp(x float32) float32 {
	if x > 1 {
		return 1
	}
	if x < -1 {
		return -1
	}
	return x
}

// absmaxNaN is absmax, NaN if any element is.
func absmaxNaN(x []float32) float32 {
	for _, v := range x {
		if v != v {
			return v
		}
	}
	return absmax(x)
}
