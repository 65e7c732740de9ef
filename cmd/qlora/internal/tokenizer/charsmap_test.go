package tokenizer

import "testing"

// A trie that lies, and any text.
func FuzzCharsmap(f *testing.F) {
	f.Add([]byte("\x04\x00\x00\x00\x00\x00\x00\x00ab\x00"), "a\u0301b")
	f.Add([]byte("\x10\x00\x00\x00a\x05\x00\x00\x00\x00\x00\x80b\x09\x00\x00\xff\xff\xff\xffx\x00y\x00"), "aab")
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		m, err := parseCharsmap(b)
		if err != nil {
			return
		}
		if got := m.normalize(lossy(text)); len(got) > longestResult*3*(len(text)+1) {
			t.Errorf("%q becomes %d bytes", text, len(got))
		}
		for i := range text {
			if n, result := m.longest(text[i:]); n > len(text)-i || len(result) > longestResult {
				t.Errorf("%q begins with %d bytes, which become %d", text[i:], n, len(result))
			}
		}
	})
}
