package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// Decode gives the text of ids. Control pieces are passed over, and so is the space that Encode puts before a text.
func (t *Tokenizer) Decode(ids []int32) string {
	d := t.NewDecoder()
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(d.Next(id))
	}
	b.WriteString(d.Rest())
	return b.String()
}

// Decoder gives the text of ids as they come, whole characters at a time.
type Decoder struct {
	t       *Tokenizer
	pending []byte // the beginning of a character
	begun   bool
}

// NewDecoder begins a text.
func (t *Tokenizer) NewDecoder() *Decoder { return &Decoder{t: t} }

// Next gives what can be shown after one more id.
func (d *Decoder) Next(id int32) string {
	d.pending = append(d.pending, d.bytes(id)...)
	whole := 0
	for whole < len(d.pending) && utf8.FullRune(d.pending[whole:]) {
		_, n := utf8.DecodeRune(d.pending[whole:])
		whole += n
	}
	text := string(d.pending[:whole])
	d.pending = d.pending[whole:]
	return text
}

// Rest gives what is left when no more ids come: the bytes of a character that was cut off.
func (d *Decoder) Rest() string {
	rest := string(d.pending)
	d.pending = nil
	return rest
}

func (d *Decoder) bytes(id int32) []byte {
	if !d.t.has(id) {
		return nil
	}
	p := d.t.pieces[id]
	switch p.kind {
	case kindControl:
		return nil
	case kindByte:
		b, _ := byteOf(p.text) // checked by Parse
		d.begun = true
		return []byte{b}
	}
	text := strings.ReplaceAll(p.text, space, " ")
	if !d.begun && d.t.dummyPrefix {
		text = strings.TrimPrefix(text, " ")
	}
	d.begun = true
	return []byte(text)
}
