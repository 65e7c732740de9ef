package config

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type sample struct {
	Model   string   `name:"model" help:"the model"`
	Steps   int      `name:"max_steps" alias:"steps"`
	LR      float64  `name:"learning_rate" alias:"lr"`
	Resume  bool     `name:"resume"`
	Seed    uint64   `name:"seed"`
	Targets []string `name:"target_modules"`
	Limit   Size     `name:"memory_limit"`
}

func TestFlags(t *testing.T) {
	got := sample{Steps: 1}
	rest, err := ParseFlags([]string{"nf4", "--steps", "60", "-0.53", "--learning-rate=3e-3", "--resume", "--target_modules", "q_proj, v_proj",
		"--memory-limit", "1.5GiB", "--", "--model"}, &got)
	want := sample{Steps: 60, LR: 3e-3, Resume: true, Targets: []string{"q_proj", "v_proj"}, Limit: 3 << 29}
	if err != nil || !cmp.Equal(got, want) {
		t.Error(err, cmp.Diff(want, got))
	}
	if !slices.Equal(rest, []string{"nf4", "-0.53", "--model"}) {
		t.Error(rest)
	}
}

func TestYAML(t *testing.T) {
	got := sample{Seed: 7}
	err := ParseYAML([]byte("# a run\nmodel: demo\nmax-steps: 60\nlr: 0.003\ntarget_modules: [q_proj, v_proj]\nmemory_limit: 48GiB\nresume: true\n"), "run.yaml", &got)
	want := sample{Model: "demo", Steps: 60, LR: 3e-3, Resume: true, Seed: 7, Targets: []string{"q_proj", "v_proj"}, Limit: 48 << 30}
	if err != nil || !cmp.Equal(got, want) {
		t.Error(err, cmp.Diff(want, got))
	}
}

// What is printed reads back as it was.
func TestYAMLComesBack(t *testing.T) {
	want := sample{Model: "a: b\n# \"c\"", Steps: -3, LR: 1.0 / 3, Resume: true, Seed: 1 << 63, Targets: []string{"q", "k"}, Limit: 12345}
	var got sample
	if err := ParseYAML([]byte(YAML(&want)), "printed", &got); err != nil || !cmp.Equal(got, want) {
		t.Error(err, cmp.Diff(want, got))
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		args []string
		yaml string
		want []string
	}{
		{args: []string{"--stesp", "3"}, want: []string{"--stesp", "did you mean steps"}},
		{args: []string{"--learning-rte", "3"}, want: []string{"did you mean learning_rate"}},
		{args: []string{"--completely-different"}, want: []string{"unknown"}},
		{args: []string{"--steps"}, want: []string{"--steps", "needs a value"}},
		{args: []string{"--steps", "many"}, want: []string{"--steps", `"many"`, "whole number"}},
		{args: []string{"--resume=perhaps"}, want: []string{"--resume", "true or false"}},
		{args: []string{"--memory-limit", "-3GB"}, want: []string{"48GiB"}},
		{yaml: "model: demo\nstesp: 3\n", want: []string{"run.yaml:2", "stesp", "did you mean steps"}},
		{yaml: "steps: 3\nmax_steps: 4\n", want: []string{"run.yaml:2", "twice"}},
		{yaml: "steps: [1, 2]\n", want: []string{"run.yaml:1", "not a list"}},
		{yaml: "steps: {a: 1}\n", want: []string{"run.yaml:1", "mapping"}},
		{yaml: "- 3\n", want: []string{"run.yaml:1", "name: value"}},
		{yaml: "a: [", want: []string{"run.yaml"}},
	} {
		var err error
		if c.args != nil {
			_, err = ParseFlags(c.args, &sample{})
		} else {
			err = ParseYAML([]byte(c.yaml), "run.yaml", &sample{})
		}
		var usage *UsageError
		if !errors.As(err, &usage) {
			t.Errorf("%v %q: %v is no UsageError", c.args, c.yaml, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v %q: %q does not say %q", c.args, c.yaml, err, want)
			}
		}
	}
}

// No file makes the parser panic, and what it accepts survives being printed.
func FuzzYAML(f *testing.F) {
	f.Add([]byte("model: demo\nmax-steps: 60\n"))
	f.Add([]byte("target_modules: [a, b]\nmemory_limit: 1GiB\n"))
	f.Add([]byte("a: &x [*x]\n---\n? b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again sample
		if ParseYAML(b, "fuzz", &s) != nil || s.LR != s.LR {
			return
		}
		if err := ParseYAML([]byte(YAML(&s)), "printed", &again); err != nil || !cmp.Equal(s, again) {
			t.Errorf("%v\n%s%s", err, YAML(&s), cmp.Diff(s, again))
		}
	})
}
