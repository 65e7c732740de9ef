package checkpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"qlora/ref/num"
	"qlora/ref/quant"
)

const llamaConfig = `{"model_type":"llama"}`

// safetensors is a file of float32 tensors of one element each.
func safetensors(names ...string) *fstest.MapFile {
	var tensors []string
	var data []byte
	for i, name := range names {
		tensors = append(tensors, fmt.Sprintf(`%q:{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}`, name, 4*i, 4*i+4))
		data = append(data, 0, 0, byte(i), 64)
	}
	return &fstest.MapFile{Data: file("{"+strings.Join(tensors, ",")+"}", data...)}
}

func text(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

func TestShards(t *testing.T) {
	folder := fstest.MapFS{
		"config.json":                      text(llamaConfig),
		"model.safetensors.index.json":     text(`{"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors","c":"model-00001-of-00002.safetensors"}}`),
		"model-00001-of-00002.safetensors": safetensors("a", "c"),
		"model-00002-of-00002.safetensors": safetensors("b"),
	}
	m, err := OpenModel(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !slices.Equal(m.Names(), []string{"a", "b", "c"}) {
		t.Error(m.Names())
	}
	for name, want := range map[string]float32{"a": 2, "b": 2, "c": 2.015625} {
		if x, err := m.Float32(name, []int{1}); err != nil || x[0] != want {
			t.Error(name, x, err)
		}
	}
	for what, c := range map[string]struct {
		change fstest.MapFS
		want   string
	}{
		"missing shard":     {fstest.MapFS{"model-00002-of-00002.safetensors": nil}, "model-00002-of-00002.safetensors for b and 0 other tensors, but the folder has no such file"},
		"tensor twice":      {fstest.MapFS{"model-00002-of-00002.safetensors": safetensors("b", "a")}, "tensor a is in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors"},
		"tensor elsewhere":  {fstest.MapFS{"model-00002-of-00002.safetensors": safetensors("d")}, "says that tensor b is in model-00002-of-00002.safetensors, which has none"},
		"named twice":       {fstest.MapFS{indexFile: text(`{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}`)}, `"a" stands there twice`},
		"outside":           {fstest.MapFS{indexFile: text(`{"weight_map":{"a":"../x.safetensors"}}`)}, `"../x.safetensors"`},
		"outside, absolute": {fstest.MapFS{indexFile: text(`{"weight_map":{"a":"/etc/passwd"}}`)}, `"/etc/passwd"`},
		"outside, windows":  {fstest.MapFS{indexFile: text(`{"weight_map":{"a":"..\\x.safetensors"}}`)}, `tensor a is said to be in`},
		"no map":            {fstest.MapFS{indexFile: text(`{}`)}, "weight_map"},
		"terabytes":         {fstest.MapFS{"model-00002-of-00002.safetensors": text("\x00\x00\x00\x00\x00\x40\x00\x00{}")}, "bytes 0 to 7"},
		"terabytes of data": {fstest.MapFS{"model-00002-of-00002.safetensors": {Data: file(`{"b":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}`)}},
			"need 4398046511104 bytes of data, the file has 0"},
	} {
		changed := maps.Clone(folder)
		for name, f := range c.change {
			changed[name] = f
			if f == nil {
				delete(changed, name)
			}
		}
		if _, err := OpenModel(changed); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	if _, err := m.Float32("d", []int{1}); err == nil || !strings.Contains(err.Error(), "no tensor d") && !strings.Contains(err.Error(), "has a tensor d") {
		t.Error(err)
	}
}

// A 4-bit weight comes back from every storage, with its offset in either of the ways that loaders read it.
func TestFourBits(t *testing.T) {
	x := make([]float32, 96*64)
	for i := range x {
		x[i] = num.Normal(1, num.Counter{Element: uint64(i)})
	}
	for _, storage := range []string{"U8", "I8", "BF16", "F16", "F32"} {
		for _, nested := range []bool{false, true} {
			q, err := quant.Quantize(x, []int{96, 64}, quant.Options{Type: quant.FP4, Blocksize: 64, DoubleQuant: nested, DType: num.BFloat16})
			if err != nil {
				t.Fatal(err)
			}
			entries, err := q.Entries("w.weight", storage)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(llamaConfig), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := Write(filepath.Join(dir, "model.safetensors"), entries, nil); err != nil {
				t.Fatal(err)
			}
			m, err := OpenModel(os.DirFS(dir))
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			got, err := m.Quantized("w.weight", []int{96, 64})
			if err != nil || !reflect.DeepEqual(got, q) {
				t.Errorf("%s, nested %v: %v", storage, nested, err)
			}
			if _, err := m.Quantized("w.weight", []int{64, 96}); err == nil || !strings.Contains(err.Error(), "shape [96 64], config.json asks for [64 96]") {
				t.Error(err)
			}
			if !nested {
				continue
			}
			m.NestedOffset = num.BFloat16
			rounded, err := m.Quantized("w.weight", []int{96, 64})
			if err != nil || rounded.Nested.Offset != num.BFloat16.Round(q.Nested.Offset) || rounded.Nested.Offset == q.Nested.Offset {
				t.Error(rounded.Nested.Offset, err)
			}
		}
	}
}

// What WriteModel cuts into several files, OpenModel puts together.
func TestWriteModel(t *testing.T) {
	dir := t.TempDir()
	if err := CopyConfig(dir, fstest.MapFS{"config.json": text(`{"model_type":"llama","rms_norm_eps":1e-05,"vocab_size":7}`)}, map[string]any{"quant_method": "bitsandbytes"}); err != nil {
		t.Fatal(err)
	}
	var parts []Part
	for i := range 5 {
		name := fmt.Sprintf("t%d", i)
		parts = append(parts, Part{8, func() ([]Tensor, error) { return []Tensor{quant.Float32Entry(name, []float32{float32(i), 1})}, nil }})
	}
	total, err := WriteModel(dir, parts, 16, func(int) error { return nil })
	if err != nil || total != 40 {
		t.Fatal(total, err)
	}
	m, err := OpenModel(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if len(m.files) != 3 || m.Config.Quantization.Method != "bitsandbytes" {
		t.Errorf("%d files, %+v", len(m.files), m.Config.Quantization)
	}
	for i := range 5 {
		if x, err := m.Float32(fmt.Sprintf("t%d", i), []int{2}); err != nil || x[0] != float32(i) {
			t.Error(x, err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil || !strings.Contains(string(b), `"rms_norm_eps": 1e-05`) {
		t.Errorf("%s %v", b, err)
	}
}

func TestParseConfig(t *testing.T) {
	for _, c := range []struct {
		text string
		good func(ModelConfig) bool
	}{
		{`{"eos_token_id":[1,2]}`, func(c ModelConfig) bool { return slices.Equal(c.EOSTokenID, []int32{1, 2}) }},
		{`{"eos_token_id":7}`, func(c ModelConfig) bool { return slices.Equal(c.EOSTokenID, []int32{7}) }},
		{`{"eos_token_id":null}`, func(c ModelConfig) bool { return c.EOSTokenID == nil }},
		{`{"rope_theta":1e6,"rope_scaling":{"type":"linear","factor":2}}`, func(c ModelConfig) bool {
			return c.RoPETheta == 1e6 && c.RoPE.Type == "linear" && c.RoPE.Factor == 2
		}},
		{`{"rope_theta":1e6,"rope_scaling":null}`, func(c ModelConfig) bool { return c.RoPETheta == 1e6 && c.RoPE.Type == "default" }},
		{`{"rope_parameters":{"rope_theta":5e5,"rope_type":"llama3"}}`, func(c ModelConfig) bool { return c.RoPETheta == 5e5 && c.RoPE.Type == "llama3" }},
		{`{"sliding_window":null}`, func(c ModelConfig) bool { return c.SlidingWindow == nil }},
		{`{}`, func(c ModelConfig) bool { return *c.SlidingWindow == 4096 }}, // transformers' default
	} {
		if got, err := ParseConfig([]byte(c.text)); err != nil || !c.good(got) {
			t.Errorf("%s: %+v %v", c.text, got, err)
		}
	}
}

// Whatever the bytes, there is a list of plain file names or an error.
func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"x"}}`))
	f.Add([]byte(`{"weight_map":{"a":"../x"}}`))
	f.Add([]byte(`{"weight_map":{"a":"x","a":"y"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		shards, err := ParseIndex(b)
		if err != nil {
			return
		}
		for name, tensors := range shards {
			if name != filepath.Base(name) || name == ".." || len(tensors) == 0 {
				t.Errorf("file %q with %d tensors", name, len(tensors))
			}
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"model_type":"llama","hidden_size":64,"num_attention_heads":8,"eos_token_id":[1],"rope_scaling":{"type":"linear","factor":2.0}}`))
	f.Add([]byte(`{"quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		if !json.Valid(b) {
			t.Error("accepted what is not JSON")
		}
		if c.NumAttentionHeads != 0 && c.NumKeyValueHeads == 0 {
			t.Error("no key-value heads")
		}
	})
}
