// Package batch turns examples into what a step takes: tokens with what counts for the loss (encode.go, mask.go), and micro-batches of
// them (batches.go, order.go).
package batch

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"qlora/cmd/qlora/internal/chat"
	"qlora/cmd/qlora/internal/data"
	"qlora/cmd/qlora/internal/tokenizer"
	"qlora/ref/op"
	"qlora/ref/train"
)

// Loss says which tokens count.
type Loss string

const (
	Response Loss = "response" // of a prompt and its response the response; of a conversation what the assistant says
	Last     Loss = "last"     // of a conversation the assistant's last answer alone
	All      Loss = "all"
)

// Encoder makes tokens of examples.
//
// A prompt and its response are tokenized apart from each other, as qlora.py does it: the source is what the tokenizer puts before a
// text, then the prompt, cut at SourceMax tokens; the target is the response, then the end of sequence, cut at TargetMax; both together
// are cut at Max, which shortens the target. Where a target is cut, the end of sequence stays its last token. The target counts.
//
// A conversation is what the template makes of it, tokenized whole and without anything put around it, cut at Max. See mask.go for what
// counts. Where the cut goes through an answer that counts, what closes the answer stays its last token: the token that ends the turn in
// the template, or else the end of sequence. Where not a token of the answer has room beside that, all of the answer is cut off.
//
// A text is a response without a prompt, as in qlora.py. All of it counts, but for the first token, which nothing predicts.
type Encoder struct {
	Tokenizer *tokenizer.Tokenizer
	EOS       int32          // ends a sequence; −1 is an error for examples that need it
	Template  *chat.Template // after its Use; nil is an error for conversations
	Loss      Loss

	SourceMax, TargetMax, Max int // tokens; 0 for no limit. The first two are not of conversations
}

// Encoded is an example's tokens.
type Encoded struct {
	IDs    []int32
	Counts []bool // whether predicting it counts for the loss; the first never does
	Cut    int    // tokens that had no place
	Ends   bool   // a part that counts ends in a token that says so: uncut, it ends the turn or the sequence
}

// ErrNothingCounts is the error of an example that has no token to learn from.
var ErrNothingCounts = errors.New("no token counts for the loss")

// Encode makes tokens of an example.
func (e *Encoder) Encode(x data.Example) (Encoded, error) {
	var r Encoded
	var err error
	switch {
	case x.Messages != nil:
		r, err = e.conversation(x.Messages)
	case x.Text != "":
		r, err = e.pair("", x.Text)
	default:
		r, err = e.pair(x.Prompt, x.Response)
	}
	if err != nil {
		return r, err
	}
	if len(r.Counts) > 0 {
		r.Counts[0] = false
	}
	if !slices.Contains(r.Counts, true) {
		return r, fmt.Errorf("%w: of %d tokens, %d were cut off%s", ErrNothingCounts, len(r.IDs)+r.Cut, r.Cut, e.advice(r))
	}
	return r, nil
}

func (e *Encoder) advice(r Encoded) string {
	if r.Cut == 0 {
		return ""
	}
	return "; raise max_seq_length"
}

// Sequence is the tokens as a trainer takes them: Labels[i] is the token after IDs[i], or ignored.
func (r Encoded) Sequence() train.Sequence {
	s := train.Sequence{IDs: r.IDs[:len(r.IDs)-1], Labels: make([]int32, len(r.IDs)-1)}
	for i := range s.Labels {
		if s.Labels[i] = op.IgnoredLabel; r.Counts[i+1] {
			s.Labels[i] = r.IDs[i+1]
		}
	}
	return s
}

// before is what the tokenizer puts before a text.
func (e *Encoder) before() []int32 {
	if start := e.Tokenizer.Start(); start >= 0 {
		return []int32{start}
	}
	return nil
}

func (e *Encoder) checkEOS() error {
	if e.EOS < 0 {
		return fmt.Errorf("the model's tokenizer names no token that ends a sequence, so a model would never learn to stop: name one of its tokens with --eos-token")
	}
	return nil
}

func (e *Encoder) pair(prompt, response string) (Encoded, error) {
	if err := e.checkEOS(); err != nil {
		return Encoded{}, err
	}
	source, cut := head(append(e.before(), e.Tokenizer.Encode(prompt)...), e.SourceMax)
	target := e.Tokenizer.Encode(response)
	room := limit(e.TargetMax, len(target)+1)
	if e.Max > 0 {
		room = min(room, e.Max-len(source))
	}
	if room < 2 && room < len(target)+1 {
		return Encoded{IDs: source, Counts: make([]bool, len(source)), Cut: cut + len(target) + 1}, nil
	}
	target, more := head(target, room-1)
	r := Encoded{IDs: append(slices.Concat(source, target), e.EOS), Cut: cut + more, Ends: true}
	r.Counts = make([]bool, len(r.IDs))
	for i := range r.Counts {
		r.Counts[i] = i >= len(source) || e.Loss == All
	}
	return r, nil
}

func limit(most, otherwise int) int {
	if most == 0 {
		return otherwise
	}
	return min(most, otherwise)
}

// head is the first of ids, and how many there are besides; 0 is no limit.
func head(ids []int32, most int) ([]int32, int) {
	n := limit(most, len(ids))
	return ids[:n], len(ids) - n
}

func (e *Encoder) conversation(m []chat.Message) (Encoded, error) {
	if e.Template == nil {
		return Encoded{}, fmt.Errorf("the model has no chat template, which conversations need: name one with --chat-template, one of %s",
			strings.Join(chat.Names(), ", "))
	}
	text, answers, err := e.answers(m)
	if err != nil {
		return Encoded{}, err
	}
	r := Encoded{IDs: e.Template.Encode(e.Tokenizer, text)}
	r.Counts = make([]bool, len(r.IDs))
	parts := e.parts(r.IDs, text, answers)
	for _, a := range parts {
		for i := a.from; i < a.to; i++ {
			r.Counts[i] = true
		}
		r.Ends = r.Ends || e.closing(r.IDs, a) >= 0
	}
	if e.Max == 0 || len(r.IDs) <= e.Max {
		return r, nil
	}
	return e.cut(r, parts)
}

// cut takes a conversation's end away, but for what closes the answer that the cut goes through.
func (e *Encoder) cut(r Encoded, answers []part) (Encoded, error) {
	whole, most := r.IDs, e.Max
	for _, a := range answers {
		if a.from >= most || a.to <= most {
			continue
		}
		last := e.closing(whole, a)
		if 0 <= last && last < most {
			break // it is not cut off
		}
		if most-a.from < 2 {
			most = a.from
			break
		}
		end := e.EOS
		if last >= 0 {
			end = whole[last]
		} else if err := e.checkEOS(); err != nil {
			return r, err
		}
		r.IDs = append(slices.Clone(whole[:most-1]), end)
	}
	return Encoded{IDs: r.IDs[:most], Counts: r.Counts[:most], Cut: len(whole) - most, Ends: r.Ends}, nil
}
