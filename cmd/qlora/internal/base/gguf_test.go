package base

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

const oracle = "../../../../conformance/oracle/vectors/"

// A model from GGUF is loaded like any other: quantized on the way in, with the logits of its Hugging Face form.
func TestGGUF(t *testing.T) {
	for name, want := range map[string]struct {
		text string
		ids  []int32
		ends []int32
	}{
		"mistral": {"ba", []int32{1, 3, 5, 4}, []int32{2}}, // <s>, ▁, b, a
		"qwen2":   {"ba ab", []int32{5, 4, 3, 30}, []int32{2, 0}},
	} {
		b, err := Open(oracle + "gguf/" + name + ".gguf")
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if ids := b.Tokenizer.EncodeSpecial(want.text); !slices.Equal(ids, want.ids) || !slices.Equal(b.Ends, want.ends) {
			t.Errorf("%s: ids %v, ends %v, want %v, %v", name, ids, b.Ends, want.ids, want.ends)
		}
		tok, err := Tokenizer(b.Name)
		if err != nil || !slices.Equal(tok.EncodeSpecial(want.text), want.ids) {
			t.Error(name, err)
		}
		hf, err := OpenWeights(oracle + "architectures/" + name)
		if err != nil {
			t.Fatal(err)
		}
		defer hf.Close()
		if got, want := logits(t, b), logits(t, hf); !slices.Equal(got, want) {
			t.Errorf("%s: other logits than in Hugging Face's form", name)
		}
	}
}

func logits(t *testing.T, b *Base) []float32 {
	t.Helper()
	d := op.NewPlain(0)
	nf4 := &quant.Options{Type: quant.NF4, Blocksize: 64, DoubleQuant: true, DType: num.BFloat16}
	m, err := b.Load(d, llama.Options{Compute: num.BFloat16, Quant: nf4})
	if err != nil {
		t.Fatal(err)
	}
	ids := []int32{1, 9, 3, 7, 20, 11, 5, 30, 2, 39}
	x, err := d.Read(m.Logits(m.NewCache(len(ids)), ids))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// What is wrong is said with the names of the file and of its own tensors.
func TestGGUFRefuses(t *testing.T) {
	good, err := os.ReadFile(oracle + "gguf/smollm2.gguf")
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		old, new string // of the same length
		want     string
	}{
		"a tensor less":     {"blk.1.ffn_up.weight", "blk.1.ffn_pu.weight", "no tensor blk.1.ffn_up.weight"},
		"a tensor more":     {"blk.1.ffn_norm.weight", "blk.2.ffn_norm.weight", "no tensor blk.1.ffn_norm.weight"},
		"another shape":     {"llama.feed_forward_length\x04\x00\x00\x00\x18", "llama.feed_forward_length\x04\x00\x00\x00\x19", "ffn_gate.weight has shape [24 18], metadata asks for [25 18]"},
		"another tokenizer": {"\x00llama\x12\x00", "\x00bertx\x12\x00", `tokenizer.ggml.model "bertx" is not supported`},
		"too many layers":   {"llama.block_count\x04\x00\x00\x00\x02", "llama.block_count\x04\x00\x00\x00\x03", "no tensor blk.2.attn_norm.weight"},
		"too few layers":    {"llama.block_count\x04\x00\x00\x00\x02", "llama.block_count\x04\x00\x00\x00\x01", "tensor blk.1.attn_norm.weight has no place in a model of type llama with this metadata"},
	} {
		file := filepath.Join(t.TempDir(), "model.gguf")
		if err := os.WriteFile(file, []byte(strings.Replace(string(good), c.old, c.new, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Open(file)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "model.gguf") {
			t.Errorf("%s: %v, want model.gguf with %q", what, err, c.want)
		}
	}
	if _, err := OpenWeights(oracle + "gguf/smollm2.gguf"); err == nil || !strings.Contains(err.Error(), "is a GGUF file: this command writes a folder") {
		t.Error(err)
	}
	if _, err := Open(oracle + "gguf"); err == nil || !strings.Contains(err.Error(), "config.json") || !strings.Contains(err.Error(), "the folder has llama1.gguf") {
		t.Error(err)
	}
	if _, err := Open("gguf_test.go"); err == nil || !strings.Contains(err.Error(), "a file that ends in .gguf") {
		t.Error(err)
	}
	if _, err := Open(t.TempDir() + "/none.gguf"); err == nil || !strings.Contains(err.Error(), "none.gguf") {
		t.Error(err)
	}
}
