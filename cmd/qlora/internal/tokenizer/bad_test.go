package tokenizer_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"qlora/cmd/qlora/internal/tokenizer"
)

const (
	smallBPE     = `{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}`
	smallUnigram = `{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["a",-1]]}`
)

func added(id, text string) string { return `{"id":` + id + `,"content":"` + text + `"}` }

// What a tokenizer.json has that we lack, or that makes no sense, is named.
func TestBadJSON(t *testing.T) {
	whole := func(parts string) string { return "{" + parts + `,"model":` + smallBPE + "}" }
	model := func(m string) string { return `{"model":` + m + "}" }
	normalizer := func(n string) string { return whole(`"normalizer":` + n) }
	charsmap := func(size uint32, rest string) string {
		b := append(binary.LittleEndian.AppendUint32(nil, size), rest...)
		return normalizer(`{"type":"Precompiled","precompiled_charsmap":"` + base64.StdEncoding.EncodeToString(b) + `"}`)
	}
	double := `{"type":"Replace","pattern":{"String":"a"},"content":"aa"}`
	for _, c := range []struct{ json, want string }{
		{``, "end of JSON"},
		{`[]`, "array"},
		{`{}`, `model of type "" is not supported: want BPE, Unigram`},
		{model(`{"type":"WordPiece"}`), `model of type "WordPiece" is not supported: want BPE, Unigram`},
		{normalizer(`{"type":"BertNormalizer"}`), `normalizer of type "BertNormalizer" is not supported: want NFC, NFD,`},
		{normalizer(`{"type":"Sequence","normalizers":[{"type":"Nmt"}]}`), `normalizer of type "Nmt"`},
		{normalizer(`{"type":"Sequence","normalizers":[null]}`), `normalizer of type ""`},
		{normalizer(strings.Repeat(`{"type":"Sequence","normalizers":[`, 9) + strings.Repeat(`]}`, 9)), "more than 8 Sequences"},
		{normalizer(strings.Repeat(`{"type":"Sequence","normalizers":[`, 20000) + strings.Repeat(`]}`, 20000)), "depth"},
		{normalizer(`{"type":"Sequence","normalizers":[` + double + strings.Repeat(","+double, 40) + `]}`), "times longer"},
		{normalizer(`{"type":"Sequence","normalizers":[{"type":"Strip"}` + strings.Repeat(`,{"type":"Strip"}`, 64) + `]}`), "more than 64 components"},
		{normalizer(`{"type":"Replace","pattern":{"Regex":"(?=a)b"},"content":""}`), `pattern "(?=a)b" is not supported: it has (?=`},
		{normalizer(`{"type":"Replace","pattern":{"Regex":"\\w"},"content":""}`), `it has \w`},
		{normalizer(`{"type":"Replace","pattern":{"Regex":"(a"},"content":""}`), "is not supported"},
		{normalizer(`{"type":"Replace","pattern":{},"content":""}`), "must have a String or a Regex"},
		{normalizer(`{"type":"Precompiled","precompiled_charsmap":"***"}`), "precompiled_charsmap: illegal base64"},
		{normalizer(`{"type":"Precompiled","precompiled_charsmap":"AAA="}`), "precompiled_charsmap has 2 bytes"},
		{charsmap(0, "abcd"), "a trie of 0 bytes"},
		{charsmap(8, "abcd"), "a trie of 8 bytes in 4"},
		{charsmap(math.MaxUint32, "abcd"), "a trie of 4294967295 bytes in 4"},
		{charsmap(4, "abcd"+strings.Repeat("x", 300)), "a result of 300 bytes"},
		{whole(`"pre_tokenizer":{"type":"BertPreTokenizer"}`), `pre_tokenizer of type "BertPreTokenizer" is not supported: want ByteLevel,`},
		{whole(`"pre_tokenizer":{"type":"Split","pattern":{"String":"a"},"behavior":"Often"}`), `behavior "Often"`},
		{whole(`"pre_tokenizer":{"type":"Metaspace","replacement":"__"}`), `replacement "__"`},
		{whole(`"post_processor":{"type":"BertProcessing"}`), `post_processor of type "BertProcessing" is not supported`},
		{whole(`"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}]}`), `"<s>" is not among`},
		{whole(`"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"ids":[9]}}}`), "no token 9"},
		{whole(`"post_processor":{"type":"TemplateProcessing","single":[]}`), "single has the text 0 times"},
		{whole(`"decoder":{"type":"WordPiece"}`), `decoder of type "WordPiece" is not supported: want ByteFallback,`},
		{whole(`"decoder":{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]}`), "decoder ByteFallback behind Fuse"},
		{whole(`"decoder":{"type":"Strip","content":" ","start":0,"stop":1}`), "stop 1: want"},
		{whole(`"added_tokens":[` + added("-1", "<s>") + `]`), "has the id -1, but"},
		{whole(`"added_tokens":[` + added("2147483647", "<s>") + `]`), "has the id 2147483647, but the tokenizers library would give it 3"},
		{whole(`"added_tokens":[` + added("99999999999", "<s>") + `]`), "99999999999"},
		{whole(`"added_tokens":[` + added("4", "<s>") + "," + added("3", "</s>") + `]`), `"<s>" has the id 4`},
		{whole(`"added_tokens":[` + added("3", "<s>") + "," + added("3", "</s>") + `]`), `"</s>" has the id 3`},
		{whole(`"added_tokens":[` + added("3", "<s>") + "," + added("4", "<s>") + `]`), "is empty or there twice"},
		{whole(`"added_tokens":[` + added("1", "a") + `]`), `"a" has the id 1, but the tokenizers library would give it 0`},
		{model(`{"type":"BPE"}`), "no tokens"},
		{model(`{"type":"BPE","vocab":{"a":-1}}`), "id -1"},
		{model(`{"type":"BPE","vocab":{"a":2147483647}}`), "id 2147483647"},
		{model(`{"type":"BPE","vocab":{"a":0,"b":0}}`), `"a" and "b" have the same id, 0`},
		{model(`{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}`), `merges: number 0 joins "a" and "b"`},
		{model(`{"type":"BPE","vocab":{"a":0,"b":1},"merges":["ab"]}`), `merge "ab": want two tokens`},
		{model(`{"type":"BPE","vocab":{"a":0,"b":1},"merges":[["a","b","c"]]}`), "merge"},
		{model(`{"type":"BPE","vocab":{"a":0},"unk_token":"<unk>"}`), `unk_token "<unk>" is not in vocab`},
		{model(`{"type":"BPE","vocab":{"a":0},"dropout":0.1}`), "dropout 0.1 is not supported"},
		{model(`{"type":"BPE","vocab":{"a":0},"continuing_subword_prefix":"##"}`), "continuing_subword_prefix"},
		{model(`{"type":"Unigram","unk_id":0,"vocab":[]}`), "unk_id is 0: want one of the 0 pieces"},
		{model(`{"type":"Unigram","unk_id":7,"vocab":[["a",0]]}`), "unk_id is 7: want one of the 1 pieces"},
		{model(`{"type":"Unigram","unk_id":-1,"vocab":[["a",0]]}`), "unk_id is -1"},
		{model(`{"type":"Unigram","unk_id":null,"vocab":[["a",0]]}`), "unk_id is missing"},
		{model(`{"type":"Unigram","unk_id":0,"vocab":[["a",1e999]]}`), `piece 0, "a", has the score +Inf`},
		{model(`{"type":"Unigram","unk_id":0,"vocab":[["a",0e99999999999999999999]]}`), `has the score NaN`},
		{model(`{"type":"Unigram","unk_id":0,"vocab":[["a"]]}`), "want a text and a score"},
		{model(`{"type":"Unigram","unk_id":0,"vocab":[["a",1,2]]}`), "want a text and a score"},
		{model(`{"type":"Unigram","unk_id":0,"vocab":[["` + strings.Repeat("a", 1025) + `",1]]}`), "piece 0 has 1025 bytes"},
	} {
		_, err := tokenizer.ParseJSON([]byte(c.json), "tokenizer.json")
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "tokenizer.json: ") {
			t.Errorf("%.200s: %v, want %q", c.json, err, c.want)
		}
	}
	for _, good := range []string{model(smallBPE), model(smallUnigram), whole(`"added_tokens":[` + added("3", "<s>") + "," + added("0", "a") + "," + added("4", "x") + `]`)} {
		if _, err := tokenizer.ParseJSON([]byte(good), "tokenizer.json"); err != nil {
			t.Error(err)
		}
	}
}

