package op

import "qlora/ref/num"

// Dropout says which elements of a layer's input are dropped. The random numbers depend on the seed, the step, the place
// and the element's index within the whole batch, so micro-batches agree with the batch they are cut from, and forward,
// backward and recomputation see the same mask.
type Dropout struct {
	P     float32 // probability of dropping; 0 is no dropout
	Seed  uint64
	Clock *Ints // Step and FirstToken, in device memory
}

// The clock: what changes from step to step.
const (
	ClockStep       = iota // optimizer step, from 0
	ClockFirstToken        // index of the micro-batch's first token within the whole batch
	ClockLen
)

// ApplyDropout computes y = x·round(1/(1−p)) where Uniform ≥ p, else 0, over x [tokens, d].
func ApplyDropout(y, x []float32, d int, p float32, seed uint64, c num.Counter, firstToken int, t num.DType) {
	keep := 1 / (1 - p)
	for i, v := range x {
		c.Element = uint64(firstToken*d + i)
		if num.Uniform(seed, c) < p {
			y[i] = 0
		} else {
			y[i] = t.Round(float32(v * keep))
		}
	}
}

// dropoutCounter selects the random numbers of a place at the clock's step.
func dropoutCounter(at At, d Dropout) num.Counter {
	return num.Counter{Purpose: num.Purpose("dropout/" + at.Name), Layer: at.Layer, Step: uint32(ints(d.Clock)[ClockStep])}
}

func firstToken(d Dropout) int { return int(ints(d.Clock)[ClockFirstToken]) }
