package main

import (
	"fmt"
	"io"
	"slices"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/config"
	"qlora/ref/llama"
	"qlora/ref/op"
)

// sampling says how text is chosen.
type sampling struct {
	Prompt      string  `name:"prompt" help:"the text to continue"`
	Tokens      int     `name:"max_new_tokens" alias:"tokens" help:"most tokens to add"`
	Temperature float64 `name:"temperature" help:"0 takes the likeliest token"`
	TopK        int     `name:"top_k" help:"choose among the k likeliest; 0 is all"`
	TopP        float64 `name:"top_p" help:"choose among the likeliest that reach p together; 1 is all"`
	Seed        uint64  `name:"seed" help:"of the random choice"`
}

func generate(c console, args []string) error {
	o := struct {
		inference
		sampling
	}{defaultInference(), sampling{Tokens: 200, TopP: 1, Seed: 1}}
	if shown, err := parseAll(c, "generate", args, &o); shown || err != nil {
		return err
	}
	if err := o.sampling.check(); err != nil {
		return err
	}
	b, m, _, err := o.inference.load()
	if err != nil {
		return err
	}
	return o.sampling.write(c, c.out, m, b)
}

func (s sampling) check() error {
	switch {
	case s.Tokens < 1:
		return config.Usagef("max_new_tokens is %d: want at least 1", s.Tokens)
	case !(s.Temperature >= 0):
		return config.Usagef("temperature is %v: want 0 or more", s.Temperature)
	case s.TopK < 0:
		return config.Usagef("top_k is %d: want 0 or more", s.TopK)
	case !(s.TopP > 0 && s.TopP <= 1):
		return config.Usagef("top_p is %v: want more than 0 and at most 1", s.TopP)
	}
	return nil
}

// write continues the prompt until the end of the sequence, the number of tokens, or an interrupt. The text that is written
// begins with the prompt.
func (s sampling) write(c console, w io.Writer, m *llama.Model, b *base.Base) error {
	ids := b.Tokenizer.EncodeSpecial(s.Prompt)
	if len(ids) == 0 {
		return config.Usagef("prompt is empty, and this model's tokenizer puts nothing before a text: give --prompt TEXT")
	}
	choice := op.Choice{Temperature: float32(s.Temperature), TopK: s.TopK, TopP: float32(s.TopP), Seed: s.Seed}
	d := b.Tokenizer.NewDecoder()
	var text string // of the prompt, which waits for the first token: a prompt that is too long writes nothing
	for _, id := range ids {
		text += d.Next(id)
	}
	left := s.Tokens
	err := m.Generate(ids, s.Tokens, choice, func(id int32) bool {
		fmt.Fprint(w, text+d.Next(id))
		text = ""
		left--
		return left > 0 && !slices.Contains(b.Ends, id) && c.ctx.Err() == nil
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, d.Rest())
	return err
}
