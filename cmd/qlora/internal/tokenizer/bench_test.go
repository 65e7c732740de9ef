package tokenizer_test

import (
	"io/fs"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/demo"
)

// million repeats a text to a million bytes.
func million(text string) string { return strings.Repeat(text, 1_000_000/len(text)) }

// One long word of each kind: the time must not grow with its square.
var longWords = map[string]string{
	"a": "a", "spaces": " ", "marks": "!", "emoji": "👩‍👩‍👧‍👦", "combining": "\u0301", "token": "<|reserved_special_token_", "lines": " \n",
}

func BenchmarkEncode(b *testing.B) {
	shakespeare, err := fs.ReadFile(demo.Data(), "shakespeare.txt")
	if err != nil {
		b.Fatal(err)
	}
	texts := map[string]string{"shakespeare": million(string(shakespeare))}
	for name, word := range longWords {
		texts[name] = million(word)
	}
	for _, name := range []string{"llama3", "gpt-neox", "llama2-prepend", "sp-bpe", "t5", "sp-unigram"} {
		tok := loadSmall(b, name)
		for what, text := range texts {
			b.Run(name+"/"+what, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					tok.Encode(text)
				}
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, name := range []string{"llama3", "llama2-prepend", "sp-bpe", "t5"} {
		tok := loadSmall(b, name)
		ids := tok.Encode(million("To be, or not to be; ½ 好 🙂\n"))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(1_000_000)
			for b.Loop() {
				tok.Decode(ids)
			}
		})
	}
}