// message writes protobuf fields: bytes, numbers, and float32.
func message(fields ...any) (b []byte) {
	for i := 0; i < len(fields); i += 2 {
		number := uint64(fields[i].(int)) << 3
		switch v := fields[i+1].(type) {
		case int:
			b = binary.AppendUvarint(binary.AppendUvarint(b, number), uint64(v))
		case float32:
			b = binary.LittleEndian.AppendUint32(binary.AppendUvarint(b, number|5), math.Float32bits(v))
		case string:
			b = append(binary.AppendUvarint(binary.AppendUvarint(b, number|2), uint64(len(v))), v...)
		}
	}
	return b
}

func TestBadSentencePiece(t *testing.T) {
	piece := func(text string, score float32, kind int) string { return string(message(1, text, 2, score, 3, kind)) }
	unknown := piece("<unk>", 0, 2)
	bpe := func(pieces ...any) []byte {
		m := message(3, "", 2, string(message(3, 2)), 1, unknown)
		for _, p := range pieces {
			m = append(m, message(1, p)...)
		}
		return m
	}
	nan := float32(math.NaN())
	for _, c := range []struct {
		b    []byte
		want string
	}{
		{nil, "truncated, or not a SentencePiece model"},
		{[]byte("not a model at all"), "not a SentencePiece model"},
		{[]byte("IQ== 0\nIg== 1\n"), "is tiktoken's list of tokens, as LLaMA 3 has it, not a SentencePiece model: the model's tokenizer.json is needed"},
		{[]byte{0x0a, 0xff}, "truncated"},
		{[]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, "truncated"},
		{[]byte{0x0b}, "wire type 3"},
		{message(1, "\x15\x00"), "truncated"},
		{message(3, "", 2, string(message(3, 3)), 1, unknown), "model type is 3: want Unigram (1) or BPE (2)"},
		{message(3, "", 2, string(message(3, 2)), 1, piece("a", 0, 1)), "no piece is of the kind UNKNOWN"},
		{bpe(piece("a", 0, 1), piece("a", 0, 1)), `piece 2, "a", is empty or also piece 1`},
		{bpe(piece("", 0, 1)), `piece 1, "", is empty`},
		{bpe(piece("a\xff", 0, 1)), `piece 1, "a\xff", is not UTF-8`},
		{bpe(piece("a", nan, 1)), `piece 1, "a", has the score NaN`},
		{bpe(piece("a", 0, 9)), `piece 1, "a", is of the kind 9`},
		{bpe(piece("a", 0, 5)), `is of the kind UNUSED`},
		{bpe(piece("<0xZZ>", 0, 6)), `byte piece "<0xZZ>"`},
		{message(3, "", 2, string(message(3, 2, 35, 1)), 1, unknown, 1, piece("<0x00>", 0, 6)), "1 byte pieces, want 256"},
		{message(3, "", 2, "", 1, unknown, 1, piece("a", nan, 1)), "score NaN"},
		{message(1, unknown, 3, string(message(2, "abc"))), "precompiled_charsmap has 3 bytes"},
		{message(1, unknown, 3, string(message(2, "\x08\x00\x00\x00abcd"))), "a trie of 8 bytes in 4"},
	} {
		_, err := tokenizer.Parse(c.b, "tokenizer.model")
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "tokenizer.model") {
			t.Errorf("%.60q: %v, want %q", c.b, err, c.want)
		}
	}
	good, err := tokenizer.Parse(bpe(piece("a", -1, 1)), "tokenizer.model")
	if err != nil {
		t.Fatal(err)
	}
	if ids := good.Encode("a"); !slices.Equal(ids, []int32{0, 1}) { // ▁ is unknown
		t.Error(ids)
	}
	b := smallFile(t, "sp-bpe/tokenizer.model")
	for n := 0; n < len(b); n += 7 {
		if tok, err := tokenizer.Parse(b[:n], "tokenizer.model"); err == nil {
			t.Errorf("%d of %d bytes make a tokenizer of %d", n, len(b), tok.Size())
		}
	}
}

