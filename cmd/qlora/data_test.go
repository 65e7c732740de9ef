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
	"qlora/cmd/qlora/internal/config"
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
	input := file(t, "input.jsonl", `{"instruction": "Add.", "input": "1 2", "output": "3"}`)
	text := file(t, "text.jsonl", `{"text": "Once upon a time"}`)
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
		{[]string{"--data", alpaca, "--chat-template", "vicuna"}, []string{"USER: Say hi. ASSISTANT:⟦ Hi you!</s>⟧\n"}},
		{[]string{"--data", input, "--chat-template", "guanaco"}, []string{"<s>### Human: Add.\n\n1 2### Assistant: ⟦3</s>⟧\n"}},
		{[]string{"--data", text, "--target-max-len", "3"}, []string{"<s>⟦Once upon</s>⟧\n", "2 were cut off", "cut         1"}},
		{[]string{"--data", qa, "--columns", "prompt=question,response=answer", "--group-by-length"}, []string{"<s>Who?⟦ Me.</s>⟧\n"}},
		{[]string{"--model-name-or-path", "demo", "--data", "demo", "--n", "1"}, []string{"<s>⟦", "⟧\n", "shakespeare.txt: block ", "examples    ", "held out"}},
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
		{2, "source_max_len 20 and target_max_len 10 are more than max_seq_length 29", []string{"--source-max-len", "20", "--target-max-len", "10", "--max-seq-length", "29"}},
		{2, "conversations, which are cut as a whole", []string{"--data", chat, "--chat-template", "vicuna", "--source-max-len", "20"}},
		{2, "conversations, which are cut as a whole", []string{"--data", pairs, "--chat-template", "vicuna", "--target-max-len", "20"}},
		{2, "cut into blocks", []string{"--target-max-len", "20"}},
		{1, "fetch a file of timdettmers/openassistant-guanaco", []string{"--data", "oasst1"}},
		{2, "configuration: open nowhere.yaml", []string{"--config", "nowhere.yaml"}},
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

// Without max_seq_length it is the sum of qlora.py's two, which a model's context cuts down.
func TestMaxSeqLength(t *testing.T) {
	for flags, want := range map[string][2]int{ // with any model, and with one of 512 tokens
		"": {512, 512},
		"--source-max-len 384 --target-max-len 128":                       {512, 512},
		"--source-max-len 1024 --target-max-len 256":                      {1280, 512},
		"--source-max-len 1024":                                           {512, 512},
		"--source-max-len 16 --target-max-len 100 --max-seq-length 300":   {300, 300},
		"--source-max-len 16 --target-max-len 512 --max-seq-length 528":   {528, 512},
		"--source-max-len 1000 --max-seq-length 1000 --target-max-len 0":  {1000, 1000},
		"--seq-len 600 --group-by-length":                                 {600, 600},
		"--seq-len 600 --group-by-length --packing --train-on-source":     {600, 600},
		"--max-seq-length 0 --source-max-len 200 --target-max-len 100":    {300, 300},
		"--max-seq-length 0 --source-max-len 200 --packing=false --bf16 ": {512, 512},
	} {
		o, err := readTrainOptions(append(strings.Fields(flags), "--model", "any"))
		if err != nil {
			t.Error(flags, err)
			continue
		}
		if got := [2]int{o.SeqLen, o.longest(512)}; got != want || o.Group && o.Packing {
			t.Errorf("%s: %v, want %v; grouped %v and packed %v", flags, got, want, o.Group, o.Packing)
		}
		// What a run writes down, it can read.
		again := defaultTrain()
		if err := config.ParseYAML([]byte(o.yaml()), "yaml", &again); err != nil {
			t.Fatal(err)
		}
		if err := again.resolve(); err != nil || again.check() != nil || again.yaml() != o.yaml() {
			t.Errorf("%s: %v %v\n%s", flags, err, again.check(), again.yaml())
		}
	}
	if o, err := readTrainOptions(nil); err != nil || o.SeqLen != 256 {
		t.Error("the demo", o.SeqLen, err)
	}
}

