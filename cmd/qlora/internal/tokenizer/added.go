package tokenizer

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// added are the tokens that are looked for in the text itself, before the model sees it (added_tokens of tokenizer.json).
type added struct {
	tokens     map[int32]addedToken
	raw        finder // in the text as it comes
	normalized finder // in the text after normalization
}

type addedToken struct {
	id                         int32
	text                       string
	singleWord, lstrip, rstrip bool
	normalized, special        bool
	shown                      string // the text that it decodes to, which is the normalized one (tokenizers 0.23.3)
}

// part is a piece of text, or a token that was found in it.
type part struct {
	text  string
	token bool
	id    int32
}

func newAdded(tokens []addedToken, normalize normalizer) added {
	a := added{tokens: map[int32]addedToken{}}
	for _, t := range tokens {
		if t.shown = t.text; t.normalized {
			t.shown = normalize(t.text)
			a.normalized.add(t.shown, t)
		} else {
			a.raw.add(t.text, t)
		}
		a.tokens[t.id] = t
	}
	a.raw.sort()
	a.normalized.sort()
	return a
}

func (a added) size() int {
	n := 0
	for id := range a.tokens {
		n = max(n, int(id)+1)
	}
	return n
}

func (a added) token(id int32) (string, bool) {
	t, ok := a.tokens[id]
	return t.shown, ok
}

// special says that decoding passes over an id: the original looks for the text that it decodes to among the special tokens'.
func (a added) special(id int32) bool {
	t := a.tokens[id]
	return t.special && t.shown == t.text
}

// cut splits text at the tokens of one kind: leftmost first, of several at one place the longest. As in the original, tokens of
// white space are also found in what a token before them took with rstrip.
func (a added) cut(text string, normalized bool) (parts []part) {
	f := &a.raw
	if normalized {
		f = &a.normalized
	}
	from, at := 0, 0
	for {
		start, token, n := f.next(text, at)
		if n == 0 {
			break
		}
		stop := start + n
		at = stop
		if token.singleWord && (endsWithWord(text[:start]) || beginsWithWord(text[stop:])) {
			continue
		}
		if token.lstrip && from < start {
			start = from + len(strings.TrimRightFunc(text[from:start], unicode.IsSpace))
		}
		if token.rstrip {
			stop = max(stop, from) // where from is behind stop, there is white space up to it
			stop = len(text) - len(strings.TrimLeftFunc(text[stop:], unicode.IsSpace))
		}
		if from < start {
			parts = append(parts, part{text: text[from:start]})
		}
		parts = append(parts, part{token: true, id: token.id})
		from = stop
	}
	if from < len(text) {
		parts = append(parts, part{text: text[from:]})
	}
	return parts
}

func endsWithWord(text string) bool {
	r, n := utf8.DecodeLastRuneInString(text)
	return n > 0 && isWord(r)
}

func beginsWithWord(text string) bool {
	r, n := utf8.DecodeRuneInString(text)
	return n > 0 && isWord(r)
}

// finder finds the leftmost of many patterns.
type finder struct {
	byFirst [256][]pattern // the longest first
	any     bool
}

type pattern struct {
	text  string
	token addedToken
}

func (f *finder) add(text string, token addedToken) {
	if text == "" {
		return
	}
	f.any = true
	list := &f.byFirst[text[0]]
	for i := range *list {
		if (*list)[i].text == text { // the last of equals wins
			(*list)[i].token = token
			return
		}
	}
	*list = append(*list, pattern{text, token})
}

func (f *finder) sort() {
	for i := range f.byFirst {
		slices.SortStableFunc(f.byFirst[i], func(a, b pattern) int { return cmp.Compare(len(b.text), len(a.text)) })
	}
}

// longest is the longest pattern that a text begins with, nil for none.
func (f *finder) longest(text string) *pattern {
	list := f.byFirst[text[0]]
	for i := range list {
		if strings.HasPrefix(text, list[i].text) {
			return &list[i]
		}
	}
	return nil
}

// next gives the first place from a place on, the token there, and the pattern's length: 0 for none.
func (f *finder) next(text string, from int) (start int, token addedToken, n int) {
	for i := from; f.any && i < len(text); i++ {
		if p := f.longest(text[i:]); p != nil {
			return i, p.token, len(p.text)
		}
	}
	return 0, token, 0
}
