package llama_test

import (
	"fmt"
	"math"
	"os"
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

// rich is tiny with everything that a block can have, and a head tied to the embedding or not.
func rich(tied bool) llama.Config {
	c := tiny
	c.QKNorm, c.QKVBias, c.OutputBias, c.MLPBias, c.TieWordEmbeddings = true, true, true, true, tied
	return c
}

func built(t *testing.T, c llama.Config, o llama.Options) (*llama.Model, op.Device) {
	t.Helper()
	d := op.NewPlain(0)
	m, err := llama.New(d, c, o, llama.WeightsFunc(weights))
	if err != nil {
		t.Fatal(err)
	}
	return m, d
}

// twoSequences is a batch, of which some labels are ignored.
func twoSequences(d op.Device) (b *llama.Batch, counted float64) {
	labels := [][]int32{ids(9)[2:], ids(12)[7:]}
	labels[0][3] = op.IgnoredLabel
	return llama.NewBatch(d, [][]int32{ids(7), ids(5)}, labels), 11
}

// meanLoss is of training without backward.
func meanLoss(t *testing.T, m *llama.Model, d op.Device) float64 {
	t.Helper()
	defer d.Release(d.Mark(op.Step))
	b, counted := twoSequences(d)
	loss := d.New(op.Step, "batch/loss", num.Float32, b.Tokens, 1)
	m.Loss(b, loss)
	sum := 0.0
	for _, v := range read(t, d, loss) {
		sum += float64(v)
	}
	return sum / counted
}

// backward adds to the gradients of the mean loss.
func backward(m *llama.Model, d op.Device) {
	defer d.Release(d.Mark(op.Step))
	b, counted := twoSequences(d)
	loss, g := d.New(op.Step, "batch/loss", num.Float32, b.Tokens, 1), d.New(op.Step, "batch/g", num.Float32, 1, 1)
	d.Write(g, []float32{float32(1 / counted)})
	m.Backward(b, m.Loss(b, loss), g)
	for _, p := range m.Parameters() {
		p.JoinGradients(d)
	}
}

// Each parameter's gradient is the central difference of the loss, with noise and without; losses in float32 are good to about 1e-7 and
// h is 2^-7, so that the difference is to 1e-5.
func TestGradientsOfWeights(t *testing.T) {
	for _, c := range []struct {
		tied  bool
		noise float32
	}{{true, 0}, {false, 3}} {
		m, d := built(t, rich(c.tied), llama.Options{Full: true})
		m.Noise = op.Noise{Alpha: c.noise, Seed: 3}
		backward(m, d)
		for _, p := range m.Parameters() {
			g, x := read(t, d, p.Grad), read(t, d, p.Value)
			largest := 0.0
			for _, v := range g {
				largest = max(largest, math.Abs(float64(v)))
			}
			if largest == 0 {
				t.Errorf("tied %v: %s has no gradient", c.tied, p.Name)
			}
			for _, i := range []int{0, len(x) / 3, len(x) - 1} {
				const h = 0x1p-7
				side := func(by float32) float64 {
					moved := slices.Clone(x)
					moved[i] += by
					d.Write(p.Value, moved)
					defer d.Write(p.Value, x)
					return meanLoss(t, m, d)
				}
				want := (side(h) - side(-h)) / (2 * h)
				if diff := math.Abs(float64(g[i]) - want); diff > 2e-5+0.003*largest {
					t.Errorf("tied %v: %s[%d] has the gradient %v, want %v", c.tied, p.Name, i, g[i], want)
				}
			}
		}
	}
}

// What is trained is what was asked for, and computes in the compute type.
func TestParameters(t *testing.T) {
	names := func(m *llama.Model) (all []string) {
		for _, p := range m.Parameters() {
			all = append(all, p.Name)
			if use := p.Use; p.Value.DType != num.Float32 || use != nil && use.DType != m.Compute {
				t.Errorf("%s is %v", p.Name, p.Value.DType)
			}
		}
		return all
	}
	for _, tied := range []bool{true, false} {
		m, _ := built(t, rich(tied), llama.Options{Compute: num.BFloat16, Full: true})
		var want []string
		for _, s := range m.Tensors() {
			want = append(want, s.Name)
		}
		slices.Sort(want)
		if got := names(m); !slices.Equal(got, want) {
			t.Errorf("full: %v, want %v", got, want)
		}
	}
	adapted := map[string]peft.Rank{"model.layers.0.self_attn.q_proj": {R: 2, Alpha: 1}}
	for _, c := range []struct {
		save []string
		want []string
	}{
		{nil, nil},
		{[]string{"norm"}, []string{"model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight",
			"model.layers.0.self_attn.k_norm.weight", "model.layers.0.self_attn.q_norm.weight", "model.layers.1.input_layernorm.weight",
			"model.layers.1.post_attention_layernorm.weight", "model.layers.1.self_attn.k_norm.weight", "model.layers.1.self_attn.q_norm.weight", "model.norm.weight"}},
		{[]string{"lm_head", "0.mlp.up_proj"}, []string{"lm_head.weight", "model.layers.0.mlp.up_proj.bias", "model.layers.0.mlp.up_proj.weight"}},
		{[]string{"embed_tokens"}, []string{"model.embed_tokens.weight"}},
	} {
		o := llama.Options{Compute: num.BFloat16, Quant: &quant.Options{Type: quant.NF4, Blocksize: 64}, LoRA: &lora.Config{R: 2, Alpha: 1, Modules: adapted, ModulesToSave: c.save}}
		m, _ := built(t, rich(true), o)
		want := append([]string{"model.layers.0.self_attn.q_proj.lora_A", "model.layers.0.self_attn.q_proj.lora_B"}, c.want...)
		slices.Sort(want)
		if got := names(m); !slices.Equal(got, want) {
			t.Errorf("modules_to_save %v: %v, want %v", c.save, got, want)
		}
	}
}

// After Refresh the model computes with the values, as one does that was made of them.
func TestRefresh(t *testing.T) {
	changed := func(name string, n int) []float32 {
		x, _ := weights("changed "+name, []int{n})
		return x
	}
	for _, compute := range []num.DType{num.Float32, num.BFloat16} {
		o := llama.Options{Compute: compute, Full: true}
		m, d := built(t, rich(true), o)
		for _, p := range m.Parameters() {
			d.Write(p.Value, changed(p.Name, p.Value.Len()))
			p.Refresh(d)
		}
		want := logits(t, rich(true), o, llama.WeightsFunc(func(name string, shape []int) ([]float32, error) {
			n := 1
			for _, size := range shape {
				n *= size
			}
			return changed(name, n), nil
		}))
		if got := read(t, d, m.Logits(m.NewCache(12), ids(12))); !slices.Equal(got, want) {
			t.Errorf("%v: other logits", compute)
		}
	}
}

// What was trained beside an adapter, written as PEFT writes it, comes back with the same logits.
func TestModulesToSaveComeBack(t *testing.T) {
	for _, tied := range []bool{true, false} {
		for _, save := range [][]string{{"embed_tokens"}, {"lm_head"}, {"embed_tokens", "lm_head", "norm"}, {"1.mlp.down_proj", "0.self_attn.v_proj"}} {
			config := checkpoint.NewAdapterConfig()
			config.TargetModules.List, config.ModulesToSave, config.R = []string{"q_proj"}, save, 2
			modules, err := config.Choose(rich(tied).Modules())
			if err != nil {
				t.Fatal(err)
			}
			m, d := built(t, rich(tied), llama.Options{Compute: num.BFloat16, LoRA: &lora.Config{R: 2, Alpha: config.Alpha, Modules: modules, ModulesToSave: save}})
			a := checkpoint.Adapter{Config: config, A: map[string]checkpoint.Matrix{}, B: map[string]checkpoint.Matrix{}}
			for _, p := range m.Parameters() {
				x, _ := weights("trained "+p.Name, []int{p.Value.Len()})
				d.Write(p.Value, x)
				p.Refresh(d)
			}
			for name, l := range m.Adapters() {
				a.A[name] = checkpoint.Matrix{Rows: l.A.Rows, Cols: l.A.Cols, Values: read(t, d, l.A)}
				a.B[name] = checkpoint.Matrix{Rows: l.B.Rows, Cols: l.B.Cols, Values: read(t, d, l.B)}
			}
			var whole []checkpoint.Tensor
			for _, p := range m.Whole() {
				whole = append(whole, quant.Float32Entry(p.Name, read(t, d, p.Value), p.Shape...))
			}
			dir := t.TempDir()
			if err := checkpoint.WriteAdapter(dir, a, whole...); err != nil {
				t.Fatal(err)
			}
			back, err := checkpoint.OpenAdapter(os.DirFS(dir))
			if err != nil {
				t.Fatal(err)
			}
			got := logits(t, rich(tied), llama.Options{Compute: num.BFloat16, Adapter: back}, llama.WeightsFunc(weights))
			if want := read(t, d, m.Logits(m.NewCache(12), ids(12))); !slices.Equal(got, want) {
				t.Errorf("tied %v, modules_to_save %v: other logits", tied, save)
			}
			back.Close()
		}
	}
}

// LoRA on a base in 16 bits: the base is held as its file has it, rounded to the compute type, and takes part in the arithmetic.
func TestBaseIn16Bits(t *testing.T) {
	m, d := built(t, tiny, llama.Options{Compute: num.BFloat16, LoRA: &lora.Config{R: 2, Alpha: 4, Seed: 1}})
	want := logits(t, tiny, llama.Options{Compute: num.BFloat16}, llama.WeightsFunc(weights))
	if got := read(t, d, m.Logits(m.NewCache(12), ids(12))); !slices.Equal(got, want) {
		t.Error("an adapter that begins changes the base")
	}
	backward(m, d)
	for name, a := range m.Adapters() {
		if g := read(t, d, a.GradB); !slices.ContainsFunc(g, func(v float32) bool { return v != 0 }) {
			t.Errorf("%s: lora_B has no gradient", name)
		}
	}
	if len(m.Whole()) != 0 {
		t.Errorf("%d of the base's own tensors are trained", len(m.Whole()))
	}
	var held int64 // two bytes a weight, four for norms
	for _, s := range tiny.Tensors() {
		n := int64(2)
		if strings.HasSuffix(s.Name, "norm.weight") {
			n = 4
		}
		for _, size := range s.Shape {
			n *= int64(size)
		}
		held += n
	}
	for _, p := range d.Arena().Parts() {
		if p.Name == "weights" && p.Used != held {
			t.Errorf("the weights take %d bytes, want %d", p.Used, held)
		}
	}
}

// Noise is for training, and depends on its seed.
func TestNoiseIsForTraining(t *testing.T) {
	m, d := built(t, tiny, llama.Options{Full: true})
	evaluated := func() []float32 {
		b, _ := twoSequences(d)
		loss := d.New(op.Step, "batch/loss", num.Float32, b.Tokens, 1)
		m.Evaluate(b, loss)
		return append(read(t, d, loss), read(t, d, m.Logits(m.NewCache(5), ids(5)))...)
	}
	without, before := meanLoss(t, m, d), evaluated()
	seen := map[string]bool{fmt.Sprint(without): true}
	for seed := range uint64(3) {
		m.Noise = op.Noise{Alpha: 1, Seed: seed}
		seen[fmt.Sprint(meanLoss(t, m, d))] = true
	}
	if len(seen) != 4 {
		t.Errorf("losses are the same for other noises: %v", seen)
	}
	if !slices.Equal(evaluated(), before) {
		t.Error("what is evaluated or generated depends on noise")
	}
}

func TestWhatCannotBeTrained(t *testing.T) {
	adapter := func(names ...string) *lora.Config { return &lora.Config{R: 2, Alpha: 1, ModulesToSave: names} }
	for _, c := range []struct {
		o    llama.Options
		want string
	}{
		{llama.Options{Full: true, LoRA: adapter()}, "adapters have no place"},
		{llama.Options{Full: true, Quant: &quant.Options{Type: quant.NF4, Blocksize: 64}}, "none can be trained in 4 bits"},
		{llama.Options{LoRA: adapter("embed")}, `modules_to_save: "embed" is the name of no module`},
		{llama.Options{LoRA: adapter("")}, `modules_to_save: "" is the name of no module`},
		{llama.Options{LoRA: adapter("1.mlp.up_proj")}, "module model.layers.1.mlp.up_proj: modules_to_save and target_modules both choose it"},
	} {
		if _, err := llama.New(op.NewPlain(0), tiny, c.o, llama.WeightsFunc(weights)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
