package quant

import "qlora/ref/num"

// NestedBlocksize is the block size of the second quantization (paper, section 3).
const NestedBlocksize = 256

// Nested is the double quantization of absmax: 8-bit codes of (absmax − offset), in blocks of NestedBlocksize with an absmax
// of their own. It takes the constants from 32 bits a block to 8 and a little: 0.127 bits a weight at block size 64.
type Nested struct {
	Codes  []byte
	Absmax []float32
	Map    *Map8
	Offset float32
}

// Nest quantizes absmax about its mean, Sum(absmax)/n.
func Nest(absmax []float32) *Nested {
	return NestAround(absmax, num.Sum(absmax)/float32(len(absmax)), Spec)
}

// NestAround quantizes absmax about an offset that is given: bitsandbytes' mean depends on its processor.
func NestAround(absmax []float32, offset float32, p Profile) *Nested {
	centred := make([]float32, len(absmax))
	for i, v := range absmax {
		centred[i] = v - offset
	}
	n := &Nested{Map: p.nestedMap(), Offset: offset}
	n.Codes, n.Absmax = Quantize8(centred, n.Map, NestedBlocksize, p)
	return n
}

// Dequantize gives absmax back: map value × absmax2, rounded, + offset, rounded.
func (n *Nested) Dequantize() []float32 {
	x := make([]float32, len(n.Codes))
	Dequantize8(x, n.Codes, n.Absmax, n.Map, NestedBlocksize)
	for i := range x {
		x[i] += n.Offset
	}
	return x
}
