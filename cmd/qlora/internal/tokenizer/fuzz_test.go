package tokenizer_test

import (
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"qlora/cmd/qlora/internal/tokenizer"
)

// hardTexts begin the corpora of texts.
var hardTexts = []string{
	"", "To be, or not to be", "  \x00\xff▁", "naïve 你好 🙂👩‍👩‍👧", "\xe2\x82 a \xf0\x9f", "<|eot_id|><s></s><unk><0x41>", " \r\n\t 1234567",
	"e\u0301\u0323 \u1100\u1161\u11a8", "I'LL don'ſ", strings.Repeat("a ", 50), "\ufeff\u0897\U000113d1ª\U00011938",
}

// check wants what holds for every tokenizer and text, and gives the text of the ids.
func check(t *testing.T, tok *tokenizer.Tokenizer, text string) string {
	t.Helper()
	ids := tok.Encode(text)
	for _, id := range ids {
		if id < 0 || int(id) >= tok.Size() {
			t.Fatalf("%q has the id %d, of %d", text, id, tok.Size())
		}
	}
	decoded := tok.Decode(ids)
	if got := streamed(t, tok, ids); got != decoded {
		t.Errorf("%d, id by id, becomes %q, at once %q", ids, got, decoded)
	}
	return decoded
}

// SentencePiece's byte-pair encoding gives back what is UTF-8, and U+FFFD for each byte that is not, as the original does.
func FuzzRoundTrip(f *testing.F) {
	tok := load(f)
	for _, text := range hardTexts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want := strings.ReplaceAll(string([]rune(text)), "▁", " ") // the one character that stands for another
		if got := check(t, tok, text); got != want {
			t.Errorf("%q came back as %q", text, got)
		}
	})
}

// Byte-level vocabularies give back what is UTF-8.
func FuzzByteLevel(f *testing.F) {
	toks := []*tokenizer.Tokenizer{loadSmall(f, "gpt2"), loadSmall(f, "llama3"), loadSmall(f, "smollm2")}
	for _, text := range hardTexts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, tok := range toks {
			got := check(t, tok, text)
			if strings.Contains(text, "<") { // for special tokens have no text
				continue
			}
			if want := strings.ToValidUTF8(text, ""); strings.ReplaceAll(got, "\uFFFD", "") != strings.ReplaceAll(want, "\uFFFD", "") {
				t.Errorf("%q came back as %q", text, got)
			}
		}
	})
}

// Tokenizers that rewrite a text, and look for tokens in it.
func FuzzRewritten(f *testing.F) {
	var toks []*tokenizer.Tokenizer
	for _, name := range []string{"t5", "unigram-bytes", "sp-unigram-bytes", "sp-suffix", "sp-bpe", "llama2-first", "added", "nfkc", "qwen2"} {
		toks = append(toks, loadSmall(f, name))
	}
	for _, text := range hardTexts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, tok := range toks {
			check(t, tok, text)
		}
	})
}

// Any ids, half characters and all, have the same text at once and one by one, which is UTF-8.
func FuzzDecode(f *testing.F) {
	var toks []*tokenizer.Tokenizer
	for _, name := range []string{"llama3", "added", "llama2-prepend", "t5", "unigram-bytes", "sp-bpe", "sp-unigram-bytes"} {
		toks = append(toks, loadSmall(f, name))
	}
	f.Add([]byte{1, 0, 2, 0, 130, 0, 131, 0, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		var ids []int32
		for ; len(b) >= 2; b = b[2:] {
			ids = append(ids, int32(int16(binary.LittleEndian.Uint16(b))))
		}
		for _, tok := range toks {
			if got, want := streamed(t, tok, ids), tok.Decode(ids); got != want {
				t.Errorf("%d, id by id, becomes %q, at once %q", ids, got, want)
			}
		}
	})
}

// use is what fuzzed tokenizers must survive.
func use(t *testing.T, tok *tokenizer.Tokenizer, err error) {
	t.Helper()
	if err != nil {
		return
	}
	check(t, tok, "Hello  wörld 1234 \xff\r\n ▁<s> e\u0301ﬁ🙂ab")
	tok.EncodeSpecial("a")
	for id := range int32(min(tok.Size(), 50)) {
		tok.Decode([]int32{id, id - 1})
	}
}

func FuzzParseJSON(f *testing.F) {
	files, _ := fs.Glob(small(f), "*/tokenizer.json")
	for _, name := range files {
		b := smallFile(f, name)
		if len(b) > 30000 { // which has all of SentencePiece's rules
			continue
		}
		var parts map[string]json.RawMessage
		if err := json.Unmarshal(b, &parts); err != nil {
			f.Fatal(err)
		}
		parts["model"] = json.RawMessage(smallBPE) // short, so that much is tried
		delete(parts, "added_tokens")
		b, err := json.Marshal(parts)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"model":` + smallBPE + `}`))
	f.Add([]byte(`{"model":` + smallUnigram + `,"normalizer":{"type":"Precompiled","precompiled_charsmap":"BAAAAAAAAAAAYWIA"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := tokenizer.ParseJSON(b, "tokenizer.json")
		use(t, tok, err)
	})
}

