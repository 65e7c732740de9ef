package config

import (
	"errors"
	"os"
	"path/filepath"
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

// A value means the same in every way that YAML has of writing it.
func TestSpellings(t *testing.T) {
	for text, want := range map[string]sample{
		"'model': \"demo\"\n":                   {Model: "demo"},
		"\ufeffmodel: demo # the small one\r\n": {Model: "demo"},
		"model: |\n  two\n  lines\n":            {Model: "two\nlines\n"},
		"model: >-\n  one\n  line\n":            {Model: "one line"},
		"model: 0x10\n":                         {Model: "0x10"},
		"model: true\n":                         {Model: "true"},
		"model:\nsteps: 3\n":                    {Steps: 3},
		"{model: demo, steps: 3}":               {Model: "demo", Steps: 3},
		"target-modules: q_proj, v_proj\n":      {Targets: []string{"q_proj", "v_proj"}},
		"target_modules:\n- q_proj\n- v_proj\n": {Targets: []string{"q_proj", "v_proj"}},
		"seed: 18446744073709551615\n":          {Seed: 1<<64 - 1},
	} {
		var got sample
		if err := ParseYAML([]byte(text), "run.yaml", &got); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: %v %s", text, err, cmp.Diff(want, got))
		}
	}
}

func TestBoolFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want bool
		rest []string
	}{
		{[]string{"--resume"}, true, nil},
		{[]string{"--resume", "False"}, false, nil},
		{[]string{"--resume=0"}, false, nil},
		{[]string{"--resume", "0"}, true, []string{"0"}},
		{[]string{"--resume", "--steps", "3"}, true, nil},
	} {
		got := sample{Resume: !c.want}
		rest, err := ParseFlags(c.args, &got)
		if err != nil || got.Resume != c.want || !slices.Equal(rest, c.rest) {
			t.Errorf("%v: %v, %v, %v", c.args, got.Resume, rest, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "48": 48, "48B": 48, "48GiB": 48 << 30, "48 GiB": 48 << 30, "0.5KiB": 512, "2GB": 2e9, "1TiB": 1 << 40, "3000TiB": 3000 << 40,
	} {
		got, err := parseSize(text)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		if again, err := parseSize(got.String()); err != nil || again != got {
			t.Errorf("%s prints as %s, which is %v, %v", text, got, again, err)
		}
	}
	for size, want := range map[Size]string{0: "0", 1000: "1000", 1536: "1536", 48 << 30: "48GiB", 3 << 20: "3MiB", 5 << 50: "5120TiB"} {
		if size.String() != want {
			t.Errorf("%d prints as %s, want %s", int64(size), size, want)
		}
	}
}

func TestHelp(t *testing.T) {
	got := Help(&sample{Steps: 60, Limit: 48 << 30})
	for _, want := range []string{"--model ", "the model", "--max-steps, --steps", "(60)", "(48GiB)"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestParseFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "run.yaml")
	if err := os.WriteFile(name, []byte("steps: 3\nstesp: 4\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var usage *UsageError
	for file, want := range map[string]string{name: name + ":2: stesp: unknown", name + "x": name + "x"} {
		if err := ParseFile(file, &sample{}); !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
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
		{args: []string{"--stesp", "3"}, want: []string{"--stesp", "did you mean --steps?"}},
		{args: []string{"--learning-rte", "3"}, want: []string{"did you mean --learning-rate?"}},
		{args: []string{"--completely-different"}, want: []string{"unknown"}},
		{args: []string{"--steps"}, want: []string{"--steps", "needs a value"}},
		{args: []string{"--model", "--resume"}, want: []string{"--model", "needs a value"}},
		{args: []string{"--model", "\xff"}, want: []string{"--model", "UTF-8"}},
		{args: []string{"--lr", "inf"}, want: []string{"--lr", "finite"}},
		{args: []string{"--lr=nan"}, want: []string{"--lr", "finite"}},
		{args: []string{"--steps", "many"}, want: []string{"--steps", `"many"`, "whole number"}},
		{args: []string{"--resume=perhaps"}, want: []string{"--resume", "true or false"}},
		{args: []string{"--memory-limit=-3GB"}, want: []string{"48GiB"}},
		{yaml: "model: demo\nstesp: 3\n", want: []string{"run.yaml:2", "stesp", "did you mean steps"}},
		{yaml: "steps: 3\nmax_steps: 4\n", want: []string{"run.yaml:2", "twice"}},
		{yaml: "steps: [1, 2]\n", want: []string{"run.yaml:1", "not a list"}},
		{yaml: "steps: {a: 1}\n", want: []string{"run.yaml:1", "mapping"}},
		{yaml: "\nsteps: many\n", want: []string{"run.yaml:2: steps", `"many"`, "whole number"}},
		{yaml: "steps: 1.5\n", want: []string{`"1.5"`, "whole number"}},
		{yaml: "steps:\n", want: []string{"run.yaml:1: steps", "whole number"}},
		{yaml: "lr: .inf\n", want: []string{"run.yaml:1: lr", "finite"}},
		{yaml: "resume: perhaps\n", want: []string{"run.yaml:1: resume", "true or false"}},
		{yaml: "seed: -1\n", want: []string{"run.yaml:1: seed", "not negative"}},
		{yaml: "memory_limit: 48 apples\n", want: []string{"run.yaml:1: memory_limit", "48GiB"}},
		{yaml: "memory_limit: 9e18\n", want: []string{"48GiB"}},
		{yaml: "model: !!str demo\n", want: []string{"run.yaml:1: model", "tag"}},
		{yaml: "model: &a demo\n", want: []string{"run.yaml:1: model", "anchor"}},
		{yaml: "a: 1\nmodel: *a\n", want: []string{"run.yaml:1: a"}},
		{yaml: "model: \xff\n", want: []string{"run.yaml", "UTF-8"}},
		{yaml: "model: " + strings.Repeat(" ", maxFile), want: []string{"run.yaml", "1048576 bytes"}},
		{yaml: "model: " + strings.Repeat("[", deepest+1), want: []string{"run.yaml", "100 brackets"}},
		{yaml: "- 3\n", want: []string{"run.yaml:1", "name: value"}},
		{yaml: "steps: 3\na: [", want: []string{"run.yaml:2: "}},
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

// picky takes no value of old but none, and any of gone.
type picky struct{ sample }

func (*picky) Refused(name, value string) (string, bool) {
	if name == "old" && value != "none" {
		return "old is over", true
	}
	return "", name == "old" || name == "gone"
}

// Names that are known and not taken are passed over where their value asks for nothing. All mistakes are told at once, each on a line.
func TestRefused(t *testing.T) {
	var got picky
	rest, err := ParseFlags(strings.Fields("--gone --old none --steps 3 --gone 5 --gone=-1 --gone -1 --lr 2 6"), &got)
	if err != nil || got.Steps != 3 || got.LR != 2 || !slices.Equal(rest, []string{"6"}) {
		t.Error(err, got, rest)
	}
	_, err = ParseFlags(strings.Fields("--old --stesp 5 --gone --steps x --old=some --lr"), &got)
	want := `flag --old: not taken here: old is over
flag --stesp: unknown; did you mean --steps?
flag --steps: "x": want a whole number
flag --old: not taken here: old is over
flag --lr: needs a value: --lr VALUE, or --lr=VALUE if it begins with -`
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
	if err := ParseYAML([]byte("gone: {a: [1]}\nold: none\n"), "run.yaml", &got); err != nil {
		t.Error(err)
	}
	err = ParseYAML([]byte("old: [a]\nsteps: 5\n\nlearning_rte: b\n"), "run.yaml", &got)
	want = "run.yaml:1: old: not taken here: old is over\nrun.yaml:4: learning_rte: unknown; did you mean learning_rate?"
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
}

// Given are options by their own names, whatever they were called, and no values.
func TestGiven(t *testing.T) {
	got := Given(strings.Fields("--steps 3 lr --resume=false --memory-limit 5 --gone -- --seed 3"), &sample{})
	if want := map[string]bool{"max_steps": true, "resume": true, "memory_limit": true}; !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
}

// No command line makes the parser panic, and what it accepts survives being printed.
func FuzzFlags(f *testing.F) {
	f.Add("--steps\n60\n--lr=3e-3\n--resume\nfalse")
	f.Add("--target-modules\nq_proj, v_proj\n-0.53\n--\n--model")
	f.Add("--memory_limit\n1.5GiB\n-\n--=\n-1e999")
	f.Fuzz(func(t *testing.T, lines string) {
		var s, again sample
		if _, err := ParseFlags(strings.Split(lines, "\n"), &s); err != nil {
			return
		}
		if err := ParseYAML([]byte(YAML(&s)), "printed", &again); err != nil && len(YAML(&s)) <= maxFile || err == nil && !cmp.Equal(s, again) {
			t.Errorf("%v\n%s%s", err, YAML(&s), cmp.Diff(s, again))
		}
	})
}

// No file makes the parser panic, and what it accepts survives being printed.
func FuzzYAML(f *testing.F) {
	f.Add([]byte("model: demo\nmax-steps: 60\n"))
	f.Add([]byte("target_modules: [a, b]\nmemory_limit: 1GiB\n"))
	f.Add([]byte("a: &x [*x]\n---\n? b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again sample
		if ParseYAML(b, "fuzz", &s) != nil || len(YAML(&s)) > maxFile {
			return
		}
		if err := ParseYAML([]byte(YAML(&s)), "printed", &again); err != nil || !cmp.Equal(s, again) {
			t.Errorf("%v\n%s%s", err, YAML(&s), cmp.Diff(s, again))
		}
	})
}

// Texts come as they are written, one a flag, and one a line of a list.
func TestTexts(t *testing.T) {
	type texts struct {
		Stop Texts `name:"stop"`
	}
	want := texts{Texts{"### Human:", " a, b ", "\n\n"}}
	var flags, file, again texts
	if _, err := ParseFlags([]string{"--stop", "### Human:", "--stop= a, b ", "--stop", "\n\n"}, &flags); err != nil || !cmp.Equal(flags, want) {
		t.Error(err, cmp.Diff(want, flags))
	}
	if err := ParseYAML([]byte("stop: ['### Human:', ' a, b ', \"\\n\\n\"]\n"), "run.yaml", &file); err != nil || !cmp.Equal(file, want) {
		t.Error(err, cmp.Diff(want, file))
	}
	if err := ParseYAML([]byte(YAML(&want)), "again.yaml", &again); err != nil || !cmp.Equal(again, want) {
		t.Error(err, cmp.Diff(want, again))
	}
}
