package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/batch"
	"qlora/cmd/qlora/internal/data"
	"qlora/cmd/qlora/internal/demo"
	"qlora/ref/train"
)

// file writes a file of test data and gives its path.
func file(t *testing.T, name string, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func showDemo(t *testing.T, args ...string) string {
	t.Helper()
	return must(t, append([]string{"data", "show", "--model", "demo", "--seq-len", "128"}, args...)...)
}

func wants(t *testing.T, out string, parts ...string) {
	t.Helper()
	for _, want := range parts {
		if !strings.Contains(out, want) {
			t.Errorf("%s\nhas no %q", out, want)
		}
	}
}

// What is shown is what the model sees: tokens that stand for no text by name, and marks around what counts.
func TestDataShow(t *testing.T) {
	alpaca := file(t, "alpaca.jsonl", `{"instruction": "Say hi.", "input": "", "output": "Hi you!"}`)
	chat := file(t, "chat.jsonl", `{"messages": [{"role": "user", "content": "Once"}, {"role": "assistant", "content": "upon"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "time"}]}`)
	qa := file(t, "qa.jsonl", `{"question": "Who?", "answer": "Me."}`)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--data", alpaca}, []string{"alpaca.jsonl: line 1", "<s>Below is an instruction", "### Response: ⟦ Hi you!</s>⟧\n"}},
		{[]string{"--data", alpaca, "--train-on-source"}, []string{"<s>⟦Below is an instruction", "Hi you!</s>⟧\n"}},
		{[]string{"--data", alpaca, "--color"}, []string{"\x1b[7m<s>\x1b[27mBelow", "\x1b[32m Hi you!\x1b[7m</s>\x1b[27m\x1b[0m\n"}},
		{[]string{"--data", chat, "--chat-template", "guanaco"}, []string{"### Assistant:⟦ upon⟧### Human: a### Assistant:⟦ time</s>⟧\n"}},
		{[]string{"--data", chat, "--chat-template", "guanaco", "--loss", "last"}, []string{"### Assistant: upon### Human: a### Assistant:⟦ time</s>⟧\n"}},
		{[]string{"--data", qa, "--columns", "prompt=question,response=answer"}, []string{"<s>Who?⟦ Me.</s>⟧\n"}},
		{[]string{"--data", qa, "--columns", "prompt=question,response=answer", "--chat-template", "vicuna"}, []string{"USER: Who? ASSISTANT:⟦ Me.</s>⟧\n"}},
		{[]string{"--data", "demo", "--n", "1"}, []string{"<s>⟦", "⟧\n", "examples    ", "held out"}},
	} {
		wants(t, showDemo(t, c.args...), c.want...)
	}
}

func TestDataShowStatistics(t *testing.T) {
	var lines []string
	for _, words := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 90} {
		b, err := json.Marshal(map[string]string{"prompt": "x", "completion": strings.Repeat("y", words)})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(b))
	}
	name := file(t, "pairs.jsonl", lines...)
	var s dataStatistics
	if err := json.Unmarshal([]byte(must(t, "data", "show", "--data", name, "--seq-len", "32", "--json")), &s); err != nil {
		t.Fatal(err)
	}
	if s.Examples != 10 || s.Cut != 1 || s.Longest != 32 || s.Skipped != 0 || s.Shortest < 3 || s.Median < s.Shortest || s.P95 != 32 || s.Counted+3*s.Examples > s.Tokens+2*s.Examples {
		t.Errorf("%+v", s)
	}
	if s.Slots >= 10 || s.Slots < s.Tokens/32 || s.Filled < 0.5 || s.Filled > 1 {
		t.Errorf("packing: %+v", s)
	}
	if err := json.Unmarshal([]byte(must(t, "data", "show", "--data", name, "--seq-len", "32", "--json", "--group-by-length", "--eval-dataset-size", "0.2")), &s); err != nil {
		t.Fatal(err)
	}
	if s.Examples != 8 || s.HeldOut != 2 || s.Slots != 8 {
		t.Errorf("held out: %+v", s)
	}
}

// A row without a token to learn from is an error that names it, or it is left out and counted.
func TestDataShowSkips(t *testing.T) {
	name := file(t, "long.jsonl", `{"prompt": "`+strings.Repeat("long ", 40)+`", "completion": "a"}`, `{"prompt": "b", "completion": "c"}`, `{"prompt": "no completion"}`)
	_, err, code := cli(t, "", "data", "show", "--data", name, "--seq-len", "32")
	if code != 1 || !strings.Contains(err, "line 3") || !strings.Contains(err, "--skip-bad-rows") {
		t.Errorf("%d: %s", code, err)
	}
	out, err, code := cli(t, "", "data", "show", "--data", name, "--seq-len", "32", "--skip-bad-rows")
	if code != 0 {
		t.Fatal(err)
	}
	wants(t, out, "examples    1", "left out 2")
	wants(t, err, "2 rows left out", "line 1: no token counts for the loss", "line 3: ")
	name = file(t, "long.jsonl", `{"prompt": "`+strings.Repeat("long ", 40)+`", "completion": "a"}`)
	_, err, code = cli(t, "", "data", "show", "--data", name, "--seq-len", "32")
	if code != 1 || !strings.Contains(err, "line 1: no token counts for the loss") || !strings.Contains(err, "raise max_seq_length; or leave such rows out") {
		t.Errorf("%d: %s", code, err)
	}
}

