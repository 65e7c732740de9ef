package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/chat"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/tokenizer"
	"qlora/ref/llama"
	"qlora/ref/op"
)

// sampling says how text is chosen. Names and order are transformers': the repetition penalty, temperature, top_k, top_p, min_p.
type sampling struct {
	Prompt      string       `name:"prompt" help:"the text to continue; of a chat, the first message"`
	Tokens      int          `name:"max_new_tokens" alias:"tokens" help:"most tokens to add"`
	MinTokens   int          `name:"min_new_tokens" help:"least tokens to add, where the model would end before"`
	Temperature float64      `name:"temperature" help:"0 takes the likeliest token"`
	TopK        int          `name:"top_k" help:"choose among the k likeliest; 0 is all"`
	TopP        float64      `name:"top_p" help:"choose among the likeliest that reach p together; 1 is all"`
	MinP        float64      `name:"min_p" help:"choose among those at least p times as likely as the likeliest; 0 is all"`
	Repetition  float64      `name:"repetition_penalty" help:"above 1, makes tokens that were there before less likely"`
	NoRepeat    int          `name:"no_repeat_ngram_size" help:"no run of so many tokens comes twice; 0 is no limit"`
	Beams       int          `name:"num_beams" help:"1: there is no beam search"`
	Stop        config.Texts `name:"stop" help:"a text that ends the answer and is left out; give the flag again for more"`
	Seed        uint64       `name:"seed" help:"of the random choice"`
}

func defaultSampling() sampling {
	return sampling{Tokens: 200, TopP: 1, Repetition: 1, Beams: 1, Seed: 1}
}

// chatting says whether, and how, a prompt becomes a message.
type chatting struct {
	System   string `name:"system" help:"what the system says before the first message"`
	Template string `name:"chat_template" help:"a .jinja file, chatml, llama2, llama3, mistral, vicuna, alpaca or guanaco in place of the model's own"`
}

// writing says what is done with results.
type writing struct {
	Prompts string `name:"prompts" help:"file of prompts: lines of text, or .jsonl with prompt or messages; the results are JSON lines"`
	Output  string `name:"output" help:"file for the results of --prompts; what it has already is not done again"`
	JSON    bool   `name:"json" help:"print JSON"`
}

// generateOptions are those of qlora generate.
type generateOptions struct {
	inference
	sampling
	Chat bool `name:"chat" help:"the prompt is a message, to which the model's chat template is applied; --system and --chat-template imply it"`
	chatting
	writing
}

func generate(c console, args []string) error {
	o := generateOptions{inference: defaultInference(), sampling: defaultSampling()}
	if shown, err := parseInference(c, "generate", args, &o, &o.inference); shown || err != nil {
		return err
	}
	o.Chat = o.Chat || o.chatting != chatting{}
	if err := o.check(); err != nil {
		return err
	}
	prompts, err := o.prompts()
	if err != nil {
		return err
	}
	b, m, _, err := o.inference.load()
	if err != nil {
		return err
	}
	g := generator{o, o.sampling.speech(b), m, nil}
	if o.Chat {
		if g.template, err = templateOf(o.Template, b, b.Tokenizer.EOS); err != nil {
			return err
		}
		if g.template == nil {
			return config.Usagef("model %s has no chat template: name one with --chat-template, one of %s", b.Name, strings.Join(chat.Names(), ", "))
		}
		g.speech.endTurnsAs(g.template)
	}
	switch {
	case o.Prompts != "":
		return g.all(c, prompts)
	case o.JSON:
		a, err := g.answer(c, prompts[0], o.Seed, func(string) error { return nil })
		if err != nil {
			return err
		}
		return writeJSON(c.out, a)
	case o.Chat:
		return g.print(c, prompts[0])
	}
	return o.sampling.write(c, c.out, m, b)
}

func (o generateOptions) check() error {
	if err := o.sampling.check(); err != nil {
		return err
	}
	switch {
	case o.Prompt != "" && o.Prompts != "":
		return config.Usagef("--prompt and --prompts: want one of them")
	case o.Output != "" && o.Prompts == "":
		return config.Usagef("--output is for the results of --prompts FILE")
	case o.Chat && o.Prompt == "" && o.Prompts == "":
		return config.Usagef("--chat needs a message: --prompt TEXT or --prompts FILE; `qlora chat` is for a conversation")
	}
	return nil
}

