package quant

import (
	"math"
)

// Step is one value's way through quantization and back.
type Step struct {
	Value, Scaled float32
	Below, Above  float32 // the thresholds around Scaled; infinite at the ends
	Code          uint8
	Level         float32 // the codebook's value
	Back          float32 // with the block's own absmax
	BackNested    float32 // with the absmax that double quantization gives back
}

// Block is the way of one block of values, and of its scale through double quantization.
type Block struct {
	Absmax, Reciprocal float32
	Steps              []Step

	Nested       *Nested // of this block's absmax alone with those of the other blocks
	NestedScaled float32 // (absmax − offset)/absmax2
	NestedCode   uint8
	AbsmaxBack   float32
}

// Explain follows values through quantization in blocks, each scale through its double quantization among the others.
func Explain(x []float32, c *Codebook, blocksize int) ([]Block, error) {
	t, err := Quantize(x, []int{len(x)}, Options{Type: c, Blocksize: blocksize})
	if err != nil {
		return nil, err
	}
	nested := Nest(t.Absmax)
	back := nested.Dequantize()
	var blocks []Block
	for i, m := range t.Absmax {
		top := nested.Absmax[i/NestedBlocksize]
		b := Block{Absmax: m, Reciprocal: 1 / m, Nested: nested, NestedCode: nested.Codes[i], AbsmaxBack: back[i]}
		if r := 1 / top; !math.IsInf(float64(r), 0) {
			b.NestedScaled = float32((m - nested.Offset) * r)
		}
		for at := i * blocksize; at < min((i+1)*blocksize, len(x)); at++ {
			b.Steps = append(b.Steps, c.step(x[at], nibble(t.Packed, at), b))
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}

func (c *Codebook) step(v float32, code uint8, b Block) Step {
	s := Step{Value: v, Code: code, Level: c.Values[code]}
	if b.Absmax > 0 {
		s.Scaled = float32(v * b.Reciprocal)
	}
	s.Below, s.Above = c.around(s.Scaled)
	s.Back = float32(s.Level * b.Absmax)
	s.BackNested = float32(s.Level * b.AbsmaxBack)
	return s
}

// around gives the thresholds between which x lies: below < x ≤ above, mirrored for negative x of types with a sign bit.
func (c *Codebook) around(x float32) (lower, upper float32) {
	if c.signBit && x < 0 {
		lower, upper = c.around(-x)
		return -upper, -lower
	}
	lower, upper = float32(math.Inf(-1)), float32(math.Inf(1))
	i := below(c.thresholds, x)
	if i > 0 {
		lower = c.thresholds[i-1]
	}
	if i < len(c.thresholds) {
		upper = c.thresholds[i]
	}
	return lower, upper
}
