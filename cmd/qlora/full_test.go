package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/config"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
)

func TestBits(t *testing.T) {
	for _, c := range []struct {
		bits           int
		quant, compute string
		want           string // quant_type and compute, or the error
	}{
		{0, "nf4", "float32", "nf4 float32"}, {4, "fp4", "bfloat16", "fp4 bfloat16"}, {16, "nf4", "bfloat16", "none bfloat16"}, {32, "nf4", "bfloat16", "none float32"},
		{4, "none", "bfloat16", "bits is 4 and quant_type none"}, {8, "nf4", "bfloat16", "LLM.int8() is not computed here"},
		{16, "nf4", "float32", "use bits 32 for float32"}, {5, "nf4", "bfloat16", "want 4, 16 or 32"},
	} {
		quant, compute, err := weightOptions{Bits: c.bits}.held(c.quant, c.compute)
		got := quant + " " + compute
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("bits %d of %s, %s: %s, want %s", c.bits, c.quant, c.compute, got, c.want)
		}
	}
}

// What flags say against each other, or for nothing, is refused; what they say twice, or a file says otherwise, is not.
func TestContradictions(t *testing.T) {
	for flags, want := range map[string]string{
		"--bits 16 --quant-type nf4":         "bits is 16 and quant_type nf4",
		"--bits 32 --quant-type fp4":         "bits is 32 and quant_type fp4",
		"--bits 32 --bf16":                   "bits is 32, which computes in float32, and compute bfloat16",
		"--bits 32 --compute bfloat16":       "bits is 32, which computes in float32, and compute bfloat16",
		"--bf16 --compute float32":           "bf16 and compute float32",
		"--bits 16 --quant-type none":        "",
		"--bits 16 --bf16":                   "",
		"--bits 32 --compute float32":        "",
		"--bits 4 --quant-type fp4":          "",
		"--bits 4 --bf16 --compute bfloat16": "",

		"--full-finetune --bits 16 --lora-r 8":                        "full_finetune trains every weight and no adapter: lora_r 8",
		"--full-finetune --bits 16 --use-rslora":                      "use_rslora true",
		"--full-finetune --bits 16 --target-modules q_proj":           `target_modules ["q_proj"]`,
		"--full-finetune --bits 16 --lora-dropout 0.1":                "lora_dropout 0.1",
		"--full-finetune --bits 16 --lora-r 64 --lora-alpha 16":       "", // qlora.py's defaults, which its scripts give
		"--full-finetune --bits 16 --learning-rate 1e-3 --epochs 0.5": "",
		"--lora-r 8 --use-rslora":                                     "",
	} {
		var given runOptions
		if _, err := config.ParseFlags(strings.Fields(flags), &given); err != nil {
			t.Fatal(err)
		}
		usual := defaultTrain()
		o := usual.runOptions
		if _, err := config.ParseFlags(strings.Fields(flags), &o); err != nil {
			t.Fatal(err)
		}
		if err := o.checkGiven(given); err == nil != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", flags, err, want)
		}
	}
}

