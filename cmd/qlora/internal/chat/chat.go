// Package chat renders conversations as models were trained on them: by the template that comes with a model's tokenizer, or by one
// that is built in.
package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"qlora/cmd/qlora/internal/chat/jinja"
	"qlora/cmd/qlora/internal/tokenizer"
)

// Message is a turn of a conversation. Its role is system, user, assistant or tool.
type Message struct{ Role, Content string }

// Span is a part of a text, in bytes.
type Span = jinja.Span

// Template makes text of a conversation.
type Template struct {
	Name     string // where it is from, for errors
	BOS, EOS string // the texts of the tokens that begin and end a text; "" for none

	tokens  map[string]string // all tokens that a model's template may name, such as pad_token
	marks   []mark            // see Use
	jinja   *jinja.Template   // the model's, or
	builtin func(w *writer, t *Template, m []Message, prompt bool) error
}

const (
	configFile   = "tokenizer_config.json"
	mapFile      = "special_tokens_map.json"
	templateFile = "chat_template.jinja"
)

// tokenNames are the variables of templates that are texts of tokens.
var tokenNames = []string{"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}

// Load reads the template of a model's folder: chat_template.jinja, or else chat_template of tokenizer_config.json, a text or a list of
// named ones of which "default" is taken. It is nil, without an error, if there is none.
func Load(fsys fs.FS) (*Template, error) {
	tokens := map[string]string{}
	source, name := "", ""
	for _, file := range []string{mapFile, configFile} {
		b, err := fs.ReadFile(fsys, file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var keys map[string]json.RawMessage
		if err == nil {
			err = json.Unmarshal(b, &keys)
		}
		if err == nil {
			err = readTokens(keys, tokens)
		}
		if err == nil && file == configFile && keys["chat_template"] != nil {
			name = file + ": chat_template"
			source, err = chosen(keys["chat_template"])
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	b, err := fs.ReadFile(fsys, templateFile)
	switch {
	case err == nil:
		source, name = string(b), templateFile
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if source == "" {
		return nil, nil
	}
	return New(source, name, tokens)
}

// readTokens takes over texts of tokens, which are written as a text or as an object with the text.
func readTokens(keys map[string]json.RawMessage, tokens map[string]string) error {
	for _, name := range tokenNames {
		raw := keys[name]
		if raw == nil {
			continue
		}
		var text *string
		if err := json.Unmarshal(raw, &text); err != nil {
			var object struct{ Content string }
			if err := json.Unmarshal(raw, &object); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			text = &object.Content
		}
		if text != nil && *text != "" {
			tokens[name] = *text
		}
	}
	return nil
}

// chosen is the text of chat_template's value.
func chosen(raw json.RawMessage) (source string, err error) {
	if json.Unmarshal(raw, &source) == nil {
		return source, nil // "" for null
	}
	var named []struct{ Name, Template string }
	if err := json.Unmarshal(raw, &named); err != nil {
		return "", fmt.Errorf("chat_template: want a text, or a list of objects with name and template")
	}
	names := make([]string, len(named))
	for i, n := range named {
		if n.Name == "default" || len(named) == 1 {
			return n.Template, nil
		}
		names[i] = n.Name
	}
	return "", fmt.Errorf("chat_template has no template named default, but %s: write the one that you want into %s", strings.Join(names, ", "), templateFile)
}

// New reads a template in Jinja. tokens are texts of tokens by the names that templates have for them: bos_token, eos_token, …
func New(source, name string, tokens map[string]string) (*Template, error) {
	j, err := jinja.Parse(source)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &Template{Name: name, BOS: tokens["bos_token"], EOS: tokens["eos_token"], tokens: tokens, jinja: j}, nil
}

// Render makes a text of a conversation; with addGenerationPrompt it ends where the assistant is to go on.
func (t *Template) Render(m []Message, addGenerationPrompt bool) (string, error) {
	text, _, err := t.render(m, addGenerationPrompt)
	return text, err
}

// MarksAnswers says that the template itself says which parts the assistant writes: see RenderAnswers.
func (t *Template) MarksAnswers() bool { return t.builtin != nil || t.jinja.Generation }

// RenderAnswers is Render without a generation prompt, with the parts that the assistant writes: {% generation %} of a model's
// template; of a built-in one each answer with what ends it.
func (t *Template) RenderAnswers(m []Message) (string, []Span, error) { return t.render(m, false) }

func (t *Template) render(m []Message, prompt bool) (text string, answers []Span, err error) {
	if len(m) == 0 {
		return "", nil, fmt.Errorf("%s: the conversation is empty", t.Name)
	}
	if t.builtin != nil {
		var w writer
		err = t.builtin(&w, t, m, prompt)
		text, answers = w.String(), w.answers
	} else {
		text, answers, err = t.jinja.Render(t.variables(m, prompt))
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w%s", t.Name, err, reason(err))
	}
	return text, answers, nil
}

// variables are those that transformers gives a template, without strftime_now: templates that ask whether it is there have a date of
// their own.
func (t *Template) variables(m []Message, prompt bool) map[string]any {
	messages := make([]any, len(m))
	for i, x := range m {
		messages[i] = jinja.NewDict("role", x.Role, "content", x.Content)
	}
	v := map[string]any{"messages": messages, "add_generation_prompt": prompt, "tools": nil, "documents": nil}
	for name, text := range t.tokens {
		v[name] = text
	}
	for name, text := range map[string]string{"bos_token": t.BOS, "eos_token": t.EOS} {
		if text != "" {
			v[name] = text
		}
	}
	return v
}

// reason explains an error that the template's author did not expect.
func reason(err error) string {
	if strings.Contains(err.Error(), `"strftime_now" is undefined`) {
		return "; it asks for today's date, with which the same data would be another text tomorrow: write a date into the template"
	}
	return ""
}

// mark is a token that the tokenizer does not find in a text.
type mark struct {
	text string
	id   int32
}

// Use prepares for a tokenizer whose texts end with eos, −1 for none. A template that does not name the tokens that begin and end a
// text, as a built-in one, takes those of the tokenizer.
func (t *Template) Use(k *tokenizer.Tokenizer, eos int32) {
	if t.BOS == "" && t.builtin != nil {
		t.BOS = k.Token(k.Start())
	}
	if t.EOS == "" {
		t.EOS = k.Token(eos)
	}
	for _, m := range []mark{{t.BOS, k.Start()}, {t.EOS, eos}} {
		if m.text != "" && m.id >= 0 && !slices.Equal(k.Encode(m.text), []int32{m.id}) {
			t.marks = append(t.marks, m)
		}
	}
}

// Encode gives the tokens of a text that the template rendered. Nothing is put around it. SentencePiece does not find <s> and </s> in a
// text; there they are taken out of it first, if the template was prepared by Use.
func (t *Template) Encode(k *tokenizer.Tokenizer, text string) (ids []int32) {
	for {
		at, found := len(text), mark{}
		for _, m := range t.marks {
			if i := strings.Index(text, m.text); i >= 0 && i < at {
				at, found = i, m
			}
		}
		ids = append(ids, k.Encode(text[:at])...)
		if found.text == "" {
			return ids
		}
		ids = append(ids, found.id)
		text = text[at+len(found.text):]
	}
}

// Names lists the built-in templates.
func Names() (names []string) {
	for name := range builtins {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Builtin gives a built-in template. Call Use before it renders.
func Builtin(name string) (*Template, error) {
	b, ok := builtins[name]
	if !ok {
		return nil, fmt.Errorf("chat template %q is not built in: want %s", name, strings.Join(Names(), ", "))
	}
	return &Template{Name: "chat template " + name, builtin: b}, nil
}