func FuzzParseSentencePiece(f *testing.F) {
	pieces := message(1, string(message(1, "<unk>", 3, 2)), 1, string(message(1, "a", 2, float32(-1))),
		1, string(message(1, "▁a", 2, float32(-2))), 1, string(message(1, "<s>", 3, 3)), 1, string(message(1, "<u>", 3, 4)))
	for _, settings := range [][]byte{
		message(3, "", 2, ""),
		message(2, string(message(3, 2, 24, 1)), 3, string(message(3, 0, 4, 0, 5, 0))),
		message(2, string(message(3, 2, 35, 1)), 3, ""),
		message(2, string(message(3, 1, 24, 1, 41, 3, 42, 9)),
			3, string(message(2, "\x10\x00\x00\x00a\x05\x00\x00\x00\x00\x00\x80b\x09\x00\x00\xff\xff\xff\xffx\x00y\x00"))),
	} {
		f.Add(slices.Concat(pieces, settings))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := tokenizer.Parse(b, "tokenizer.model")
		use(t, tok, err)
	})
}

func FuzzGPT2(f *testing.F) {
	f.Add([]byte(`{"a":0,"b":1,"ab":2,"<|endoftext|>":3}`), []byte("#version: 0.2\r\na b\r\n"))
	f.Fuzz(func(t *testing.T, vocab, merges []byte) {
		tok, err := tokenizer.Load(fstest.MapFS{"vocab.json": {Data: vocab}, "merges.txt": {Data: merges}})
		use(t, tok, err)
	})
}

func FuzzTokenizerConfig(f *testing.F) {
	f.Add([]byte(`{"eos_token":{"content":"b"},"bos_token":"a","add_bos_token":true,"add_eos_token":false}`), []byte(`{"bos_token":null}`))
	f.Add([]byte(`{"added_tokens_decoder":{"3":{"content":"<x>","lstrip":true,"special":true},"0":{"content":"a","single_word":true}}}`),
		[]byte(`{"eos_token":"<x>"}`))
	f.Fuzz(func(t *testing.T, config, special []byte) {
		tok, err := tokenizer.Load(fstest.MapFS{"vocab.json": {Data: []byte(`{"a":0,"b":1,"ab":2}`)}, "merges.txt": {Data: []byte("a b\n")},
			"tokenizer_config.json": {Data: config}, "special_tokens_map.json": {Data: special}})
		if err == nil && (int(tok.EOS) >= tok.Size() || int(tok.Start()) >= tok.Size()) {
			t.Error(tok.EOS, tok.Start(), tok.Size())
		}
		use(t, tok, err)
	})
}

// ggufMetadata is a GGUF file's metadata in JSON.
type ggufMetadata struct {
	Model, Pre     string
	Tokens, Merges []string
	Scores         []float32
	Types          []int32
	Charsmap       []byte
	BOS, EOS       uint32
	Flags          map[string]bool
}

func (g ggufMetadata) keys() map[string]any {
	m := map[string]any{"model": g.Model, "pre": g.Pre, "tokens": g.Tokens, "merges": g.Merges, "scores": g.Scores, "token_type": g.Types,
		"precompiled_charsmap": g.Charsmap, "bos_token_id": g.BOS, "eos_token_id": g.EOS}
	for name, flag := range g.Flags {
		m[name] = flag
	}
	prefixed := map[string]any{}
	for key, value := range m {
		prefixed["tokenizer.ggml."+key] = value
	}
	return prefixed
}

func FuzzGGUF(f *testing.F) {
	for _, g := range []ggufMetadata{
		{Model: "gpt2", Pre: "gpt-2", Tokens: []string{"a", "b", "ab", "<s>"}, Types: []int32{1, 1, 1, 3}, Merges: []string{"a b"}, BOS: 3},
		{Model: "gpt2", Pre: "qwen2", Tokens: []string{"a", "<x>"}, Types: []int32{1, 4}, Flags: map[string]bool{"add_bos_token": true}},
		{Model: "llama", Tokens: []string{"<unk>", "a", "<s>"}, Types: []int32{2, 1, 3}, Scores: []float32{0, -1, 0}, BOS: 2, EOS: 9},
		{Model: "t5", Tokens: []string{"<unk>", "a", "▁"}, Types: []int32{2, 1, 5}, Scores: []float32{0, -1, -2}, Charsmap: []byte("\x04\x00\x00\x00abcd\x00")},
	} {
		b, err := json.Marshal(g)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var g ggufMetadata
		if json.Unmarshal(b, &g) != nil {
			return
		}
		tok, err := tokenizer.FromGGUF(g.keys())
		use(t, tok, err)
	})
}