func TestDataShowRefuses(t *testing.T) {
	pairs := file(t, "pairs.jsonl", `{"prompt": "a", "completion": "b"}`)
	chat := file(t, "chat.jsonl", `{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}`)
	broken := file(t, "broken.jinja", "\n{{ messages | nonsense }}")
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, "no flag", []string{"x"}},
		{2, "n is -1", []string{"--n=-1"}},
		{2, "max_seq_length is 1", []string{"--seq-len", "1"}},
		{2, "the context of demo has 512", []string{"--seq-len", "513"}},
		{2, `loss "half"`, []string{"--loss", "half"}},
		{2, "contradicts", []string{"--loss", "last", "--train-on-source"}},
		{2, "target_max_len is 1", []string{"--target-max-len", "1"}},
		{2, "must not be negative", []string{"--source-max-len=-1"}},
		{2, "is no number", []string{"--data", pairs, "--dataset-weights", "x"}},
		{2, "2 numbers for 1 datasets", []string{"--data", pairs, "--dataset-weights", "1,2"}},
		{2, "both given", []string{"--data", pairs, "--eval-data", pairs, "--eval-dataset-size", "1"}},
		{2, "prompt=question", []string{"--data", pairs, "--columns", "prompt"}},
		{2, "is not built in: want alpaca", []string{"--data", chat, "--chat-template", "lama"}},
		{2, "chat_template model: demo has none", []string{"--data", chat, "--chat-template", "model"}},
		{1, "--chat-template, one of alpaca", []string{"--data", chat}},
		{1, "broken.jinja: line 2", []string{"--data", chat, "--chat-template", broken}},
		{2, "not one", []string{"--data", pairs, "--eos-token", "the end"}},
		{1, "no such file", []string{"--data", "nowhere.jsonl"}},
		{2, "leave none to train on", []string{"--data", pairs, "--eval-dataset-size", "1"}},
	} {
		_, err, code := cli(t, "", append([]string{"data", "show"}, c.args...)...)
		if code != c.code || !strings.Contains(err, c.want) {
			t.Errorf("%v: exit code %d, want %d\n%s\nwant %q", c.args, code, c.code, err, c.want)
		}
	}
}

// Weighted sets come up in their proportion; held-out examples are of the sets, and not trained on; the same seed gives the same.
func TestLoadMixesAndHoldsOut(t *testing.T) {
	var a, b []string
	for i := range 20 {
		a = append(a, `{"prompt": "a", "completion": "`+strings.Repeat("u", i+1)+`"}`)
		b = append(b, `{"prompt": "b", "completion": "`+strings.Repeat("v", i+1)+`"}`)
	}
	o := defaultData()
	o.Data, o.Weights, o.HeldOutSize, o.SeqLen = []string{file(t, "a.jsonl", a...), file(t, "b.jsonl", b...)}, []string{"3", "1"}, 8, 64
	m, err := base.Open("demo")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	l, err := o.load(m, 1)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, p := range l.places {
		counts[filepath.Base(p.File)]++
	}
	if len(l.heldOut) != 8 || len(l.examples) != len(l.places) || counts["a.jsonl"] < 5*counts["b.jsonl"]/2 || counts["b.jsonl"] < 10 {
		t.Errorf("%d held out, %v", len(l.heldOut), counts)
	}
	for _, h := range l.heldOut {
		for _, x := range l.examples {
			if slices.Equal(h.IDs, x.IDs) {
				t.Errorf("%v is trained on and held out", h.IDs)
			}
		}
	}
	again, err := o.load(m, 1)
	if err != nil || again.digest() != l.digest() || !reflect.DeepEqual(again.heldOut, l.heldOut) {
		t.Error("the same seed gives other examples", err)
	}
	other, err := o.load(m, 2)
	if err != nil || other.digest() == l.digest() {
		t.Error("another seed gives the same examples", err)
	}
	o.Most, o.MostHeldOut = 3, 2
	if l, err = o.load(m, 1); err != nil || len(l.examples) != 3 || len(l.heldOut) != 2 {
		t.Error(len(l.examples), len(l.heldOut), err)
	}
}

// A text is in blocks of max_seq_length tokens, each of which begins as a text does and predicts every token once, in the order of plain
// batches although packing is on.
func TestLoadDemo(t *testing.T) {
	m, err := base.Open("demo")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	text, err := data.ReadText(demo.Data(), demo.Text)
	if err != nil {
		t.Fatal(err)
	}
	o := defaultData()
	o.SeqLen = 256
	l, err := o.load(m, 1)
	if err != nil {
		t.Fatal(err)
	}
	want := data.Sequences(m.Tokenizer.Encode(text), m.Tokenizer.Start(), 256)
	if !reflect.DeepEqual(l.sequences(), want) || len(want) < 100 || len(l.heldOut) == 0 {
		t.Errorf("%d sequences and %d held out, want %d", len(l.examples), len(l.heldOut), len(want))
	}
	b, err := batch.New(l.sequences(), batch.Options{Mode: o.mode(), Seed: 1, Max: 256, Micro: 2, Accumulate: 2})
	if err != nil {
		t.Fatal(err)
	}
	order := data.Order{Seed: 1, Count: len(want)}
	for step := range len(want) {
		var plain train.Sequences
		for _, i := range order.Batch(4*step, 4) {
			plain = append(plain, want[i])
		}
		if micro := b.Batch(step); !reflect.DeepEqual(slices.Concat(micro...), plain) {
			t.Fatalf("step %d differs", step)
		}
	}
}
