package peft

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// ErrPython says that a regular expression may be right, but has something that Python's language has and Go's lacks or reads
// otherwise.
var ErrPython = errors.New("this program's regular expressions lack it, or read it otherwise than Python's")

// maxInstructions bounds what all expressions of a field compile to. A pattern for each module of a large model takes a tenth.
const maxInstructions = 1 << 19

// compileAll compiles regular expressions of Python's, with text of ours around each. What it accepts matches the same module
// names in both languages: names are ASCII without newlines, so that classes and $ agree.
func compileAll(before string, patterns []string, after string) (all []*regexp.Regexp, err error) {
	left := maxInstructions
	for _, p := range patterns {
		if construct := pythonOnly(p, before == wholeName); construct != "" {
			return nil, fmt.Errorf("%q has %q: %w", p, construct, ErrPython)
		}
		if left -= instructions(p); left < 0 {
			return nil, fmt.Errorf("%.100q: too many regular expressions, or too long ones", p)
		}
		if _, err := regexp.Compile(p); err != nil { // alone, since a parenthesis could close one of ours
			return nil, fmt.Errorf("%.1000q is no regular expression: %w", p, err)
		}
		re, err := regexp.Compile(before + p + after)
		if err != nil {
			return nil, fmt.Errorf("%.1000q is no regular expression: %w", p, err)
		}
		all = append(all, re)
	}
	return all, nil
}

// wholeName is what stands before an expression that must match all of a name.
const wholeName = `\A(?:`

// instructions is how many p compiles to; 0 if it is no expression.
func instructions(p string) int {
	re, err := syntax.Parse(p, syntax.Perl)
	if err != nil {
		return 0
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return 0
	}
	return len(prog.Inst)
}

// pythonOnly finds what is Python's alone, or means something else in Go: look-around, references, possessive and atomic
// groups, escapes, {,n} for {0,n}, and POSIX classes, which Python does not know. whole says that nothing stands before p,
// where flags for all of it may stand.
func pythonOnly(p string, whole bool) string {
	class := false
	for i := 0; i < len(p); i++ {
		rest := p[i:]
		switch {
		case rest[0] == '\\':
			if len(rest) > 1 && (strings.IndexByte("123456789CENPQUZpuz", rest[1]) >= 0 || strings.HasPrefix(rest, `\x{`)) {
				return rest[:2]
			}
			i++
		case class:
			if strings.HasPrefix(rest, "[:") {
				return "[:"
			}
			class = rest[0] != ']'
		case rest[0] == '[':
			class = true
			for _, first := range "^]" { // which do not close it
				if i+1 < len(p) && rune(p[i+1]) == first {
					i++
				}
			}
		case strings.HasPrefix(rest, "{,"):
			return "{,"
		case strings.HasPrefix(rest, "(?"):
			if g := group.FindString(rest); g == "" || strings.HasSuffix(g, ")") && !(whole && i == 0) {
				return rest[:min(len(rest), 4)]
			}
		case len(rest) > 1 && rest[1] == '+' && strings.IndexByte("*+?}", rest[0]) >= 0:
			return rest[:2]
		}
	}
	return ""
}

// group is the beginning of a group, or flags, as both languages have it.
var group = regexp.MustCompile(`^\(\?(?:P<[A-Za-z_][0-9A-Za-z_]*>|[ims]*(?:-[ims]+)?:|[ims]+\))`)
