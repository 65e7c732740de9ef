package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

type kind int

const (
	endOfTemplate kind = iota
	textToken          // outside of tags
	beginOutput        // {{
	endOutput
	beginTag // {%
	endTag
	nameToken
	stringToken
	integerToken
	floatToken
	operatorToken
)

type token struct {
	kind kind
	text string // of a string its value
	line int
}

// lexer cuts a template into tokens. White space around tags goes as trim_blocks and lstrip_blocks say: that before a {% or {# which
// begins its line, and the line feed behind its end; all of it where there is a minus; none where there is a plus.
type lexer struct {
	source    string
	at, line  int
	lineStart bool // what was read last ends a line
	tokens    []token
}

func lex(source string) []token {
	source = strings.ReplaceAll(strings.ReplaceAll(source, "\r\n", "\n"), "\r", "\n")
	l := &lexer{source: strings.TrimSuffix(source, "\n"), line: 1, lineStart: true}
	for l.at < len(l.source) {
		l.text()
	}
	l.add(endOfTemplate, "")
	return l.tokens
}

func (l *lexer) add(k kind, text string) { l.tokens = append(l.tokens, token{k, text, l.line}) }

// advance passes over n bytes.
func (l *lexer) advance(n int) {
	l.line += strings.Count(l.source[l.at:l.at+n], "\n")
	l.at += n
}

func (l *lexer) rest() string { return l.source[l.at:] }

// text reads up to a tag, and the tag.
func (l *lexer) text() {
	text := l.rest()
	begin := ""
	for i := 0; begin == "" && i < len(text); i++ {
		if i = indexFrom(text, i, '{'); i < 0 || i+1 == len(text) {
			break
		}
		if c := text[i+1]; c == '{' || c == '%' || c == '#' {
			begin, text = text[i:i+2], text[:i]
		}
	}
	whole := len(text)
	sign := l.sign(whole + len(begin))
	switch {
	case begin == "":
	case sign == '-':
		text = strings.TrimRightFunc(text, isSpace)
	case sign != '+' && begin != "{{":
		line := strings.LastIndexByte(text, '\n') + 1
		if (line > 0 || l.lineStart) && strings.TrimFunc(text[line:], isSpace) == "" {
			text = text[:line]
		}
	}
	if text != "" {
		l.add(textToken, text)
	}
	l.advance(whole)
	if begin == "" {
		return
	}
	l.advance(len(begin))
	if sign != 0 {
		l.advance(1)
	}
	switch begin {
	case "{#":
		l.comment()
	case "{{":
		l.add(beginOutput, begin)
		l.inside("}}", endOutput)
	default:
		l.add(beginTag, begin)
		l.inside("%}", endTag)
	}
}

func indexFrom(s string, from int, c byte) int {
	i := strings.IndexByte(s[from:], c)
	if i < 0 {
		return i
	}
	return from + i
}

// sign is the plus or minus n bytes on, or 0.
func (l *lexer) sign(n int) byte {
	if l.at+n < len(l.source) {
		if c := l.source[l.at+n]; c == '-' || c == '+' {
			return c
		}
	}
	return 0
}

func (l *lexer) comment() {
	n := strings.Index(l.rest(), "#}")
	if n < 0 {
		fail(l.line, "the comment that begins here has no #}")
	}
	sign := byte(0)
	if n > 0 {
		sign = l.source[l.at+n-1]
	}
	l.advance(n)
	l.end(2, sign, true)
}

// end passes over the end of a tag, n bytes, and over the white space that goes with it.
func (l *lexer) end(n int, sign byte, trim bool) {
	l.advance(n)
	l.lineStart = false
	switch rest := l.rest(); {
	case sign == '-':
		n := len(rest) - len(strings.TrimLeftFunc(rest, isSpace))
		l.lineStart = n > 0 && rest[n-1] == '\n'
		l.advance(n)
	case trim && sign != '+' && strings.HasPrefix(rest, "\n"):
		l.lineStart = true
		l.advance(1)
	}
}