func TestBadFolders(t *testing.T) {
	const vocab, merges = `{"a":0,"b":1,"ab":2,"<|endoftext|>":3}`, "#version: 0.2\na b\n"
	gpt2 := func(more ...string) fstest.MapFS {
		m := fstest.MapFS{"vocab.json": {Data: []byte(vocab)}, "merges.txt": {Data: []byte(merges)}}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = &fstest.MapFile{Data: []byte(more[i+1])}
		}
		return m
	}
	if tok, err := tokenizer.Load(gpt2("tokenizer_config.json", `{"eos_token":{"content":"b"},"bos_token":null,"add_bos_token":true}`)); err != nil || tok.EOS != 1 || tok.Start() != 3 {
		t.Error(tok, err)
	}
	for _, c := range []struct {
		files fstest.MapFS
		want  string
	}{
		{fstest.MapFS{}, "no tokenizer: want tokenizer.json, tokenizer.model, spiece.model, or vocab.json with merges.txt"},
		{fstest.MapFS{"vocab.json": {Data: []byte(vocab)}}, "merges.txt"},
		{fstest.MapFS{"tokenizer.model": {Data: []byte("IQ== 0\n")}}, "tokenizer.json is needed beside it"},
		{gpt2("vocab.json", `{"a":0.5}`), "vocab.json: "},
		{gpt2("merges.txt", "a b\nab\n"), `merges.txt: line 2 is "ab"`},
		{gpt2("merges.txt", "a b c\n"), `merges.txt: line 1 is "a b c"`},
		{gpt2("merges.txt", "b a\n"), `merges: number 0 joins "b" and "a"`},
		{gpt2("tokenizer_config.json", `{`), "tokenizer_config.json: "},
		{gpt2("tokenizer_config.json", `{"eos_token":"</s>"}`), `tokenizer_config.json: eos_token "</s>" is no token of this tokenizer`},
		{gpt2("special_tokens_map.json", `{"bos_token":{"content":"<s>"}}`), `special_tokens_map.json: bos_token "<s>" is no token`},
		{gpt2("tokenizer_config.json", `{"eos_token":7}`), "tokenizer_config.json: "},
		{gpt2("tokenizer_config.json", `{"added_tokens_decoder":{"1":{"content":"<x>"}}}`), `added token "<x>" has the id 1: the tokenizer has it as 0, and "b" as 1`},
		{gpt2("tokenizer_config.json", `{"added_tokens_decoder":{"4":{"content":"b"}}}`), `added token "b" has the id 4: the tokenizer has it as 1`},
		{gpt2("tokenizer_config.json", `{"added_tokens_decoder":{"-4":{"content":"<x>"}}}`), `added token -4 is "<x>"`},
		{gpt2("tokenizer_config.json", `{"added_tokens_decoder":{"2147483647":{"content":"<x>"}}}`), `added token 2147483647 is "<x>"`},
	} {
		if _, err := tokenizer.Load(c.files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// tokenizer_config.json names tokens that a SentencePiece model does not have.
func TestAddedTokensOfTheConfiguration(t *testing.T) {
	config := `{"added_tokens_decoder":{"1":{"content":"<s>","special":true},"700":{"content":"<|user|>"},"701":{"content":"<|end|>","special":true}},"eos_token":"<|end|>"}`
	tok, err := tokenizer.Load(fstest.MapFS{"tokenizer.model": {Data: smallFile(t, "sp-bpe/tokenizer.model")}, "tokenizer_config.json": {Data: []byte(config)}})
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Concat([]int32{1, 700}, tok.Encode("Hello"), []int32{701})
	if ids := tok.Encode("<s><|user|>Hello<|end|>"); !slices.Equal(ids, want) || tok.Size() != 702 || tok.EOS != 701 {
		t.Error(ids, want, tok.Size(), tok.EOS)
	}
	if text := tok.Decode(want); text != "<|user|> Hello" {
		t.Errorf("%q", text)
	}
}

func TestBadGGUF(t *testing.T) {
	meta := func(more ...any) map[string]any {
		m := map[string]any{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": []string{"a", "b", "ab"},
			"tokenizer.ggml.token_type": []int32{1, 1, 1}, "tokenizer.ggml.merges": []string{"a b"}, "tokenizer.ggml.scores": []float32{0, 0, 0}}
		for i := 0; i < len(more); i += 2 {
			m["tokenizer.ggml."+more[i].(string)] = more[i+1]
		}
		return m
	}
	for _, pre := range []string{"gpt-2", "llama-bpe"} { // of which only the second has a token before a text if nothing is said
		tok, err := tokenizer.FromGGUF(meta("pre", pre, "bos_token_id", uint32(1), "eos_token_id", uint32(99)))
		if err != nil || tok.Start() != map[string]int32{"gpt-2": -1, "llama-bpe": 1}[pre] || tok.EOS != -1 {
			t.Error(pre, tok, err)
		}
	}
	for _, c := range []struct {
		meta map[string]any
		want string
	}{
		{nil, `tokenizer.ggml.model "" is not supported: want gpt2, llama, t5`},
		{meta("model", "bert"), `tokenizer.ggml.model "bert"`},
		{meta("pre", "falcon"), `pre of type "falcon" is not supported: want gpt-2,`},
		{meta("tokens", []string{}), "token_type has 3 entries, tokens 0"},
		{meta("token_type", []int32{1}), "token_type has 1 entries, tokens 3"},
		{meta("token_type", "x"), "token_type has 0 entries, tokens 3"},
		{meta("merges", []string{"ab"}), `merges: number 0 is "ab"`},
		{meta("merges", []string{"b a"}), `merges: number 0 joins "b" and "a"`},
		{meta("model", "llama", "scores", []float32{1}), "scores has 1 entries, tokens 3"},
		{meta("model", "llama"), "no piece is of the kind UNKNOWN"},
		{meta("model", "llama", "token_type", []int32{1, 2, 77}), "is of the kind 77"},
		{meta("model", "llama", "token_type", []int32{1, 2, -1}), "is of the kind"},
		{meta("model", "llama", "token_type", []int32{1, 2, 6}), `byte piece "ab"`},
		{meta("model", "t5", "token_type", []int32{1, 2, 1}, "precompiled_charsmap", []uint8{1}), "precompiled_charsmap has 1 bytes"},
	} {
		if _, err := tokenizer.FromGGUF(c.meta); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// A word of a hundred thousand bytes has ids, and they give it back.
func TestLongWords(t *testing.T) {
	for _, name := range []string{"llama3", "llama2-prepend", "sp-bpe", "sp-unigram-bytes"} {
		tok := loadSmall(t, name)
		for what, word := range longWords {
			text := strings.Repeat(word, 100_000/len(word))
			ids := tok.Encode(text)
			if got := tok.Decode(ids); got != text && name != "sp-unigram-bytes" { // which has rules
				t.Errorf("%s, %s: %d ids, %d bytes come back, of %d", name, what, len(ids), len(got), len(text))
			}
			if slices.Max(ids) >= int32(tok.Size()) {
				t.Error(name, what, slices.Max(ids))
			}
		}
	}
}

// Space tokens that take the white space around them, over and over.
func TestManySpaceTokens(t *testing.T) {
	json := fmt.Sprintf(`{"added_tokens":[%s],"model":%s}`, `{"id":3,"content":" ","lstrip":true,"rstrip":true}`, smallBPE)
	tok, err := tokenizer.ParseJSON([]byte(json), "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	if ids := tok.Encode(strings.Repeat(" ", 100_000)); len(ids) != 100_000 {
		t.Error(len(ids))
	}
}
