package tokenizer_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
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

// testdata/sentencepiece.json was made by conformance/oracle/tokenizer.py with Google's SentencePiece.
func TestSentencePiece(t *testing.T) {
	var vectors struct {
		Cases []struct {
			Text, Decoded string
			IDs           []int32
		}
	}
	b, err := os.ReadFile("testdata/sentencepiece.json")
	if err == nil {
		err = json.Unmarshal(b, &vectors)
	}
	if err != nil || len(vectors.Cases) == 0 {
		t.Fatal(err, len(vectors.Cases))
	}
	tok := load(t)
	for _, c := range vectors.Cases {
		if got := tok.Encode(c.Text); !slices.Equal(got, c.IDs) {
			t.Errorf("%q becomes %v, want %v", c.Text, got, c.IDs)
		}
		if got := tok.Decode(c.IDs); got != c.Decoded {
			t.Errorf("%v becomes %q, want %q", c.IDs, got, c.Decoded)
		}
	}
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

func TestBadModels(t *testing.T) {
	good, err := demo.Model().Open(tokenizer.File)
	if err != nil {
		t.Fatal(err)
	}
	defer good.Close()
	b := make([]byte, 4000)
	if _, err := good.Read(b); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"truncated": b, "empty": {}, "text": []byte("not a model at all"), "a number": {0x08, 0xff, 0xff},
	} {
		_, err := tokenizer.Load(fstest.MapFS{tokenizer.File: {Data: data}})
		if err == nil || !strings.Contains(err.Error(), tokenizer.File) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Any text comes back.
func FuzzRoundTrip(f *testing.F) {
	tok := load(f)
	f.Add("To be, or not to be")
	f.Add("  \x00\xff▁")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "▁") {
			return // it is the one character that stands for another
		}
		if got := tok.Decode(tok.Encode(text)); got != text {
			t.Errorf("%q came back as %q", text, got)
		}
	})
}
