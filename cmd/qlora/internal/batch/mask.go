package batch

import (
	"fmt"
	"strings"

	"qlora/cmd/qlora/internal/chat"
)

// What counts of a conversation is decided in its text, and then in its tokens.
//
// In the text, an answer is what the template says that the assistant generates: {% generation %}, or an answer and what ends it in a
// built-in template. Where a template does not say, it is the difference of two prefixes, as TRL has it for a prompt and its
// completion: the text of the messages before the answer with a generation prompt, and that of the messages up to the answer. Both
// must be prefixes of the whole conversation's text.
//
// In the tokens of the whole text, an answer begins behind the tokens that it has in common with those of the text before the answer,
// and ends behind those that it has in common with those of the text up to its end; a token across that end belongs to it.

// answers gives a conversation's text, and the parts of it that count unless all does.
func (e *Encoder) answers(m []chat.Message) (text string, spans []chat.Span, err error) {
	switch {
	case e.Loss == All:
		text, err = e.Template.Render(m, false)
		return text, nil, err
	case e.Template.MarksAnswers():
		text, spans, err = e.Template.RenderAnswers(m)
	default:
		text, spans, err = e.differences(m)
	}
	if err == nil && len(spans) == 0 {
		err = fmt.Errorf("%w: the conversation has no answer of the assistant", ErrNothingCounts)
	}
	if err == nil && e.Loss == Last {
		spans = spans[len(spans)-1:]
	}
	return text, spans, err
}

// differences finds the answers of a template that does not mark them.
func (e *Encoder) differences(m []chat.Message) (text string, spans []chat.Span, err error) {
	if text, err = e.Template.Render(m, false); err != nil {
		return "", nil, err
	}
	first := 0
	if e.Loss == Last {
		for i, x := range m {
			if x.Role == assistant {
				first = i
			}
		}
	}
	for i := first; i < len(m); i++ {
		if m[i].Role != assistant {
			continue
		}
		if i == 0 {
			return "", nil, fmt.Errorf("the conversation begins with the assistant: with %s there is no telling where its answer begins", e.Template.Name)
		}
		before, err := e.Template.Render(m[:i], true)
		if err != nil {
			return "", nil, fmt.Errorf("the conversation before turn %d: %w", i+1, err)
		}
		upTo, err := e.Template.Render(m[:i+1], false)
		if err != nil {
			return "", nil, fmt.Errorf("the conversation up to turn %d: %w", i+1, err)
		}
		if !strings.HasPrefix(text, before) || !strings.HasPrefix(text, upTo) || len(upTo) <= len(before) {
			return "", nil, fmt.Errorf("%s writes the conversation up to turn %d otherwise than the same turns of the whole conversation, so that it cannot be "+
				"told which tokens are the answer: put {%% generation %%} into the template, or choose --loss last or all", e.Template.Name, i+1)
		}
		spans = append(spans, chat.Span{Start: len(before), End: len(upTo)})
	}
	return text, spans, nil
}

const assistant = "assistant"

// part is the tokens from one on, and up to another.
type part struct{ from, to int }

// parts are the answers in the tokens of a text; without answers, all of it.
func (e *Encoder) parts(ids []int32, text string, answers []chat.Span) (parts []part) {
	if e.Loss == All {
		return []part{{0, len(ids)}}
	}
	for _, a := range answers {
		from, _ := e.place(ids, text[:a.Start])
		to, whole := e.place(ids, text[:a.End])
		if !whole {
			to++
		}
		parts = append(parts, part{from, min(to, len(ids))})
	}
	return parts
}

// closing is where an answer's last token stands, white space after it left aside, if that ends the turn or the sequence: if it is the end
// of sequence or stands for no text, as <|im_end|>. It is −1 if an answer has no such token.
func (e *Encoder) closing(ids []int32, a part) int {
	for i := a.to - 1; i >= a.from; i-- {
		twice := e.Tokenizer.Decode([]int32{ids[i], ids[i]}) // the first one's space would be dropped
		if ids[i] == e.EOS || twice == "" {
			return i
		}
		if strings.TrimSpace(twice) != "" {
			return -1
		}
	}
	return -1
}

// place is how many of ids the text before a place in it has in common with them, and whether that is all that it has.
func (e *Encoder) place(ids []int32, before string) (n int, whole bool) {
	p := e.Template.Encode(e.Tokenizer, before)
	for n < len(p) && n < len(ids) && p[n] == ids[n] {
		n++
	}
	return n, n == len(p)
}