// prompts are those of the file, or the one of the command line.
func (o generateOptions) prompts() ([]prompt, error) {
	if o.Prompts == "" {
		return []prompt{{Prompt: o.Prompt}}, nil
	}
	all, err := readPrompts(o.Prompts)
	for _, p := range all {
		if len(p.Messages) > 0 && !o.Chat {
			return nil, config.Usagef("prompts %s:%d: it has messages: give --chat", o.Prompts, p.Line)
		}
	}
	return all, err
}

func (s sampling) check() error {
	switch {
	case s.Tokens < 1:
		return config.Usagef("max_new_tokens is %d: want at least 1", s.Tokens)
	case s.MinTokens < 0 || s.MinTokens > s.Tokens:
		return config.Usagef("min_new_tokens is %d: want 0 to max_new_tokens, %d", s.MinTokens, s.Tokens)
	case !(s.Temperature >= 0):
		return config.Usagef("temperature is %v: want 0 or more", s.Temperature)
	case s.TopK < 0:
		return config.Usagef("top_k is %d: want 0 or more", s.TopK)
	case !(s.TopP > 0 && s.TopP <= 1):
		return config.Usagef("top_p is %v: want more than 0 and at most 1", s.TopP)
	case !(s.MinP >= 0 && s.MinP <= 1):
		return config.Usagef("min_p is %v: want 0 to 1", s.MinP)
	case !(float32(s.Repetition) > 0):
		return config.Usagef("repetition_penalty is %v: want more than 0; 1 is none", s.Repetition)
	case s.NoRepeat < 0:
		return config.Usagef("no_repeat_ngram_size is %d: want 0 or more", s.NoRepeat)
	case s.Beams != 1:
		return config.Usagef("num_beams is %d: want 1. Beam search is not here: it keeps a cache of keys and values for each beam, "+
			"and the likeliest whole answers of a language model are short and repeat themselves", s.Beams)
	case slices.Contains(s.Stop, ""):
		return config.Usagef("a stop text is empty")
	}
	return nil
}

// speech is how a model answers, and what ends an answer.
type speech struct {
	base   *base.Base
	how    llama.Sampling
	tokens int // at most
	ends   []int32
	stops  []string
}

func (s sampling) speech(b *base.Base) speech {
	sp := speech{base: b, tokens: s.Tokens, stops: slices.Clone(s.Stop)}
	for _, id := range b.Ends {
		sp.endAt(id)
	}
	if len(s.Stop) > 0 { // one that is a special token is not in the text that is decoded
		for id := range int32(b.Tokenizer.Size()) {
			if slices.Contains(s.Stop, b.Tokenizer.Token(id)) {
				sp.endAt(id)
			}
		}
	}
	sp.how = llama.Sampling{
		Choice:            op.Choice{Temperature: float32(s.Temperature), TopK: s.TopK, TopP: float32(s.TopP), MinP: float32(s.MinP), Seed: s.Seed},
		RepetitionPenalty: float32(s.Repetition), NoRepeat: s.NoRepeat, MinTokens: s.MinTokens, Ends: sp.ends,
	}
	return sp
}

// endAt makes a token, if the model has it, one that ends an answer.
func (s *speech) endAt(id int32) {
	if id >= 0 && int(id) < s.base.Config.VocabSize && !slices.Contains(s.ends, id) {
		s.ends = append(s.ends, id)
	}
	s.how.Ends = s.ends
}

// Why an answer ended.
const (
	endToken    = "end"
	endStop     = "stop"
	endLength   = "length"
	interrupted = "interrupted"
)

// continuation is what a model, or a session, does with a prompt: llama.Model.Generate or llama.Session.Generate.
type continuation func(ids []int32, n int, emit func(id int32) bool) error

