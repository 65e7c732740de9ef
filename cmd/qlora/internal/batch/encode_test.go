package batch_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/batch"
	"qlora/cmd/qlora/internal/chat"
	"qlora/cmd/qlora/internal/data"
	"qlora/cmd/qlora/internal/tokenizer"
	"qlora/ref/op"
)

// vectors is a file that conformance/oracle/chat.py wrote.
var vectors = flag.String("vectors", "testdata/masks.json", "ids and masks by transformers and TRL")

// originals are what TRL, transformers and qlora.py's rule make of examples.
type originals struct {
	Templates map[string]string
	Packed    []struct {
		Lengths []int
		Room    int
		Bins    [][]int
	}
	Grouped []struct {
		Lengths, Order []int
		Batch          int
		Result         []int
	}
	Cases []masked
}

type masked struct {
	Kind, By, Tokenizer, Template, BOS, EOS string
	Example                                 data.Example
	Limits                                  [3]int // source, target, whole
	IDs                                     []int32
	Counts                                  string
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

// load reads a tokenizer's folder, or one of the small ones of the tokenizer's own tests.
func load(t testing.TB, name string) *tokenizer.Tokenizer {
	t.Helper()
	folder := os.DirFS(name)
	if !filepath.IsAbs(name) {
		b, err := os.ReadFile("../tokenizer/testdata/small.zip")
		if err != nil {
			t.Fatal(err)
		}
		z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if folder, err = fs.Sub(z, name); err != nil {
			t.Fatal(err)
		}
	}
	k, err := tokenizer.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Ids and what counts are TRL's: of conversations with assistant_only_loss, or the last answer as a completion, or without a mask; where
// TRL has no mask, those tokens count that reach into an answer by their offsets. Prompts and responses are as in qlora.py.
func TestMasksAreTheOriginals(t *testing.T) {
	o := readOriginals(t)
	tokenizers := map[string]*tokenizer.Tokenizer{}
	compared := map[string]int{}
	for i, c := range o.Cases {
		k := tokenizers[c.Tokenizer]
		if k == nil {
			k = load(t, c.Tokenizer)
			tokenizers[c.Tokenizer] = k
		}
		e := batch.Encoder{Tokenizer: k, EOS: k.Encode(c.EOS)[0], Loss: batch.Loss(c.Kind), SourceMax: c.Limits[0], TargetMax: c.Limits[1], Max: c.Limits[2]}
		if c.Kind == "pair" {
			e.Loss = batch.Response
		} else {
			var err error
			if e.Template, err = chat.New(o.Templates[c.Template], c.Template, map[string]string{"bos_token": c.BOS, "eos_token": c.EOS}); err != nil {
				t.Fatal(err)
			}
			e.Template.Use(k, e.EOS)
		}
		got, err := e.Encode(c.Example)
		var counts strings.Builder
		for _, counted := range got.Counts {
			counts.WriteByte("01"[map[bool]int{true: 1}[counted]])
		}
		want := "0" + c.Counts[1:] // nothing predicts the first
		if err != nil || !slices.Equal(got.IDs, c.IDs) || counts.String() != want {
			t.Errorf("case %d, %s by %s, %s with %s: %v\n%+v\n%v\n%s, want\n%v\n%s", i, c.Kind, c.By, c.Tokenizer, c.Template, err, c.Example, got.IDs, counts.String(), c.IDs, want)
		}
		compared[c.Kind+" by "+c.By]++
	}
	t.Log(compared)
	if len(o.Cases) < 150 {
		t.Errorf("only %d cases", len(o.Cases))
	}
}

// wordy is an encoder on a small tokenizer of LLaMA-2's kind, <s> and </s>.
func wordy(t *testing.T) *batch.Encoder {
	t.Helper()
	return &batch.Encoder{Tokenizer: load(t, "llama2-prepend"), EOS: 2, Loss: batch.Response}
}

// However short the limits are, the last token of a response is the end of the sequence, the limits hold, and what is lost is counted.
func TestTheEndSurvives(t *testing.T) {
	x := data.Example{Prompt: "What light through yonder window breaks?", Response: "It is the east, and Juliet is the sun."}
	e := wordy(t)
	whole, err := e.Encode(x)
	if err != nil || whole.Cut != 0 {
		t.Fatal(whole, err)
	}
	for source := range 9 {
		for _, target := range []int{0, 2, 3, 7, 1000} {
			for _, most := range []int{0, 5, 9, 20, 1000} {
				e.SourceMax, e.TargetMax, e.Max = source, target, most
				r, err := e.Encode(x)
				prompt := slices.Index(r.Counts, true)
				switch {
				case errors.Is(err, batch.ErrNothingCounts) && most > 0 && prompt < 0:
					if r.Cut == 0 || !strings.Contains(err.Error(), "raise max_seq_length") {
						t.Errorf("%d, %d, %d: %v", source, target, most, err)
					}
				case err != nil:
					t.Errorf("%d, %d, %d: %v", source, target, most, err)
				case r.IDs[len(r.IDs)-1] != 2 || !r.Counts[len(r.IDs)-1] || slices.Contains(r.IDs[:len(r.IDs)-1], 2):
					t.Errorf("%d, %d, %d: %v does not end, or ends twice", source, target, most, r.IDs)
				case source > 0 && prompt > source || target > 0 && len(r.IDs)-prompt > target || most > 0 && len(r.IDs) > most:
					t.Errorf("%d, %d, %d: %d and %d tokens", source, target, most, prompt, len(r.IDs)-prompt)
				case len(r.IDs)+r.Cut != len(whole.IDs):
					t.Errorf("%d, %d, %d: %d tokens and %d cut off, of %d", source, target, most, len(r.IDs), r.Cut, len(whole.IDs))
				}
			}
		}
	}
}

func TestTexts(t *testing.T) {
	e := wordy(t)
	r, err := e.Encode(data.Example{Text: "To be"})
	if ids := e.Tokenizer.EncodeSpecial("To be"); err != nil || !slices.Equal(r.IDs, append(ids, 2)) || r.Counts[0] || slices.Contains(r.Counts[1:], false) {
		t.Error(r, err)
	}
	e.Max = 3
	if r, err = e.Encode(data.Example{Text: "To be or not to be"}); err != nil || len(r.IDs) != 3 || r.IDs[2] != 2 || r.Cut == 0 {
		t.Error(r, err)
	}
	s := r.Sequence()
	if !slices.Equal(s.IDs, r.IDs[:2]) || !slices.Equal(s.Labels, r.IDs[1:]) {
		t.Error(s)
	}
}

// A text is cut as a response is, and qlora.py's source_max_len takes nothing of it.
func TestTargetMaxOfTexts(t *testing.T) {
	e := wordy(t)
	e.SourceMax, e.TargetMax = 1, 3
	r, err := e.Encode(data.Example{Text: "To be or not to be"})
	if want := e.Tokenizer.EncodeSpecial("To be or not to be")[:3]; err != nil || !slices.Equal(r.IDs, append(slices.Clip(want), 2)) || r.Cut == 0 {
		t.Error(r, err)
	}
}

// However short max_seq_length is, an answer that counts is cut off whole, or ends in what closes it in the template: <|im_end|> or </s>, or,
// where the template has nothing there, the end of sequence. TRL leaves such an answer without an end.
func TestTheEndOfAnswersSurvives(t *testing.T) {
	talk := data.Example{Messages: []chat.Message{{Role: "user", Content: "What light?"}, {Role: "assistant", Content: "It is the east, and Juliet."},
		{Role: "user", Content: "And who else is there?"}, {Role: "assistant", Content: "Nobody but the moon, who is envious."}}}
	const bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
	for _, c := range []struct {
		name, tokenizer, end string
		loss                 batch.Loss
		template             func() (*chat.Template, error)
		ends                 bool
	}{
		{"chatml", "smollm2", "<|im_end|>", batch.Response, func() (*chat.Template, error) { return chat.Builtin("chatml") }, true},
		{"chatml, last", "smollm2", "<|im_end|>", batch.Last, func() (*chat.Template, error) { return chat.Builtin("chatml") }, true},
		{"chatml, all", "smollm2", "<|im_end|>", batch.All, func() (*chat.Template, error) { return chat.Builtin("chatml") }, true},
		{"llama2", "llama2-prepend", "</s>", batch.Response, func() (*chat.Template, error) { return chat.Builtin("llama2") }, true},
		{"bare", "smollm2", "<|endoftext|>", batch.Response, func() (*chat.Template, error) { return chat.New(bare, "bare", nil) }, false},
	} {
		e := &batch.Encoder{Tokenizer: load(t, c.tokenizer), Loss: c.loss, EOS: 2} // </s>
		end := e.EOS
		if c.tokenizer == "smollm2" {
			e.EOS, end = e.Tokenizer.Encode("<|endoftext|>")[0], e.Tokenizer.Encode(c.end)[0]
		}
		var err error
		if e.Template, err = c.template(); err != nil {
			t.Fatal(err)
		}
		e.Template.Use(e.Tokenizer, e.EOS)
		whole, err := e.Encode(talk)
		if err != nil || whole.Cut != 0 || whole.Ends != c.ends {
			t.Fatal(c.name, whole, err)
		}
		tried := 0
		for e.Max = 2; e.Max < len(whole.IDs); e.Max++ {
			r, err := e.Encode(talk)
			if errors.Is(err, batch.ErrNothingCounts) && c.loss != batch.All {
				continue
			}
			n := len(r.IDs)
			if err != nil || n > e.Max || n+r.Cut != len(whole.IDs) || !slices.Equal(r.IDs[:n-1], whole.IDs[:n-1]) {
				t.Errorf("%s, %d: %v, %v", c.name, e.Max, r, err)
				continue
			}
			if n > 2 && r.Counts[n-1] && !r.Counts[n-2] { // the first never counts
				t.Errorf("%s, %d: an answer of %d alone counts", c.name, e.Max, r.IDs[n-1])
			}
			if cut := whole.Counts[n-1] && whole.Counts[n]; cut && r.Counts[n-1] {
				// Uncut, an answer ends in white space after the token that closes it.
				if tried++; r.IDs[n-1] != end && r.IDs[n-2] != end {
					t.Errorf("%s, %d: %v ends in %d, want %d", c.name, e.Max, r.IDs, r.IDs[n-1], end)
				}
			}
		}
		if tried < 8 {
			t.Errorf("%s: only %d cuts go through an answer", c.name, tried)
		}
	}
}

// Labels are those of the next token, and nothing where it does not count.
func TestSequence(t *testing.T) {
	s := batch.Encoded{IDs: []int32{5, 6, 7, 8}, Counts: []bool{false, false, true, true}}.Sequence()
	if !slices.Equal(s.IDs, []int32{5, 6, 7}) || !slices.Equal(s.Labels, []int32{op.IgnoredLabel, 7, 8}) {
		t.Error(s)
	}
}

func TestLossAll(t *testing.T) {
	e := wordy(t)
	e.Loss = batch.All
	r, err := e.Encode(data.Example{Prompt: "To be", Response: "or not"})
	if err != nil || slices.Contains(r.Counts[1:], false) || r.Counts[0] {
		t.Error(r, err)
	}
}

// Built-in templates work with tokenizers that do not find <s> and </s> in a text: the tokens are there, and the last one counts.
func TestTokensOfBuiltinTemplates(t *testing.T) {
	for _, name := range []string{"stories260k", "llama2-first"} {
		e := &batch.Encoder{Tokenizer: load(t, name), EOS: 2, Loss: batch.Response}
		for _, template := range chat.Names() {
			var err error
			if e.Template, err = chat.Builtin(template); err != nil {
				t.Fatal(err)
			}
			e.Template.Use(e.Tokenizer, e.EOS)
			r, err := e.Encode(data.Example{Messages: []chat.Message{{Role: "user", Content: "Once"}, {Role: "assistant", Content: "upon a time"}}})
			if err != nil {
				t.Error(name, template, err)
				continue
			}
			ends, ofTemplate := 0, map[string]int{"chatml": 0, "llama3": 0}
			for i, id := range r.IDs {
				if id == 2 && r.Counts[i] {
					ends++
				}
			}
			want, other := ofTemplate[template]
			if !other {
				want = 1
			}
			if ends != want || !r.Counts[len(r.IDs)-1] {
				t.Errorf("%s, %s: %d ends count in %v", name, template, ends, r)
			}
			if begins := r.IDs[0] == 1; begins == (template == "chatml") {
				t.Errorf("%s, %s: begins with %d", name, template, r.IDs[0])
			}
		}
	}
}

// A token across the end of an answer belongs to it, as in transformers; so does one across its beginning.
func TestTokensAcrossTheEnds(t *testing.T) {
	e := wordy(t)
	ids := e.Tokenizer.Encode("a the a")
	if len(ids) != 3 {
		t.Fatalf("%v: want a tokenizer with the word", ids)
	}
	var err error
	if e.Template, err = chat.New("a t{% generation %}h{% endgeneration %}e a", "a word", nil); err != nil {
		t.Fatal(err)
	}
	r, err := e.Encode(data.Example{Messages: []chat.Message{{Role: "user", Content: "x"}}})
	if err != nil || !slices.Equal(r.IDs, ids) || !slices.Equal(r.Counts, []bool{false, true, false}) {
		t.Errorf("%v, %v, want %v", r, err, ids)
	}
}

func TestRefusals(t *testing.T) {
	talk := []chat.Message{{Role: "user", Content: "a"}, {Role: "assistant", Content: "b"}, {Role: "user", Content: "c"}, {Role: "assistant", Content: "d"}}
	// Writes the last answer otherwise than those before it, as templates do that leave out what a model thought.
	const forgetful = "{% for m in messages %}{{ m.role }}: {% if loop.last and m.role == 'assistant' %}(thought) {% endif %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
	template := func(source string) *chat.Template {
		c, err := chat.New(source, "forgetful", nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, c := range map[string]struct {
		change func(e *batch.Encoder)
		x      data.Example
		want   string // "" for no error
	}{
		"no end of sequence": {func(e *batch.Encoder) { e.EOS = -1 }, data.Example{Prompt: "a", Response: "b"}, "--eos-token"},
		"no end of a text":   {func(e *batch.Encoder) { e.EOS = -1 }, data.Example{Text: "a"}, "--eos-token"},
		"no template":        {func(e *batch.Encoder) {}, data.Example{Messages: talk}, "--chat-template, one of alpaca, chatml"},
		"no prefix":          {func(e *batch.Encoder) { e.Template = template(forgetful) }, data.Example{Messages: talk}, "forgetful writes the conversation up to turn 2 otherwise"},
		"no prefix, last":    {func(e *batch.Encoder) { e.Template, e.Loss = template(forgetful), batch.Last }, data.Example{Messages: talk}, ""},
		"no prefix, all":     {func(e *batch.Encoder) { e.Template, e.Loss = template(forgetful), batch.All }, data.Example{Messages: talk}, ""},
		"answers dropped": {func(e *batch.Encoder) {
			e.Template = template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
		},
			data.Example{Messages: talk}, "up to turn 2 otherwise"},
		"assistant first": {func(e *batch.Encoder) { e.Template = template(forgetful) }, data.Example{Messages: talk[1:]}, "begins with the assistant"},
		"no answer":       {func(e *batch.Encoder) { e.Template = template(forgetful) }, data.Example{Messages: talk[:1]}, "no answer"},
		"too short":       {func(e *batch.Encoder) { e.Template, e.Loss, e.Max = template(forgetful), batch.Last, 4 }, data.Example{Messages: talk}, "no token counts for the loss"},
		"nothing generated": {func(e *batch.Encoder) {
			e.Template = template("{{ messages[0].content }}{% generation %}{% endgeneration %}")
		},
			data.Example{Messages: talk}, "no token counts"},
		"template's error": {func(e *batch.Encoder) { e.Template = template("\n{{ raise_exception('No.') }}") }, data.Example{Messages: talk}, "forgetful: line 2"},
	} {
		e := wordy(t)
		c.change(e)
		_, err := e.Encode(c.x)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}
