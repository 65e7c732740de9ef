package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/runs"
	"qlora/ref/checkpoint"
	"qlora/ref/quant"
)

// cli runs the program as a shell would.
func cli(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(console{context.Background(), strings.NewReader(stdin), &out, &err}, args)
	return out.String(), err.String(), code
}

// must runs the program and expects it to succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err, code := cli(t, "", args...)
	if code != 0 {
		t.Fatalf("qlora %v: exit code %d\n%s", args, code, err)
	}
	return out
}

// quick are flags of a run on the demo that takes a moment.
func quick(dir string, more ...string) []string {
	return append([]string{"train", "--output", dir, "--steps", "4", "--seq-len", "32", "--prompt", "", "--eval-data", short(dir), "--lr-scheduler-type", "constant"}, more...)
}

// short is a text beside dir, to measure on.
func short(dir string) string {
	name := dir + ".txt"
	if err := os.WriteFile(name, []byte("O, she doth teach the torches to burn bright!"), 0o644); err != nil {
		panic(err)
	}
	return name
}

func digest(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// TestBytesDemo: five steps of the demo give these bytes on every machine (see ref/op/bytes_test.go).
func TestBytesDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	must(t, "train", "--output", dir, "--steps", "5", "--prompt", "", "--eval-data", short(dir))
	for name, want := range map[string]string{
		"adapter_model.safetensors": "2f8b8018ff54961eaad622aceac4adb5c8f7158105a5b9326436b8b0a20713ad",
		runs.MetricsFile:            "10404e9e9d2d00756d2abcba6ba75f5d86cefa8d420108e59e7d0d2dd4a44164",
	} {
		if got := digest(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s has SHA-256 %s, want %s", name, got, want)
		}
	}
}

// A run that was stopped after its second step and resumed has the bytes of one that was not, in every file.
func TestResumeLeavesNoTrace(t *testing.T) {
	tmp := t.TempDir()
	through, stopped := filepath.Join(tmp, "through"), filepath.Join(tmp, "stopped")
	if err := os.WriteFile(filepath.Join(tmp, "text.txt"), []byte("What light through yonder window breaks?"), 0o644); err != nil {
		t.Fatal(err)
	}
	text := []string{"--eval-data", filepath.Join(tmp, "text.txt"), "--save-steps", "2"}
	must(t, quick(through, text...)...)
	must(t, quick(stopped, append(text, "--steps", "2")...)...)
	if _, err, code := cli(t, "", quick(stopped, append(text, "--resume")...)...); code != 0 || !strings.Contains(err, "going on from "+filepath.Join(stopped, "checkpoint-2")) {
		t.Fatal(code, err)
	}
	for _, name := range []string{"adapter_model.safetensors", "adapter_config.json", "checkpoint-2/" + stateFile, "checkpoint-4/" + stateFile} {
		if digest(t, filepath.Join(through, name)) != digest(t, filepath.Join(stopped, name)) {
			t.Errorf("%s differs", name)
		}
	}
}

func TestResumeWithNothingSaved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err, code := cli(t, "", quick(dir, "--steps", "1", "--resume", "--model", "demo")...); code != 0 || !strings.Contains(err, "starting from the beginning") {
		t.Error(code, err)
	}
}

// An interrupt saves, says how to go on, and what goes on is the same run.
func TestInterrupt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, err bytes.Buffer
	if code := run(console{ctx, nil, &out, &err}, quick(dir)); code != 1 || !strings.Contains(err.String(), "stopped after step 0 of 4; go on with: qlora train --output "+dir+" --resume") {
		t.Fatal(code, err.String())
	}
	must(t, "train", "--config", filepath.Join(dir, runs.ConfigFile), "--output", dir, "--resume")
	through := dir + "-through"
	must(t, "train", "--config", filepath.Join(dir, runs.ConfigFile), "--output", through)
	again := must(t, "train", "--config", filepath.Join(dir, runs.ConfigFile), "--output", dir, "--resume") // nothing is left to do
	if !strings.Contains(again, "held-out loss") {
		t.Error(again)
	}
	for _, name := range []string{runs.MetricsFile, "adapter_model.safetensors", "checkpoint-4/" + stateFile} {
		if digest(t, filepath.Join(dir, name)) != digest(t, filepath.Join(through, name)) {
			t.Errorf("%s differs from that of a run without a stop", name)
		}
	}
}

