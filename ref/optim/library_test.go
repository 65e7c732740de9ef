package optim

import (
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"qlora/ref/checkpoint"
	"qlora/ref/quant"
)

// made is what testdata/adamw.py or lion.py wrote: optimizers' parameters and states after each of four steps.
type made struct {
	t *testing.T
	f *checkpoint.File
}

func openMade(t *testing.T, file string) made {
	f, err := checkpoint.Open(os.DirFS("testdata"), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return made{t, f}
}

func (m made) floats(name string, step int) []float32 {
	x, _, err := m.f.Float32(fmt.Sprint(name, step))
	if err != nil {
		m.t.Fatal(err)
	}
	return x
}

func (m made) bytes(name string, step int) []byte {
	x, err := m.f.Tensor(fmt.Sprint(name, step))
	if err != nil {
		m.t.Fatal(err)
	}
	return x.Bytes
}

func (m made) start() []float32 {
	x, _, err := m.f.Float32("start")
	if err != nil {
		m.t.Fatal(err)
	}
	return slices.Clone(x)
}

var madeWith = AdamWConfig{LR: 0.01, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1}

// fma is x·y + z rounded once, as the libraries' vector code has it.
func fma(x, y, z float32) float32 { return float32(math.FMA(float64(x), float64(y), float64(z))) }

// The libraries' moments are ours but for the last product of each, which their vector code adds without rounding it, and
// for PyTorch's own m + (g − m)·(1 − β1): with that taken into account they agree to the bit.
func TestMomentsOfTheLibraries(t *testing.T) {
	made := openMade(t, "adamw.safetensors")
	for _, library := range []string{"torch", "bnb32"} {
		m, v := make([]float32, 600), make([]float32, 600)
		for step := 1; step <= 4; step++ {
			s := NewScalars(madeWith, 0, step)
			for i, g := range made.floats("g", step) {
				if library == "torch" {
					m[i] = fma(g-m[i], s[scalarOneMinusBeta1], m[i])
				} else {
					m[i] = fma(g, s[scalarOneMinusBeta1], float32(m[i]*s[scalarBeta1]))
				}
				v[i] = fma(float32(g*s[scalarOneMinusBeta2]), g, float32(v[i]*s[scalarBeta2]))
			}
			if !slices.Equal(m, made.floats(library+"/m", step)) || !slices.Equal(v, made.floats(library+"/v", step)) {
				t.Errorf("%s: the moments after step %d differ", library, step)
			}
		}
	}
}

// One step of ours from a library's state stays within a few roundings of the library's: those above, and the square root of
// PyTorch on a CPU, which is not always the nearest float32.
func TestStepsOfTheLibraries(t *testing.T) {
	const unit = 1.0 / (1 << 24)
	made := openMade(t, "adamw.safetensors")
	for _, library := range []string{"torch", "bnb32"} {
		p, m, v := made.start(), make([]float32, 600), make([]float32, 600)
		for step := 1; step <= 4; step++ {
			before, mBefore, g := slices.Clone(p), slices.Clone(m), made.floats("g", step)
			AdamW(p, m, v, g, NewScalars(madeWith, 0, step), 0)
			wantP, wantM, wantV := made.floats(library+"/p", step), made.floats(library+"/m", step), made.floats(library+"/v", step)
			perUnit := madeWith.LR / (1 - math.Pow(0.9, float64(step))) * math.Sqrt(1-math.Pow(0.999, float64(step)))
			for i := range p {
				terms := abs(mBefore[i]) + abs(g[i]) // m's error is relative to what m is the sum of
				within(t, library+" m", m[i], wantM[i], 4*unit*terms)
				within(t, library+" v", v[i], wantV[i], 4*unit*abs(wantV[i]))
				within(t, library+" p", p[i], wantP[i], 4*unit*(abs(before[i])+perUnit*terms/math.Sqrt(abs(wantV[i]))))
			}
			p, m, v = slices.Clone(wantP), slices.Clone(wantM), slices.Clone(wantV)
		}
	}
}

func abs(x float32) float64 { return math.Abs(float64(x)) }

func within(t *testing.T, what string, got, want float32, bound float64) {
	t.Helper()
	if diff := math.Abs(float64(got) - float64(want)); !(diff <= bound) {
		t.Errorf("%s is %v, want %v: %v apart, more than %v", what, got, want, diff, bound)
	}
}

// All codes of the 8-bit moments are bitsandbytes' over four steps on our own; absmax is at most a unit away, for want of FMA.
func TestAdamW8OfBitsandbytes(t *testing.T) {
	made := openMade(t, "adamw.safetensors")
	p, s := made.start(), NewState8(600)
	for step := 1; step <= 4; step++ {
		AdamW8(p, s, made.floats("g", step), NewScalars(madeWith, 0, step), 0, quant.BnBCPU050)
		if !slices.Equal(s.M, made.bytes("bnb8/m", step)) || !slices.Equal(s.V, made.bytes("bnb8/v", step)) {
			t.Errorf("the codes after step %d differ", step)
		}
		for i, want := range made.floats("bnb8/absmax_m", step) {
			within(t, "absmax of m", s.AbsmaxM[i], want, abs(want)/(1<<22))
		}
		for i, want := range made.floats("bnb8/absmax_v", step) {
			within(t, "absmax of v", s.AbsmaxV[i], want, abs(want)/(1<<22))
		}
		for i, want := range made.floats("bnb8/p", step) {
			within(t, "p", p[i], want, float64(step)*(abs(want)+0.1)/(1<<23))
		}
	}
}
