package checkpoint

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"qlora/ref/lora/peft"
	"qlora/ref/num"

	"github.com/google/go-cmp/cmp"
)

const (
	qProj = "model.layers.0.self_attn.q_proj"
	key   = adapterPrefix + qProj
	good  = `{"peft_type":"LORA","r":2,"lora_alpha":3,"target_modules":["q_proj"]}`
)

// matrices are those of one module: A [2, 3] and B [1, 2].
func matrices() []Tensor {
	return []Tensor{
		Narrow(key+".lora_A.weight", []int{2, 3}, []float32{1, 2, 3, 4, 5, 6}, num.Float32),
		Narrow(key+".lora_B.weight", []int{1, 2}, []float32{7, 8}, num.BFloat16),
	}
}

// folder is an adapter's.
func folder(t testing.TB, config string, tensors ...Tensor) fstest.MapFS {
	t.Helper()
	name := t.TempDir() + "/" + adapterModelFile
	if err := Write(name, tensors, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{adapterConfigFile: text(config), adapterModelFile: {Data: b}}
}

func TestAdapterComesBack(t *testing.T) {
	saved := Narrow(adapterPrefix+"model.norm.weight", []int{3}, []float32{1, 2, 3}, num.Float16)
	const config = `{"peft_type":"LORA","r":4,"R":9,"lora_alpha":16,"use_rslora":true,"target_modules":["q_proj"],"modules_to_save":["norm"],
		"rank_pattern":{"q_proj":2,"model.*":3},"alpha_pattern":{"z":1,"self_attn.q_proj":0.5,"a":2},"task_type":null,"a_new_field":[1,{"b":null}],"layers_to_transform":[0,1]}`
	a, err := OpenAdapter(folder(t, config, append(matrices(), saved)...))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := WriteAdapter(dir, a); err != nil {
		t.Fatal(err)
	}
	b, err := OpenAdapter(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if !cmp.Equal(a.A, b.A) || !cmp.Equal(a.B, b.B) || !cmp.Equal(a.Ranks, b.Ranks) {
		t.Error(cmp.Diff(a.A, b.A), cmp.Diff(a.B, b.B), cmp.Diff(a.Ranks, b.Ranks))
	}
	if got := b.A[qProj]; got.Rows != 2 || got.Cols != 3 || got.Values[5] != 6 || b.B[qProj].DType != num.BFloat16 || b.Ranks[qProj] != (peft.Rank{R: 2, Alpha: 0.5}) {
		t.Errorf("%+v", b)
	}
	if x, err := b.Float32("model.norm.weight", []int{3}); err != nil || !cmp.Equal(x, []float32{1, 2, 3}) {
		t.Error(x, err)
	}
	if x, err := b.Float32("lm_head.weight", []int{3}); x != nil || err != nil {
		t.Error(x, err)
	}
	if _, err := b.Float32("model.norm.weight", []int{4}); err == nil || !strings.Contains(err.Error(), "model.norm.weight has shape [3], the model needs [4]") {
		t.Error(err)
	}
	if string(b.Config.Other["a_new_field"]) == "" || b.Config.R != 4 || string(b.Config.Other["R"]) != "9" || b.Config.TaskType != nil {
		t.Errorf("%+v", b.Config)
	}
	written, err := os.ReadFile(dir + "/" + adapterConfigFile)
	if err != nil || !json.Valid(written) {
		t.Fatal(err)
	}
	var order []int
	for _, name := range []string{`"a_new_field"`, `"z"`, `"self_attn.q_proj"`, `"a"`, `"rank_pattern"`, `"q_proj"`, `"model.*"`} {
		order = append(order, strings.Index(string(written), name))
	}
	for i := 1; i < len(order); i++ {
		if order[i] <= order[i-1] {
			t.Errorf("fields must be sorted, a pattern's keys must not: %d\n%s", order, written)
		}
	}
}

// Names with default, and those of a training's own state, are read as PEFT's own.
func TestAdapterNames(t *testing.T) {
	tensors := matrices()
	tensors[0].Name = key + ".lora_A.default.weight"
	tensors = append(tensors, Narrow(adapterPrefix+"lm_head.modules_to_save.default.weight", []int{1}, []float32{1}, num.Float32),
		Narrow(adapterPrefix+"model.norm.modules_to_save.weight", []int{1}, []float32{1}, num.Float32))
	a, err := OpenAdapter(folder(t, good, tensors...))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := a.A[qProj]; !ok || len(a.Saved) != 2 || a.Saved["lm_head.weight"].Shape()[0] != 1 || a.Saved["model.norm.weight"].Shape()[0] != 1 {
		t.Errorf("%+v", a)
	}
}

func TestBadAdapters(t *testing.T) {
	with := func(more string) string { return strings.TrimSuffix(good, "}") + "," + more + "}" }
	a, b := matrices()[0], matrices()[1]
	named := func(name string) Tensor {
		return Narrow(adapterPrefix+name, []int{2, 3}, make([]float32, 6), num.Float32)
	}
	nan := Narrow(a.Name, []int{2, 3}, []float32{1, 2, float32(math.NaN()), 4, 5, 6}, num.Float32)
	inf := Narrow(b.Name, []int{1, 2}, []float32{1, float32(math.Inf(-1))}, num.BFloat16)
	bytes := a
	bytes.DType, bytes.Shape = "U8", []int{2, 12}
	for what, c := range map[string]struct {
		config  string
		tensors []Tensor
		want    string
	}{
		"nothing":                {good, nil, "no lora_A"},
		"only saved":             {good, []Tensor{named("lm_head.weight")}, "no lora_A"},
		"no B":                   {good, []Tensor{a}, qProj + " has lora_A but no lora_B"},
		"no A":                   {good, []Tensor{b}, qProj + " has lora_B but no lora_A"},
		"NaN":                    {good, []Tensor{nan, b}, a.Name + ": element 2 is NaN"},
		"infinity":               {good, []Tensor{a, inf}, b.Name + ": element 1 is -Inf"},
		"bytes":                  {good, []Tensor{bytes, b}, "U8: want F32, BF16 or F16"},
		"other rank":             {strings.Replace(good, `"r":2`, `"r":3`, 1), matrices(), "shape [2 3] does not fit the rank of " + qProj + ", which is 3"},
		"rank by a pattern":      {with(`"rank_pattern":{"k_proj":5,"q_proj":4}`), matrices(), "which is 4"},
		"huge rank":              {strings.Replace(good, `"r":2`, `"r":2000000000`, 1), matrices(), "which is 2000000000"},
		"three dimensions":       {good, []Tensor{Narrow(a.Name, []int{2, 3, 1}, make([]float32, 6), num.Float32), b}, "shape [2 3 1]"},
		"unknown kind":           {good, append(matrices(), named("model.embed_tokens.lora_embedding_A")), "model.embed_tokens.lora_embedding_A: this kind is unknown"},
		"DoRA's magnitudes":      {good, append(matrices(), named(qProj+".lora_magnitude_vector")), qProj + ".lora_magnitude_vector: this kind"},
		"lora_B's bias":          {good, append(matrices(), named(qProj+".lora_B.bias")), qProj + ".lora_B.bias: this kind"},
		"embedding under LoRA":   {good, append(matrices(), named("model.embed_tokens.base_layer.weight")), "base_layer.weight: this kind"},
		"other prefix":           {good, append(matrices(), Narrow("q_proj.lora_A.weight", []int{2, 3}, make([]float32, 6), num.Float32)), "tensor q_proj.lora_A.weight: want a name that begins with base_model.model."},
		"A twice":                {good, append(matrices(), named(qProj+".lora_A.default.weight")), "lora_A of " + qProj + " is there twice"},
		"saved twice":            {good, append(matrices(), named("lm_head.weight"), named("lm_head.modules_to_save.weight")), "lm_head.weight is there twice"},
		"rank pattern":           {with(`"rank_pattern":{"q_proj(":2}`), matrices(), `rank_pattern: "q_proj(" is no regular expression`},
		"alpha pattern":          {with(`"alpha_pattern":{"[q":2}`), matrices(), `alpha_pattern: "[q" is no regular expression`},
		"alpha pattern, python":  {with(`"alpha_pattern":{"(?!q).*":2}`), matrices(), `alpha_pattern: "(?!q).*" has "(?!q"`},
		"closing our group":      {with(`"rank_pattern":{"a)(b":2}`), matrices(), "no regular expression"},
		"not JSON":               {`{`, matrices(), adapterConfigFile},
		"no object":              {`[]`, matrices(), adapterConfigFile},
		"null":                   {`null`, matrices(), "peft_type"},
		"twice":                  {with(`"r":2`), matrices(), `"r" stands there twice`},
		"a pattern's key, twice": {with(`"rank_pattern":{"q":2,"q":2}`), matrices(), `"q" stands there twice`},
		"r = 0":                  {strings.Replace(good, `"r":2`, `"r":0`, 1), matrices(), "r is 0: want at least 1"},
		"r of text":              {strings.Replace(good, `"r":2`, `"r":"2"`, 1), matrices(), "r of type int"},
		"negative alpha":         {strings.Replace(good, `"lora_alpha":3`, `"lora_alpha":-3`, 1), matrices(), "lora_alpha is -3"},
		"negative pattern":       {with(`"alpha_pattern":{"q_proj":-1}`), matrices(), `alpha_pattern of "q_proj" is -1`},
		"rank 0 in a pattern":    {with(`"rank_pattern":{"q_proj":0}`), matrices(), `rank_pattern of "q_proj" is 0`},
		"rank of half":           {with(`"rank_pattern":{"q_proj":2.5}`), matrices(), `rank_pattern of "q_proj" is 2.5`},
		"pattern is a list":      {with(`"rank_pattern":["q_proj"]`), matrices(), "want numbers by modules' names"},
		"targets are a number":   {strings.Replace(good, `["q_proj"]`, `3`, 1), matrices(), "want a list of names, or one regular expression"},
		"layers of an expr.":     {`{"peft_type":"LORA","target_modules":".*q_proj","layers_to_transform":[1]}`, matrices(), "layers_to_transform and layers_pattern go with a list"},
		"pattern, no layers":     {with(`"layers_pattern":"h"`), matrices(), "layers_pattern needs layers_to_transform"},
		"not LoRA":               {`{"peft_type":"IA3","r":2}`, matrices(), `peft_type is "IA3"`},
		"no type":                {`{"r":2}`, matrices(), `peft_type is ""`},
		"too long":               {`{"x":"` + strings.Repeat("x", maxAdapterConfig) + `"}`, matrices(), "over 1048576 bytes"},
		"DoRA":                   {with(`"use_dora":true`), matrices(), "use_dora is true: DoRA's magnitudes"},
		"biases":                 {with(`"bias":"lora_only"`), matrices(), `bias is "lora_only"`},
		"lora_bias":              {with(`"lora_bias":true`), matrices(), "lora_bias is true"},
		"fan_in_fan_out":         {with(`"fan_in_fan_out":true`), matrices(), "fan_in_fan_out is true"},
		"layer_replication":      {with(`"layer_replication":[[0,1]]`), matrices(), "layer_replication is [[0,1]]"},
		"aLoRA":                  {with(`"alora_invocation_tokens":[1]`), matrices(), "alora_invocation_tokens is [1]"},
		"parameters":             {with(`"target_parameters":["experts.w"]`), matrices(), "target_parameters is"},
		"token indices":          {with(`"trainable_token_indices":[5]`), matrices(), "trainable_token_indices is"},
		"QALoRA":                 {with(`"use_qalora":true`), matrices(), "use_qalora is true"},
		"Megatron":               {with(`"megatron_config":{"a":1}`), matrices(), "megatron_config is"},
		"PiSSA":                  {with(`"init_lora_weights":"pissa_niter_4"`), matrices(), `init_lora_weights is "pissa_niter_4": PEFT changes the base's weights`},
		"OLoRA":                  {with(`"init_lora_weights":"OLoRA"`), matrices(), `init_lora_weights is "OLoRA"`},
	} {
		if _, err := OpenAdapter(folder(t, c.config, c.tensors...)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	if _, err := OpenAdapter(fstest.MapFS{adapterConfigFile: text(good)}); err == nil || !strings.Contains(err.Error(), adapterModelFile) {
		t.Error(err)
	}
	if _, err := OpenAdapter(fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), adapterConfigFile) {
		t.Error(err)
	}
	if err := WriteAdapter(t.TempDir(), Adapter{}); err == nil || !strings.Contains(err.Error(), "r is 0") {
		t.Error(err)
	}
}

// What is off is no reason to refuse, and what is not said is as in PEFT.
func TestAdapterDefaults(t *testing.T) {
	c, err := ParseAdapterConfig([]byte(`{"peft_type":"LORA","use_dora":false,"bias":"none","layer_replication":null,"target_parameters":[],"megatron_config":{},
		"megatron_core":"megatron.core","loftq_config":{},"init_lora_weights":"gaussian","rank_pattern":null,"alpha_pattern":{},"modules_to_save":null,"exclude_modules":null}`))
	if err != nil || c.R != 8 || c.Alpha != 8 || c.InferenceMode {
		t.Errorf("%+v %v", c, err)
	}
}

// Whatever the bytes, there is a configuration that comes back as it was, or an error.
func FuzzAdapterConfig(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"peft_type":"LORA","r":4,"rank_pattern":{"q_proj":2,"model.*":3},"alpha_pattern":{"(a|b)\\d":0.5},"target_modules":".*(?!q)_proj","x":{"y":[1]}}`))
	f.Add([]byte(`{"peft_type":"LORA","target_modules":["q_proj"],"layers_to_transform":[0,1],"layers_pattern":["h","layers|a"],"exclude_modules":"[[:a]x{,3}","modules_to_save":["norm","("]}`))
	f.Add([]byte(`{"peft_type":"LORA","layers_to_transform":3,"bias":"all","use_dora":true,"init_lora_weights":"pissa"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseAdapterConfig(b)
		if err != nil {
			return
		}
		modules := []string{qProj, "model.layers.11.mlp.down_proj", "", "."}
		chosen, errChosen := c.Choose(modules)
		again, err := c.text()
		if err != nil {
			t.Fatal(err)
		}
		d, err := ParseAdapterConfig(again)
		if err != nil && len(again) > maxAdapterConfig {
			return
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
		same, errSame := d.Choose(modules)
		if !cmp.Equal(chosen, same) || fmt.Sprint(errChosen) != fmt.Sprint(errSame) {
			t.Errorf("%v %v, written and read again %v %v", chosen, errChosen, same, errSame)
		}
	})
}

// Whatever the bytes of the two files, there is an adapter that comes back as it was, or an error; its matrices are no larger
// than the file says.
func FuzzAdapter(f *testing.F) {
	saved := Narrow(adapterPrefix+"model.norm.weight", []int{3}, []float32{1, 2, 3}, num.Float16)
	for _, tensors := range [][]Tensor{matrices(), append(matrices(), saved), matrices()[:1], nil} {
		f.Add([]byte(good), folder(f, good, tensors...)[adapterModelFile].Data)
	}
	patterns := `{"peft_type":"LORA","r":9,"rank_pattern":{"q_proj":2},"modules_to_save":["norm"]}`
	f.Add([]byte(patterns), folder(f, patterns, append(matrices(), saved)...)[adapterModelFile].Data)
	f.Fuzz(func(t *testing.T, config, tensors []byte) {
		a, err := OpenAdapter(fstest.MapFS{adapterConfigFile: {Data: config}, adapterModelFile: {Data: tensors}})
		if err != nil {
			return
		}
		total := 0
		for m := range a.A {
			total += len(a.A[m].Values) + len(a.B[m].Values)
			if a.A[m].Rows != a.B[m].Cols || a.A[m].Rows != a.Ranks[m].R {
				t.Errorf("%s: ranks %d, %d and %d", m, a.A[m].Rows, a.B[m].Cols, a.Ranks[m].R)
			}
		}
		if 2*total > len(tensors) {
			t.Errorf("%d values from %d bytes", total, len(tensors))
		}
		dir := t.TempDir()
		if err := WriteAdapter(dir, a); err != nil {
			t.Fatal(err)
		}
		b, err := OpenAdapter(os.DirFS(dir))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if !cmp.Equal(a.A, b.A) || !cmp.Equal(a.B, b.B) || !cmp.Equal(a.Ranks, b.Ranks) || len(a.Saved) != len(b.Saved) {
			t.Errorf("%+v came back as %+v", a, b)
		}
	})
}
