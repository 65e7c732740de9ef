package tokenizer

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// charsmap is SentencePiece's precompiled rules of normalization: a double-array trie from texts to places in a string of
// results, each of which a zero byte ends.
type charsmap struct {
	units   []uint32
	results string
}

// longestResult bounds what a character becomes: in SentencePiece's own rules it is U+FDFA's 33 bytes.
const longestResult = 256

// parseCharsmap reads its bytes: the trie's length, 4 bytes little-endian; the trie; the results.
func parseCharsmap(b []byte) (*charsmap, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("precompiled_charsmap has %d bytes", len(b))
	}
	n := binary.LittleEndian.Uint32(b)
	if n%4 != 0 || n == 0 || uint64(n) > uint64(len(b)-4) {
		return nil, fmt.Errorf("precompiled_charsmap: a trie of %d bytes in %d", n, len(b)-4)
	}
	m := &charsmap{units: make([]uint32, n/4), results: string(b[4+n:])}
	for result := range strings.SplitSeq(m.results, "\x00") {
		if len(result) > longestResult {
			return nil, fmt.Errorf("precompiled_charsmap: a result of %d bytes: want at most %d", len(result), longestResult)
		}
	}
	for i := range m.units {
		m.units[i] = binary.LittleEndian.Uint32(b[4+4*i:])
	}
	return m, nil
}

// Each unit of the trie (Darts-clone): bit 31 is set on those that hold a value, in the 31 bits below; others have the label in the
// low 8 bits, a mark that a value follows in bit 8, and the offset of their children from bit 10 on, of which bit 9 says that
// it counts in 256s.
func unitOffset(u uint32) uint32 { return u >> 10 << (u >> 6 & 8) }

// prefixes calls f with the length and the result of each key that text begins with, shortest first, until f returns false.
func (m *charsmap) prefixes(text string, f func(n int, result string) bool) {
	at := unitOffset(m.units[0])
	for i := 0; i < len(text); i++ {
		at ^= uint32(text[i])
		if text[i] == 0 || at >= uint32(len(m.units)) {
			return
		}
		u := m.units[at]
		if u&(1<<31|0xff) != uint32(text[i]) {
			return
		}
		at ^= unitOffset(u)
		if u>>8&1 == 1 {
			if at >= uint32(len(m.units)) || !f(i+1, m.result(m.units[at]&(1<<31-1))) {
				return
			}
		}
	}
}

func (m *charsmap) result(at uint32) string {
	if at >= uint32(len(m.results)) {
		return ""
	}
	text, _, _ := strings.Cut(m.results[at:], "\x00")
	return text
}

// longest is SentencePiece's rule: the longest key that the text begins with.
func (m *charsmap) longest(text string) (n int, result string) {
	m.prefixes(text, func(length int, r string) bool {
		n, result = length, r
		return true
	})
	return n, result
}

// normalize is the rule of Hugging Face's tokenizers: graphemes of fewer than 6 bytes are looked up whole, then characters, and
// it is the shortest key that counts, which may be shorter than what is looked up.
func (m *charsmap) normalize(text string) string {
	var b strings.Builder
	state := -1
	shadow := strings.Map(ofUnicode15, text)
	for rest := shadow; rest != ""; {
		var grapheme string
		at := len(text) - len(rest)
		grapheme, rest, _, state = uniseg.FirstGraphemeClusterInString(rest, state)
		grapheme = text[at : at+len(grapheme)]
		if len(grapheme) < 6 {
			if result, ok := m.shortest(grapheme); ok {
				b.WriteString(result)
				continue
			}
		}
		for grapheme != "" {
			_, n := utf8.DecodeRuneInString(grapheme)
			if result, ok := m.shortest(grapheme[:n]); ok {
				b.WriteString(result)
			} else {
				b.WriteString(grapheme[:n])
			}
			grapheme = grapheme[n:]
		}
	}
	return b.String()
}

func (m *charsmap) shortest(text string) (result string, ok bool) {
	m.prefixes(text, func(_ int, r string) bool {
		result, ok = r, true
		return false
	})
	return result, ok
}
