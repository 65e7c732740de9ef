package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"qlora/cmd/qlora/internal/chat"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/tokenizer"
	"qlora/ref/checkpoint"
	"qlora/ref/llama"
)

// fallbackTemplate is for models that have no chat template: that of the models of the paper.
const fallbackTemplate = "guanaco"

// mostContext is as much of a model's context as a conversation takes unless more is asked for: keys and values of all of it are in memory.
const mostContext = 4096

const chatHelp = `/reset         begin anew; the system's message stays
/system TEXT   what the system says before the first message; without TEXT, nothing
/save FILE     write the conversation as a line of JSON, which --dataset and --prompts read
/quit          end, as Ctrl-D does; Ctrl-C stops an answer
A message that begins with / is written with a space before it.
`

func chatCommand(c console, args []string) error {
	o := struct {
		inference
		sampling
		chatting
		Context int `name:"max_context" help:"most tokens of the conversation, the answer included; 0 is the model's context, but at most 4096"`
	}{inference: defaultInference(), sampling: defaultSampling()}
	o.Tokens, o.Temperature, o.TopP = 512, 0.7, 0.9 // the paper's, section 5.2
	if shown, err := parseInference(c, "chat", args, &o, &o.inference); shown || err != nil {
		return err
	}
	if err := o.sampling.check(); err != nil {
		return err
	}
	if o.Context < 0 {
		return config.Usagef("max_context is %d: want 0 or more", o.Context)
	}
	b, m, _, err := o.inference.load()
	if err != nil {
		return err
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	template, err := templateOf(o.Template, b, b.Tokenizer.EOS)
	if err == nil && template == nil {
		fmt.Fprintf(c.err, "model %s has no chat template: taking %s; --chat-template names another\n", b.Name, fallbackTemplate)
		template, err = templateOf(fallbackTemplate, b, b.Tokenizer.EOS)
	}
	if err != nil {
		return err
	}
	t := newConversation(c, o.sampling.speech(b), m, template, o.Context)
	t.system = o.System
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	t.signals = signals
	return t.run(o.Prompt)
}

// conversation is a chat on a terminal, or through pipes. Answers go to out, all else to err.
type conversation struct {
	console
	speech
	template *chat.Template
	session  *llama.Session
	room     int // for the tokens of the conversation, the answer included
	seed     uint64
	signals  <-chan os.Signal
	live     bool // a person sits before it

	system string
	turns  []chat.Message // of user and assistant
	asked  uint64         // messages since the beginning, or the last /reset
	saved  string         // the file that is ours to write over
	quit   bool
}

func newConversation(c console, s speech, m *llama.Model, template *chat.Template, context int) *conversation {
	room := min(m.MaxContext(), mostContext)
	if context > 0 {
		room = min(m.MaxContext(), context)
	}
	s.endTurnsAs(template)
	s.tokens = min(s.tokens, max(1, room/2))
	f, ok := c.in.(*os.File)
	return &conversation{console: c, speech: s, template: template, session: m.NewSession(room, s.how), room: room, seed: s.how.Seed,
		live: ok && isTerminal(f)}
}

// run takes messages and commands, one a line, until there are no more.
func (t *conversation) run(first string) error {
	if t.live {
		fmt.Fprintf(t.err, "%s, %d tokens of context; /help\n", t.template.Name, t.room)
	}
	if first != "" {
		if err := t.take(first); err != nil {
			return err
		}
	}
	done := make(chan struct{})
	defer close(done)
	lines, failed := t.lines(done)
	for !t.quit {
		t.invite()
		select {
		case line, ok := <-lines:
			if !ok {
				return <-failed
			}
			if err := t.take(line); err != nil {
				return err
			}
		case s := <-t.signals:
			if s != os.Interrupt {
				return nil
			}
			fmt.Fprintln(t.err, "\n(/quit or Ctrl-D ends)")
		}
	}
	return nil
}

func (t *conversation) invite() {
	if t.live {
		fmt.Fprint(t.err, "> ")
	}
}

// lines gives the lines of the input until done, and after the last why there are no more.
func (t *conversation) lines(done <-chan struct{}) (<-chan string, <-chan error) {
	lines, failed := make(chan string), make(chan error, 1)
	go func() {
		defer close(lines)
		in := bufio.NewReader(t.in)
		for {
			line, err := in.ReadString('\n')
			if line != "" {
				select {
				case lines <- strings.TrimRight(line, "\r\n"):
				case <-done:
					return
				}
			}
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				failed <- err
				return
			}
		}
	}()
	return lines, failed
}

// take does what a line says. What a person can do otherwise ends no conversation.
func (t *conversation) take(line string) error {
	var err error
	switch {
	case strings.TrimSpace(line) == "":
	case strings.HasPrefix(line, "/"):
		err = t.command(line)
	default:
		err = t.say(strings.TrimSpace(line))
	}
	var wrong *refused
	if t.live && errors.As(err, &wrong) {
		fmt.Fprintf(t.err, "%v\n", err)
		err = nil
	}
	return err
}

// refused is an error after which the conversation is what it was before.
type refused struct{ error }

