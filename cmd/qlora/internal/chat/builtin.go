package chat

import (
	"fmt"
	"strings"

	"qlora/cmd/qlora/internal/chat/jinja"
)

// writer is a text under construction, and the parts of it that the assistant writes.
type writer struct {
	strings.Builder
	answers []Span
}

// add writes texts one after the other.
func (w *writer) add(texts ...string) {
	for _, t := range texts {
		w.WriteString(t)
	}
}

// answer is add for what the assistant writes.
func (w *writer) answer(texts ...string) {
	start := w.Len()
	w.add(texts...)
	w.answers = append(w.answers, Span{Start: start, End: w.Len()})
}

// builtins are the built-in templates, each as its models were trained.
var builtins = map[string]func(w *writer, t *Template, m []Message, prompt bool) error{
	"chatml": chatML, "llama2": llama2, "llama3": llama3, "mistral": mistral, "vicuna": vicuna, "alpaca": alpaca, "guanaco": guanaco,
}

// chatML is OpenAI's markup: <|im_start|>ROLE, a line feed, the text, <|im_end|>, a line feed.
func chatML(w *writer, _ *Template, m []Message, prompt bool) error {
	for _, x := range m {
		w.add("<|im_start|>", x.Role, "\n")
		if x.Role == "assistant" {
			w.answer(x.Content, "<|im_end|>\n")
		} else {
			w.add(x.Content, "<|im_end|>\n")
		}
	}
	if prompt {
		w.add("<|im_start|>assistant\n")
	}
	return nil
}

// llama3 is Meta's: <|start_header_id|>ROLE<|end_header_id|>, two line feeds, the text without white space around it, <|eot_id|>.
func llama3(w *writer, t *Template, m []Message, prompt bool) error {
	w.add(t.BOS)
	for _, x := range m {
		w.add("<|start_header_id|>", x.Role, "<|end_header_id|>\n\n")
		if x.Role == "assistant" {
			w.answer(jinja.Strip(x.Content), "<|eot_id|>")
		} else {
			w.add(jinja.Strip(x.Content), "<|eot_id|>")
		}
	}
	if prompt {
		w.add("<|start_header_id|>assistant<|end_header_id|>\n\n")
	}
	return nil
}

// turns takes the system's message off the beginning and checks that user and assistant take turns from there on.
func turns(m []Message) (system string, rest []Message, err error) {
	first := 0
	if m[0].Role == "system" {
		system, first = m[0].Content, 1
	}
	for i, x := range m[first:] {
		if want := []string{"user", "assistant"}[i%2]; x.Role != want {
			return "", nil, fmt.Errorf("message %d is of role %s: want %s, for user and assistant take turns, after at most one of system", first+i+1, x.Role, want)
		}
	}
	if len(m) == first {
		return "", nil, fmt.Errorf("the conversation has no message of a user")
	}
	return system, m[first:], nil
}

// llama2 is Meta's: each question, with <s> before it, in [INST], the system's message in <<SYS>> in the first one; answers end with </s>.
func llama2(w *writer, t *Template, m []Message, _ bool) error {
	system, rest, err := turns(m)
	if err != nil {
		return err
	}
	if m[0].Role == "system" {
		system = "<<SYS>>\n" + system + "\n<</SYS>>\n\n"
	}
	for i, x := range rest {
		if i%2 == 1 {
			w.answer(" ", jinja.Strip(x.Content), " ", t.EOS)
			continue
		}
		w.add(t.BOS, "[INST] ", jinja.Strip(system+x.Content), " [/INST]")
		system = ""
	}
	return nil
}

// mistral is that of Mistral 7B Instruct v0.2. That has no place for a system's message: here it stands before the first question, with an
// empty line between them, as in Mistral's later ones.
func mistral(w *writer, t *Template, m []Message, _ bool) error {
	system, rest, err := turns(m)
	if err != nil {
		return err
	}
	if m[0].Role == "system" {
		system += "\n\n"
	}
	w.add(t.BOS)
	for i, x := range rest {
		if i%2 == 1 {
			w.answer(x.Content, t.EOS)
			continue
		}
		w.add("[INST] ", system, x.Content, " [/INST]")
		system = ""
	}
	return nil
}

// vicuna is FastChat's vicuna_v1.1: the system's message or a sentence of its own, then USER: and ASSISTANT:.
func vicuna(w *writer, t *Template, m []Message, prompt bool) error {
	system, rest, err := turns(m)
	if err != nil {
		return err
	}
	if m[0].Role != "system" {
		system = "A chat between a curious user and an artificial intelligence assistant. " +
			"The assistant gives helpful, detailed, and polite answers to the user's questions."
	}
	w.add(t.BOS, system, " ")
	for i, x := range rest {
		if i%2 == 1 {
			w.add("ASSISTANT:")
			w.answer(" ", x.Content, t.EOS)
		} else {
			w.add("USER: ", x.Content, " ")
		}
	}
	if prompt {
		w.add("ASSISTANT:")
	}
	return nil
}

// alpaca is Stanford Alpaca's prompt as qlora.py writes it, with a space behind "### Response:"; an empty line between an answer and what follows.
func alpaca(w *writer, t *Template, m []Message, prompt bool) error {
	system, rest, err := turns(m)
	if err != nil {
		return err
	}
	if m[0].Role != "system" {
		system = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
	}
	w.add(t.BOS, system)
	for i, x := range rest {
		if i%2 == 1 {
			w.add("### Response: ")
			w.answer(x.Content, t.EOS)
		} else {
			w.add("\n\n### Instruction:\n", x.Content, "\n\n")
		}
	}
	if prompt {
		w.add("### Response: ")
	}
	return nil
}

// guanaco is that of timdettmers/openassistant-guanaco: nothing between turns, and one end of the text behind the last answer.
func guanaco(w *writer, t *Template, m []Message, prompt bool) error {
	system, rest, err := turns(m)
	if err != nil {
		return err
	}
	if m[0].Role == "system" {
		system += "\n"
	}
	w.add(t.BOS, system)
	for i, x := range rest {
		switch {
		case i%2 == 0:
			w.add("### Human: ", x.Content)
		case i == len(rest)-1:
			w.add("### Assistant: ")
			w.answer(x.Content, t.EOS)
		default:
			w.add("### Assistant: ")
			w.answer(x.Content)
		}
	}
	if prompt {
		w.add("### Assistant: ")
	}
	return nil
}