func TestTrains(t *testing.T) {
	for want, o := range map[string]runOptions{
		"nf4, r = 64":           {Quant: "nf4", Compute: "bfloat16", R: 64},
		"bfloat16 base, r = 64": {Quant: "none", Compute: "bfloat16", R: 64},
		"float32 base, r = 8":   {Quant: "none", Compute: "float32", R: 8},
		"every weight":          {Quant: "none", Compute: "bfloat16", R: 64, weightOptions: weightOptions{FullFinetune: true}},
	} {
		if got := o.trains(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestWeightOptions(t *testing.T) {
	for _, c := range []struct {
		o     weightOptions
		quant string
		want  string
	}{
		{weightOptions{FullFinetune: true}, "nf4", "add --bits 16 or --bits 32"},
		{weightOptions{FullFinetune: true, ModulesToSave: []string{"norm"}}, "none", "modules_to_save belongs to adapters"},
		{weightOptions{NoiseAlpha: -1}, "nf4", "neftune_noise_alpha is -1"},
	} {
		if err := c.o.check(c.quant); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	if err := (weightOptions{FullFinetune: true, NoiseAlpha: 5}).check("none"); err != nil {
		t.Error(err)
	}
	adapter := llama.Options{LoRA: &lora.Config{R: 1}}
	if o := (weightOptions{FullFinetune: true}).trained(adapter); !o.Full || o.LoRA != nil {
		t.Errorf("%+v", o)
	}
	if o := (weightOptions{ModulesToSave: []string{"norm"}}).trained(adapter); o.Full || !slices.Equal(o.LoRA.ModulesToSave, []string{"norm"}) {
		t.Errorf("%+v", o)
	}
}

// What a model cannot have is said before it is loaded.
func TestWeightOptionsFit(t *testing.T) {
	demo, err := base.Open("demo")
	if err != nil {
		t.Fatal(err)
	}
	defer demo.Close()
	gguf, err := filepath.Glob("../../conformance/oracle/vectors/gguf/*.gguf")
	if err != nil || len(gguf) == 0 {
		t.Fatal("no GGUF file", err)
	}
	file, err := base.Open(gguf[0])
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, c := range []struct {
		o    weightOptions
		b    *base.Base
		want string // "" for nothing
	}{
		{weightOptions{FullFinetune: true}, demo, ""}, {weightOptions{ModulesToSave: []string{"embed_tokens"}}, file, ""},
		{weightOptions{FullFinetune: true}, file, "give it the Hugging Face folder"},
		{weightOptions{ModulesToSave: []string{"nrom"}}, demo, `modules_to_save: "nrom" is the name of no module`},
	} {
		if err := c.o.fits(c.b); err == nil != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// A model that was trained whole is written as a folder that opens as a model, with the values and the tokenizer.
func TestWriteModel(t *testing.T) {
	b, err := base.Open("demo")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	d := op.NewPlain(0)
	m, err := b.Load(d, llama.Options{Compute: num.BFloat16, Full: true, Context: 8})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range m.Parameters() { // which no type of 16 bits has
		x, err := d.Read(p.Value)
		if err != nil {
			t.Fatal(err)
		}
		for i := range x {
			x[i] = x[i]*1.01 + 1e-5
		}
		d.Write(p.Value, x)
		p.Refresh(d)
	}
	dir := filepath.Join(t.TempDir(), "model")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeModel(dir, d, m, b.Files); err != nil {
		t.Fatal(err)
	}
	back, err := base.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	again, err := back.Load(d, llama.Options{Compute: num.BFloat16, Context: 8})
	if err != nil {
		t.Fatal(err)
	}
	ids := b.Tokenizer.EncodeSpecial("Romeo")
	if !slices.Equal(back.Tokenizer.EncodeSpecial("Romeo"), ids) {
		t.Error("another tokenizer")
	}
	want, err := d.Read(m.Logits(m.NewCache(8), ids))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Read(again.Logits(again.NewCache(8), ids)); err != nil || !slices.Equal(got, want) {
		t.Errorf("other logits, %v", err)
	}
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil || !strings.Contains(string(config), `"torch_dtype": "float32"`) {
		t.Errorf("%s, %v", config, err)
	}
	if err := writeModel(dir, d, again, b.Files); err == nil || !strings.Contains(err.Error(), "is not trained") {
		t.Errorf("a model that was not trained whole: %v", err)
	}
}

// What flags say of each other must agree.
func TestContradictoryFlags(t *testing.T) {
	for flags, want := range map[string]string{"--bits 16 --quant-type nf4": "give one of them", "--bits 32 --bf16": "give one of them",
		"--full-finetune --bits 16 --lora-r 7": "no adapter: lora_r 7"} {
		for _, command := range []string{"train", "plan"} {
			if _, err, code := cli(t, "", append([]string{command}, strings.Fields(flags)...)...); code != 2 || !strings.Contains(err, want) {
				t.Errorf("%s %s: %d, %s", command, flags, code, err)
			}
		}
	}
	must(t, "train", "--print-config", "--full-finetune", "--bits", "16")
}
