package second

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
	"qlora/ref/train"
)

// The rank makes A of every layer and B of the longer ones matrices of 4096 elements and more, whose moments are of 8 bits.
const trainedRank = 128

// end is where a training comes to: the bytes of its state, what its steps reported, what the model says then, and the memory that
// each part took at most.
type end struct {
	state   []byte
	reports []train.Report
	said    []int32
	parts   []op.Part
}

// trained trains a tiny Qwen of two layers for three steps of dropout, packing, accumulation and recomputation, and lets it talk. full trains
// its weights, with noise, in place of an adapter.
func trained(t *testing.T, d op.Device, compute num.DType, full bool) (e end) {
	t.Helper()
	config := llama.Config{
		HiddenSize: 32, IntermediateSize: 48, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadDim: 8, QKNorm: true,
		VocabSize: 40, MaxPositionEmbeddings: 32, RMSNormEps: 1e-5, RoPETheta: 10000,
	}
	o := llama.Options{
		Compute: compute, Quant: &quant.Options{Type: quant.NF4, Blocksize: 32, DoubleQuant: true},
		LoRA: &lora.Config{R: trainedRank, Alpha: 8, Dropout: 0.2, Seed: 5, Float32: true},
	}
	if full {
		o = llama.Options{Compute: compute, Full: true}
		config.TieWordEmbeddings, config.QKVBias = true, true
	}
	m, err := llama.New(d, config, o, llama.WeightsFunc(drawn))
	if err != nil {
		t.Fatal(err)
	}
	m.Checkpointing = true
	if full {
		m.Noise = op.Noise{Alpha: 1, Seed: 8}
	}
	run := train.New(d, m, train.Config{
		AdamW:    optim.AdamWConfig{LR: 0.02, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01},
		Schedule: optim.Schedule{Kind: "constant"}, MaxGradNorm: 0.5, EightBit: true,
	})
	for step := range 3 {
		r, err := run.Step([]train.Sequences{{sequence(step, 7), sequence(step+1, 12)}, {sequence(step+2, 5)}})
		if err != nil {
			t.Fatal(err)
		}
		e.reports = append(e.reports, r)
	}
	path := filepath.Join(t.TempDir(), "state")
	if err := run.Save(path, "test"); err != nil {
		t.Fatal(err)
	}
	if e.state, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	choice := op.Choice{Temperature: 1.5, TopK: 30, TopP: 0.95, Seed: 4}
	if err := m.Generate([]int32{1, 2, 3}, 12, llama.Sampling{Choice: choice, RepetitionPenalty: 1.2, NoRepeat: 3}, func(id int32) bool { e.said = append(e.said, id); return true }); err != nil {
		t.Fatal(err)
	}
	e.parts = d.Arena().Parts()
	return e
}

func drawn(name string, shape []int) ([]float32, error) {
	n := 1
	for _, d := range shape {
		n *= d
	}
	x, c := make([]float32, n), num.Counter{Purpose: num.Purpose(name)}
	for i := range x {
		c.Element = uint64(i)
		x[i] = float32(num.Normal(3, c) * 0.1)
		if strings.Contains(name, "norm") {
			x[i]++
		}
	}
	return x, nil
}

func sequence(k, n int) (s train.Sequence) {
	for i := range n {
		s.IDs, s.Labels = append(s.IDs, int32((7*k+3*i*i)%40)), append(s.Labels, int32((11*k+i)%40))
	}
	s.Labels[k%n] = op.IgnoredLabel
	return s
}

// A training has the reference's bytes, whatever the number of goroutines, and takes the same memory.
func TestTraining(t *testing.T) {
	for _, c := range []struct {
		compute num.DType
		full    bool
	}{{num.Float32, false}, {num.BFloat16, false}, {num.BFloat16, true}} {
		want := trained(t, op.NewPlain(0), c.compute, c.full)
		for _, threads := range []int{1, 2, 3, 8} {
			t.Run(fmt.Sprintf("%v, full %v, %d threads", c.compute, c.full, threads), func(t *testing.T) {
				got := trained(t, New(threads), c.compute, c.full)
				if !slices.Equal(got.reports, want.reports) {
					t.Errorf("the steps report %+v, want %+v", got.reports, want.reports)
				}
				if !bytes.Equal(got.state, want.state) {
					t.Error("the states differ")
				}
				if !slices.Equal(got.said, want.said) {
					t.Errorf("it says %v, want %v", got.said, want.said)
				}
				if !slices.Equal(got.parts, want.parts) {
					t.Errorf("memory %v, want %v", got.parts, want.parts)
				}
			})
		}
	}
}
