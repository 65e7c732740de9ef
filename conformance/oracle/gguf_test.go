package oracle

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
)

// TestGGUFTypes holds the values of every type of tensor against gguf-py's: every code, extreme scales.
func TestGGUFTypes(t *testing.T) {
	g, err := checkpoint.OpenGGUF(os.DirFS("vectors/gguf"), "types.gguf")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	f, err := checkpoint.Open(os.DirFS("vectors/gguf"), "types.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !slices.Equal(g.Names(), f.Names()) {
		t.Fatal(g.Names(), f.Names())
	}
	for _, name := range g.Names() {
		got, shape, err := g.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		want, wantShape, err := f.Float32(name)
		if err == nil {
			err = sameBits(got, want)
		}
		if err != nil || !slices.Equal(shape, wantShape) {
			t.Errorf("%s: shape %v, want %v: %v", name, shape, wantShape, err)
		}
	}
}

// TestGGUFModels: a model in GGUF is the model in Hugging Face's layout: its shape, its tensors and so its logits, to the bit.
// Llama 3.1 alone has its scaling in another form, whose frequencies are rounded otherwise.
func TestGGUFModels(t *testing.T) {
	files, err := filepath.Glob("vectors/gguf/*.gguf")
	if err != nil || len(files) < 9 {
		t.Fatal("no vectors", files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".gguf")
		if name != "types" {
			t.Run(name, func(t *testing.T) { checkGGUFModel(t, name) })
		}
	}
}

func checkGGUFModel(t *testing.T, name string) {
	g, err := checkpoint.OpenGGUF(os.DirFS("vectors/gguf"), name+".gguf")
	if err != nil {
		t.Fatal(err)
	}
	got, err := checkpoint.GGUFModel(g)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	want, err := checkpoint.OpenModel(os.DirFS(filepath.Join("vectors/architectures", name)))
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	c, wantConfig := configOf(t, got), configOf(t, want)
	frequencies, wantFrequencies := c.InvFreq(29), wantConfig.InvFreq(29)
	logits, wantLogits := logitsOf(t, c, got), logitsOf(t, wantConfig, want)
	sameNumbers := sameBits
	if name == "llama3.1" {
		for i, f := range frequencies {
			if d := math.Abs(float64(f)/float64(wantFrequencies[i]) - 1); d > 1.0/(1<<22) {
				t.Errorf("frequency %d is %v, want %v", i, f, wantFrequencies[i])
			}
		}
		c.RoPEScaling, frequencies = wantConfig.RoPEScaling, wantFrequencies
		sameNumbers = func(got, want []float32) error {
			return within(got, want, float64(c.NumHiddenLayers)*512/(1<<24))
		}
	}
	c.RoPEScaling.Type, wantConfig.RoPEScaling.Type = "", "" // the frequencies say it all
	c.RoPEScaling.Factor, wantConfig.RoPEScaling.Factor = 0, 0
	if !reflect.DeepEqual(c, wantConfig) {
		t.Errorf("%+v, want %+v", c, wantConfig)
	}
	if err := sameBits(frequencies, wantFrequencies); err != nil {
		t.Error("frequencies:", err)
	}
	for _, tensor := range c.Tensors() {
		x, err := got.Float32(tensor.Name, tensor.Shape)
		if err != nil {
			t.Fatal(err)
		}
		y, err := want.Float32(tensor.Name, tensor.Shape)
		if err == nil {
			err = sameBits(x, y)
		}
		if err != nil {
			t.Errorf("%s: %v", tensor.Name, err)
		}
	}
	if err := sameNumbers(logits, wantLogits); err != nil {
		t.Error("logits:", err)
	}
}

func configOf(t *testing.T, m *checkpoint.Model) llama.Config {
	t.Helper()
	c, err := llama.ConfigOf(m.Config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func logitsOf(t *testing.T, c llama.Config, weights llama.Weights) []float32 {
	t.Helper()
	d := op.NewPlain(0)
	m, err := llama.New(d, c, llama.Options{Compute: num.Float32}, weights)
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]int32, 29)
	for i := range ids {
		ids[i] = int32((7*i*i + 3*i) % 40)
	}
	return read(t, d, m.Logits(m.NewCache(len(ids)), ids))
}
