package tokenizer

import (
	"slices"
	"strings"
	"testing"
)

// The patterns that are known by hand cut as Go's regexp does.
func FuzzScanners(f *testing.F) {
	for _, text := range []string{"", "I'LL  don'ſ\r\n\r\n 1234\u2028x", " \t\n \n  !? \n.", "\u0301a \u00a0\u1680b", "'s'\U00010d40\u1c89"} {
		f.Add(text)
	}
	compiled := map[string]spans{}
	for pattern := range scanners {
		var err error
		if compiled[pattern], err = translated(pattern); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		text = lossy(text)
		for pattern, cut := range compiled {
			hand, _ := regex(pattern)
			if got, want := hand(text), cut(text); !slices.Equal(got, want) {
				t.Errorf("%s cuts %q at %v, by hand at %v", pattern, text, want, got)
			}
		}
	})
}

// What means something else in Go's patterns, or nothing, is named.
func TestPatternsOfTheOriginal(t *testing.T) {
	for pattern, wrong := range map[string]string{
		`\p{N}?+`: "?+", `\w+`: `\w`, `[\S]`: `\S`, `[[:alpha:]]`: "[ in brackets", `[a[b]]`: "[ in brackets", `a.b`: ".", `^a`: "^", `a$`: "$", `\p{Lu}`: `\p`,
		`(?s)a`: "(?s", `(?=a)`: "(?=", `\h`: `\h`, `[^a&&b]`: "&&", `a{2}+`: "}+", `(?i)a`: "(?i)", `[]a]`: "[]", `[^]a]`: "[^]", `\bx`: `\b`,
	} {
		if _, err := regex(pattern); err == nil || !strings.Contains(err.Error(), "it has "+wrong) {
			t.Errorf("%s: %v, want %s", pattern, err, wrong)
		}
	}
	find, err := regex(`[\p{L}\d.^$*]+|(?i:x)|\s\[`)
	if err != nil {
		t.Fatal(err)
	}
	want := []span{{0, 9, true}, {9, 10, false}, {10, 14, true}}
	if got := find("aé.1^\u1c89!\U00010d40"); !slices.Equal(got, want) {
		t.Error(got)
	}
}
