package chat_test

import (
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"qlora/cmd/qlora/internal/chat"
)

// vectors is a file that conformance/oracle/chat.py wrote.
var vectors = flag.String("vectors", "testdata/templates.json", "renderings by transformers")

// originals are renderings by transformers. Spans are in characters.
type originals struct {
	Tokens        map[string]string
	Conversations [][]chat.Message
	Templates     []struct {
		Name, Template string
		Rendered       []rendering
	}
}

type rendering struct {
	Conversation int
	Prompt       bool
	Text         *string // nil where the template refuses the conversation
	Error        string
	Spans        [][2]int
}

func readOriginals(t testing.TB) (o originals) {
	t.Helper()
	b, err := os.ReadFile(*vectors)
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o originals) template(t testing.TB, name string) (rendered []rendering) {
	for _, x := range o.Templates {
		if x.Name == name {
			return x.Rendered
		}
	}
	t.Fatalf("%s has no template %s", *vectors, name)
	return nil
}

// Templates give, and refuse, what they do in transformers.
func TestTemplatesAreTheOriginals(t *testing.T) {
	o := readOriginals(t)
	texts, refused, spans := 0, 0, 0
	for _, x := range o.Templates {
		j, err := chat.New(x.Template, x.Name, o.Tokens)
		for _, r := range x.Rendered {
			m := o.Conversations[r.Conversation]
			var text string
			var answers []chat.Span
			failure := err
			if err == nil {
				text, failure = j.Render(m, r.Prompt)
			}
			if failure == nil && !r.Prompt && j.MarksAnswers() {
				_, answers, failure = j.RenderAnswers(m)
			}
			switch {
			case r.Text == nil && failure == nil:
				t.Errorf("%s, conversation %d: %q, but transformers has %s", x.Name, r.Conversation, text, r.Error)
			case r.Text == nil:
				refused++
			case failure != nil:
				t.Errorf("%s, conversation %d: %v", x.Name, r.Conversation, failure)
			case text != *r.Text:
				t.Errorf("%s, conversation %d, prompt %v: %q, want %q", x.Name, r.Conversation, r.Prompt, text, *r.Text)
			default:
				texts++
				if len(r.Spans) > 0 || len(answers) > 0 {
					spans += compareSpans(t, x.Name, text, answers, r.Spans)
				}
			}
		}
	}
	t.Logf("%d templates: %d texts, %d refusals, %d answers", len(o.Templates), texts, refused, spans)
	if texts < 300 || refused < 50 || spans < 50 {
		t.Errorf("only %d texts, %d refusals, %d answers", texts, refused, spans)
	}
}

func compareSpans(t *testing.T, name, text string, got []chat.Span, want [][2]int) int {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d answers, want %d", name, len(got), len(want))
		return 0
	}
	runes := []rune(text)
	for i, w := range want {
		if a, b := text[got[i].Start:got[i].End], string(runes[w[0]:w[1]]); a != b || text[:got[i].Start] != string(runes[:w[0]]) {
			t.Errorf("%s: answer %d is %q, want %q", name, i, a, b)
		}
	}
	return len(got)
}

// Built-in templates give what the published ones give in transformers, for conversations that these take.
func TestBuiltinsAreThePublished(t *testing.T) {
	o := readOriginals(t)
	for name, published := range map[string]string{"chatml": "chatml", "llama2": "llama2", "llama3": "llama3", "mistral": "mistral"} {
		b := builtin(t, name)
		compared := 0
		for _, r := range o.template(t, published) {
			m := o.Conversations[r.Conversation]
			if r.Text == nil || name == "llama2" && m[len(m)-1].Role == "system" {
				continue // Meta's takes a system's message alone, and writes nothing of it
			}
			text, err := b.Render(m, r.Prompt)
			if err != nil || text != *r.Text {
				t.Errorf("%s, conversation %d: %q, %v, want %q", name, r.Conversation, text, err, *r.Text)
			}
			compared++
		}
		if compared < 15 {
			t.Errorf("%s: only %d conversations", name, compared)
		}
	}
}

func builtin(t *testing.T, name string) *chat.Template {
	t.Helper()
	b, err := chat.Builtin(name)
	if err != nil {
		t.Fatal(err)
	}
	b.BOS, b.EOS = "<s>", "</s>"
	return b
}

var talk = []chat.Message{{Role: "user", Content: "Hi"}, {Role: "assistant", Content: "Ho"}, {Role: "user", Content: "{{ x }}"}, {Role: "assistant", Content: "}}"}}

