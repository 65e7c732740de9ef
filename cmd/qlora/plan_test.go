package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/plan"
	"qlora/ref/op"
)

// The example: LLaMA-65B in 48 GiB, part by part, with the longest sequence.
func TestPlan(t *testing.T) {
	flags := "plan --model synthetic:llama-65b --memory-limit 48GiB --seq 512 --batch 1 --gradient-checkpointing --device cpu"
	out := must(t, strings.Fields(flags)...)
	for _, want := range []string{
		"synthetic:llama-65b, 65.29 billion parameters", "weights ", "quantization constants ", "adapters ", "gradients ", "optimizer ",
		"checkpoints ", "activations ", "workspace ", "at the peak", "memory limit   48.0 GiB: it fits, with sequences of up to ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	var r planReport
	if err := json.Unmarshal([]byte(must(t, append(strings.Fields(flags), "--json")...)), &r); err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, p := range r.Parts {
		sum += p.Bytes
	}
	if !r.Fits || r.Longest <= 512 || sum != r.Peak || r.Limit != 48<<30 || r.Parameters != 65285660672 {
		t.Errorf("%+v", r)
	}
}

// What does not fit is said with what would help, and ends with 1.
func TestPlanThatDoesNotFit(t *testing.T) {
	out, err, code := cli(t, "", strings.Fields("plan --model synthetic:smollm2-135m --memory-limit 500MiB --batch 8 --lora-r 256 --gradient-checkpointing=false --device cpu")...)
	for _, want := range []string{"it does not fit", "--gradient-checkpointing ", "--lora-r 8 ", "what is enough, one after the other:"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code != 1 || !strings.Contains(err, "the run does not fit into 500.0 MiB: it needs ") {
		t.Error(code, err)
	}
	out, _, code = cli(t, "", strings.Fields("plan --model synthetic:smollm2-135m --memory-limit 100MiB --device cpu")...)
	if code != 1 || !strings.Contains(out, "all of it together is not enough") || !strings.Contains(out, "no sequence is short enough") {
		t.Error(code, out)
	}
}

// A plan of the demo is within 3% of what its training reports.
func TestPlanOfTheDemo(t *testing.T) {
	var r planReport
	if err := json.Unmarshal([]byte(must(t, "plan", "--model", "demo", "--json", "--device", "cpu")), &r); err != nil {
		t.Fatal(err)
	}
	out := must(t, "train", "--output", filepath.Join(t.TempDir(), "run"), "--steps", "2", "--prompt", "", "--device", "cpu")
	_, held, _ := strings.Cut(out, "\nmemory ")
	var mib float64
	if _, err := fmt.Sscanf(held, "%f MiB at most", &mib); err != nil || math.Abs(float64(r.Peak)/(mib*(1<<20))-1) > 0.03 {
		t.Errorf("planned %s, training says %q; %v", op.Bytes(r.Peak), held, err)
	}
}

// Only config.json is read of a folder, so that a plan comes before a download.
func TestPlanOfAFolder(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shape := `"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
		"vocab_size": 1000, "max_position_embeddings": 512`
	memory := func(flags ...string) (r planReport) {
		flags = append([]string{"plan", "--model", dir, "--seq", "64", "--device", "cpu", "--json"}, flags...)
		if err := json.Unmarshal([]byte(must(t, flags...)), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	write("{" + shape + "}")
	plain := memory()
	write("{" + shape + `, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4",
		"bnb_4bit_use_double_quant": true, "llm_int8_skip_modules": ["lm_head", "layers.2"]}}`)
	partly := memory()
	linear := int64(4*256*256 + 3*256*512)
	if got := partly.Of(plan.Weights) - plain.Of(plan.Weights); got != 2*linear-linear/2 {
		t.Errorf("a layer that is not quantized takes %d more, want %d", got, 2*linear-linear/2)
	}
}

// Training is told what it will take before weights are loaded, and does not begin where that is too much.
func TestCheckPlan(t *testing.T) {
	b, err := base.Open("demo")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for flags, want := range map[string]struct{ said, fails string }{
		"--device cpu":                     {said: "activations"},
		"--device cpu --memory-limit 2MiB": {fails: "the run does not fit into memory"},
		"--device ref --memory-limit 2MiB": {},
		"--device cpu --optim paged_adamw_32bit --memory-limit 11700KiB": {said: "above 11.4 MiB optimizer state leaves it"},
	} {
		o, err := readTrainOptions(strings.Fields(flags))
		if err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		switch err := o.checkPlan(&said, b, o.SeqLen); {
		case want.fails == "" && err != nil, !strings.Contains(said.String(), want.said), want.said == "" && said.Len() > 0:
			t.Errorf("%s: %v; it says %q", flags, err, said.String())
		case want.fails != "" && (err == nil || !strings.Contains(err.Error(), want.fails) || !strings.Contains(err.Error(), "--gradient-checkpointing")):
			t.Errorf("%s: %v", flags, err)
		}
	}
}

func TestPlanOfThePaper(t *testing.T) {
	if out := must(t, "plan", "--paper"); !strings.Contains(out, "LLaMA's MLP has three matrices") || !strings.Contains(out, "1525.0") {
		t.Error(out)
	}
	var figures []plan.Figure
	if err := json.Unmarshal([]byte(must(t, "plan", "--paper", "--json")), &figures); err != nil || len(figures) != 4 || figures[3].TotalGB != 45 {
		t.Error(err, figures)
	}
}

func TestPlanMistakes(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"plan --model synthetic:llama-66b", 2, "llama-65b"},
		{"plan --model synthetic:llama-7b --seq 4096", 2, "the model's context has 2048"},
		{"plan --model synthetic:llama-7b --seq=-1", 2, "max_seq_length is -1"},
		{"plan --model synthetic:llama-7b 512", 2, `plan: "512" is no flag`},
		{"plan --model synthetic:llama-7b --target-modules none_such", 2, "none_such"},
		{"plan --model synthetic:llama-7b --device ref", 1, "device ref: its arena does not count"},
		{"plan --model nowhere", 1, "model nowhere"},
		{"plan --model " + t.TempDir(), 1, "config.json"},
	} {
		out, err, code := cli(t, "", strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(err, c.want) {
			t.Errorf("%s: exit code %d, %q\n%s", c.args, code, err, out)
		}
	}
}
