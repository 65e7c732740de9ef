package optim

import "qlora/ref/quant"

// Blocksize8 is the block size of 8-bit moments, and Min8BitSize the number of elements below which bitsandbytes keeps a
// parameter's moments in 32 bits.
const (
	Blocksize8  = 256
	Min8BitSize = 4096
)

// State8 holds AdamW's moments in 8 bits (Dettmers et al., 2021): m by the signed dynamic map, v by the unsigned one.
type State8 struct {
	M, V             []byte
	AbsmaxM, AbsmaxV []float32 // one a block of Blocksize8
}

// NewState8 is the state of n elements before the first step: all bytes and scales zero, as in bitsandbytes.
func NewState8(n int) *State8 {
	blocks := (n + Blocksize8 - 1) / Blocksize8
	return &State8{make([]byte, n), make([]byte, n), make([]float32, blocks), make([]float32, blocks)}
}

// Bytes is the memory that the state takes.
func (s *State8) Bytes() int { return len(s.M) + len(s.V) + 4*len(s.AbsmaxM) + 4*len(s.AbsmaxV) }

// AdamW8 is AdamW with moments that are dequantized, moved and quantized again. The update of p takes them before they are
// quantized.
func AdamW8(p []float32, s *State8, g, scalars []float32, norm float32, profile quant.Profile) {
	m, v := make([]float32, len(p)), make([]float32, len(p))
	quant.Dequantize8(m, s.M, s.AbsmaxM, quant.DynamicSigned, Blocksize8)
	quant.Dequantize8(v, s.V, s.AbsmaxV, quant.DynamicUnsigned, Blocksize8)
	AdamW(p, m, v, g, scalars, norm)
	s.M, s.AbsmaxM = quant.Quantize8(m, quant.DynamicSigned, Blocksize8, profile)
	s.V, s.AbsmaxV = quant.Quantize8(v, quant.DynamicUnsigned, Blocksize8, profile)
}