// The others, by FastChat's, Stanford's, qlora.py's and Mistral's texts.
func TestBuiltins(t *testing.T) {
	for _, c := range []struct{ name, system, whole, prompt string }{
		{"vicuna", "Sys.", "<s>Sys. USER: Hi ASSISTANT: Ho</s>USER: {{ x }} ASSISTANT: }}</s>", "<s>Sys. USER: Hi ASSISTANT:"},
		{"vicuna", "", "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. " +
			"USER: Hi ASSISTANT: Ho</s>USER: {{ x }} ASSISTANT: }}</s>", ""},
		{"alpaca", "", "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nHi\n\n### Response: Ho</s>" +
			"\n\n### Instruction:\n{{ x }}\n\n### Response: }}</s>", ""},
		{"alpaca", "Sys.", "", "<s>Sys.\n\n### Instruction:\nHi\n\n### Response: "},
		{"guanaco", "", "<s>### Human: Hi### Assistant: Ho### Human: {{ x }}### Assistant: }}</s>", "<s>### Human: Hi### Assistant: "},
		{"guanaco", "Sys.", "<s>Sys.\n### Human: Hi### Assistant: Ho### Human: {{ x }}### Assistant: }}</s>", ""},
		{"mistral", "Sys.", "<s>[INST] Sys.\n\nHi [/INST]Ho</s>[INST] {{ x }} [/INST]}}</s>", "<s>[INST] Sys.\n\nHi [/INST]"},
	} {
		b := builtin(t, c.name)
		var m []chat.Message
		if c.system != "" {
			m = append(m, chat.Message{Role: "system", Content: c.system})
		}
		m = append(m, talk...)
		if c.whole != "" {
			if got, err := b.Render(m, false); got != c.whole || err != nil {
				t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.whole)
			}
		}
		if c.prompt != "" {
			if got, err := b.Render(m[:len(m)-3], true); got != c.prompt || err != nil {
				t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.prompt)
			}
		}
	}
}

// What a built-in template marks as answers is what it writes more than before them: the rest is what a model is given.
func TestBuiltinsMarkAnswers(t *testing.T) {
	for _, name := range chat.Names() {
		b := builtin(t, name)
		text, answers, err := b.RenderAnswers(talk)
		if err != nil || len(answers) != 2 {
			t.Fatal(name, answers, err)
		}
		for i, a := range answers {
			before, err := b.Render(talk[:2*i+1], true)
			if err != nil || text[:a.Start] != before {
				t.Errorf("%s: before answer %d there is %q, but a prompt is %q, %v", name, i, text[:a.Start], before, err)
			}
			if !strings.Contains(text[a.Start:a.End], talk[2*i+1].Content) {
				t.Errorf("%s: answer %d is %q", name, i, text[a.Start:a.End])
			}
		}
		if end := answers[1].End; end != len(text) {
			t.Errorf("%s: behind the last answer there is %q", name, text[end:])
		}
	}
}

func TestBuiltinsRefuse(t *testing.T) {
	for _, name := range []string{"llama2", "mistral", "vicuna", "alpaca", "guanaco"} {
		for want, m := range map[string][]chat.Message{
			"message 2 is of role user":      {{Role: "user", Content: "a"}, {Role: "user", Content: "b"}},
			"message 1 is of role assistant": {{Role: "assistant", Content: "a"}},
			"message 2 is of role system":    {{Role: "user", Content: "a"}, {Role: "system", Content: "b"}},
			"no message of a user":           {{Role: "system", Content: "a"}},
			"conversation is empty":          nil,
		} {
			if _, err := builtin(t, name).Render(m, false); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v, want %s", name, err, want)
			}
		}
	}
	if _, err := chat.Builtin("lama2"); err == nil || !strings.Contains(err.Error(), "llama2") {
		t.Error(err)
	}
}

