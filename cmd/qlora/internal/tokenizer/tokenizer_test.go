package tokenizer_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"qlora/cmd/qlora/internal/demo"
	"qlora/cmd/qlora/internal/tokenizer"
)

func load(t testing.TB) *tokenizer.Tokenizer {
	t.Helper()
	tok, err := tokenizer.Load(demo.Model())
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// What is decoded as it comes is what is decoded at once, and never half a character.
func TestDecoderGivesWholeCharacters(t *testing.T) {
	tok := load(t)
	const text = "naïve 你好 🙂"
	d := tok.NewDecoder()
	var b strings.Builder
	for _, id := range tok.Encode(text) {
		part := d.Next(id)
		if !utf8.ValidString(part) {
			t.Errorf("%q is half a character", part)
		}
		b.WriteString(part)
	}
	if b.String() != text || d.Rest() != "" {
		t.Errorf("%q, rest %q", b.String(), d.Rest())
	}
}