// answer hands the text that follows ids to write as it comes: whole characters, without the end and without any part of a stop text. d
// decodes it. It gives the number of tokens and why there are no more.
func (s speech) answer(ids []int32, d tokenizer.Decoder, next continuation, stopped func() bool, write func(string) error) (tokens int, ended string, err error) {
	ended = endLength
	stop := stopper{stops: s.stops}
	put := func(piece string) bool {
		text, found := stop.next(piece)
		if found {
			ended, stop.held = endStop, ""
		}
		err = write(text)
		return !found && err == nil
	}
	failed := next(ids, s.tokens, func(id int32) bool {
		tokens++
		switch {
		case slices.Contains(s.ends, id):
			ended = endToken
			return false
		case stopped():
			ended = interrupted
			return false
		}
		return put(d.Next(id))
	})
	if failed != nil {
		return tokens, ended, failed
	}
	if err == nil && ended != endStop && put(d.Rest()) {
		err = write(stop.held)
	}
	return tokens, ended, err
}

// write continues the prompt until the end of the sequence, the number of tokens, or an interrupt. The text that is written
// begins with the prompt.
func (s sampling) write(c console, w io.Writer, m *llama.Model, b *base.Base) error {
	ids := b.Tokenizer.EncodeSpecial(s.Prompt)
	if len(ids) == 0 {
		return config.Usagef("prompt is empty, and this model's tokenizer puts nothing before a text: give --prompt TEXT")
	}
	d := b.Tokenizer.NewDecoder()
	begin := decodeAll(d, ids) // of the text, which waits for the first token: a prompt that is too long writes nothing
	sp := s.speech(b)
	_, _, err := sp.answer(ids, d, sp.alone(m), c.stopped, func(text string) error {
		_, err := io.WriteString(w, begin+text)
		begin = ""
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, begin)
	return err
}

func decodeAll(d tokenizer.Decoder, ids []int32) (text string) {
	for _, id := range ids {
		text += d.Next(id)
	}
	return text
}

// stopped says whether the user wants to stop.
func (c console) stopped() bool { return c.ctx.Err() != nil }

// alone continues each prompt by itself.
func (s speech) alone(m *llama.Model) continuation {
	return func(ids []int32, n int, emit func(id int32) bool) error { return m.Generate(ids, n, s.how, emit) }
}

// generator answers prompts that have nothing to do with each other.
type generator struct {
	generateOptions
	speech
	model    *llama.Model
	template *chat.Template // nil continues texts
}

// answer gives all of an answer; a prompt has a seed of its own.
func (g generator) answer(c console, p prompt, seed uint64, write func(string) error) (answer, error) {
	a := answer{prompt: p}
	ids, d, err := g.encode(p)
	if err != nil {
		return a, err
	}
	sp := g.speech
	sp.how.Seed = seed
	a.Tokens, a.End, err = sp.answer(ids, d, sp.alone(g.model), c.stopped, func(text string) error {
		a.Text += text
		return write(text)
	})
	return a, err
}

// encode gives a prompt's tokens and what decodes those that follow.
func (g generator) encode(p prompt) ([]int32, tokenizer.Decoder, error) {
	t := g.base.Tokenizer
	d := t.NewDecoder()
	if g.template == nil {
		ids := t.EncodeSpecial(p.Prompt)
		decodeAll(d, ids)
		return ids, d, nil
	}
	var messages []chat.Message
	if g.System != "" && (len(p.Messages) == 0 || p.Messages[0].Role != "system") {
		messages = append(messages, chat.Message{Role: "system", Content: g.System})
	}
	for _, m := range p.Messages {
		messages = append(messages, chat.Message(m))
	}
	if len(p.Messages) == 0 {
		messages = append(messages, chat.Message{Role: "user", Content: p.Prompt})
	}
	ids, err := encodeChat(g.template, t, messages)
	return ids, d, err
}

// print writes the answer to a message as it comes.
func (g generator) print(c console, p prompt) error {
	_, err := g.answer(c, p, g.Seed, func(text string) error {
		_, err := io.WriteString(c.out, text)
		return err
	})
	if err == nil {
		_, err = fmt.Fprintln(c.out)
	}
	return err
}
