package tokenizer

import "strings"

// Byte-level vocabularies write each byte as a printable character (GPT-2): itself if it is one, else one from U+0100 on.
var (
	byteChars [256]rune
	charBytes = map[rune]byte{}
)

func init() {
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae) {
			r, next = next, next+1
		}
		byteChars[b] = r
		charBytes[r] = byte(b)
	}
}

// byteLevel splits by GPT-2's pattern, where that is wanted, and writes each word's bytes as characters.
func byteLevel(prefixSpace, split bool) splitter {
	words := splitter(whole)
	if split {
		find, _ := regex(gpt2Pattern)
		words = splitAt(find, behaviours["Isolated"], false)
	}
	return func(text string, first bool) []string {
		if prefixSpace && !strings.HasPrefix(text, " ") {
			text = " " + text
		}
		list := words(text, first)
		for i, w := range list {
			list[i] = toByteLevel(w)
		}
		return list
	}
}

func toByteLevel(word string) string {
	var b strings.Builder
	for i := range len(word) {
		b.WriteRune(byteChars[word[i]])
	}
	return b.String()
}

// fromByteLevel appends a token's bytes; a token that has other characters stands for itself.
func fromByteLevel(bytes []byte, token string) []byte {
	n := len(bytes)
	for _, r := range token {
		b, ok := charBytes[r]
		if !ok {
			return append(bytes[:n], token...)
		}
		bytes = append(bytes, b)
	}
	return bytes
}