// Perplexity in every compute type is about the same; float16 is for inference alone.
func TestComputeTypes(t *testing.T) {
	text := short(filepath.Join(t.TempDir(), "run"))
	for _, compute := range []string{"bfloat16", "float16", "float32"} {
		var p perplexity
		if err := json.Unmarshal([]byte(must(t, "eval", "perplexity", "--text", text, "--json", "--quant", "none", "--compute", compute)), &p); err != nil {
			t.Fatal(err)
		}
		// transformers 5.23 has 3.9194875 in float32.
		if p.Tokens != 27 || math.Abs(p.NLL-3.919488) > map[string]float64{"float32": 2e-6, "float16": 2e-3, "bfloat16": 1e-2}[compute] {
			t.Errorf("%s: %+v", compute, p)
		}
	}
}

// The adapter that train writes is read by generate and eval, and makes the training text likelier.
func TestAdapterIsUsed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	text := short(dir)
	must(t, quick(dir, "--data", text, "--steps", "12", "--lr", "0.01", "--plot", dir+".svg")...)
	nll := func(args ...string) float64 {
		var p perplexity
		if err := json.Unmarshal([]byte(must(t, append([]string{"eval", "perplexity", "--text", text, "--json"}, args...)...)), &p); err != nil || p.Tokens == 0 {
			t.Fatal(err, p)
		}
		return p.NLL
	}
	if before, after := nll(), nll("--adapter", dir); !(after < before-0.5) {
		t.Errorf("%v before, %v after", before, after)
	}
	plain, adapted := must(t, "generate", "--prompt", "O, she", "--tokens", "20"), must(t, "generate", "--prompt", "O, she", "--tokens", "20", "--adapter", dir)
	if plain == adapted || !strings.HasPrefix(adapted, "O, she") {
		t.Errorf("%q and %q", plain, adapted)
	}
	if b, err := os.ReadFile(dir + ".svg"); err != nil || !bytes.Contains(b, []byte("<svg")) {
		t.Error(err)
	}
}

