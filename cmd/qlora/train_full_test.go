package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlora/ref/checkpoint"
)

// Full fine-tuning ends in a folder that is a model: it has learned, and neither a stop nor another cut of the batch leaves a trace.
func TestFullFinetune(t *testing.T) {
	tmp := t.TempDir()
	through, stopped := filepath.Join(tmp, "through"), filepath.Join(tmp, "stopped")
	flags := []string{"--full-finetune", "--bits", "16", "--learning-rate", "1e-3", "--neftune-noise-alpha", "5", "--save-steps", "2"}
	must(t, quick(through, flags...)...)
	must(t, quick(stopped, append(flags, "--batch-size", "1", "--gradient-accumulation-steps", "2")...)...)
	if err := os.RemoveAll(filepath.Join(stopped, "checkpoint-4")); err != nil {
		t.Fatal(err)
	}
	must(t, quick(stopped, append(flags, "--resume")...)...)
	for _, name := range []string{"model.safetensors", "metrics.jsonl"} {
		if digest(t, filepath.Join(through, name)) != digest(t, filepath.Join(stopped, name)) {
			t.Errorf("%s differs", name)
		}
	}
	if _, err := os.Stat(filepath.Join(through, "adapter_config.json")); err == nil {
		t.Error("there is an adapter")
	}
	before := must(t, "eval", "perplexity", "--text", through+".txt", "--quant", "none", "--json")
	after := must(t, "eval", "perplexity", "--text", through+".txt", "--quant", "none", "--json", "--model", through)
	if before == after {
		t.Errorf("nothing was learned: %s", after)
	}
}

// Modules that are trained whole lie in the adapter, by PEFT's names, and count when it is used.
func TestModulesToSave(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	must(t, quick(dir, "--modules-to-save", "embed_tokens,0.input_layernorm", "--target-modules", "q_proj")...)
	a, err := checkpoint.OpenAdapter(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if len(a.Saved) != 2 || a.Saved["model.embed_tokens.weight"].File == nil || a.Saved["model.layers.0.input_layernorm.weight"].File == nil {
		t.Errorf("saved are %v", a.Saved)
	}
	must(t, "eval", "perplexity", "--text", dir+".txt", "--adapter", dir)
	if _, stderr, code := cli(t, "", quick(dir+"2", "--modules-to-save", "nrom")...); code != 2 || !strings.Contains(stderr, `modules_to_save: "nrom" is the name of no module`) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// A clean run has the same bytes when it is watched; one that diverges ends with the operation that made the first NaN or infinity.
func TestCheckNumerics(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	must(t, quick(dir)...)
	must(t, quick(dir+"2", "--check-numerics")...)
	if digest(t, filepath.Join(dir, "adapter_model.safetensors")) != digest(t, filepath.Join(dir+"2", "adapter_model.safetensors")) {
		t.Error("the adapter differs")
	}
	_, stderr, code := cli(t, "", quick(dir+"3", "--check-numerics", "--learning-rate", "1e30")...)
	if code != 1 || !strings.Contains(stderr, "step 2: layers.") || !strings.Contains(stderr, " made ") || !strings.Contains(stderr, ", row 0, column 0: the first of ") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