// operators, the longer first.
var operators = []string{"**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ","}

// inside reads a tag's tokens up to its end.
func (l *lexer) inside(end string, k kind) {
	begin, depth := l.line, 0
	for {
		l.advance(len(l.rest()) - len(strings.TrimLeftFunc(l.rest(), isSpace)))
		rest := l.rest()
		if rest == "" {
			fail(begin, "the tag that begins here has no %s", end)
		}
		if depth == 0 {
			if sign := l.sign(0); strings.HasPrefix(rest, end) {
				l.add(k, end)
				l.end(2, 0, k == endTag)
				return
			} else if (sign == '-' || sign == '+' && k == endTag) && strings.HasPrefix(rest[1:], end) {
				l.add(k, end)
				l.end(3, sign, k == endTag)
				return
			}
		}
		depth += l.token(rest)
		if depth < 0 || depth > mostDepth {
			fail(l.line, "brackets do not match")
		}
	}
}

// token reads one, and returns by how much brackets nest deeper after it.
func (l *lexer) token(rest string) int {
	first, _ := utf8.DecodeRuneInString(rest)
	switch {
	case first == '"' || first == '\'':
		l.quoted(rest)
		return 0
	case unicode.IsDigit(first):
		l.number(rest)
		return 0
	case isNameRune(first):
		n := len(rest) - len(strings.TrimLeftFunc(rest, isNameRune))
		l.add(nameToken, rest[:n])
		l.advance(n)
		return 0
	}
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			l.add(operatorToken, op)
			l.advance(len(op))
			switch op {
			case "(", "[", "{":
				return 1
			case ")", "]", "}":
				return -1
			}
			return 0
		}
	}
	fail(l.line, "unexpected character %q", first)
	return 0
}

func isNameRune(r rune) bool {
	return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r)
}

// isSpace is Python's str.isspace.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

func (l *lexer) number(rest string) {
	digits := func(s string) int {
		n := 0
		for n < len(s) && (s[n] >= '0' && s[n] <= '9' || s[n] == '_' && n > 0) {
			n++
		}
		return n
	}
	n, k := digits(rest), integerToken
	if n == 0 {
		fail(l.line, "unexpected digit %q", rest[:1])
	}
	if n+1 < len(rest) && rest[n] == '.' && digits(rest[n+1:]) > 0 {
		n, k = n+1+digits(rest[n+1:]), floatToken
	}
	if e := strings.TrimLeft(rest[n:], "eE"); len(rest)-n-len(e) == 1 {
		if e != "" && (e[0] == '+' || e[0] == '-') {
			e = e[1:]
		}
		if exponent := digits(e); exponent > 0 {
			n, k = len(rest)-len(e)+exponent, floatToken
		}
	}
	l.add(k, strings.ReplaceAll(rest[:n], "_", ""))
	l.advance(n)
}

func (l *lexer) quoted(rest string) {
	n := 1
	for n < len(rest) && rest[n] != rest[0] {
		if rest[n] == '\\' {
			n++
		}
		n++
	}
	if n >= len(rest) {
		fail(l.line, "the text that begins here has no closing quote")
	}
	l.add(stringToken, unescape(rest[1:n]))
	l.advance(n + 1)
}

// unescape is Python's unicode-escape.
func unescape(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+1 == len(s) {
			return b.String() + s
		}
		b.WriteString(s[:i])
		c := s[i+1]
		s = s[i+2:]
		switch at := strings.IndexByte("\n\\'\"abfnrtv", c); {
		case at == 0: // a line that goes on
		case at > 0:
			b.WriteByte("\n\\'\"\a\b\f\n\r\t\v"[at])
		case c == 'x':
			s = numbered(&b, s, "\\x", 2, 16)
		case c == 'u':
			s = numbered(&b, s, "\\u", 4, 16)
		case c == 'U':
			s = numbered(&b, s, "\\U", 8, 16)
		case c >= '0' && c <= '7':
			s = numbered(&b, string(c)+s, "", 3, 8)
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
}

// numbered writes the character whose number s begins with, in a base, and returns what is behind it. Octal numbers may be shorter.
func numbered(b *strings.Builder, s, before string, digits int, base rune) string {
	v, n := rune(0), 0
	for n < digits && n < len(s) {
		d := rune(strings.IndexByte("0123456789abcdef", s[n]|0x20))
		if s[n] >= '0' && s[n] <= '9' {
			d = rune(s[n] - '0')
		}
		if d < 0 || d >= base || v > unicode.MaxRune {
			break
		}
		v, n = v*base+d, n+1
	}
	if base == 16 && n < digits {
		b.WriteString(before)
		return s
	}
	b.WriteRune(v)
	return s[n:]
}
