package oracle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
)

// TestTrainedWhole holds the gradients of weights against those of transformers, where all are trained, and of PEFT, where
// modules_to_save are trained beside an adapter. The bound is TestLlama's.
func TestTrainedWhole(t *testing.T) {
	files, err := filepath.Glob("vectors/full/*.safetensors")
	if err != nil || len(files) == 0 {
		t.Fatal("no vectors", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".safetensors")
		t.Run(name, func(t *testing.T) {
			base, _, beside := strings.Cut(name, ".")
			f, err := checkpoint.Open(os.DirFS("vectors/full"), name+".safetensors")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			weights, err := checkpoint.OpenModel(os.DirFS(filepath.Join("vectors/architectures", base)))
			if err != nil {
				t.Fatal(err)
			}
			defer weights.Close()
			d := op.NewPlain(0)
			var m *llama.Model
			if beside {
				m = besideAdapter(t, d, weights, filepath.Join("vectors/adapters", name))
			} else {
				m = onDevice(t, d, weights, llama.Options{Full: true})
			}
			checkWhole(t, d, m, vectors{t, f})
		})
	}
}

func onDevice(t *testing.T, d op.Device, base *checkpoint.Model, o llama.Options) *llama.Model {
	t.Helper()
	c, err := llama.ConfigOf(base.Config)
	if err != nil {
		t.Fatal(err)
	}
	m, err := llama.New(d, c, o, base)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// besideAdapter is a model whose adapter, and modules trained whole, have the values of a file.
func besideAdapter(t *testing.T, d op.Device, base *checkpoint.Model, dir string) *llama.Model {
	a := openAdapter(t, dir)
	m := onDevice(t, d, base, llama.Options{LoRA: &lora.Config{R: a.Config.R, Alpha: a.Config.Alpha, Modules: a.Ranks, ModulesToSave: a.Config.ModulesToSave}})
	for module, into := range m.Adapters() {
		d.Write(into.A, a.A[module].Values)
		d.Write(into.B, a.B[module].Values)
	}
	for _, p := range m.Whole() {
		x, err := a.Float32(p.Name, p.Shape)
		if err != nil || x == nil {
			t.Fatalf("%s: the adapter does not save it, %v", p.Name, err)
		}
		d.Write(p.Value, x)
	}
	return m
}

func checkWhole(t *testing.T, d op.Device, m *llama.Model, v vectors) {
	u := float64(m.NumHiddenLayers) * 512 / (1 << 24)
	loss, counted := backward(d, m, v.ints("ids"), v.ints("labels"))
	if err := within([]float32{num.Sum(read(t, d, loss)) / counted}, v.floats("loss"), u); err != nil {
		t.Errorf("loss: %v", err)
	}
	trained := map[string]bool{}
	for _, p := range m.Whole() {
		trained[p.Name] = true
		p.JoinGradients(d)
		if err := within(read(t, d, p.Grad), v.floats("gradient/"+p.Name), u); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
	for _, name := range v.Names() {
		if name, ok := strings.CutPrefix(name, "gradient/"); ok && !trained[name] {
			t.Errorf("%s is trained there, and not here", name)
		}
	}
}
