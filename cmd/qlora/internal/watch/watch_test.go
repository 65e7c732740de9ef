package watch

import (
	"bytes"
	"math"
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

var tiny = llama.Config{
	HiddenSize: 16, IntermediateSize: 24, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadDim: 4,
	VocabSize: 11, MaxPositionEmbeddings: 64, RMSNormEps: 1e-5, RoPETheta: 10000, TieWordEmbeddings: true,
}

// kinds are what is trained.
var kinds = map[string]llama.Options{
	"QLoRA": {Compute: num.BFloat16, Quant: &quant.Options{Type: quant.NF4, Blocksize: 64, DoubleQuant: true}, LoRA: &lora.Config{R: 4, Alpha: 8, Dropout: 0.1, Seed: 3}},
	"full":  {Compute: num.BFloat16, Full: true},
}

func trainer(t *testing.T, d op.Device, o llama.Options, lr float64) (*train.Trainer, *llama.Model) {
	t.Helper()
	m, err := llama.New(d, tiny, o, llama.WeightsFunc(func(name string, shape []int) ([]float32, error) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		x := make([]float32, n)
		for i := range x {
			x[i] = num.Normal(2, num.Counter{Purpose: num.Purpose(name), Element: uint64(i)}) / 4
		}
		return x, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	m.Noise = op.Noise{Alpha: 1}
	return train.New(d, m, train.Config{
		AdamW:    optim.AdamWConfig{LR: lr, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8},
		Schedule: optim.Schedule{Kind: "constant"}, MaxGradNorm: 1,
	}), m
}

var batch = []train.Sequences{{{IDs: []int32{1, 5, 2, 7}, Labels: []int32{5, 2, 7, 3}}}, {{IDs: []int32{9, 9, 4}, Labels: []int32{9, op.IgnoredLabel, 1}}}}

// Three steps have the same bytes, watched or not.
func TestCleanRun(t *testing.T) {
	for name, o := range kinds {
		var states [2][]byte
		for i, d := range []op.Device{op.NewPlain(0), New(op.NewPlain(0))} {
			run, _ := trainer(t, d, o, 0.01)
			for range 3 {
				if _, err := run.Step(batch); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			path := filepath.Join(t.TempDir(), "state")
			if err := run.Save(path, "test"); err != nil {
				t.Fatal(err)
			}
			var err error
			if states[i], err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(states[0], states[1]) {
			t.Errorf("%s: the states differ", name)
		}
	}
}

// An infinity in a weight is found where it is first used, and nowhere else.
func TestPlantedInfinity(t *testing.T) {
	inner := op.NewPlain(0)
	run, m := trainer(t, New(inner), kinds["full"], 0.01)
	for _, p := range m.Whole() {
		if p.Name == "model.layers.1.mlp.up_proj.weight" {
			x := make([]float32, p.Use.Len())
			x[3*tiny.HiddenSize+2] = float32(math.Inf(1)) // output 3, input 2
			inner.Write(p.Use, x)
		}
	}
	_, err := run.Step(batch)
	if err == nil {
		t.Fatal("it was not found")
	}
	for _, want := range []string{
		"step 1: layers.1.mlp.up_proj: linear made ", "Inf in y (activations/mlp.up_proj), row 0, column 3: the first of 0 NaN and 4 infinities among 96 numbers\n",
		"\n  x (activations/post_attention_layernorm): from -", "\n  w (weights/model.layers.1.mlp.up_proj.weight): from 0 to 0, and 0 NaN and 1 infinities among 384 numbers",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %q", err, want)
		}
	}
}

// A learning rate that is far too high: the run is stopped at an operation, long before its loss is NaN.
func TestDivergence(t *testing.T) {
	for name, o := range kinds {
		run, _ := trainer(t, New(op.NewPlain(0)), o, 1e30)
		var err error
		for i := 0; i < 5 && err == nil; i++ {
			_, err = run.Step(batch)
		}
		if err == nil || !strings.HasPrefix(err.Error(), "step 2: ") || !strings.Contains(err.Error(), " made ") || !strings.Contains(err.Error(), "\n  ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A finite value can be too large for a tensor's type. What is found first stays.
func TestWrite(t *testing.T) {
	d := New(op.NewPlain(0))
	x := d.New(op.Run, "weights/x", num.BFloat16, 2, 3)
	d.Write(x, []float32{0, 1, 2, 3, math.MaxFloat32, 5})
	d.Add(op.At{Name: "later"}, x, x, x)
	_, err := d.Read(x)
	if err == nil || err != d.Sync() || !strings.HasPrefix(err.Error(), "writing to the device made +Inf in it (weights/x), row 1, column 1: ") ||
		!strings.Contains(err.Error(), "given (on the host): from 0 to 3.40282e+38") {
		t.Error(err)
	}
}

// The inner device's own errors come through.
func TestInnerErrors(t *testing.T) {
	d := New(op.NewPlain(0))
	table, y, ids := d.New(op.Run, "weights/table", num.Float32, 3, 1), d.New(op.Run, "y", num.Float32, 1, 1), d.NewInts(op.Run, "ids", 1)
	d.WriteInts(ids, []int32{7})
	d.Embedding(op.At{Layer: num.NoLayer, Name: "embed"}, y, table, ids)
	if err := d.Sync(); err == nil || err.Error() != "embed: ids: token id 7 at 0 is outside 0…2" {
		t.Error(err)
	}
}

// Every operation of op.Device that computes numbers is watched.
func TestAllOperations(t *testing.T) {
	unwatched := []string{"Quantize", "Choose", "Penalize"} // refuses what is not finite; chooses a token; bans by −∞
	b, err := os.ReadFile("../../../../ref/op/device.go")
	if err != nil {
		t.Fatal(err)
	}
	watched, err := os.ReadFile("operations.go")
	if err != nil {
		t.Fatal(err)
	}
	_, methods, _ := strings.Cut(string(b), "type Device interface {")
	methods, _, _ = strings.Cut(methods, "\n}")
	found := 0
	for _, line := range strings.Split(methods, "\n") {
		name, _, ok := strings.Cut(strings.TrimSpace(line), "(at At")
		if !ok {
			continue
		}
		found++
		if strings.Contains(string(watched), "func (d *Device) "+name+"(") == slices.Contains(unwatched, name) {
			t.Errorf("%s: watched and unwatched, or neither", name)
		}
	}
	if found < 25 {
		t.Errorf("%d operations found", found)
	}
}
