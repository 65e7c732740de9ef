package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// Decoder gives the text of ids as they come, whole characters at a time. All that Next and then Rest give is what Decode gives.
type Decoder interface {
	// Next gives what is certain after one more id: nothing while a character lacks bytes, or while bytes go on of which the
	// original shows none when some are no UTF-8.
	Next(id int32) string
	// Rest gives what is left when no more ids come.
	Rest() string
}

// NewDecoder begins a text.
func (t *Tokenizer) NewDecoder() Decoder { return t.newDecoder() }

// Decode gives the text of ids, as the original does when it passes over special tokens. Ids that the tokenizer does not have are
// passed over, too.
func (t *Tokenizer) Decode(ids []int32) string {
	d := t.newDecoder()
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(d.Next(id))
	}
	b.WriteString(d.Rest())
	return b.String()
}

// chain is the decoder of a tokenizer.json: steps, each of which gives tokens to the next.
type chain struct {
	t     *Tokenizer
	steps []decodeStep
	text  strings.Builder
}

// decodeStep turns tokens into others: put takes one, end is called behind the last.
type decodeStep interface {
	put(token string, out func(string))
	end(out func(string))
}

func (c *chain) Next(id int32) string {
	if token, ok := c.t.token(id); ok && !c.t.added.special(id) {
		c.put(0, token)
	}
	return c.taken()
}

func (c *chain) Rest() string {
	for i, s := range c.steps {
		s.end(func(token string) { c.put(i+1, token) })
	}
	return c.taken()
}

// put gives a token to a step, or to the text behind the last.
func (c *chain) put(step int, token string) {
	if step == len(c.steps) {
		c.text.WriteString(token)
		return
	}
	c.steps[step].put(token, func(token string) { c.put(step+1, token) })
}

func (c *chain) taken() string {
	text := c.text.String()
	c.text.Reset()
	return text
}

// eachToken is a step that looks at each token by itself.
type eachToken func(token string) string

func (f eachToken) put(token string, out func(string)) { out(f(token)) }
func (f eachToken) end(func(string))                   {}

// decodeSpaced is what the original does without a decoder.
func decodeSpaced() decodeStep {
	between := ""
	return eachToken(func(token string) string {
		token, between = between+token, " "
		return token
	})
}

// decodeMetaspace writes spaces for ▁, and nothing for those of the first token where Metaspace put one before the text.
func decodeMetaspace(replacement, scheme string) decodeStep {
	with := " "
	if scheme != "never" {
		with = ""
	}
	return eachToken(func(token string) string {
		token, with = strings.ReplaceAll(token, replacement, with), " "
		return token
	})
}

// decodeStrip takes up to n characters off the beginning of each token, or of all that are fused.
func decodeStrip(character string, n int, fused bool) decodeStep {
	left := n
	return eachToken(func(token string) string {
		if !fused {
			left = n
		}
		for left > 0 && token != "" {
			rest, ok := strings.CutPrefix(token, character)
			if !ok {
				left = 0
				break
			}
			token = rest
			left--
		}
		return token
	})
}

// decodeByteLevel gives the characters of bytes as soon as they are whole.
type decodeByteLevel struct{ pending []byte }

func (d *decodeByteLevel) put(token string, out func(string)) {
	d.pending = fromByteLevel(d.pending, token)
	n := len(d.pending) - unfinished(d.pending)
	out(lossy(string(d.pending[:n])))
	d.pending = append(d.pending[:0], d.pending[n:]...)
}

func (d *decodeByteLevel) end(out func(string)) { out(lossy(string(d.pending))) }

// unfinished is the length of the beginning of a character that bytes end with.
func unfinished(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// decodeByteFallback puts runs of <0xAB> together: to their text if it is UTF-8, else to as many U+FFFD.
type decodeByteFallback struct{ pending []byte }

func (d *decodeByteFallback) put(token string, out func(string)) {
	if b, ok := byteOf(token); ok {
		d.pending = append(d.pending, b)
		return
	}
	d.end(out)
	out(token)
}

func (d *decodeByteFallback) end(out func(string)) {
	switch {
	case len(d.pending) == 0:
	case utf8.Valid(d.pending):
		out(string(d.pending))
	default:
		for range d.pending {
			out("\uFFFD")
		}
	}
	d.pending = d.pending[:0]
}