func (t *conversation) command(line string) error {
	name, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch name {
	case "/reset":
		t.turns, t.asked = nil, 0
	case "/system":
		t.system = rest
	case "/save":
		if err := t.save(rest); err != nil {
			return &refused{err}
		}
	case "/quit":
		t.quit = true
	case "/help":
		fmt.Fprint(t.err, chatHelp)
	default:
		return &refused{fmt.Errorf("there is no %s; /help lists what there is, and a message that begins with / has a space before it", name)}
	}
	return nil
}

// save writes the conversation as data files have it. A file that is not from this conversation is not written over.
func (t *conversation) save(name string) error {
	if name == "" {
		return errors.New("/save FILE: the name is missing")
	}
	if _, err := os.Stat(name); err == nil && name != t.saved {
		return fmt.Errorf("%s exists: give another name", name)
	}
	if len(t.turns) == 0 {
		return errors.New("there is nothing to save yet: no message was answered")
	}
	var all []message
	for _, m := range t.messages() {
		all = append(all, message(m))
	}
	err := checkpoint.WriteFile(name, func(w io.Writer) error { return writeJSON(w, prompt{Messages: all}) })
	if err == nil {
		t.saved = name
		fmt.Fprintf(t.err, "saved to %s\n", name)
	}
	return err
}

func (t *conversation) messages() []chat.Message {
	if t.system == "" {
		return t.turns
	}
	return append([]chat.Message{{Role: "system", Content: t.system}}, t.turns...)
}

// say adds a message and its answer to the conversation.
func (t *conversation) say(text string) error {
	before := t.turns
	t.turns = append(slices.Clip(t.turns), chat.Message{Role: "user", Content: text})
	ids, err := t.fitted()
	if err != nil {
		t.turns = before
		return &refused{err}
	}
	t.session.Seed = t.seed + t.asked
	t.asked++
	var said strings.Builder
	sp := t.speech
	sp.tokens = min(t.tokens, t.room-len(ids))
	_, ended, err := sp.answer(ids, t.base.Tokenizer.NewDecoder(), t.session.Generate, t.interrupted, func(piece string) error {
		said.WriteString(piece)
		_, err := io.WriteString(t.out, piece)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(t.out)
	switch ended {
	case endLength:
		fmt.Fprintf(t.err, "(cut after %d tokens: --max-new-tokens, --max-context)\n", sp.tokens)
	case interrupted:
		fmt.Fprintln(t.err, "(stopped)")
	}
	t.turns = append(t.turns, chat.Message{Role: "assistant", Content: strings.TrimSpace(said.String())})
	return nil
}

// fitted gives the conversation's tokens. The oldest questions leave, with their answers, until there is room for an answer.
func (t *conversation) fitted() ([]int32, error) {
	left := 0
	for {
		ids, err := encodeChat(t.template, t.base.Tokenizer, t.messages())
		switch {
		case err != nil:
			return nil, err
		case len(ids)+t.tokens > t.room && len(t.turns) > 1:
			t.turns = t.turns[2:]
			left += 2
			continue
		case len(ids) >= t.room:
			return nil, fmt.Errorf("the message has %d tokens with what the template puts around it, the context %d: shorten it, or begin with a larger --max-context", len(ids), t.room)
		}
		if left > 0 {
			fmt.Fprintf(t.err, "(the context of %d tokens is full: the oldest %d messages have left the conversation)\n", t.room, left)
		}
		return ids, nil
	}
}

// interrupted says whether the user wants the answer to stop.
func (t *conversation) interrupted() bool {
	select {
	case s := <-t.signals:
		t.quit = s != os.Interrupt
		return true
	default:
		return false
	}
}

// encodeChat gives the tokens of a conversation up to where the assistant is to go on.
func encodeChat(t *chat.Template, k *tokenizer.Tokenizer, m []chat.Message) ([]int32, error) {
	text, err := t.Render(m, true)
	if err != nil {
		return nil, err
	}
	return t.Encode(k, text), nil
}

// endTurnsAs ends answers where the template ends a turn of the assistant: at the special token that is there, and where the text of the
// next turn begins.
func (s *speech) endTurnsAs(t *chat.Template) {
	const answer, next = "ANSWER", "NEXT"
	text, err := t.Render([]chat.Message{{Role: "user", Content: "QUESTION"}, {Role: "assistant", Content: answer}, {Role: "user", Content: next}}, true)
	_, between, ok := strings.Cut(text, answer)
	between, _, found := strings.Cut(between, next)
	if err != nil || !ok || !found {
		return // a template for other conversations says so when it has one
	}
	between = strings.TrimSpace(between)
	if ids := t.Encode(s.base.Tokenizer, between); len(ids) > 0 {
		end := s.base.Tokenizer.Token(ids[0])
		if rest, ok := strings.CutPrefix(between, end); ok && s.base.Tokenizer.Decode(ids[:1]) == "" {
			s.endAt(ids[0])
			between = strings.TrimSpace(rest)
		}
	}
	if line, _, _ := strings.Cut(between, "\n"); line != "" {
		s.stops = append(s.stops, line)
	}
}
