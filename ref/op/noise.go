package op

import (
	"math"

	"qlora/ref/num"
)

// Noise says what is added to the embeddings in training (NEFTune; Jain et al., 2023). The random numbers depend on the seed, the
// step, the place and the element's index within the whole batch, as dropout's do.
type Noise struct {
	Alpha float32 // 0 adds nothing
	Seed  uint64
	Clock *Ints // Step and FirstToken, in device memory
}

// AddNoise computes, for each segment of L rows of x [tokens, d], with u uniform by element,
//
//	m = α/√(L·d)
//	y = round(x + round(m·(2u − 1)))
//
// as transformers does, which takes for L the length to which its batch is padded; here it is the sequence's own. Product, root and
// quotient of m round to float32. y is x without noise, and in rows behind the last bound, which are in no segment.
func AddNoise(y, x []float32, segments []int32, d int, alpha float32, seed uint64, c num.Counter, firstToken int, t num.DType) {
	copy(y, x)
	if alpha == 0 {
		return
	}
	for s := 1; s < len(segments); s++ {
		first, last := int(segments[s-1]), int(segments[s])
		m := NoiseMagnitude(alpha, last-first, d)
		for i := first * d; i < last*d; i++ {
			c.Element = uint64(firstToken*d + i)
			y[i] = t.Round(x[i] + t.Round(float32(m*(float32(2*num.Uniform(seed, c))-1))))
		}
	}
}

// NoiseMagnitude is m of a sequence of length tokens: noise lies within ±m.
func NoiseMagnitude(alpha float32, length, d int) float32 {
	return alpha / float32(math.Sqrt(float64(float32(float32(length)*float32(d)))))
}

// noiseCounter selects the random numbers of a place at the clock's step.
func noiseCounter(at At, step int32) num.Counter {
	return num.Counter{Purpose: num.Purpose("noise/" + at.Name), Layer: at.Layer, Step: uint32(step)}
}
