package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// space is what SentencePiece writes for a space within its pieces.
const space = "▁"

// piece is an entry of a SentencePiece model.
type piece struct {
	text  string
	score float32
	kind  uint64
}

// SentencePiece's kinds of pieces.
const (
	kindNormal      = 1
	kindUnknown     = 2
	kindControl     = 3
	kindUserDefined = 4
	kindUnused      = 5
	kindByte        = 6
)

// sentencePiece is what sentencepiece_model.proto says, as far as it matters here.
type sentencePiece struct {
	pieces       []piece
	unigram      bool
	byteFallback bool
	bos, eos     int32
	rules        *charsmap // nil for none
	dummyPrefix  bool      // a space is put before the text
	trim         bool      // spaces at the ends go, several in a row become one
	escape       bool      // spaces are written ▁
	suffix       bool      // the dummy prefix stands at the end

	all     map[string]int32 // of pieces
	ids     map[string]int32 // of pieces that text can become
	defined finder           // the user's pieces
	bytes   [256]int32
	unknown int32
}

// Parse reads SentencePiece's ModelProto; name is for errors.
func Parse(b []byte, name string) (*Tokenizer, error) {
	if tiktokenLine.Match(b) {
		return nil, fmt.Errorf("%s is tiktoken's list of tokens, as LLaMA 3 has it, not a SentencePiece model: "+
			"the model's tokenizer.json is needed beside it", name)
	}
	s, err := parseProto(b)
	if err == nil {
		var t *Tokenizer
		if t, err = s.tokenizer(); err == nil {
			return t, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", name, err)
}

// tiktokenLine is a token in base64, and its rank.
var tiktokenLine = regexp.MustCompile(`^[A-Za-z0-9+/]+=* [0-9]+\r?\n`)

func parseProto(b []byte) (*sentencePiece, error) {
	s := &sentencePiece{bos: 1, eos: 2, dummyPrefix: true, trim: true, escape: true}
	kind := uint64(1)
	specs := 0
	err := fields(b, func(number int, v value) error {
		switch number {
		case 1:
			return s.addPiece(v.bytes)
		case 2: // trainer_spec
			specs++
			return fields(v.bytes, func(number int, v value) error {
				switch number {
				case 3:
					kind = v.number
				case 24:
					s.suffix = v.number != 0
				case 35:
					s.byteFallback = v.number != 0
				case 41:
					s.bos = int32(v.number)
				case 42:
					s.eos = int32(v.number)
				}
				return nil
			})
		case 3: // normalizer_spec
			specs++
			return fields(v.bytes, s.normalizerField)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if specs != 2 { // they are behind the pieces
		return nil, errTruncated
	}
	if kind != 1 && kind != 2 {
		return nil, fmt.Errorf("its model type is %d: want Unigram (1) or BPE (2)", kind)
	}
	s.unigram = kind == 1
	return s, nil
}

func (s *sentencePiece) normalizerField(number int, v value) (err error) {
	switch {
	case number == 2 && len(v.bytes) > 0:
		s.rules, err = parseCharsmap(v.bytes)
	case number == 3:
		s.dummyPrefix = v.number != 0
	case number == 4:
		s.trim = v.number != 0
	case number == 5:
		s.escape = v.number != 0
	}
	return err
}

func (s *sentencePiece) addPiece(b []byte) error {
	p := piece{kind: kindNormal}
	err := fields(b, func(number int, v value) error {
		switch number {
		case 1:
			p.text = string(v.bytes)
		case 2:
			p.score = math.Float32frombits(uint32(v.number))
		case 3:
			p.kind = v.number
		}
		return nil
	})
	s.pieces = append(s.pieces, p)
	return err
}

// tokenizer makes the pipeline.
func (s *sentencePiece) tokenizer() (*Tokenizer, error) {
	if err := s.sort(); err != nil {
		return nil, err
	}
	t := &Tokenizer{EOS: s.present(s.eos), bos: s.present(s.bos), normalize: s.normalized, split: whole, takesAny: true,
		added: newAdded(nil, identity)}
	t.newDecoder = func() Decoder { return &pieceDecoder{t: t, s: s} }
	t.model = s
	if s.unigram {
		u, err := s.newUnigram()
		if err != nil {
			return nil, err
		}
		t.model = u
	}
	return t, nil
}

func (s *sentencePiece) present(id int32) int32 {
	if id < 0 || int(id) >= len(s.pieces) {
		return -1
	}
	return id
}

// sort looks at each kind of piece.
func (s *sentencePiece) sort() error {
	s.all, s.ids, s.unknown = map[string]int32{}, map[string]int32{}, -1
	found := 0
	for i, p := range s.pieces {
		id := int32(i)
		if other, twice := s.all[p.text]; twice || p.text == "" {
			return fmt.Errorf("piece %d, %q, is empty or also piece %d", id, p.text, other)
		}
		if !utf8.ValidString(p.text) {
			return fmt.Errorf("piece %d, %q, is not UTF-8", id, p.text)
		}
		if s.all[p.text] = id; math.IsNaN(float64(p.score)) || math.IsInf(float64(p.score), 0) {
			return fmt.Errorf("piece %d, %q, has the score %v", id, p.text, p.score)
		}
		switch p.kind {
		case kindNormal:
			s.ids[p.text] = id
		case kindUserDefined:
			s.ids[p.text] = id
			s.defined.add(p.text, addedToken{id: id})
		case kindUnknown:
			s.unknown = id
		case kindControl:
		case kindUnused:
			return fmt.Errorf("piece %d, %q, is of the kind UNUSED, which is not supported", id, p.text)
		case kindByte:
			b, ok := byteOf(p.text)
			if !ok {
				return fmt.Errorf("byte piece %q: want <0xAB>", p.text)
			}
			s.bytes[b] = id
			found++
		default:
			return fmt.Errorf("piece %d, %q, is of the kind %d", id, p.text, p.kind)
		}
	}
	s.defined.sort()
	switch {
	case s.unknown < 0:
		return fmt.Errorf("no piece is of the kind UNKNOWN")
	case s.byteFallback && found != 256:
		return fmt.Errorf("%d byte pieces, want 256", found)
	}
	return nil
}

func (s *sentencePiece) newUnigram() (*unigram, error) {
	lowest, highest := float32(math.MaxFloat32), float32(-math.MaxFloat32)
	for _, p := range s.pieces {
		if p.kind == kindNormal {
			lowest, highest = min(lowest, p.score), max(highest, p.score)
		}
	}
	pieces := make([]unigramPiece, len(s.pieces))
	for i, p := range s.pieces {
		pieces[i] = unigramPiece{p.text, float64(p.score)}
		if p.kind == kindUserDefined { // so that it is always taken
			pieces[i].score = float64(float32(len(p.text))*highest) - 0.1
		}
	}
	u, err := newUnigram(pieces, s.unknown, func(x float64) float64 { return float64(float32(x)) }, func(id int) bool {
		return s.pieces[id].kind == kindNormal || s.pieces[id].kind == kindUserDefined
	})
	if err != nil {
		return nil, err
	}
	u.unknownScore = float64(lowest - unknownPenalty)
	u.byteFallback = s.byteFallback
	return u, nil
}

// normalized is SentencePiece's normalizer: rules on the longest match, spaces trimmed and written ▁, one put before.
func (s *sentencePiece) normalized(text string) string {
	if s.trim {
		for text != "" {
			n, with := s.rule(text)
			if with != " " {
				break
			}
			text = text[n:]
		}
	}
	if text == "" {
		return ""
	}
	blank := " "
	if s.escape {
		blank = space
	}
	var b strings.Builder
	if s.dummyPrefix && !s.suffix {
		b.WriteString(blank)
	}
	afterSpace := s.trim
	for text != "" {
		n, with := s.rule(text)
		if afterSpace {
			with = strings.TrimLeft(with, " ")
		}
		if with != "" {
			afterSpace = s.trim && strings.HasSuffix(with, " ")
			b.WriteString(strings.ReplaceAll(with, " ", blank))
		}
		text = text[n:]
	}
	out := b.String()
	if s.trim {
		for strings.HasSuffix(out, blank) {
			out = strings.TrimSuffix(out, blank)
		}
	}
	if s.dummyPrefix && s.suffix {
		out += blank
	}
	return out
}

// rule gives what the text's beginning becomes, and its length there: the user's pieces stay, then the rules, then a character.
func (s *sentencePiece) rule(text string) (n int, with string) {
	if p := s.defined.longest(text); p != nil {
		return len(p.text), p.text
	}
	if s.rules != nil {
		if n, with := s.rules.longest(text); n > 0 {
			return n, with
		}
	}
	r, n := utf8.DecodeRuneInString(text)
	return n, string(r) // U+FFFD for a byte that is no UTF-8
}

func (s *sentencePiece) token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(s.pieces) {
		return "", false
	}
	return s.pieces[id].text, true
}

func (s *sentencePiece) id(token string) (int32, bool) {
	id, ok := s.all[token]
	return id, ok
}

func (s *sentencePiece) count() int { return len(s.pieces) }
func (s *sentencePiece) size() int  { return len(s.pieces) }

// encode is SentencePiece's byte-pair encoding: from single characters on, the two neighbours whose union is the piece of the
// highest score are joined, the leftmost of equals.
func (s *sentencePiece) encode(ids []int32, word string) []int32 {
	j := joiner{rank: func(left, right symbol) (float64, int32, bool) {
		id, ok := s.ids[word[left.from:right.to]]
		if !ok {
			return 0, 0, false
		}
		return -float64(s.pieces[id].score), id, true
	}}
	for i := 0; i < len(word); {
		if p := s.defined.longest(word[i:]); p != nil {
			j.add(i, i+len(p.text), p.token.id).frozen = true
			i += len(p.text)
			continue
		}
		_, n := utf8.DecodeRuneInString(word[i:])
		id, ok := s.ids[word[i:i+n]]
		if !ok {
			id = s.unknown
		}
		j.add(i, i+n, id)
		i += n
	}
	j.run()
	return s.collect(ids, word, j.symbols)
}

// collect writes the bytes of what is in no piece, or one unknown for all that stands together.
func (s *sentencePiece) collect(ids []int32, word string, symbols []symbol) []int32 {
	wasUnknown := false
	for i := 0; i >= 0 && i < len(symbols); i = symbols[i].after {
		unknown := symbols[i].id == s.unknown
		switch {
		case !unknown:
			ids = append(ids, symbols[i].id)
		case s.byteFallback:
			for _, b := range []byte(word[symbols[i].from:symbols[i].to]) {
				ids = append(ids, s.bytes[b])
			}
		case !wasUnknown:
			ids = append(ids, s.unknown)
		}
		wasUnknown = unknown
	}
	return ids
}

// pieceDecoder passes over control pieces and the space that was put before the text; bytes that are no UTF-8 become U+FFFD each.
type pieceDecoder struct {
	t         *Tokenizer
	s         *sentencePiece
	pending   []byte
	started   bool // there is text
	sawPrefix bool // the piece before was the space that was put before the text
	inside    bool // a space is one of the text
}

func (d *pieceDecoder) Next(id int32) string {
	if d.s.present(id) < 0 {
		return d.added(id)
	}
	p := d.s.pieces[id]
	if p.kind == kindByte {
		b, _ := byteOf(p.text) // checked by sort
		d.pending = append(d.pending, b)
		return d.flush(false)
	}
	before := d.flush(true)
	d.inside = d.inside || d.sawPrefix || d.started
	d.sawPrefix = false
	text := ""
	switch p.kind {
	case kindControl:
	case kindUnknown:
		text = " ⁇ "
	default:
		text = p.text
		if !d.inside && (d.s.dummyPrefix || d.s.trim) {
			if rest, ok := strings.CutPrefix(text, space); ok {
				text, d.sawPrefix = rest, !d.s.trim
			}
		}
		text = strings.ReplaceAll(text, space, " ")
	}
	d.started = d.started || text != ""
	return before + text
}

// added is the text of a token that is no piece.
func (d *pieceDecoder) added(id int32) string {
	text, ok := d.t.added.token(id)
	if !ok || d.t.added.special(id) {
		return ""
	}
	d.started = true
	return d.flush(true) + text
}

func (d *pieceDecoder) Rest() string { return d.flush(true) }

// flush gives the characters of bytes: those that are whole, or all.
func (d *pieceDecoder) flush(all bool) string {
	var b strings.Builder
	for len(d.pending) > 0 && (all || utf8.FullRune(d.pending)) {
		r, n := utf8.DecodeRune(d.pending)
		b.WriteRune(r)
		d.pending = d.pending[n:]
	}
	d.started = d.started || b.Len() > 0
	return b.String()
}

// byteOf reads <0xAB>.
func byteOf(text string) (byte, bool) {
	if len(text) != 6 || text[:3] != "<0x" || text[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(text[3:5], 16, 8)
	return byte(b), err == nil
}

// value is a field of a protobuf message: a number, or bytes.
type value struct {
	number uint64
	bytes  []byte
}

// fields calls f for each field of a protobuf message.
func fields(b []byte, f func(number int, v value) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return errTruncated
		}
		v, rest, err := field(b[n:], tag&7)
		if err != nil {
			return err
		}
		if err := f(int(tag>>3), v); err != nil {
			return err
		}
		b = rest
	}
	return nil
}

var errTruncated = fmt.Errorf("truncated, or not a SentencePiece model")

func field(b []byte, wire uint64) (v value, rest []byte, err error) {
	size := 0
	switch wire {
	case 0:
		x, n := binary.Uvarint(b)
		if n <= 0 {
			return v, nil, errTruncated
		}
		return value{number: x}, b[n:], nil
	case 1:
		size = 8
	case 5:
		size = 4
	case 2:
		x, n := binary.Uvarint(b)
		if n <= 0 || x > uint64(len(b)-n) {
			return v, nil, errTruncated
		}
		return value{bytes: b[n : n+int(x)]}, b[n+int(x):], nil
	default:
		return v, nil, fmt.Errorf("protobuf wire type %d: not a SentencePiece model", wire)
	}
	if len(b) < size {
		return v, nil, errTruncated
	}
	for i := range size {
		v.number |= uint64(b[i]) << (8 * i)
	}
	return v, b[size:], nil
}
