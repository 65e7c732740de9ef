package tokenizer_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/tokenizer"
)

// A GGUF file's metadata gives the ids of the tokenizer that it was made from.
func TestGGUFIsTheOriginal(t *testing.T) {
	for name, pre := range map[string]string{"llama3": "llama-bpe", "qwen2": "qwen2", "smollm2": "smollm"} {
		checkGGUF(t, name, ggufOfJSON(t, smallFile(t, name+"/tokenizer.json"), pre))
	}
	// Text that names a control token is something else to SentencePiece: those lines are left out.
	for name, file := range map[string]string{"stories260k": "tokenizer.model", "sp-bpe": "tokenizer.model", "sp-unigram": "spiece.model"} {
		model := smallFile(t, name+"/"+file)
		meta, err := tokenizer.GGUFOf(model)
		if err != nil {
			t.Fatal(err)
		}
		if name == "sp-unigram" {
			meta["tokenizer.ggml.precompiled_charsmap"] = charsmapOf(t, model)
		}
		checkGGUF(t, name, meta, "<unk>", "<s>", "</s>", "<ctl>")
	}
}

func checkGGUF(t *testing.T, name string, meta map[string]any, leftOut ...string) {
	t.Helper()
	tok, err := tokenizer.FromGGUF(meta)
	if err != nil {
		t.Fatal(name, err)
	}
	d := json.NewDecoder(bytes.NewReader(smallFile(t, name+"/lines.jsonl")))
	var head any
	if err := d.Decode(&head); err != nil {
		t.Fatal(err)
	}
	compared := 0
line:
	for d.More() {
		var l originalLine
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		for _, token := range leftOut {
			if l.Text != nil && strings.Contains(string(*l.Text), token) {
				continue line
			}
		}
		l.compare(t, tok)
		compared++
	}
	if compared < 150 {
		t.Errorf("%s: only %d lines", name, compared)
	}
}

// ggufOfJSON writes a tokenizer.json with byte-level BPE as GGUF metadata.
func ggufOfJSON(t *testing.T, b []byte, pre string) map[string]any {
	t.Helper()
	var f struct {
		Added []struct {
			ID      int
			Content string
			Special bool
		} `json:"added_tokens"`
		Model struct {
			Vocab  map[string]int
			Merges [][2]string
		}
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	tokens := make([]string, len(f.Model.Vocab)+len(f.Added))
	kinds := make([]int32, len(tokens))
	for token, id := range f.Model.Vocab {
		tokens[id], kinds[id] = token, 1
	}
	for _, a := range f.Added {
		tokens[a.ID], kinds[a.ID] = a.Content, 3
	}
	var merges []string
	for _, m := range f.Model.Merges {
		merges = append(merges, m[0]+" "+m[1])
	}
	return map[string]any{
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
		"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.merges": merges,
	}
}

// charsmapOf finds the rules of normalization in a SentencePiece model: the longest field of all, with a length of three bytes.
func charsmapOf(t *testing.T, model []byte) []uint8 {
	t.Helper()
	at := bytes.Index(model, []byte("nmt_nfkc\x12"))
	if at < 0 {
		t.Fatal("no rules")
	}
	at += len("nmt_nfkc\x12")
	n := int(model[at]&0x7f) | int(model[at+1]&0x7f)<<7 | int(model[at+2])<<14
	return model[at+3 : at+3+n]
}
