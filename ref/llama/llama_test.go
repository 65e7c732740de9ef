package llama_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

var tiny = llama.Config{
	HiddenSize: 16, IntermediateSize: 24, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadDim: 4,
	VocabSize: 11, MaxPositionEmbeddings: 64, RMSNormEps: 1e-5, RoPETheta: 10000, TieWordEmbeddings: true,
}

func newModel(t *testing.T, compute num.DType) (*llama.Model, op.Device) {
	t.Helper()
	d := op.NewPlain(0)
	m, err := llama.New(d, tiny, llama.Options{Compute: compute}, llama.WeightsFunc(weights))
	if err != nil {
		t.Fatal(err)
	}
	return m, d
}

func weights(name string, shape []int) ([]float32, error) {
	n := 1
	for _, d := range shape {
		n *= d
	}
	x := make([]float32, n)
	for i := range x {
		x[i] = num.Normal(2, num.Counter{Purpose: num.Purpose(name), Element: uint64(i)}) / 2
	}
	return x, nil
}

func read(t *testing.T, d op.Device, x *op.Tensor) []float32 {
	t.Helper()
	v, err := d.Read(x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func ids(n int) []int32 {
	x := make([]int32, n)
	for i := range x {
		x[i] = int32((5*i*i + 3) % 11)
	}
	return x
}

// Fed a token at a time, some at a time or all at once, the cache gives the same logits to the bit.
func TestCache(t *testing.T) {
	for _, compute := range []num.DType{num.Float32, num.BFloat16} {
		m, d := newModel(t, compute)
		const n = 40 // more than the lanes of Sum
		want := read(t, d, m.Logits(m.NewCache(n), ids(n)))
		for _, cut := range []int{1, 7} {
			c := m.NewCache(n)
			var got []float32
			for from := 0; from < n; from += cut {
				got = append(got, read(t, d, m.Logits(c, ids(n)[from:min(n, from+cut)]))...)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%v: other logits, %d tokens at a time", compute, cut)
			}
		}
	}
}

// A sequence's losses do not depend on what it is packed with.
func TestPacking(t *testing.T) {
	m, d := newModel(t, num.BFloat16)
	losses := func(seqs ...[]int32) []float32 {
		b := llama.NewBatch(d, seqs, seqs)
		loss := d.New(op.Step, "loss", num.Float32, b.Tokens, 1)
		m.Loss(b, loss)
		return read(t, d, loss)
	}
	a, b := ids(35), ids(21)[3:]
	if got, want := losses(a, b), append(losses(a), losses(b)...); !slices.Equal(got, want) {
		t.Errorf("packed %v, apart %v", got, want)
	}
}

func TestGenerate(t *testing.T) {
	m, _ := newModel(t, num.Float32)
	run := func(c op.Choice) (out []int32) {
		if err := m.Generate(ids(5), 20, llama.Sampling{Choice: c}, func(id int32) bool { out = append(out, id); return true }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	greedy := run(op.Choice{})
	if len(greedy) != 20 || !slices.Equal(greedy, run(op.Choice{Temperature: 1, TopK: 1, Seed: 9})) {
		t.Error("the likeliest token is not the likeliest of one")
	}
	sampled := run(op.Choice{Temperature: 1, Seed: 1})
	if !slices.Equal(sampled, run(op.Choice{Temperature: 1, Seed: 1})) || slices.Equal(sampled, run(op.Choice{Temperature: 1, Seed: 2})) {
		t.Error("samples must depend on the seed, and on it alone")
	}
	for _, bad := range []struct {
		prompt []int32
		n      int
		want   string
	}{{nil, 3, "no tokens"}, {ids(60), 5, "context of 64"}, {[]int32{11}, 1, "token id 11"}} {
		if err := m.Generate(bad.prompt, bad.n, llama.Sampling{}, func(int32) bool { return true }); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%v", err)
		}
	}
}

func TestBadModels(t *testing.T) {
	for what, change := range map[string]func(*llama.Config){
		"hidden_size":       func(c *llama.Config) { c.HiddenSize = 0 },
		"3 key-value heads": func(c *llama.Config) { c.NumKeyValueHeads = 3 },
		"head_dim is 5":     func(c *llama.Config) { c.HeadDim = 5 },
	} {
		c := tiny
		change(&c)
		if _, err := llama.New(op.NewPlain(0), c, llama.Options{}, llama.WeightsFunc(weights)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := llama.New(op.NewPlain(1000), tiny, llama.Options{}, llama.WeightsFunc(weights))
	if err == nil || !strings.Contains(err.Error(), "memory limit") || !strings.Contains(err.Error(), "weights") {
		t.Errorf("without memory: %v", err)
	}
}

// A weight that is not finite is an error that names the tensor and the element, quantized or not.
func TestNaNWeight(t *testing.T) {
	for _, q := range []*quant.Options{nil, {Type: quant.NF4, Blocksize: 64}} {
		_, err := llama.New(op.NewPlain(0), tiny, llama.Options{Quant: q}, llama.WeightsFunc(func(name string, shape []int) ([]float32, error) {
			x, err := weights(name, shape)
			if strings.Contains(name, "layers.1.mlp.up_proj") {
				x[77] = float32(math.NaN())
			}
			return x, err
		}))
		if err == nil || !strings.Contains(err.Error(), "tensor model.layers.1.mlp.up_proj.weight: element 77 is NaN") {
			t.Errorf("%v", err)
		}
	}
}
