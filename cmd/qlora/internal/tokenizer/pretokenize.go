package tokenizer

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// splitter cuts a normalized text into the words that the model sees, each by itself. first is said of the text's beginning.
type splitter func(text string, first bool) []string

func whole(text string, _ bool) []string { return []string{text} }

// splitAll applies one after the other, each to the words of the one before.
func splitAll(list []splitter) splitter {
	return func(text string, first bool) []string {
		words := []string{text}
		for _, s := range list {
			var next []string
			for i, w := range words {
				next = append(next, s(w, first && i == 0 && strings.HasPrefix(text, w))...)
			}
			words = next
		}
		return words
	}
}

// span is a part of a text, which a pattern matched or not.
type span struct {
	from, to int
	match    bool
}

// spans gives all of a text, cut at the matches of a pattern.
type spans func(text string) []span

// behaviours say what becomes of matches: their names in tokenizer.json.
var behaviours = map[string]func([]span) []span{
	"Isolated":           func(s []span) []span { return s },
	"Removed":            removed,
	"MergedWithPrevious": mergedWithPrevious,
	"MergedWithNext":     mergedWithNext,
	"Contiguous":         contiguous,
}

func splitAt(find spans, behaviour func([]span) []span, invert bool) splitter {
	return func(text string, _ bool) (words []string) {
		list := find(text)
		for i := range list {
			list[i].match = list[i].match != invert
		}
		for _, s := range behaviour(list) {
			if s.from < s.to {
				words = append(words, text[s.from:s.to])
			}
		}
		return words
	}
}

func removed(list []span) (kept []span) {
	for _, s := range list {
		if !s.match {
			kept = append(kept, s)
		}
	}
	return kept
}

// mergedWithPrevious gives a match to what stands before it; of several in a row only the first.
func mergedWithPrevious(list []span) (merged []span) {
	previous := false
	for _, s := range list {
		if n := len(merged); s.match && !previous && n > 0 {
			merged[n-1].to = s.to
		} else {
			merged = append(merged, s)
		}
		previous = s.match
	}
	return merged
}

// mergedWithNext gives a match to what stands behind it; of several in a row only the last.
func mergedWithNext(list []span) (merged []span) {
	for i, s := range list {
		n := len(merged)
		if !s.match && n > 0 && list[i-1].match {
			merged[n-1] = span{merged[n-1].from, s.to, false}
		} else {
			merged = append(merged, s)
		}
	}
	return merged
}

func contiguous(list []span) (merged []span) {
	for _, s := range list {
		if n := len(merged); n > 0 && merged[n-1].match == s.match {
			merged[n-1].to = s.to
		} else {
			merged = append(merged, s)
		}
	}
	return merged
}

// each matches single characters.
func each(is func(rune) bool) spans {
	return func(text string) (list []span) {
		from := 0
		for i, r := range text {
			if !is(r) {
				continue
			}
			n := i + utf8.RuneLen(r)
			if from < i {
				list = append(list, span{from, i, false})
			}
			list = append(list, span{i, n, true})
			from = n
		}
		if from < len(text) {
			list = append(list, span{from, len(text), false})
		}
		return list
	}
}

// literal matches a string.
func literal(s string) spans {
	return func(text string) (list []span) {
		from := 0
		for {
			i := strings.Index(text[from:], s)
			if i < 0 || s == "" {
				break
			}
			if i > 0 {
				list = append(list, span{from, from + i, false})
			}
			list = append(list, span{from + i, from + i + len(s), true})
			from += i + len(s)
		}
		if from < len(text) {
			list = append(list, span{from, len(text), false})
		}
		return list
	}
}

