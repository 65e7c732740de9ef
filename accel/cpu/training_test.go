package cpu

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"qlora/accel/cpu/kernel"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/lora/peft"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
	"qlora/ref/train"
)

// course is a training: what it computes in, and how large the weights of the value projections are. Tiny ones make products too small to
// be exact, so that multiply-adds may not be fused.
type course struct {
	compute num.DType
	values  float32
	branch  bool // the adapter in float32
	dropout float32
	eight   bool // moments in 8 bits
	steps   int
	full    bool // every weight is trained, the head's with the embedding, and there are biases and noise
	save    []string
	lion    bool
	paged   bool // the optimizer's state leaves memory where there is no room
}

// options are those of the model.
func (c course) options(config llama.Config) llama.Options {
	if c.full {
		return llama.Options{Compute: c.compute, Full: true}
	}
	adapter := &lora.Config{R: 104, Alpha: 8, Dropout: c.dropout, Seed: 5, Float32: c.branch, ModulesToSave: c.save, Modules: map[string]peft.Rank{}}
	for _, m := range config.Modules() {
		if !adapter.Saves(m) {
			adapter.Modules[m] = peft.Rank{R: adapter.R, Alpha: adapter.Alpha}
		}
	}
	return llama.Options{Compute: c.compute, Quant: &quant.Options{Type: quant.NF4, Blocksize: 32, DoubleQuant: true}, LoRA: adapter}
}

// trained takes some steps with a tiny Qwen and gives the bytes of its state, and what it says then.
func trained(t *testing.T, d op.Device, c course) (state []byte, said []int32) {
	t.Helper()
	config := llama.Config{
		HiddenSize: 40, IntermediateSize: 56, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadDim: 8, QKNorm: true,
		VocabSize: 50, MaxPositionEmbeddings: 32, RMSNormEps: 1e-5, RoPETheta: 10000,
	}
	config.TieWordEmbeddings, config.QKVBias, config.OutputBias, config.MLPBias = c.full, c.full, c.full, c.full
	m, err := llama.New(d, config, c.options(config), llama.WeightsFunc(func(name string, shape []int) ([]float32, error) { return drawn(name, shape, c.values), nil }))
	if err != nil {
		t.Fatal(err)
	}
	m.Checkpointing = true
	if c.full {
		m.Noise = op.Noise{Alpha: 1, Seed: 8}
	}
	run := train.New(d, m, train.Config{
		AdamW:    optim.AdamWConfig{LR: 0.01, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01},
		Schedule: optim.Schedule{Kind: "constant"}, MaxGradNorm: 0.5, EightBit: c.eight, Lion: c.lion, Paged: c.paged,
	})
	if err := d.PageTo(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	for step := range c.steps {
		if _, err := run.Step([]train.Sequences{{sequence(step, 7), sequence(step+1, 12)}, {sequence(step+2, 5)}}); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "state")
	if err := run.Save(path, "test"); err != nil {
		t.Fatal(err)
	}
	if state, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	choice := op.Choice{Temperature: 1.5, TopK: 30, TopP: 0.95, Seed: 4}
	if err := m.Generate([]int32{1, 2, 3}, 12, llama.Sampling{Choice: choice, RepetitionPenalty: 1.2, NoRepeat: 3}, func(id int32) bool { said = append(said, id); return true }); err != nil {
		t.Fatal(err)
	}
	return state, said
}

func drawn(name string, shape []int, values float32) []float32 {
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
		if strings.Contains(name, "v_proj") {
			x[i] *= values
		}
	}
	return x
}

func sequence(k, n int) (s train.Sequence) {
	for i := range n {
		s.IDs, s.Labels = append(s.IDs, int32((7*k+3*i*i)%50)), append(s.Labels, int32((11*k+i)%50))
	}
	s.Labels[k%n] = op.IgnoredLabel
	return s
}

// counting is a set that counts its calls: tiles whose multiply-adds were fused, and others.
func counting(k *kernel.Set, fused, rounded *atomic.Int64) *kernel.Set {
	c := *k
	c.Tile = func(x []float32, stride int, a, b []float32) { rounded.Add(1); k.Tile(x, stride, a, b) }
	c.TileFused = func(x []float32, stride int, a, b []float32) { fused.Add(1); k.TileFused(x, stride, a, b) }
	return &c
}

// Fifty steps end in the reference's bytes, with every set of kernels and any number of threads, inside the domain in which
// multiply-adds may be fused and outside of it.
func TestTraining(t *testing.T) {
	for name, c := range map[string]course{
		"bfloat16":           {compute: num.BFloat16, values: 1, dropout: 0.1, eight: true},
		"bfloat16, tiny":     {compute: num.BFloat16, values: 0x1p-126},
		"float32":            {compute: num.Float32, values: 1},
		"adapter in float32": {compute: num.BFloat16, values: 1, branch: true, dropout: 0.1},
		"full":               {compute: num.BFloat16, values: 1, full: true},
		"full, float32":      {compute: num.Float32, values: 1, full: true},
		"Lion":               {compute: num.BFloat16, values: 1, lion: true},
		"modules to save":    {compute: num.BFloat16, values: 1, save: []string{"embed_tokens", "lm_head", "norm", "0.self_attn.k_proj"}},
	} {
		c.steps = 50
		wantState, wantSaid := trained(t, op.NewPlain(0), c)
		for _, k := range kernel.Sets() {
			for _, threads := range []int{1, 2, 3} {
				t.Run(fmt.Sprintf("%s, %s, %d threads", name, k.Name, threads), func(t *testing.T) {
					var fused, rounded atomic.Int64
					state, said := trained(t, opened(t, Options{Kernel: counting(k, &fused, &rounded), Threads: threads}), c)
					if !bytes.Equal(state, wantState) {
						t.Error("the states differ")
					}
					if !slices.Equal(said, wantSaid) {
						t.Errorf("it says %v, want %v", said, wantSaid)
					}
					if outside := rounded.Load() > 1000; fused.Load() == 0 != (c.compute == num.Float32) || outside != (c.values != 1 || c.branch || c.compute == num.Float32) {
						t.Errorf("%d tiles fused, %d not", fused.Load(), rounded.Load())
					}
				})
			}
		}
	}
}

// Plain Go has the reference's bytes on every architecture.
func TestBytesOfTraining(t *testing.T) {
	c := course{compute: num.BFloat16, values: 1, dropout: 0.1, eight: true, steps: 2}
	want, _ := trained(t, op.NewPlain(0), c)
	if got, _ := trained(t, opened(t, Options{Kernel: kernel.Sets()[0], Threads: 2}), c); !bytes.Equal(got, want) {
		t.Error("the states differ")
	}
}
