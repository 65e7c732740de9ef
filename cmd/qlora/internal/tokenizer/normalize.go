package tokenizer

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// normalizer rewrites a text before it is split.
type normalizer func(string) string

func identity(text string) string { return text }

func normalizeAll(list []normalizer) normalizer {
	return func(text string) string {
		for _, n := range list {
			text = n(text)
		}
		return text
	}
}

// prepend puts a text before one that is not empty.
func prepend(prefix string) normalizer {
	return func(text string) string {
		if text == "" {
			return ""
		}
		return prefix + text
	}
}

func replaceString(old, with string) normalizer {
	return func(text string) string { return strings.ReplaceAll(text, old, with) }
}

// replaceSpans puts a text in the place of each match.
func replaceSpans(find spans, with string) normalizer {
	return func(text string) string {
		var b strings.Builder
		for _, s := range find(text) {
			if s.match {
				b.WriteString(with)
			} else {
				b.WriteString(text[s.from:s.to])
			}
		}
		return b.String()
	}
}

func strip(left, right bool) normalizer {
	return func(text string) string {
		if left {
			text = strings.TrimLeftFunc(text, unicode.IsSpace)
		}
		if right {
			text = strings.TrimRightFunc(text, unicode.IsSpace)
		}
		return text
	}
}

// form is one of Unicode's normal forms (UAX 15), without the character that golang.org/x/text puts into more than 30 marks in a row.
type form struct {
	whole      norm.Form // to see whether there is anything to do
	decomposed norm.Form
	compose    bool
}

var forms = map[string]form{
	"NFC": {norm.NFC, norm.NFD, true}, "NFD": {norm.NFD, norm.NFD, false},
	"NFKC": {norm.NFKC, norm.NFKD, true}, "NFKD": {norm.NFKD, norm.NFKD, false},
}

// mostDecomposed is how many times longer a text can become: U+FDFA has 3 bytes, decomposed 33.
const mostDecomposed = 11

// char is a character with its combining class.
type char struct {
	r     rune
	class uint8
}

func (f form) normalize(text string) string {
	if f.whole.IsNormalString(text) {
		return text
	}
	chars := f.chars(text)
	for from := 0; from < len(chars); from++ {
		to := from
		for to < len(chars) && chars[to].class != 0 {
			to++
		}
		slices.SortStableFunc(chars[from:to], func(a, b char) int { return cmp.Compare(a.class, b.class) })
		from = to
	}
	if f.compose {
		chars = composed(chars)
	}
	var b strings.Builder
	for _, c := range chars {
		b.WriteRune(c.r)
	}
	return b.String()
}

// chars decomposes a text.
func (f form) chars(text string) (chars []char) {
	for _, r := range text {
		if r < 0x80 || inNoForm.has(r) {
			chars = append(chars, char{r, 0})
			continue
		}
		for _, d := range f.decomposed.String(string(r)) {
			chars = append(chars, char{d, norm.NFD.PropertiesString(string(d)).CCC()})
		}
	}
	return chars
}

// composed joins each character with the last one of class 0 before it, if the two make one and none of its class or a higher one
// is between them.
func composed(chars []char) []char {
	out, starter := chars[:0], -1
	for _, c := range chars {
		last := len(out) - 1
		if starter >= 0 && (starter == last || out[last].class < c.class) {
			if r, ok := pairOf(out[starter].r, c.r); ok {
				out[starter].r = r
				continue
			}
		}
		out = append(out, c)
		if c.class == 0 {
			starter = len(out) - 1
		}
	}
	return out
}

func pairOf(a, b rune) (rune, bool) {
	if b < 0x80 || inNoForm.has(a) || inNoForm.has(b) {
		return 0, false
	}
	both := norm.NFC.String(string([]rune{a, b}))
	r, n := utf8.DecodeRuneInString(both)
	return r, n == len(both) && !inNoForm.has(r)
}
