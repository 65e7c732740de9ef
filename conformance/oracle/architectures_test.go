package oracle

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
)

// TestArchitectures holds each architecture, as transformers and PEFT save and compute it, against ours: frequencies, logits,
// loss and the gradients of an adapter on every linear layer. The bound is TestLlama's.
func TestArchitectures(t *testing.T) {
	folders, err := filepath.Glob("vectors/architectures/*/config.json")
	if err != nil || len(folders) == 0 {
		t.Fatal("no vectors", err)
	}
	for _, config := range folders {
		dir := filepath.Dir(config)
		t.Run(filepath.Base(dir), func(t *testing.T) { checkArchitecture(t, dir) })
	}
}

func checkArchitecture(t *testing.T, dir string) {
	base, err := checkpoint.OpenModel(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	c, err := llama.ConfigOf(base.Config)
	if err != nil {
		t.Fatal(err)
	}
	f, err := checkpoint.Open(os.DirFS(dir), "expected.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v := vectors{t, f}
	d := op.NewPlain(0)
	a, err := checkpoint.OpenAdapter(os.DirFS(filepath.Join(dir, "adapter")))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	m, err := llama.New(d, c, llama.Options{Adapter: a}, base)
	if err != nil {
		t.Fatal(err)
	}
	report := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	u := float64(c.NumHiddenLayers) * 512 / (1 << 24)
	ids, labels := v.ints("ids"), v.ints("labels")
	loss, counted := backward(d, m, ids, labels)
	report("frequencies", sameBits(c.InvFreq(len(ids)), v.floats("inv_freq")))
	report("frequencies of short sequences", sameBits(c.InvFreq(1), v.floats("inv_freq_default")))
	report("loss", within([]float32{num.Sum(read(t, d, loss)) / counted}, v.floats("loss"), u))
	report("logits", within(read(t, d, m.Logits(m.NewCache(len(ids)), ids)), v.floats("logits"), u))
	for module, a := range m.Adapters() {
		report(module+" lora_A", within(read(t, d, a.GradA), v.floats("gradient/"+module+".lora_A.weight"), u))
		report(module+" lora_B", within(read(t, d, a.GradB), v.floats("gradient/"+module+".lora_B.weight"), u))
	}
}

// backward runs one sequence forward and backward; counted is the number of labels that are not ignored.
func backward(d op.Device, m *llama.Model, ids, labels []int32) (loss *op.Tensor, counted float32) {
	shifted := append(slices.Clone(labels[1:]), op.IgnoredLabel)
	for _, l := range shifted {
		if l != op.IgnoredLabel {
			counted++
		}
	}
	b := llama.NewBatch(d, [][]int32{ids}, [][]int32{shifted})
	loss = d.New(op.Step, "loss", num.Float32, b.Tokens, 1)
	g := d.New(op.Step, "g", num.Float32, 1, 1)
	d.Write(g, []float32{1 / counted})
	m.Backward(b, m.Loss(b, loss), g)
	return loss, counted
}
