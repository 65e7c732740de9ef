package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/bench"
)

// Everything runs, small, and has a number and, where it should, a limit. How large they are nobody can say.
func TestBenchCPU(t *testing.T) {
	var r bench.Report
	if err := json.Unmarshal([]byte(must(t, "bench", "cpu", "--quick", "--sweep", "--threads", "1,2", "--json")), &r); err != nil {
		t.Fatal(err)
	}
	if r.Machine.CPU == "" || r.Machine.Kernels == "" || len(r.Limits) != 2*3 || len(r.Kernels) != 2*19 || len(r.Steps) != 2*(2+1+1) {
		t.Errorf("%+v: %d limits, %d kernels, %d steps", r.Machine, len(r.Limits), len(r.Kernels), len(r.Steps))
	}
	for _, l := range r.Limits {
		if !(l.Value > 0) {
			t.Errorf("%+v", l)
		}
	}
	for _, k := range r.Kernels {
		if !(k.Value > 0) || !(k.Seconds > 0) || !(k.Percent > 0) && k.Name != "exp" {
			t.Errorf("%+v", k)
		}
	}
	for _, s := range r.Steps {
		if !(s.PerSecond > 0) || s.Peak <= 0 || len(s.Parts) == 0 {
			t.Errorf("%+v", s)
		}
	}
}

func TestBenchCPUTable(t *testing.T) {
	out := must(t, "bench", "cpu", "--quick", "--threads", "1", "--only", "^(peak|product NF4 16|step float32.*checkpointing)")
	for _, want := range []string{"kernels ", "peak ", "% of product bfloat16", "float32 ", "checkpointing, on 1 threads, holds at most: "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "AdamW") {
		t.Errorf("more than was asked for:\n%s", out)
	}
}

func TestBenchCPUErrors(t *testing.T) {
	for flags, want := range map[string]string{
		"--threads 0": `flag --threads: "0"`, "--threads 1,x": `flag --threads: "x"`, "--threads=": "want a number",
		"--math quick": `math "quick": want exact or fast`, "--only (": "flag --only", "--only nothing": "these are there:\npeak\nread\n", "--fast": "flag --fast: unknown", "gpu": `"gpu" is no flag`,
	} {
		if _, err, code := cli(t, "", append([]string{"bench", "cpu"}, strings.Fields(flags)...)...); code != 2 || !strings.Contains(err, want) {
			t.Errorf("%s: %d, %s", flags, code, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, err bytes.Buffer
	code := run(console{ctx, nil, &out, &err}, []string{"bench", "cpu", "--quick"})
	if code != 1 || !strings.Contains(err.String(), "stopped before everything was measured") || !strings.Contains(out.String(), "kernels ") {
		t.Error(code, out.String(), err.String())
	}
}
