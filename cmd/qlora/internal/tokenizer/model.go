// Package tokenizer turns text into token ids and back, as SentencePiece's BPE models do it: the tokenizers of LLaMA 1 and 2
// and of the demo model.
package tokenizer

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"strconv"
)

// Tokenizer is a SentencePiece BPE model.
type Tokenizer struct {
	BOS, EOS int32

	pieces      []piece
	ids         map[string]int32 // of normal pieces
	bytes       [256]int32       // of the pieces <0x00> to <0xFF>
	unknown     int32
	dummyPrefix bool // a space is put before the text
}

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
	kindByte        = 6
)

// File is the name of a SentencePiece model in a Hugging Face folder.
const File = "tokenizer.model"

// Load reads tokenizer.model of a model's folder.
func Load(fsys fs.FS) (*Tokenizer, error) {
	b, err := fs.ReadFile(fsys, File)
	if err != nil {
		return nil, err
	}
	return Parse(b, File)
}

// Parse reads SentencePiece's ModelProto; name is for errors.
func Parse(b []byte, name string) (*Tokenizer, error) {
	t := &Tokenizer{BOS: 1, EOS: 2, ids: map[string]int32{}, dummyPrefix: true}
	if err := t.parse(b); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

// parse reads the fields of sentencepiece_model.proto that matter here.
func (t *Tokenizer) parse(b []byte) error {
	modelType, byteFallback := uint64(1), false
	err := fields(b, func(number int, v value) error {
		switch number {
		case 1:
			return t.addPiece(v.bytes)
		case 2:
			return fields(v.bytes, func(number int, v value) error {
				switch number {
				case 3:
					modelType = v.number
				case 35:
					byteFallback = v.number != 0
				case 41:
					t.BOS = int32(v.number)
				case 42:
					t.EOS = int32(v.number)
				}
				return nil
			})
		case 3:
			return fields(v.bytes, func(number int, v value) error {
				switch {
				case number == 2 && len(v.bytes) > 0:
					return fmt.Errorf("its normalizer has rules of its own, which cannot be loaded yet")
				case number == 3:
					t.dummyPrefix = v.number != 0
				case number == 4 && v.number != 0:
					return fmt.Errorf("its normalizer removes whitespace, which cannot be loaded yet")
				}
				return nil
			})
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case len(t.pieces) == 0:
		return fmt.Errorf("no pieces: not a SentencePiece model")
	case modelType != 2:
		return fmt.Errorf("its model type is %d: only BPE (2) can be loaded", modelType)
	case !byteFallback:
		return fmt.Errorf("it has no byte fallback: text that it does not know would be lost")
	case !t.has(t.BOS) || !t.has(t.EOS):
		return fmt.Errorf("bos_id %d or eos_id %d is none of its %d pieces", t.BOS, t.EOS, len(t.pieces))
	}
	return t.findBytes()
}

// Size is the number of pieces.
func (t *Tokenizer) Size() int { return len(t.pieces) }

func (t *Tokenizer) has(id int32) bool { return id >= 0 && int(id) < len(t.pieces) }

func (t *Tokenizer) addPiece(b []byte) error {
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
	id := int32(len(t.pieces))
	switch p.kind {
	case kindNormal:
		t.ids[p.text] = id
	case kindUnknown:
		t.unknown = id
	case kindUserDefined:
		return fmt.Errorf("piece %d, %q, is user-defined, which cannot be loaded yet", id, p.text)
	}
	t.pieces = append(t.pieces, p)
	return err
}

func (t *Tokenizer) findBytes() error {
	found := 0
	for id, p := range t.pieces {
		if p.kind != kindByte {
			continue
		}
		b, err := byteOf(p.text)
		if err != nil {
			return err
		}
		t.bytes[b] = int32(id)
		found++
	}
	if found != 256 {
		return fmt.Errorf("%d byte pieces, want 256", found)
	}
	return nil
}

// byteOf reads <0xAB>.
func byteOf(text string) (byte, error) {
	if len(text) != 6 || text[:3] != "<0x" || text[5] != '>' {
		return 0, fmt.Errorf("byte piece %q: want <0xAB>", text)
	}
	b, err := strconv.ParseUint(text[3:5], 16, 8)
	return byte(b), err
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
