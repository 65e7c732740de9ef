package optim

import (
	"math"
	"slices"
	"testing"
)

var lionMadeWith = AdamWConfig{LR: 0.01, Beta1: 0.9, Beta2: 0.99, WeightDecay: 0.1}

// Steps of ours from bitsandbytes' state give its parameters, to the bit, and its moments but for a product that its vector code adds without
// rounding it: with that taken into account they agree to the bit, too.
func TestLionOfBitsandbytes(t *testing.T) {
	made := openMade(t, "lion.safetensors")
	p, m := made.start(), make([]float32, 300)
	s := NewLionScalars(lionMadeWith, 0)
	for step := 1; step <= 4; step++ {
		g, wantP, wantM := made.floats("g", step), made.floats("p", step), made.floats("m", step)
		fused := slices.Clone(m)
		for i := range fused {
			fused[i] = fma(g[i], s[scalarOneMinusBeta2], float32(m[i]*s[scalarBeta2]))
		}
		terms := slices.Clone(m)
		Lion(p, m, g, s, 0)
		if !slices.Equal(p, wantP) || !slices.Equal(fused, wantM) {
			t.Errorf("step %d: other parameters, or other moments", step)
		}
		for i := range m {
			within(t, "m", m[i], wantM[i], (abs(terms[i])+abs(g[i]))/(1<<24))
		}
		m = wantM
	}
}

// Lion in float64, from the paper's algorithm 2: a few roundings away after some steps.
func TestLionAgainstTheFormula(t *testing.T) {
	const n = 500
	c := lionMadeWith
	p, m := random(1, n), make([]float32, n)
	p64, m64 := make([]float64, n), make([]float64, n)
	for i := range p {
		p64[i] = float64(p[i])
	}
	for step := range 10 {
		g := random(uint32(step+2), n)
		norm := Norm([][]float32{g})
		Lion(p, m, g, NewLionScalars(c, 5), norm)
		clip := min(1, 5/(float64(norm)+1e-6))
		for i := range p64 {
			g := float64(g[i]) * clip
			update := math.Copysign(1, c.Beta1*m64[i]+(1-c.Beta1)*g)
			p64[i] -= c.LR * (update + c.WeightDecay*p64[i])
			m64[i] = c.Beta2*m64[i] + (1-c.Beta2)*g
		}
	}
	for i := range p {
		if diff := math.Abs(float64(p[i]) - p64[i]); diff > 10*4*(math.Abs(p64[i])+0.1)/(1<<24) {
			t.Errorf("p[%d] = %v, want %v", i, p[i], p64[i])
		}
	}
}

// A step moves every parameter by the learning rate against its gradient, however large that is, and not at all where it is zero.
func TestLionMovesByTheLearningRate(t *testing.T) {
	minusZero := float32(math.Copysign(0, -1))
	p, g := []float32{1, 1, 1, 1, 1, minusZero}, []float32{1e-3, -5, 1e30, 0, minusZero, 0}
	Lion(p, make([]float32, 6), g, NewLionScalars(AdamWConfig{LR: 0.5, Beta1: 0.9, Beta2: 0.99}, 0), 1)
	if want := []float32{0.5, 1.5, 0.5, 1, 1, 0}; !slices.Equal(p, want) || !math.Signbit(float64(p[5])) {
		t.Errorf("%v, want %v", p, want)
	}
}

// What is no number shows in the parameter and in the moment.
func TestLionNotANumber(t *testing.T) {
	p, m := []float32{1, 1}, make([]float32, 2)
	Lion(p, m, []float32{float32(math.NaN()), 1}, NewLionScalars(lionMadeWith, 0), 1)
	if p[0] == p[0] || m[0] == m[0] || p[1] != p[1] {
		t.Errorf("%v, moments %v", p, m)
	}
}
