package peft

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var modules = []string{
	"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj",
	"model.layers.10.self_attn.q_proj",
}

// conformance/oracle holds Choose against PEFT's own answers; these are the rules one by one.
func TestChoose(t *testing.T) {
	all := []int{0, 1, 2, 3, 4}
	for what, c := range map[string]struct {
		p    Patterns
		want []int
	}{
		"ends in a name":             {Patterns{TargetModules: Names{List: []string{"q_proj"}}}, []int{0, 2, 4}},
		"not within a word":          {Patterns{TargetModules: Names{List: []string{"proj", "_attn.q_proj"}}}, nil},
		"more than the last name":    {Patterns{TargetModules: Names{List: []string{"0.mlp.up_proj"}}}, []int{1}},
		"whole names":                {Patterns{TargetModules: Names{Regexp: `.*\.1\..*`}}, []int{2, 3}},
		"not parts of names":         {Patterns{TargetModules: Names{Regexp: `q_proj|up_proj`}}, nil},
		"all":                        {Patterns{TargetModules: Names{Regexp: "All-Linear"}}, all},
		"none":                       {Patterns{}, nil},
		"exclude":                    {Patterns{TargetModules: Names{Regexp: AllLinear}, ExcludeModules: Names{List: []string{"up_proj"}}}, []int{0, 2, 4}},
		"exclude by an expression":   {Patterns{TargetModules: Names{Regexp: AllLinear}, ExcludeModules: Names{Regexp: `.*1.*`}}, []int{0, 1}},
		"layers":                     {Patterns{TargetModules: Names{List: []string{"q_proj"}}, LayersToTransform: Layers{1, 10}}, []int{2, 4}},
		"a whole name in all layers": {Patterns{TargetModules: Names{List: []string{"q_proj", modules[1]}}, LayersToTransform: Layers{1}}, []int{1, 2}},
		"layers by their list's name": {Patterns{TargetModules: Names{List: []string{"q_proj"}}, LayersToTransform: Layers{1},
			LayersPattern: Names{List: []string{"h", "layers"}}}, []int{2}},
		"no such list": {Patterns{TargetModules: Names{List: []string{"q_proj"}}, LayersToTransform: Layers{1}, LayersPattern: Names{Regexp: "h"}}, nil},
		"saved":        {Patterns{TargetModules: Names{Regexp: AllLinear}, ModulesToSave: []string{"layers.1", "mlp"}}, []int{0, 4}},
	} {
		c.p.R = 1
		got, err := c.p.Choose(modules)
		want := []string{}
		for _, i := range c.want {
			want = append(want, modules[i])
		}
		if err != nil || !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(slices.Values(want))) {
			t.Errorf("%s: %v %v, want %v", what, got, err, want)
		}
	}
}

// The first entry that matches counts.
func TestRanks(t *testing.T) {
	p := Patterns{R: 8, Alpha: 16,
		RankPattern:  Pattern{{"proj", 1}, {"layers.1.*", 2}, {"q_proj|up_proj", 3}, {"model.layers.0.self_attn.q_proj", 4}},
		AlphaPattern: Pattern{{"^model.layers.0.*", 2}, {"up_proj$", 0.5}}}
	ranks, err := p.Ranks()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Rank{{3, 2}, {3, 2}, {2, 16}, {2, 0.5}, {2, 16}} {
		if got := ranks(modules[i]); got != want {
			t.Errorf("%s: %v, want %v", modules[i], got, want)
		}
	}
}

func TestSaves(t *testing.T) {
	p := Patterns{ModulesToSave: []string{"norm", "layers.1", "lm_head"}}
	for module, want := range map[string]bool{
		"model.norm": true, "model.layers.0.input_layernorm": true, "model.layers.1.mlp.up_proj": true, "lm_head": true,
		"model.layers.0.mlp.up_proj": false, "model.norms": false, "model.layers.11.mlp": false, "model": false,
	} {
		if p.Saves(module) != want {
			t.Errorf("%s: %v", module, !want)
		}
	}
}

