package main

import (
	"strings"
	"testing"
)

// stopAt is what a stopper gives of pieces.
func stopAt(stops []string, pieces ...string) (text string, stopped bool) {
	s := stopper{stops: stops}
	for _, p := range pieces {
		part, stopped := s.next(p)
		if text += part; stopped {
			return text, true
		}
	}
	return text + s.held, false
}

func TestStops(t *testing.T) {
	for _, c := range []struct {
		stops, pieces, want string
		stopped             bool
	}{
		{"###", "one|##|# two", "one", true},
		{"###", "one #|# two|#", "one ## two#", false},
		{"###", "####", "", true},
		{"aab", "a|a|a|b|c", "a", true},
		{"abab|c", "ab|a|c", "aba", true},
		{"abcd|bc", "a|b|c|d", "a", true},
		{"abcd|bc", "abcd", "a", true},
		{"bc|abc", "xab|c", "x", true},
		{"Human:", "Hum|an|s: no. Hu|man:| x", "Humans: no. ", true},
		{"é", "caf|é!", "caf", true},
		{"\n\n", "a\n|b\n|\nc", "a\nb", true},
		{"", "all", "all", false},
	} {
		var stops []string
		if c.stops != "" {
			stops = strings.Split(c.stops, "|")
		}
		if got, stopped := stopAt(stops, strings.Split(c.pieces, "|")...); got != c.want || stopped != c.stopped {
			t.Errorf("%q in %q: %q, %v", c.stops, c.pieces, got, stopped)
		}
	}
}

// However a text is cut, what comes of it is what is before the stop text that ends first, and nothing of a stop text is given before it
// is certain: at every moment what was given is a beginning of the result.
func FuzzStops(f *testing.F) {
	f.Add("abababc", "abac", "bab", uint64(0x35))
	f.Add("### Hum### Human: hello", "### Human:", "\n", uint64(0x1f))
	f.Fuzz(func(t *testing.T, text, one, two string, cuts uint64) {
		if one == "" || two == "" || len(text) > 1000 {
			return
		}
		want, stopped := text, false
		for end := 1; end <= len(text) && !stopped; end++ {
			for _, stop := range []string{one, two} {
				if before, found := strings.CutSuffix(text[:end], stop); found && (!stopped || len(before) < len(want)) {
					want, stopped = before, true
				}
			}
		}
		var pieces []string
		from := 0
		for i := range text {
			if cuts>>(i%64)&1 == 1 {
				pieces, from = append(pieces, text[from:i]), i
			}
		}
		got, gotStopped := stopAt([]string{one, two}, append(pieces, text[from:])...)
		if got != want || gotStopped != stopped {
			t.Errorf("%q, %v; want %q, %v", got, gotStopped, want, stopped)
		}
	})
}