func TestLoad(t *testing.T) {
	const tokens = `"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null`
	for name, c := range map[string]struct {
		files      fstest.MapFS
		want, fail string
	}{
		"text":               {fstest.MapFS{"tokenizer_config.json": {Data: []byte(`{` + tokens + `, "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"}`)}}, "<s>Hi</s>", ""},
		"list":               {fstest.MapFS{"tokenizer_config.json": {Data: []byte(`{"chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]}`)}}, "yes", ""},
		"list of one":        {fstest.MapFS{"tokenizer_config.json": {Data: []byte(`{"chat_template": [{"name": "rag", "template": "it"}]}`)}}, "it", ""},
		"file":               {fstest.MapFS{"tokenizer_config.json": {Data: []byte(`{` + tokens + `, "chat_template": "old"}`)}, "chat_template.jinja": {Data: []byte("{{ eos_token }}new\n")}}, "</s>new", ""},
		"tokens of the map":  {fstest.MapFS{"special_tokens_map.json": {Data: []byte(`{` + tokens + `}`)}, "chat_template.jinja": {Data: []byte("{{ bos_token }}")}}, "<s>", ""},
		"no date":            {fstest.MapFS{"chat_template.jinja": {Data: []byte("{% if strftime_now is defined %}today{% else %}fixed{% endif %}")}}, "fixed", ""},
		"tools are none":     {fstest.MapFS{"chat_template.jinja": {Data: []byte("{{ tools is none and documents is none }}{% if not tools %}!{% endif %}")}}, "True!", ""},
		"none":               {fstest.MapFS{"tokenizer_config.json": {Data: []byte(`{` + tokens + `}`)}}, "", ""},
		"null":               {fstest.MapFS{"tokenizer_config.json": {Data: []byte(`{"chat_template": null}`)}}, "", ""},
		"empty folder":       {fstest.MapFS{}, "", ""},
		"list, no default":   {fstest.MapFS{"tokenizer_config.json": {Data: []byte(`{"chat_template": [{"name": "rag", "template": ""}, {"name": "tool_use", "template": ""}]}`)}}, "", "rag, tool_use"},
		"number":             {fstest.MapFS{"tokenizer_config.json": {Data: []byte(`{"chat_template": 3}`)}}, "", "tokenizer_config.json: chat_template: want a text"},
		"no JSON":            {fstest.MapFS{"tokenizer_config.json": {Data: []byte(`{`)}}, "", "tokenizer_config.json"},
		"line of a mistake":  {fstest.MapFS{"tokenizer_config.json": {Data: []byte(`{"chat_template": "a\n{{ b }}\n{{ c | nonsense }}"}`)}}, "", "tokenizer_config.json: chat_template: line 3: there is no filter nonsense"},
		"include":            {fstest.MapFS{"chat_template.jinja": {Data: []byte("{% include 'tokenizer_config.json' %}")}}, "", "line 1: {% include %} is not"},
		"file with mistakes": {fstest.MapFS{"chat_template.jinja": {Data: []byte("\n\n{% if %}")}}, "", "chat_template.jinja: line 3"},
	} {
		tmpl, err := chat.Load(c.files)
		switch {
		case c.fail != "":
			if err == nil || !strings.Contains(err.Error(), c.fail) {
				t.Errorf("%s: %v, want %s", name, err, c.fail)
			}
		case c.want == "":
			if tmpl != nil || err != nil {
				t.Errorf("%s: %v, %v, want none", name, tmpl, err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		default:
			if got, err := tmpl.Render(talk[:1], false); got != c.want || err != nil {
				t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
			}
		}
	}
}

// An error names the line of the template at which it came up.
func TestErrorsNameTheLine(t *testing.T) {
	for source, want := range map[string]string{
		"a\n{{ raise_exception('No ' + messages[0].role + '!') }}":                  "line 2: the template refuses this conversation: No user!",
		"{% for m in messages %}\n{{ m.content }}\n{{ m.tool.name }}\n{% endfor %}": `line 3: dict has no attribute "tool"`,
		"{#\n\n#}{{ 'a' + 1 }}":                             "line 3: str + int cannot be computed",
		"{{ strftime_now('%d %b') }}":                       "write a date into the template",
		"\n{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "line 2: macro f calls itself more than",
		"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}": "does not come to an end",
		"{{ range(1000000) }}":    "range has more than",
		"{{ 'x' * 10000000000 }}": "longer than",
		"{% set x = 'ab' * 1000000 %}{% for i in range(60) %}{% set x = x + x %}{{ x }}{% endfor %}": "longer than",
		"{{ 1 // 0 }}":                                       "division by zero",
		"{{ 'a'['b':] }}":                                    "want a whole number in a slice",
		"{{ messages[0][messages] }}":                        "list cannot be a key",
		"{% set ns = 1 %}{% set ns.x = 2 %}":                 "ns is no namespace",
		"{% for a, b in [[1, 2, 3]] %}{% endfor %}":          "3 values for 2 names",
		"{% macro f() %}{% generation %}{% endgeneration %}": "{% generation %} in a macro",
	} {
		tmpl, err := chat.New(source, "the template", nil)
		if err == nil {
			_, err = tmpl.Render(talk, false)
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "the template: line ") {
			t.Errorf("%q: %v, want %s", source, err, want)
		}
	}
	for _, deep := range []string{strings.Repeat("(", 1e5), strings.Repeat("{% if 1 %}", 1e5), "{{ " + strings.Repeat("not ", 1e5) + "1 }}", "{{ " + strings.Repeat("-", 1e5) + "1 }}",
		"{{ " + strings.Repeat("[", 1e5), "{% if 1 %}" + strings.Repeat("{% elif 1 %}", 1e5)} {
		if _, err := chat.New("{{ "+deep, "deep", nil); err == nil {
			t.Errorf("%.20q… is taken", deep)
		}
		if _, err := chat.New(deep, "deep", nil); err == nil && strings.HasPrefix(deep, "{") {
			t.Errorf("%.20q… is taken", deep)
		}
	}
}

// FuzzTemplate: whatever a template and a conversation say, there is a text or an error, twice the same.
func FuzzTemplate(f *testing.F) {
	for _, x := range readOriginals(f).Templates {
		f.Add(x.Template, "Hi", "{{ x }}")
	}
	f.Fuzz(func(t *testing.T, source, question, answer string) {
		tmpl, err := chat.New(source, "fuzz", map[string]string{"bos_token": "<s>"})
		if err != nil {
			return
		}
		m := []chat.Message{{Role: "system", Content: answer}, {Role: "user", Content: question}, {Role: "assistant", Content: answer}}
		text, answers, err := tmpl.RenderAnswers(m)
		again, spans, err2 := tmpl.RenderAnswers(m)
		if (err == nil) != (err2 == nil) || text != again || !slices.Equal(answers, spans) {
			t.Errorf("%q, %v, then %q, %v", text, err, again, err2)
		}
		for _, a := range answers {
			if a.Start > a.End || a.End > len(text) {
				t.Errorf("answer %v in %d bytes", a, len(text))
			}
		}
	})
}
