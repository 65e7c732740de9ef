package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/runs"
)

// asIn is what a command says of a run of which it takes settings over.
func asIn(dir, changes string) string {
	return "as in " + filepath.Join(dir, runs.ConfigFile) + ": " + changes + "\n"
}

// An adapter computes on a base as it was trained on: what its run says stands in for the defaults, in every command, for its checkpoints, too.
// A flag wins over it.
func TestAdapterAsItWasTrained(t *testing.T) {
	tmp := t.TempDir()
	half, other, plain := filepath.Join(tmp, "half"), filepath.Join(tmp, "other"), filepath.Join(tmp, "plain")
	must(t, quick(half, "--bits", "16", "--save-steps", "2")...)
	must(t, quick(other, "--quant-type", "fp4", "--double-quant=false", "--blocksize", "128", "--compute", "float32", "--eos-token", "the")...)
	must(t, quick(plain)...)
	const full, fp4 = "--quant none", "--quant fp4 --double-quant=false --blocksize 128 --compute float32"
	for _, c := range []struct {
		run, folder string // of the adapter
		flags, like string // what the same adapter gives, by itself, with all flags
		said        string
	}{
		{half, "", "", full, "quant_type none"},
		{half, "checkpoint-2", "", full, "quant_type none"},
		{half, "", "--bits 16", full, ""},
		{half, "", "--bits 4", "", ""},
		{half, "", "--quant nf4", "", ""},
		{half, "", "--bits 32", "--quant none --compute float32", ""},
		{half, "", "--compute float32", "--quant none --compute float32", "quant_type none"},
		{other, "", "", fp4, "quant_type fp4, double_quant false, blocksize 128, compute float32, eos_token the"},
		{other, "checkpoint-4", "", fp4, "quant_type fp4, double_quant false, blocksize 128, compute float32, eos_token the"},
		{other, "", "--bits 4 --eos-token the", fp4, "quant_type fp4, double_quant false, blocksize 128, compute float32"},
		{other, "", "--bits 16 --eos-token the --blocksize 64 --double-quant true", full, ""},
		{plain, "", "", "", ""},
	} {
		folder := filepath.Join(c.run, c.folder)
		alone := filepath.Join(t.TempDir(), "adapter") // which no run's configuration lies beside
		if err := os.CopyFS(alone, os.DirFS(folder)); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(alone, runs.ConfigFile)); err != nil {
			t.Fatal(err)
		}
		eval := []string{"eval", "perplexity", "--text", short(half), "--json", "--adapter"}
		got, said, code := cli(t, "", append(append(eval, folder), strings.Fields(c.flags)...)...)
		want, _, _ := cli(t, "", append(append(eval, alone), strings.Fields(c.like)...)...)
		if code != 0 || got != want {
			t.Errorf("%s %s: %d, %s%s, want %s", folder, c.flags, code, got, said, want)
		}
		if c.said != "" {
			c.said = asIn(c.run, c.said)
		}
		if said != c.said {
			t.Errorf("%s %s: says %q, want %q", folder, c.flags, said, c.said)
		}
	}
	generate := []string{"generate", "--prompt", once, "--tokens", "40"}
	ends := must(t, append(generate, "--adapter", other)...)
	goesOn := must(t, append(generate, "--adapter", other, "--eos-token=")...)
	if want, _, _ := strings.Cut(strings.TrimPrefix(goesOn, once), " the"); !strings.HasPrefix(goesOn, once) || strings.TrimSpace(strings.TrimPrefix(ends, once)) != strings.TrimSpace(want) {
		t.Errorf("%q, want the part of %q before the first the", ends, goesOn)
	}
	if _, said, code := cli(t, "Hello.\n", "chat", "--chat-template", "guanaco", "--tokens", "5", "--adapter", half); code != 0 || said != asIn(half, "quant_type none")+"(cut after 5 tokens: --max-new-tokens, --max-context)\n" {
		t.Errorf("%d, %q", code, said)
	}
}

// So does a model of which every weight was trained: it is not quantized. Another program's config.yaml counts for nothing.
func TestModelAsItWasTrained(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	must(t, quick(dir, "--full-finetune", "--bits", "16", "--save-steps", "2")...)
	eval := []string{"eval", "perplexity", "--text", short(dir), "--json", "--model"}
	want := must(t, append(eval, dir, "--quant", "none")...)
	got, said, code := cli(t, "", append(eval, dir)...)
	if code != 0 || got != want || said != asIn(dir, "quant_type none") {
		t.Errorf("%d, %s, %q, want %s", code, got, said, want)
	}
	if _, said, _ := cli(t, "", append(eval, filepath.Join(dir, "checkpoint-2"))...); said != asIn(dir, "quant_type none") {
		t.Errorf("%q", said)
	}
	quantized := must(t, append(eval, dir, "--quant", "nf4")...)
	if quantized == want {
		t.Error("--quant nf4 changes nothing")
	}
	if err := os.WriteFile(filepath.Join(dir, runs.ConfigFile), []byte("base_model: x\nquant_type: none\nload_in_8bit: {a: [1]}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, said, code := cli(t, "", append(eval, dir)...); code != 0 || got != quantized || said != "" {
		t.Errorf("%d, %s, %q, want %s", code, got, said, quantized)
	}
}

func TestBitsOfInference(t *testing.T) {
	for flags, want := range map[string]string{
		"--bits 8": "LLM.int8", "--bits 16 --quant nf4": "bits is 16 and quant_type nf4", "--bits 32 --compute bfloat16": "and compute bfloat16",
		"--bits 4 --quant none": "bits is 4 and quant_type none", "--eos-token Romeo": `eos_token "Romeo" is `,
	} {
		if _, err, code := cli(t, "", append([]string{"generate"}, strings.Fields(flags)...)...); code != 2 || !strings.Contains(err, want) {
			t.Errorf("%s: exit code %d, %q; want %q", flags, code, err, want)
		}
	}
	for _, same := range [][2]string{{"--bits 16", "--quant none"}, {"--bits 32", "--quant none --compute float32"}, {"--bits 4 --quant fp4", "--quant fp4"}} {
		var texts [2]string
		for i, flags := range same {
			texts[i] = must(t, append([]string{"eval", "perplexity", "--text", short(filepath.Join(t.TempDir(), "a")), "--json"}, strings.Fields(flags)...)...)
		}
		if texts[0] != texts[1] {
			t.Errorf("%v: %v", same, texts)
		}
	}
}