func TestQuantizeCommand(t *testing.T) {
	tmp := t.TempDir()
	in, out := filepath.Join(tmp, "in.safetensors"), filepath.Join(tmp, "out.safetensors")
	if err := checkpoint.Write(in, []checkpoint.Tensor{quant.Float32Entry("w", make([]float32, 320), 10, 32)}, nil); err != nil {
		t.Fatal(err)
	}
	must(t, "quantize", "--tensor", in, "--output", out, "--type", "nf4", "--blocksize", "64", "--double-quant=true", "--profile", "spec")
	f, err := checkpoint.Open(os.DirFS(tmp), "out.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := "w w.absmax w.nested_absmax w.nested_quant_map w.quant_map w.quant_state.bitsandbytes__nf4"
	if got := strings.Join(f.Names(), " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	q, err := quant.FromEntries("w", f.Tensor)
	if err != nil || q.Packed[0] != 0x77 {
		t.Error(err)
	}
	if _, err, code := cli(t, "", "quantize", "--tensor", in, "--output", out); code != 1 || !strings.Contains(err, "exists") {
		t.Error(code, err)
	}
}

func TestTokenizeCommand(t *testing.T) {
	for _, c := range []struct{ flags, want string }{{"--model demo", "1 403 407 261 378\n"}, {"--model demo --no-bos", "403 407 261 378\n"}} {
		if out, err, code := cli(t, "Once upon a time", append([]string{"tokenize"}, strings.Fields(c.flags)...)...); out != c.want || code != 0 {
			t.Errorf("%q, %s", out, err)
		}
	}
}

func TestExplainCommand(t *testing.T) {
	out := must(t, "explain", "nf4", "0.1", "-0.53", "0.9")
	for _, want := range []string{"absmax                 0.9", "-0.53", "0010", "double quantization", "-0.5888889"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// Every mistake has its exit code and says what to do.
func TestMistakes(t *testing.T) {
	tmp := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(tmp, name)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	empty, latin, broken := write("empty.txt", ""), write("latin.txt", "na\xefve"), write("broken.safetensors", "12345678901234567890")
	run := filepath.Join(tmp, "run")
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"trian", 2, "unknown command trian"},
		{"eval", 2, "eval perplexity"},
		{"train --stesp 3", 2, "did you mean --steps"},
		{"train --steps 0", 2, "max_steps is 0"},
		{"train --seq-len 513", 2, "context of demo has 512"},
		{"train --compute float16", 2, "loss scaling"},
		{"train --quant-type nf5", 2, "nf5"},
		{"train --blocksize 65", 2, "blocksize 65"},
		{"train --lora-dropout 1", 2, "lora_dropout"},
		{"train --target-modules nothing", 2, "target_modules"},
		{"train --resume", 2, "--resume needs --output"},
		{"train --config " + filepath.Join(tmp, "none.yaml"), 2, "none.yaml"},
		{"train --config " + write("bad.yaml", "steps: 3\nlearning-rte: 1\n"), 2, "bad.yaml:2: learning-rte: unknown; did you mean learning_rate"},
		{"train --output " + tmp, 1, "exists"},
		{"train --data " + empty, 1, "empty"},
		{"train --data " + latin, 1, "byte 2"},
		{"train --data " + filepath.Join(tmp, "none"), 1, "no such file"},
		{"train --model " + tmp, 1, "config.json"},
		{"train --model nothing", 1, "nothing"},
		{"train --device cuda", 1, "qlora devices"},
		{"train --memory-limit 1KiB --output " + run, 1, "memory limit"},
		{"generate --temperature -1", 2, "temperature"},
		{"generate --tokens 600", 1, "context of 512"},
		{"generate --adapter " + tmp, 1, "adapter_config.json"},
		{"eval perplexity", 2, "--text"},
		{"eval perplexity --text " + empty, 1, "empty"},
		{"quantize", 2, "--tensor"},
		{"quantize --tensor " + broken + " --output " + filepath.Join(tmp, "out"), 1, "bytes 0 to 7"},
		{"tokenize", 2, "--tokenizer"},
		{"explain nf4", 2, "explain needs"},
		{"explain nf4 many", 2, "many"},
		{"explain nf4 NaN", 2, "NaN"},
	} {
		out, err, code := cli(t, "", strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(err, c.want) {
			t.Errorf("qlora %s: exit code %d, %q; want %d, %q", c.args, code, err, c.code, c.want)
		}
		if out != "" {
			t.Errorf("qlora %s writes results: %q", c.args, out)
		}
	}
	if _, err := os.Stat(run); err == nil {
		t.Error("a run that could not begin left its folder")
	}
}

// What --print-config prints is a configuration of the same run, and every command has help.
func TestPrintConfigAndHelp(t *testing.T) {
	printed := must(t, "train", "--steps", "7", "--print-config")
	name := filepath.Join(t.TempDir(), "run.yaml")
	if err := os.WriteFile(name, []byte(printed), 0o644); err != nil {
		t.Fatal(err)
	}
	if again := must(t, "train", "--config", name, "--print-config"); again != printed || !strings.Contains(printed, "max_steps: 7\n") {
		t.Errorf("%s\nthen\n%s", printed, again)
	}
	for _, cmd := range commands {
		if out := must(t, append(strings.Fields(cmd.name), "--help")...); !strings.Contains(out, "usage: qlora "+cmd.name) {
			t.Errorf("%s: %q", cmd.name, out)
		}
	}
	if out := must(t, "help"); !strings.Contains(out, "eval perplexity") || !strings.Contains(must(t, "version"), "go1.") || !strings.Contains(must(t, "devices"), "ref") {
		t.Error(out)
	}
}