// metaspace writes ▁ for spaces, puts one before the text (always, or before the first), and splits before each.
func metaspace(replacement, scheme string, split bool) splitter {
	r, _ := utf8.DecodeRuneInString(replacement)
	cut := splitAt(each(func(c rune) bool { return c == r }), mergedWithNext, false)
	return func(text string, first bool) []string {
		text = strings.ReplaceAll(text, " ", replacement)
		if (scheme == "always" || scheme == "first" && first) && !strings.HasPrefix(text, replacement) {
			text = replacement + text
		}
		if !split {
			return []string{text}
		}
		return cut(text, first)
	}
}

// The patterns of GPT-2, LLaMA-3 and Qwen2, as tokenizer.json has them.
const (
	gpt2Pattern   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2Pattern  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// scanners know some patterns by hand, for speed.
var scanners = map[string]func(text string) int{
	gpt2Pattern:   gpt2Word,
	llama3Pattern: func(text string) int { return llama3Word(text, 3) },
	qwen2Pattern:  func(text string) int { return llama3Word(text, 1) },
}

// pattern gives the matches of a regular expression of the original's kind.
func regex(pattern string) (spans, error) {
	word, ok := scanners[pattern]
	if !ok {
		return translated(pattern)
	}
	return func(text string) (list []span) {
		for from := 0; from < len(text); {
			n := word(text[from:])
			list = append(list, span{from, from + n, true})
			from += n
		}
		return list
	}, nil
}

func gpt2Word(text string) int {
	if n := contraction(text, false); n > 0 {
		return n
	}
	lead := 0
	if text[0] == ' ' {
		lead = 1
	}
	for _, is := range []func(rune) bool{isLetter, isNumber, isOther} {
		if n := run(text[lead:], is); n > 0 {
			return lead + n
		}
	}
	return spaces(text)
}

func llama3Word(text string, digits int) int {
	if n := contraction(text, true); n > 0 {
		return n
	}
	first, size := utf8.DecodeRuneInString(text)
	lead := 0
	if first != '\r' && first != '\n' && !isLetter(first) && !isNumber(first) {
		lead = size
	}
	if n := run(text[lead:], isLetter); n > 0 {
		return lead + n
	}
	if n := runOf(text, isNumber, digits); n > 0 {
		return n
	}
	lead = 0
	if text[0] == ' ' {
		lead = 1
	}
	if n := run(text[lead:], isOther); n > 0 {
		n += lead
		return n + run(text[n:], func(r rune) bool { return r == '\r' || r == '\n' })
	}
	if last := strings.LastIndexAny(text[:run(text, unicode.IsSpace)], "\r\n"); last >= 0 {
		return last + 1
	}
	return spaces(text)
}

// spaces is \s+(?!\S)|\s+: a run of white space, which leaves its last character to the word behind it.
func spaces(text string) int {
	n := run(text, unicode.IsSpace)
	if _, last := utf8.DecodeLastRuneInString(text[:n]); n < len(text) && n > last {
		return n - last
	}
	return n
}

func isOther(r rune) bool { return !unicode.IsSpace(r) && !isLetter(r) && !isNumber(r) }

func run(text string, is func(rune) bool) int { return runOf(text, is, len(text)) }

// runOf is the length of at most most characters of a kind.
func runOf(text string, is func(rune) bool, most int) int {
	for i, r := range text {
		if most == 0 || !is(r) {
			return i
		}
		most--
	}
	return len(text)
}

func contraction(text string, fold bool) int {
	if text[0] != '\'' {
		return 0
	}
	for _, c := range []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"} {
		if strings.HasPrefix(text, c) || fold && len(text) >= len(c) && strings.EqualFold(text[:len(c)], c) {
			return len(c)
		}
	}
	if fold && strings.HasPrefix(text, "'ſ") { // which is an s without case
		return len("'ſ")
	}
	return 0
}

const giveBack = `\s+(?!\S)|\s+`

// whiteSpace is Unicode's White_Space, which \s means in the original, for Go's character classes.
const whiteSpace = `\t\n\v\f\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}`

