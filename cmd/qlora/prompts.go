package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// prompt is a text to continue, or a conversation to answer.
type prompt struct {
	Line     int       `json:"line,omitempty"` // of the file, from 1
	Prompt   string    `json:"prompt,omitempty"`
	Messages []message `json:"messages,omitempty"`
}

// message is a chat.Message as files have it.
type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// answer is a line of results.
type answer struct {
	prompt
	Text     string `json:"text"`
	Tokens   int    `json:"tokens"` // that were added
	End      string `json:"end"`    // end: the model ended; stop: a stop text came; length: max_new_tokens were reached
	Settings string `json:"settings,omitempty"`
}

// readPrompts reads lines of text, blank ones left out, or of a .jsonl or .ndjson file objects with prompt or messages.
func readPrompts(name string) (all []prompt, err error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("prompts: %w", err)
	}
	kind := strings.ToLower(filepath.Ext(name))
	if kind == ".json" {
		return nil, fmt.Errorf("prompts %s: want lines of text, or a .jsonl file with an object a line", name)
	}
	for i, line := range strings.Split(strings.TrimPrefix(string(b), "\ufeff"), "\n") {
		line = strings.TrimSuffix(line, "\r")
		p := prompt{Prompt: line}
		switch {
		case !utf8.ValidString(line):
			err = errors.New("not UTF-8 text")
		case strings.TrimSpace(line) == "":
			continue
		case kind == ".jsonl" || kind == ".ndjson":
			p, err = parsePrompt(line)
		}
		if err != nil {
			return nil, fmt.Errorf("prompts %s:%d: %w: %.80q", name, i+1, err, line)
		}
		p.Line = i + 1
		all = append(all, p)
	}
	if all == nil {
		return nil, fmt.Errorf("prompts %s: there are none", name)
	}
	return all, nil
}

func parsePrompt(line string) (p prompt, err error) {
	if err := json.Unmarshal([]byte(line), &p); err != nil {
		return p, err
	}
	if (p.Prompt == "") == (len(p.Messages) == 0) {
		return p, errors.New(`want an object with either "prompt" or "messages"`)
	}
	return p, nil
}

// all answers every prompt that has no result yet, each with the seed and the number of prompts before it as its own seed.
func (g generator) all(c console, prompts []prompt) error {
	out, done, err := g.open(c, prompts)
	if err != nil {
		return err
	}
	defer out.Close()
	if done > 0 {
		fmt.Fprintf(c.err, "%s has %d of %d results\n", g.Output, done, len(prompts))
	}
	progress := newCounter(c.err, g.Prompts, "prompts", len(prompts))
	for i, p := range prompts[done:] {
		a, err := g.answer(c, p, g.Seed+uint64(done+i), func(string) error { return nil })
		if err == nil && a.End == interrupted {
			return fmt.Errorf("stopped before line %d of %s; %s", p.Line, g.Prompts, g.goOn())
		}
		if err == nil {
			a.Settings = g.settings()
			err = writeJSON(out, a)
		}
		if err != nil {
			return fmt.Errorf("prompts %s:%d: %w", g.Prompts, p.Line, err)
		}
		if g.Output != "" {
			progress.step(done + i + 1)
		}
	}
	return out.Close()
}

func (g generator) goOn() string {
	if g.Output == "" {
		return "with --output FILE the same command would go on from there"
	}
	return "the same command goes on from there"
}

// writeJSON writes a line with one call, so that it is whole or the last one.
func writeJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

// settings tells results of other settings from these: the first digits of the SHA-256 of all that decides what is generated. The files of
// the model and the adapter count by their names.
func (g generator) settings() string {
	o := g.generateOptions
	o.Device, o.Limit, o.Prompt, o.writing = "", 0, "", writing{}
	b, err := json.Marshal([]any{o.inference, o.sampling, o.Chat, o.chatting})
	if err != nil {
		panic(err) // they are numbers and texts
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))[:16]
}

// open opens the file of results behind those that it has.
func (g generator) open(c console, prompts []prompt) (out io.WriteCloser, done int, err error) {
	if g.Output == "" {
		return stays{c.out}, 0, nil
	}
	f, err := os.OpenFile(g.Output, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, 0, fmt.Errorf("output: %w", err)
	}
	done, size, err := g.finished(f, prompts)
	if err == nil {
		err = f.Truncate(size) // takes away a last line that is not whole
	}
	if err == nil {
		_, err = f.Seek(size, io.SeekStart)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, done, nil
}

// stays is not closed.
type stays struct{ io.Writer }

func (stays) Close() error { return nil }

// finished counts the whole lines of results, which must be those of the first prompts with these settings, and their bytes.
func (g generator) finished(f io.Reader, prompts []prompt) (n int, size int64, err error) {
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return n, size, g.checkCut(line, n)
		}
		if err != nil {
			return n, size, fmt.Errorf("output %s: %w", g.Output, err)
		}
		var a answer
		if err := json.Unmarshal(line, &a); err != nil || a.Settings != g.settings() || n >= len(prompts) || !a.prompt.is(prompts[n]) {
			return n, size, fmt.Errorf("output %s:%d is no result of these prompts with these settings: give another --output, or take the file away", g.Output, n+1)
		}
		n++
		size += int64(len(line))
	}
}

// checkCut wants what is behind the last whole line to be the beginning of a result, before it is taken away.
func (g generator) checkCut(rest []byte, n int) error {
	const begin = `{"line":`
	if k := min(len(rest), len(begin)); !bytes.Equal(rest[:k], []byte(begin[:k])) {
		return fmt.Errorf("output %s:%d is no result: give another --output, or take the file away", g.Output, n+1)
	}
	return nil
}

func (p prompt) is(q prompt) bool {
	return p.Line == q.Line && p.Prompt == q.Prompt && slices.Equal(p.Messages, q.Messages)
}