func TestCheckUsed(t *testing.T) {
	good := Patterns{TargetModules: Names{List: []string{"q_proj", "up_proj"}}, ExcludeModules: Names{List: []string{"10.self_attn.q_proj"}},
		RankPattern: Pattern{{"q.*", 1}, {"q_proj", 2}}, LayersToTransform: Layers{1}}
	if err := good.CheckUsed(modules); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(p *Patterns){
		`target_modules: "k_proj" is the name of no linear layer`:              func(p *Patterns) { p.TargetModules.List = []string{"q_proj", "k_proj"} },
		`exclude_modules: "k" is the name of no linear layer`:                  func(p *Patterns) { p.ExcludeModules.List = []string{"k"} },
		`rank_pattern: "k_.*" is the name of no module that is adapted`:        func(p *Patterns) { p.RankPattern = Pattern{{"k_.*", 1}} },
		`alpha_pattern: "layers.0.*" is the name of no module that is adapted`: func(p *Patterns) { p.AlphaPattern = Pattern{{"layers.0.*", 1}} },
		`no regular expression`: func(p *Patterns) { p.AlphaPattern = Pattern{{"(", 1}} },
	} {
		p := good
		spoil(&p)
		if err := p.CheckUsed(modules); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// What Python and Go read alike is compiled, what only Python reads is said to be so, and what neither reads is wrong.
func TestCompile(t *testing.T) {
	for _, p := range []string{`a(b|c)*?[^]x[]\d\.{2,3}$`, `(?P<x>a)(?:b)(?i:c)(?i-s:d)`, `\\(?-s:a)`, `[\]\[{,]\++`, `(?i)a`} {
		if _, err := compileAll(wholeName, []string{p}, `)\z`); err != nil {
			t.Error(err)
		}
	}
	for _, p := range []string{`(?=a)`, `(?!a)`, `(?<=a)b`, `(?<!a)b`, `(?<x>a)`, `(a)\1`, `(?P<x>a)(?P=x)`, `a++`, `a*+`, `a?+`, `a{2}+`, `(?>a)`, `(?#x)`, `a(?i)b`,
		`(?x)a`, `(?L)a`, `(?a:b)`, `\Za`, `\za`, `\Qa\E`, `\pL`, `\x{61}`, `\u0061`, `\N{DIGIT ONE}`, `\C`, `a{,2}`, `[[:alpha:]]`, `(?(1)a|b)`, `(?U)a`} {
		if _, err := compileAll(wholeName, []string{p}, `)\z`); !errors.Is(err, ErrPython) || !strings.Contains(err.Error(), "regular expression") {
			t.Errorf("%s: %v", p, err)
		}
	}
	if _, err := compileAll(`\A(?:.*\.)?(?:`, []string{`(?i)a`}, `)\z`); !errors.Is(err, ErrPython) {
		t.Errorf("flags behind other text: %v", err)
	}
	for _, p := range []string{`(`, `)`, `a)(b`, `[`, `[]`, `a**`, `*`, `\`, `a{2,1}`, `[b-a]`, `\y`} {
		if _, err := compileAll(wholeName, []string{p}, `)\z`); err == nil || errors.Is(err, ErrPython) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// A small file cannot make the program fill memory.
func TestExpressionsAreBounded(t *testing.T) {
	long := strings.Repeat("a{1000}", 100)
	if _, err := compileAll(wholeName, []string{long}, `)\z`); err != nil {
		t.Error(err)
	}
	for _, many := range [][]string{slices.Repeat([]string{long}, 10), slices.Repeat([]string{"q_proj"}, maxInstructions)} {
		if _, err := compileAll(wholeName, many, `)\z`); err == nil || !strings.Contains(err.Error(), "too many regular expressions") {
			t.Error(err)
		}
	}
}

func TestJSON(t *testing.T) {
	for text, want := range map[string]Patterns{
		`{"target_modules":["a","b"],"rank_pattern":{"z":1,"a":2,"m":3},"layers_to_transform":3,"layers_pattern":"h"}`: {
			TargetModules: Names{List: []string{"a", "b"}}, RankPattern: Pattern{{"z", 1}, {"a", 2}, {"m", 3}}, LayersToTransform: Layers{3}, LayersPattern: Names{Regexp: "h"}},
		`{"target_modules":"a<b","layers_to_transform":[1,2],"layers_pattern":["h"],"modules_to_save":["x"]}`: {
			TargetModules: Names{Regexp: "a<b"}, LayersToTransform: Layers{1, 2}, LayersPattern: Names{List: []string{"h"}}, ModulesToSave: []string{"x"}},
		`{"target_modules":null,"rank_pattern":null,"alpha_pattern":{},"layers_to_transform":null,"layers_pattern":null}`: {},
	} {
		var got, again Patterns
		if err := json.Unmarshal([]byte(text), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v", text, got, err)
		}
		b, err := json.Marshal(got)
		if err == nil {
			err = json.Unmarshal(b, &again)
		}
		if err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%s comes back as %s: %v", text, b, err)
		}
	}
}