// translated compiles a pattern with Go's regexp, which lacks look-ahead; the one that these patterns use, at their end, is
// computed by hand.
func translated(pattern string) (spans, error) {
	body, ends := strings.CutSuffix(pattern, giveBack)
	if ends {
		body += `(\s+)`
	}
	goPattern, err := goSyntax(body)
	if err != nil {
		return nil, fmt.Errorf("pattern %q is not supported: %w", pattern, err)
	}
	re, err := regexp.Compile(goPattern)
	if err != nil {
		return nil, fmt.Errorf("pattern %q is not supported: %w", pattern, err)
	}
	group := -1
	if ends {
		group = 2 * re.NumSubexp()
	}
	return func(text string) (list []span) {
		from := 0
		for at := 0; at < len(text); {
			m := re.FindStringSubmatchIndex(text[at:])
			if m == nil {
				break
			}
			start, end := at+m[0], at+m[1]
			if group >= 0 && m[group] >= 0 {
				end = start + spaces(text[start:])
			}
			if end == start { // an empty match
				_, n := utf8.DecodeRuneInString(text[at:])
				at = start + n
				continue
			}
			if from < start {
				list = append(list, span{from, start, false})
			}
			list = append(list, span{start, end, true})
			from, at = end, end
		}
		if from < len(text) {
			list = append(list, span{from, len(text), false})
		}
		return list
	}, nil
}

// goClasses are the classes of the original's patterns in Go's, to stand between brackets.
var goClasses = []struct{ original, class string }{
	{`\s`, whiteSpace},
	{`\d`, `\p{Nd}` + numbers16.class()}, // numbers16 are all digits
	{`\p{L}`, `\p{L}` + letters16.class()},
	{`\p{N}`, `\p{N}` + numbers16.class()},
	{`\p{M}`, `\p{M}` + marks16.class()},
}

// class writes ranges for a Go pattern's brackets.
func (t ranges) class() string {
	var b strings.Builder
	for _, r := range t {
		fmt.Fprintf(&b, `\x{%x}-\x{%x}`, r[0], r[1])
	}
	return b.String()
}

// foreign is what means something else in Go than in Oniguruma's patterns, or nothing.
var foreign = regexp.MustCompile(`^(\\[a-zA-Z0-9]|\(\?[^:i]|\(\?i[^:]|\[\^?\]|&&|[*+?}]\+|\$|\^|\.)`)

// goSyntax translates a pattern to Go's syntax, or names what it cannot.
func goSyntax(pattern string) (string, error) {
	var b strings.Builder
	inClass := false
next:
	for rest := pattern; rest != ""; {
		for _, c := range goClasses {
			if after, ok := strings.CutPrefix(rest, c.original); ok {
				if rest = after; inClass {
					b.WriteString(c.class)
				} else {
					b.WriteString("[" + c.class + "]")
				}
				continue next
			}
		}
		n := 1
		switch {
		case strings.HasPrefix(rest, `\S`) && !inClass:
			b.WriteString("[^" + whiteSpace + "]")
			rest = rest[2:]
			continue
		case strings.HasPrefix(rest, `\r`), strings.HasPrefix(rest, `\n`), strings.HasPrefix(rest, `\t`):
			n = 2
		case strings.HasPrefix(rest, "[^") && !strings.HasPrefix(rest, "[^]") && !inClass:
			inClass, n = true, 2
		case inClass && rest[0] != '\\' && rest[0] != '[' && rest[0] != '&':
			inClass = rest[0] != ']'
		default:
			wrong := foreign.FindString(rest)
			if inClass && rest[0] == '[' {
				wrong = "[ in brackets"
			}
			if wrong != "" {
				return "", fmt.Errorf("it has %s", wrong)
			}
			switch rest[0] {
			case '[':
				inClass = true
			case '\\':
				n = min(2, len(rest))
			}
		}
		b.WriteString(rest[:n])
		rest = rest[n:]
	}
	return b.String(), nil
}
