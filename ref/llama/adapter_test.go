package llama_test

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/lora/peft"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// An adapter for tiny on its first layer's q_proj and its second layer's down_proj.
func tinyAdapter() checkpoint.Adapter {
	a := checkpoint.Adapter{Config: checkpoint.NewAdapterConfig(), A: map[string]checkpoint.Matrix{}, B: map[string]checkpoint.Matrix{},
		Ranks: map[string]peft.Rank{}, Saved: map[string]checkpoint.Saved{}}
	a.Config.TargetModules = peft.Names{Regexp: `.*0.*q_proj|.*1.*down_proj`}
	a.Config.BaseModel = "the other"
	add := func(module string, rank, out, in int) {
		x, _ := weights(module+"A", []int{rank, in})
		y, _ := weights(module+"B", []int{out, rank})
		a.A[module] = checkpoint.Matrix{Rows: rank, Cols: in, Values: x}
		a.B[module] = checkpoint.Matrix{Rows: out, Cols: rank, Values: y}
		a.Ranks[module] = peft.Rank{R: rank, Alpha: 3}
	}
	add("model.layers.0.self_attn.q_proj", 2, 16, 16)
	add("model.layers.1.mlp.down_proj", 5, 16, 24)
	return a
}

// save gives an adapter a tensor in place of the base's; of zeros, if x is nil.
func save(t *testing.T, a checkpoint.Adapter, name string, x []float32, shape ...int) {
	t.Helper()
	if x == nil {
		n := 1
		for _, d := range shape {
			n *= d
		}
		x = make([]float32, n)
	}
	dir := t.TempDir()
	err := checkpoint.Write(filepath.Join(dir, "saved"), []checkpoint.Tensor{checkpoint.Narrow(name, shape, x, num.Float32)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := checkpoint.Open(os.DirFS(dir), "saved")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	a.Saved[name] = checkpoint.Saved{File: f, Name: name}
}

func logits(t *testing.T, c llama.Config, o llama.Options, w llama.Weights) []float32 {
	t.Helper()
	d := op.NewPlain(0)
	m, err := llama.New(d, c, o, w)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, d, m.Logits(m.NewCache(12), ids(12)))
}

// A model with an adapter is the model whose weights have the adapter merged, within the roundings of sums.
func TestAdapterIsMerged(t *testing.T) {
	a := tinyAdapter()
	merged := llama.WeightsFunc(func(name string, shape []int) ([]float32, error) {
		w, err := weights(name, shape)
		module := strings.TrimSuffix(name, ".weight")
		if m, ok := a.A[module]; ok {
			c := lora.Config{R: m.Rows, Alpha: 3}
			lora.Merge(w, m.Values, a.B[module].Values, shape[0], shape[1], m.Rows, c.Scale())
		}
		return w, err
	})
	got, want := logits(t, tiny, llama.Options{Adapter: a}, llama.WeightsFunc(weights)), logits(t, tiny, llama.Options{}, merged)
	for i := range want {
		if math.Abs(float64(got[i]-want[i])) > 1e-4 {
			t.Fatalf("logit %d is %v, merged %v", i, got[i], want[i])
		}
	}
	if slices.Equal(want, logits(t, tiny, llama.Options{}, llama.WeightsFunc(weights))) {
		t.Error("the adapter changes nothing")
	}
}

// What an adapter saves stands in place of the base's tensor, as if the file had it; a linear layer stays unquantized, and a tied
// head keeps the base's embedding.
func TestSavedModules(t *testing.T) {
	untied := tiny
	untied.TieWordEmbeddings = false
	for _, c := range []struct {
		shape llama.Config
		saved []string // tensors
		names []string // modules_to_save
		head  string   // the tensor whose old values, or new ones if it is saved, the head has
	}{
		{tiny, []string{"model.embed_tokens.weight"}, []string{"embed_tokens"}, "old model.embed_tokens.weight"},
		{tiny, []string{"model.embed_tokens.weight"}, nil, "new model.embed_tokens.weight"},
		{tiny, []string{"lm_head.weight"}, []string{"lm_head"}, "new lm_head.weight"},
		{untied, []string{"model.embed_tokens.weight"}, []string{"embed_tokens"}, "old lm_head.weight"},
		{untied, []string{"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}, []string{"embed_tokens", "lm_head", "model.norm"}, "new lm_head.weight"},
		{untied, []string{"model.layers.0.mlp.up_proj.weight", "model.layers.1.input_layernorm.weight"}, []string{"0.mlp.up_proj", "1.input_layernorm"}, "old lm_head.weight"},
	} {
		a := tinyAdapter()
		a.Config.ModulesToSave = c.names
		shapes := map[string][]int{"lm_head.weight": {11, 16}}
		for _, s := range tiny.Tensors() {
			shapes[s.Name] = s.Shape
		}
		for _, name := range c.saved {
			x, _ := weights("new "+name, shapes[name])
			save(t, a, name, x, shapes[name]...)
		}
		// The same model, untied, with those tensors in its own file.
		whole := llama.WeightsFunc(func(name string, shape []int) ([]float32, error) {
			switch {
			case name == "lm_head.weight":
				return weights(strings.TrimPrefix(c.head, "old "), shape)
			case slices.Contains(c.saved, name):
				return weights("new "+name, shape)
			}
			return weights(name, shape)
		})
		b := tinyAdapter()
		if got, want := logits(t, c.shape, llama.Options{Adapter: a}, llama.WeightsFunc(weights)), logits(t, untied, llama.Options{Adapter: b}, whole); !slices.Equal(got, want) {
			t.Errorf("%v, modules_to_save %v: other logits", c.saved, c.names)
		}
	}
}

func TestSavedLinearLayerIsNotQuantized(t *testing.T) {
	const name = "model.layers.0.mlp.up_proj.weight"
	a := tinyAdapter()
	a.Config.ModulesToSave = []string{"0.mlp.up_proj"}
	x, _ := weights(name, []int{24, 16})
	save(t, a, name, x, 24, 16)
	o := llama.Options{Adapter: a, Quant: &quant.Options{Type: quant.NF4, Blocksize: 64}}
	plain := llama.Options{Adapter: tinyAdapter(), Quant: o.Quant}
	if slices.Equal(logits(t, tiny, o, llama.WeightsFunc(weights)), logits(t, tiny, plain, llama.WeightsFunc(weights))) {
		t.Error("the saved weight was quantized")
	}
	x[7] = float32(math.NaN())
	save(t, a, name, x, 24, 16)
	if _, err := llama.New(op.NewPlain(0), tiny, o, llama.WeightsFunc(weights)); err == nil || !strings.Contains(err.Error(), name+": element 7 is NaN") {
		t.Error(err)
	}
}

func TestAdaptersOfOtherModels(t *testing.T) {
	const q, down = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
	for what, c := range map[string]struct {
		spoil func(a *checkpoint.Adapter)
		want  string
	}{
		"narrow": {func(a *checkpoint.Adapter) { a.A[q] = checkpoint.Matrix{Rows: 2, Cols: 8} }, "module " + q + ": lora_A is 2×8, the model needs 2×16"},
		"short":  {func(a *checkpoint.Adapter) { a.B[down] = checkpoint.Matrix{Rows: 8, Cols: 5} }, "module " + down + ": lora_B is 8×5, the model needs 16×5"},
		"more layers": {func(a *checkpoint.Adapter) { a.A["model.layers.2.mlp.down_proj"] = a.A[down] },
			"module model.layers.2.mlp.down_proj: the model has no linear layer of this name"},
		"the head":        {func(a *checkpoint.Adapter) { a.A["lm_head"] = a.A[down] }, "module lm_head: the model has no linear layer of this name that can be adapted"},
		"fewer layers":    {func(a *checkpoint.Adapter) { delete(a.A, down) }, "module " + down + ": target_modules chooses it, but the adapter has no tensors for it"},
		"not chosen":      {func(a *checkpoint.Adapter) { a.Config.TargetModules.Regexp = ".*q_proj" }, "target_modules chooses it, but"},
		"chosen less":     {func(a *checkpoint.Adapter) { a.Config.TargetModules.Regexp = ".*0.*q_proj" }, "module " + down + ": the adapter has tensors for it, but its target_modules does not choose it"},
		"wrong pattern":   {func(a *checkpoint.Adapter) { a.Config.TargetModules.Regexp = "(" }, `target_modules: "(" is no regular expression`},
		"saved shape":     {func(a *checkpoint.Adapter) { save(t, *a, "model.norm.weight", nil, 8) }, "tensor model.norm.weight has shape [8], the model needs [16]"},
		"saved elsewhere": {func(a *checkpoint.Adapter) { save(t, *a, "score.weight", nil, 8) }, "tensor score.weight: the model has none of this name"},
		"saved and LoRA":  {func(a *checkpoint.Adapter) { save(t, *a, q+".weight", nil, 16, 16) }, "tensor " + q + ".weight: the adapter has lora_A and lora_B for this module, too"},
		"not saved":       {func(a *checkpoint.Adapter) { a.Config.ModulesToSave = []string{"lm_head"} }, "tensor lm_head.weight: modules_to_save names it, but the adapter does not have it"},
		"tied in place":   {func(a *checkpoint.Adapter) { save(t, *a, "lm_head.weight", nil, 11, 16) }, "tensor lm_head.weight: modules_to_save does not name it"},
		"half tied": {func(a *checkpoint.Adapter) {
			a.Config.ModulesToSave, a.Config.WeightTying = []string{"embed_tokens"}, true
			save(t, *a, "model.embed_tokens.weight", nil, 11, 16)
		}, "tensor lm_head.weight: modules_to_save names it, but"},
	} {
		a := tinyAdapter()
		c.spoil(&a)
		_, err := llama.New(op.NewPlain(0), tiny, llama.Options{Adapter: a}, llama.WeightsFunc(weights))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `made for "the other"`) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	a := tinyAdapter()
	a.Config.TargetModules.Regexp = "(?!what only Python reads).*"
	if err := tiny.CheckAdapter(a); err != nil {
		t.Error("the tensors must decide:", err)
	}
}

// Only the chosen modules are adapted, each with its rank and scale; what A begins with does not depend on the other modules.
func TestModules(t *testing.T) {
	build := func(modules map[string]peft.Rank) (map[string]*op.Adapter, op.Device) {
		d := op.NewPlain(0)
		m, err := llama.New(d, tiny, llama.Options{LoRA: &lora.Config{R: 3, Alpha: 6, Seed: 4, Modules: modules}}, llama.WeightsFunc(weights))
		if err != nil {
			t.Fatal(err)
		}
		return m.Adapters(), d
	}
	want := map[string]peft.Rank{"model.layers.0.self_attn.q_proj": {R: 2, Alpha: 3}, "model.layers.1.mlp.up_proj": {R: 3, Alpha: 6}}
	some, d1 := build(want)
	all, d2 := build(nil)
	got := map[string]peft.Rank{}
	for m, a := range some {
		got[m] = peft.Rank{R: a.A.Rows, Alpha: float64(a.Scale) * float64(a.B.Cols)}
		if whole := read(t, d2, all[m].A); !slices.Equal(read(t, d1, a.A), whole[:a.A.Len()]) {
			t.Errorf("%s begins otherwise", m)
		}
	}
	if !maps.Equal(got, want) || len(all) != len(tiny.Modules()) {
		t.Error(fmt.Sprint(got), len(all))
	}
}
