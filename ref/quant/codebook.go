package quant

import (
	"fmt"
	"math"
	"sort"
)

// Codebook is a 4-bit data type: the value of each nibble, and the thresholds between neighbouring values.
type Codebook struct {
	Name   string
	Values [16]float32 // by nibble

	// ascending lists the nibbles that quantization chooses from by their values; thresholds lie between them. Where a sign
	// bit is used these are the magnitudes alone, nibbles 0 to 7, and nibble 8 is the sign.
	ascending  []uint8
	thresholds []float32
	signBit    bool
	zero       uint8 // the nibble of 0.0
}

// NF4 is 4-bit NormalFloat, the quantiles of a normal distribution with an exact zero (paper, section 3 and appendix E). The
// bits are bitsandbytes' own; a test derives them.
var NF4 = ascendingCodebook("nf4", 0, [16]float32{
	-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
	-0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
	0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1})

// FP4 is bitsandbytes' 4-bit float: a sign, two exponent bits (inverted: field 1 is the largest), one bit of mantissa.
var FP4 = signedCodebook("fp4", [8]float32{0, 0.0625 / 12, 8. / 12, 12. / 12, 4. / 12, 6. / 12, 2. / 12, 3. / 12})

// E2M1 is the 4-bit float of the OCP Microscaling formats, scaled so that its largest value is 1.
var E2M1 = signedCodebook("e2m1", [8]float32{0, 0.5 / 6, 1. / 6, 1.5 / 6, 2. / 6, 3. / 6, 4. / 6, 6. / 6})

// E3M0 is a sign and three exponent bits: 0 and the powers of two from 1/64 to 1.
var E3M0 = signedCodebook("e3m0", [8]float32{0, 1. / 64, 1. / 32, 1. / 16, 1. / 8, 1. / 4, 1. / 2, 1})

// Int4 is k/7 for −7 ≤ k ≤ 7 in two's complement. Nibble 8, which would be −8/7, is not chosen.
var Int4 = ascendingCodebook("int4", 1, [16]float32{
	0, 1. / 7, 2. / 7, 3. / 7, 4. / 7, 5. / 7, 6. / 7, 1, -8. / 7, -1, -6. / 7, -5. / 7, -4. / 7, -3. / 7, -2. / 7, -1. / 7})

// Codebooks are all 4-bit types. Files hold NF4 and FP4 only, for bitsandbytes knows no others.
var Codebooks = []*Codebook{NF4, FP4, Int4, E2M1, E3M0}

// ParseCodebook finds a type by its name.
func ParseCodebook(name string) (*Codebook, error) {
	var names []string
	for _, c := range Codebooks {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	return nil, fmt.Errorf("4-bit type %q: want one of %v", name, names)
}

// ascendingCodebook orders all nibbles but the lowest unused ones by value.
func ascendingCodebook(name string, unused int, values [16]float32) *Codebook {
	c := &Codebook{Name: name, Values: values}
	for i := range uint8(16) {
		c.ascending = append(c.ascending, i)
		if values[i] == 0 {
			c.zero = i
		}
	}
	c.order()
	c.ascending = c.ascending[unused:]
	c.thresholds = midpoints(c.ordered())
	return c
}

// signedCodebook has the magnitudes' negatives at nibbles 8 to 15. Nibble 8 is +0.0, as in bitsandbytes' table.
func signedCodebook(name string, magnitudes [8]float32) *Codebook {
	c := &Codebook{Name: name, signBit: true}
	for i, v := range magnitudes {
		c.Values[i], c.Values[i|8] = v, 0-v
		c.ascending = append(c.ascending, uint8(i))
	}
	c.order()
	c.thresholds = midpoints(c.ordered())
	return c
}

func (c *Codebook) order() {
	sort.Slice(c.ascending, func(i, j int) bool { return c.Values[c.ascending[i]] < c.Values[c.ascending[j]] })
}

// ordered are the values of ascending.
func (c *Codebook) ordered() (v []float32) {
	for _, nibble := range c.ascending {
		v = append(v, c.Values[nibble])
	}
	return v
}

// midpoints of neighbours, each rounded to float32.
func midpoints(v []float32) []float32 {
	m := make([]float32, len(v)-1)
	for i := range m {
		m[i] = (v[i] + v[i+1]) / 2
	}
	return m
}

// Code is the nibble of x, which should be in −1…1: the number of thresholds below x tells it, and a tie goes to the lower
// neighbour. Types with a sign bit decide by magnitude.
func (c *Codebook) Code(x float32) uint8 {
	var sign uint8
	if c.signBit && x < 0 {
		sign, x = 8, -x
	}
	return sign | c.ascending[below(c.thresholds, x)]
}

// Ascending gives the thresholds, ascending, and for each number of them that x exceeds the nibble. ok is false for types with a sign bit,
// which decide by magnitude.
func (c *Codebook) Ascending() (thresholds []float32, nibbles []uint8, ok bool) {
	return c.thresholds, c.ascending, !c.signBit
}

// below counts the thresholds that x exceeds.
func below(thresholds []float32, x float32) (n int) {
	for _, t := range thresholds {
		if x > t {
			n++
		}
	}
	return n
}

// absmax is the largest magnitude.
func absmax(x []float32) (m float32) {
	for _, v := range x {
		m = max(m, float32(math.Abs(float64(v))))
	}
	return m
}