// A training run's file says what is shown, and flags win over it.
func TestDataShowConfig(t *testing.T) {
	pairs := file(t, "pairs.jsonl", `{"q": "a", "a": "b"}`, `{"q": "c", "a": "d"}`, `{"q": "e", "a": "f"}`)
	name := file(t, "train.yaml", "model: demo", "dataset: "+pairs, "columns: prompt=q,response=a", "learning_rate: 1e-3", "max_steps: 9", "data_seed: 3", "max_seq_length: 32")
	out := must(t, "data", "show", "--config", name)
	wants(t, out, "examples    3", "sequences   1 of up to 32 tokens", "⟦")
	if again := must(t, "data", "show", "--config", name, "--seed", "8"); again != out {
		t.Errorf("data_seed does not hold:\n%s\n%s", out, again)
	}
	orders := map[string]bool{}
	for _, seed := range []string{"1", "2", "4", "5", "6", "7"} {
		orders[must(t, "data", "show", "--config", name, "--data-seed", seed)] = true
	}
	if len(orders) < 2 {
		t.Error("data_seed changes nothing")
	}
}

// What somebody should know about their data is said.
func TestDataWarnings(t *testing.T) {
	pairs := file(t, "pairs.jsonl", `{"prompt": "a", "completion": "b"}`, `{"prompt": "c", "completion": "d"}`, `{"prompt": "c", "completion": "d"}`)
	chat := file(t, "chat.jsonl", `{"messages": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]}`)
	text := file(t, "text.jsonl", `{"text": "### Human: a### Assistant: b"}`)
	endless := file(t, "endless.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}")
	const stop, none, seen = "will not learn to stop", "is for none of its examples", "held-out examples are trained on, too"
	for _, c := range []struct {
		args []string
		want string // "" for no warning
	}{
		{[]string{"--data", chat, "--chat-template", endless}, stop},
		{[]string{"--data", chat, "--chat-template", "vicuna"}, ""},
		{[]string{"--data", chat, "--chat-template", "guanaco", "--loss", "all"}, ""},
		{[]string{"--data", pairs}, ""},
		{[]string{"--data", text}, ""},
		{[]string{"--data", text, "--chat-template", "vicuna"}, "text.jsonl: chat_template vicuna " + none},
		{[]string{"--data", pairs, "--chat-template", "vicuna"}, ""},
		{[]string{"--data", pairs, "--eval-data", pairs}, "3 of 3 " + seen},
		{[]string{"--data", pairs, "--eval-data", chat, "--chat-template", "vicuna"}, ""},
		{[]string{"--n", "0"}, ""},
	} {
		_, err, code := cli(t, "", append([]string{"data", "show"}, c.args...)...)
		if code != 0 {
			t.Errorf("%v: %s", c.args, err)
		}
		for _, warning := range []string{stop, none, seen} {
			if has, want := strings.Contains(err, warning), strings.HasSuffix(c.want, warning); has != want || !strings.Contains(err, c.want) {
				t.Errorf("%v: %s\nwant %q", c.args, err, c.want)
			}
		}
	}
}

// What one row became is held out together, also where two sets have the row; and what is held out has a digest of its own.
func TestHeldOutRows(t *testing.T) {
	m, err := base.Open("demo")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var rows []string
	for i := range 20 {
		n := strings.Repeat("n", i+1)
		rows = append(rows, `{"instruction": "I", "instances": [{"input": "`+n+`", "output": "a"}, {"input": "`+n+`", "output": "b"}, {"input": "`+n+`", "output": "c"}]}`)
	}
	name := file(t, "tasks.jsonl", rows...)
	o := defaultData()
	o.Data, o.HeldOutSize, o.SeqLen = []string{name}, 5, 256
	l, err := o.load(m, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.heldOut) != 15 || len(l.examples) != 45 || l.repeated != 0 {
		t.Fatal(len(l.heldOut), len(l.examples), l.repeated)
	}
	trained := map[data.Place]int{}
	for _, p := range l.places {
		trained[p]++
	}
	if len(trained) != 15 {
		t.Errorf("%d rows are trained on: %v", len(trained), trained)
	}
	o.MostHeldOut = 14
	fewer, err := o.load(m, 1)
	if err != nil || fewer.digest() != l.digest() || fewer.heldOutDigest() == l.heldOutDigest() || l.heldOutDigest() == l.digest() {
		t.Error("digests", err)
	}
	o.Data, o.MostHeldOut = []string{name, name}, 0
	if l, err = o.load(m, 1); err != nil || len(l.heldOut) != 30 || l.repeated != 0 {
		t.Error("the same file twice", len(l.heldOut), l.repeated, err)
	}
	o.HeldOutSize = 0
	if l, err = o.load(m, 1); err != nil || l.heldOutDigest() != "" {
		t.Error(l.heldOutDigest(), err)
	}
}
