// Package data turns a text into training sequences, in an order that the seed alone fixes.
package data

import (
	"fmt"
	"io/fs"
	"unicode/utf8"

	"qlora/ref/num"
	"qlora/ref/train"
)

// ReadText reads a file of UTF-8 text that is not empty.
func ReadText(fsys fs.FS, name string) (string, error) {
	b, err := fs.ReadFile(fsys, name)
	if err != nil {
		return "", err
	}
	if len(b) == 0 {
		return "", fmt.Errorf("%s is empty: give a file with text", name)
	}
	if at := invalidUTF8(b); at >= 0 {
		return "", fmt.Errorf("%s is not UTF-8: byte %d (0x%02x); convert it first, for example with iconv", name, at, b[at])
	}
	return string(b), nil
}

func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// Sequences cuts a stream of tokens into sequences of up to length tokens, of which the last may be shorter. Each begins with
// start and predicts the next length tokens of the stream, so that every token is predicted once; where start is −1, for the
// tokenizer puts nothing before a text, each begins with the token before its own, and the stream's first is not predicted.
func Sequences(tokens []int32, start int32, length int) (s train.Sequences) {
	first := start
	if start < 0 && len(tokens) > 0 {
		first, tokens = tokens[0], tokens[1:]
	}
	for from := 0; from < len(tokens); from += length {
		labels := tokens[from:min(from+length, len(tokens))]
		ids := append([]int32{first}, labels[:len(labels)-1]...)
		s = append(s, train.Sequence{IDs: ids, Labels: labels})
		if start < 0 {
			first = labels[len(labels)-1]
		}
	}
	return s
}

// Order gives the sequences of a run one after the other: every epoch is a permutation of its own.
type Order struct {
	Seed  uint64
	Count int // sequences in an epoch
}

// Batch gives the indices of n sequences from the position-th of the run on.
func (o Order) Batch(position, n int) []int {
	batch := make([]int, 0, n)
	for epoch := position / o.Count; len(batch) < n; epoch++ {
		p := o.permutation(epoch)
		from := max(0, position-epoch*o.Count)
		batch = append(batch, p[from:min(o.Count, from+n-len(batch))]...)
	}
	return batch
}

// permutation is the epoch's order.
func (o Order) permutation(epoch int) []int {
	return Shuffled(o.Count, o.Seed, num.Counter{Purpose: num.Purpose("data order"), Step: uint32(epoch), Layer: num.NoLayer})
}

// Shuffled is 0 … n−1 in the order of Fisher and Yates with the bits of Philox at c, c.Element being the place: for i from n−1 down to 1,
// i changes places with num.Bits·(i+1) div 2^32.
func Shuffled(n int, seed uint64, c num.Counter) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	for i := n - 1; i > 0; i-- {
		c.Element = uint64(i)
		j := int(uint64(num.Bits(seed, c)) * uint64(i+1) >> 32)
		order[i], order[j] = order[j], order[i]
	}
	return order
}
