package tokenizer_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"qlora/cmd/qlora/internal/tokenizer"
)

// small is testdata/small.zip, which conformance/oracle/tokenizer.py wrote: small tokenizers of every kind, a folder for each, and
// lines with the ids and the text that the original libraries make of them.
func small(t testing.TB) fs.FS {
	t.Helper()
	b, err := os.ReadFile("testdata/small.zip")
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func smallFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := fs.ReadFile(small(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// loadSmall reads one. What belongs around a text is not in SentencePiece's files: Load adds it, the original does not.
func loadSmall(t testing.TB, name string) *tokenizer.Tokenizer {
	t.Helper()
	folder, err := fs.Sub(small(t), name)
	if err != nil {
		t.Fatal(err)
	}
	var tok *tokenizer.Tokenizer
	if models, _ := fs.Glob(folder, "*.model"); len(models) == 1 {
		tok, err = tokenizer.Parse(smallFile(t, name+"/"+models[0]), models[0])
	} else {
		tok, err = tokenizer.Load(folder)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

type originalLine struct {
	Text    *[]byte // none where there are only ids
	IDs     []int32
	Decoded string
}

func TestIDsAndTextAreTheOriginals(t *testing.T) {
	folders, err := fs.ReadDir(small(t), ".")
	if err != nil || len(folders) < 30 {
		t.Fatal(len(folders), err)
	}
	for _, folder := range folders {
		t.Run(folder.Name(), func(t *testing.T) {
			tok := loadSmall(t, folder.Name())
			d := json.NewDecoder(bytes.NewReader(smallFile(t, folder.Name()+"/lines.jsonl")))
			var head struct{ Special []int32 }
			if err := d.Decode(&head); err != nil {
				t.Fatal(err)
			}
			if got := tok.EncodeSpecial("a"); !slices.Equal(got, head.Special) {
				t.Errorf("a with what belongs around it becomes %d, want %d", got, head.Special)
			}
			lines := 0
			for ; d.More(); lines++ {
				var l originalLine
				if err := d.Decode(&l); err != nil {
					t.Fatal(err)
				}
				l.compare(t, tok)
			}
			if lines < 150 {
				t.Errorf("only %d lines", lines)
			}
		})
	}
}

func (l originalLine) compare(t *testing.T, tok *tokenizer.Tokenizer) {
	t.Helper()
	if l.Text != nil {
		if got := tok.Encode(string(*l.Text)); !slices.Equal(got, l.IDs) {
			t.Errorf("%q becomes %d, want %d", *l.Text, got, l.IDs)
		}
	}
	if got := tok.Decode(l.IDs); got != l.Decoded {
		t.Errorf("%d becomes %q, want %q", l.IDs, got, l.Decoded)
	}
	if got := streamed(t, tok, l.IDs); got != l.Decoded {
		t.Errorf("%d, id by id, becomes %q, want %q", l.IDs, got, l.Decoded)
	}
}

// streamed decodes id by id, and wants whole characters.
func streamed(t testing.TB, tok *tokenizer.Tokenizer, ids []int32) string {
	t.Helper()
	d := tok.NewDecoder()
	var b strings.Builder
	part := func(text string) {
		if !utf8.ValidString(text) {
			t.Errorf("%d: %q is half a character", ids, text)
		}
		b.WriteString(text)
	}
	for _, id := range ids {
		part(d.Next(id))
	}
	part(d.Rest())
	return b.String()
}
