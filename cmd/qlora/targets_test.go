package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/base"
	"qlora/ref/checkpoint"
)

// What is trained is what the options choose, the adapter says how, and every command reads it back.
func TestTargets(t *testing.T) {
	for _, c := range []struct {
		args    string
		modules string // each with its rank, a comma apart
		targets string // in adapter_config.json
	}{
		{"--target-modules v_proj,self_attn.q_proj --layers-to-transform 1,4 --lora-r 2",
			"1.self_attn.q_proj:2,1.self_attn.v_proj:2,4.self_attn.q_proj:2,4.self_attn.v_proj:2", `["self_attn.q_proj","v_proj"]`},
		{`--target-modules .*\.[0-9]{1,2}\.mlp\.(up|down)_proj --exclude-modules .*[1-3].* --rank-pattern 0.mlp.*=3,up_proj=5 --alpha-pattern up_proj=2.5 --lora-r 2`,
			"0.mlp.down_proj:3,0.mlp.up_proj:3,4.mlp.down_proj:2,4.mlp.up_proj:5", `".*\\.[0-9]{1,2}\\.mlp\\.(up|down)_proj"`},
		{"--target-modules all-linear --layers-to-transform 2 --layers-pattern layers --lora-r 3 --exclude-modules mlp.gate_proj,mlp.up_proj",
			"2.mlp.down_proj:3,2.self_attn.k_proj:3,2.self_attn.o_proj:3,2.self_attn.q_proj:3,2.self_attn.v_proj:3",
			`["down_proj","gate_proj","k_proj","o_proj","q_proj","up_proj","v_proj"]`},
	} {
		dir := filepath.Join(t.TempDir(), "run")
		must(t, append([]string{"train", "--output", dir, "--steps", "2", "--prompt", "", "--eval-data", short(dir)}, strings.Fields(c.args)...)...)
		a, err := checkpoint.OpenAdapter(os.DirFS(dir))
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		var modules []string
		for _, m := range slices.Sorted(maps.Keys(a.A)) {
			modules = append(modules, strings.TrimPrefix(m, "model.layers.")+":"+string(rune('0'+a.A[m].Rows)))
		}
		if got := strings.Join(modules, ","); got != c.modules {
			t.Errorf("%s\ntrains %s\n  want %s", c.args, got, c.modules)
		}
		if targets, err := json.Marshal(a.Config.TargetModules); err != nil || string(targets) != c.targets {
			t.Errorf("%s: target_modules %s, want %s", c.args, targets, c.targets)
		}
		plain := must(t, "eval", "perplexity", "--text", short(dir), "--json")
		if adapted := must(t, "eval", "perplexity", "--text", short(dir), "--json", "--adapter", dir); adapted == plain {
			t.Errorf("%s: the adapter changes nothing", c.args)
		}
	}
}

// A run without patterns is the same run as before there were any, and one with a pattern is another.
func TestIdentityOfPatterns(t *testing.T) {
	plain, err := readTrainOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"Ranks", "Alphas", "Exclude", "Layers"} {
		if strings.Contains(plain.identity("", ""), field) {
			t.Errorf("%s is in the identity of a run that has none", field)
		}
	}
	other, err := readTrainOptions([]string{"--rank-pattern", "q_proj=3"})
	if err != nil || other.identity("", "") == plain.identity("", "") {
		t.Error("a pattern makes no other run", err)
	}
	printed := must(t, "train", "--target-modules", `.*\.[0-9]{1,2}\.mlp\.up_proj`, "--rank-pattern", "layers.0.*=3,up_proj=4", "--print-config")
	name := filepath.Join(t.TempDir(), "run.yaml")
	if err := os.WriteFile(name, []byte(printed), 0o644); err != nil {
		t.Fatal(err)
	}
	if again := must(t, "train", "--config", name, "--print-config"); again != printed {
		t.Errorf("%s\nthen\n%s", printed, again)
	}
}

func TestBadTargets(t *testing.T) {
	for args, want := range map[string]string{
		"--target-modules q_proj,nothing":                   `"nothing" is the name of no linear layer`,
		"--target-modules q_proj,lm_head":                   "target_modules chooses lm_head: only the linear layers",
		"--target-modules .*":                               "target_modules chooses ",
		"--target-modules .*(q_proj":                        `target_modules: ".*(q_proj" is no regular expression`,
		"--target-modules (?!x).*q_proj":                    "regular expressions lack it",
		"--target-modules .*q_proj --layers-to-transform 1": "go with a list of target_modules",
		"--target-modules q_proj --exclude-modules q_proj":  "choose none of the model's linear layers",
		"--layers-to-transform 1,99":                        "layers_to_transform: 99: the model has 5 layers, from 0 to 4",
		"--layers-to-transform one":                         `layers_to_transform: "one"`,
		"--layers-to-transform=-1":                          `layers_to_transform: "-1"`,
		"--layers-pattern layers":                           "layers_pattern needs layers_to_transform",
		"--exclude-modules (":                               `exclude_modules: "(" is no regular expression`,
		"--rank-pattern q_proj":                             `rank_pattern: "q_proj": want a module's name, =, and a number`,
		"--rank-pattern =3":                                 `rank_pattern: "=3"`,
		"--rank-pattern q_proj=0":                           `rank_pattern of "q_proj" is 0`,
		"--rank-pattern q_proj=1.5":                         `rank_pattern of "q_proj" is 1.5`,
		"--rank-pattern q_proj=3,q_proj=4":                  `"q_proj" stands there twice`,
		"--rank-pattern nothing=3":                          `rank_pattern: "nothing" is the name of no module`,
		"--alpha-pattern q_proj=-1":                         `alpha_pattern of "q_proj" is -1`,
		"--alpha-pattern q_proj=NaN":                        `alpha_pattern of "q_proj" is NaN`,
		"--alpha-pattern [=1":                               `alpha_pattern: "[" is no regular expression`,
		"--lora-alpha=-1":                                   "lora_alpha is -1",
	} {
		dir := filepath.Join(t.TempDir(), "run")
		if _, err, code := cli(t, "", append([]string{"train", "--output", dir}, strings.Fields(args)...)...); code != 2 || !strings.Contains(err, want) {
			t.Errorf("%s: exit code %d, %q; want %q", args, code, err, want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: a run that could not begin left its folder", args)
		}
	}
}

// An adapter for another model is refused before the model is loaded, with the module and both shapes.
func TestAdapterOfAnotherModel(t *testing.T) {
	b, err := base.Open("demo")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	const module = "model.layers.4.mlp.down_proj"
	a := checkpoint.Adapter{Config: checkpoint.NewAdapterConfig(),
		A: map[string]checkpoint.Matrix{module: {Rows: 8, Cols: 64, Values: make([]float32, 8*64)}},
		B: map[string]checkpoint.Matrix{module: {Rows: 64, Cols: 8, Values: make([]float32, 8*64)}}}
	a.Config.BaseModel = "a smaller one"
	dir := t.TempDir()
	if err := checkpoint.WriteAdapter(dir, a); err != nil {
		t.Fatal(err)
	}
	want := "adapter " + dir + " on model demo: module " + module + ": lora_A is 8×64, the model needs 8×172 (the adapter was made for \"a smaller one\")"
	for _, args := range [][]string{{"generate"}, {"eval", "perplexity", "--text", short(dir)}} {
		if _, err, code := cli(t, "", append(args, "--adapter", dir, "--memory-limit", "1")...); code != 1 || !strings.Contains(err, want) {
			t.Errorf("%v: exit code %d, %q", args, code, err)
		}
	}
}
