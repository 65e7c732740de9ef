// Package tokenizer turns text into token ids and back, with exactly the ids of the libraries that define the formats: Hugging
// Face's tokenizers (tokenizer.json, vocab.json with merges.txt) and SentencePiece (tokenizer.model), and the same models as GGUF
// files carry them.
//
// Read tokenizer.go for the pipeline, then one component a file: added.go, normalize.go with charsmap.go, pretokenize.go, bpe.go,
// unigram.go, decode.go; the files that they are made from: json.go, sentencepiece.go, gpt2.go, gguf.go; and unicode.go for what
// makes the difference between almost the same ids and the same. README.md has what was measured.
package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// Tokenizer is a pipeline: added tokens are cut out of the text, the rest is normalized, split into words, and each word becomes
// ids. It keeps words that it has seen, so it is not for several goroutines at once.
type Tokenizer struct {
	EOS int32 // the token that ends a text, −1 for none

	bos        int32 // −1 for none
	added      added
	normalize  normalizer
	split      splitter
	model      model
	newDecoder func() Decoder
	before     []int32 // what the original puts around a text: see EncodeSpecial
	after      []int32
	takesAny   bool // the normalizer takes text that is no UTF-8
}

// model turns words into ids.
type model interface {
	// encode appends the ids of a word.
	encode(ids []int32, word string) []int32
	// token is the text of an id; false for ids that the model does not have. id is the reverse.
	token(id int32) (string, bool)
	id(token string) (int32, bool)
	count() int // of its tokens
	size() int  // the highest id plus one
}

// Size is the highest id plus one.
func (t *Tokenizer) Size() int { return max(t.model.size(), t.added.size()) }

// Token is the text by which the vocabulary has an id; "" for ids that it does not have.
func (t *Tokenizer) Token(id int32) string {
	text, _ := t.token(id)
	return text
}

func (t *Tokenizer) token(id int32) (string, bool) {
	if text, ok := t.added.token(id); ok {
		return text, true
	}
	return t.model.token(id)
}

// Encode gives the ids of a text without what belongs around it. Added tokens in the text, such as <|im_start|>, are recognised
// where the original recognises them. What is no UTF-8 counts as U+FFFD and comes back as that: one for each byte in SentencePiece,
// in the others one for each beginning of a character that does not go on.
func (t *Tokenizer) Encode(text string) []int32 {
	if !t.takesAny {
		text = lossy(text)
	}
	var ids []int32
	first := true
	for _, raw := range t.added.cut(text, false) {
		if raw.token {
			ids = append(ids, raw.id)
			first = false
			continue
		}
		for _, part := range t.added.cut(t.normalize(raw.text), true) {
			if part.token {
				ids = append(ids, part.id)
			} else {
				for _, word := range t.split(part.text, first) {
					ids = t.model.encode(ids, word)
				}
			}
			first = false
		}
	}
	return ids
}

// id is that of a token's text.
func (t *Tokenizer) id(text string) (int32, bool) {
	if id, ok := t.model.id(text); ok {
		return id, true
	}
	for id, a := range t.added.tokens {
		if a.text == text {
			return id, true
		}
	}
	return 0, false
}

// EncodeSpecial is Encode with the tokens around the text that the original puts there by default: <s> before it in LLaMA,
// </s> behind it in T5, nothing in GPT-2.
func (t *Tokenizer) EncodeSpecial(text string) []int32 {
	ids := append([]int32(nil), t.before...)
	return append(append(ids, t.Encode(text)...), t.after...)
}

// Start is the token that the original puts before a text; −1 for none.
func (t *Tokenizer) Start() int32 {
	if len(t.before) == 0 {
		return -1
	}
	return t.before[0]
}

// lossy puts U+FFFD in the place of what is no UTF-8, as Python and Rust do it: once for each beginning of a character that does
// not go on.
func lossy(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 {
			n = begun(text[i:])
		}
		b.WriteRune(r)
		i += n
	}
	return b.String()
}

// begun is the length of the longest beginning of a character at the start of text, which has no whole one there; at least 1.
func begun(text string) int {
	lo, hi, more := byte(0x80), byte(0xbf), 0
	switch c := text[0]; {
	case c >= 0xc2 && c <= 0xdf:
		more = 1
	case c >= 0xe0 && c <= 0xef:
		more = 2
		if c == 0xe0 {
			lo = 0xa0
		}
		if c == 0xed {
			hi = 0x9f
		}
	case c >= 0xf0 && c <= 0xf4:
		more = 3
		if c == 0xf0 {
			lo = 0x90
		}
		if c == 0xf4 {
			hi = 0x8f
		}
	}
	n := 1
	for ; n <= more && n < len(text) && text[n] >= lo && text[n] <= hi; n++ {
		lo, hi = 0x80, 0xbf
	}
	return n
}
