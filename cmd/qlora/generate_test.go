package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const once = "Once upon a time"

// told is what the demo tells, without the prompt and the last line feed.
func told(t *testing.T, flags ...string) string {
	t.Helper()
	out := must(t, append([]string{"generate", "--prompt", once, "--tokens", "60"}, flags...)...)
	rest, ok := strings.CutPrefix(strings.TrimSuffix(out, "\n"), once)
	if !ok {
		t.Fatalf("%q", out)
	}
	return rest
}

// Whatever part of a text is a stop text, the output ends before it, and has nothing of it.
func TestStopTexts(t *testing.T) {
	all := told(t)
	for from := 0; from+9 < len(all); from += 19 {
		for _, n := range []int{1, 4, 9} {
			stop := all[from : from+n]
			want, _, _ := strings.Cut(all, stop)
			if got := told(t, "--stop", "not there", "--stop="+stop); got != want {
				t.Errorf("stop %q: %q, want %q", stop, got, want)
			}
		}
	}
}

// Settings that leave only the likeliest token are greedy; others change the text, and with the same seed it is the same.
func TestSamplingFlags(t *testing.T) {
	greedy := told(t)
	for _, flags := range []string{"--temperature 1 --top-k 1", "--temperature 1 --min-p 1", "--temperature 1 --top-p 1e-6", "--temperature 1e-4", "--repetition-penalty 1",
		"--min-new-tokens 60"} {
		if got := told(t, strings.Fields(flags)...); got != greedy {
			t.Errorf("%s: %q, want %q", flags, got, greedy)
		}
	}
	seen := map[string]string{greedy: "greedy"}
	for _, flags := range []string{"--temperature 1", "--temperature 1 --seed 2", "--temperature 1 --min-p 0.2", "--repetition-penalty 1.5", "--no-repeat-ngram-size 2"} {
		got := told(t, strings.Fields(flags)...)
		if other, ok := seen[got]; ok {
			t.Errorf("%s gives what %s gives", flags, other)
		}
		if seen[got] = flags; told(t, strings.Fields(flags)...) != got {
			t.Errorf("%s gives something else the second time", flags)
		}
	}
}

func TestGenerateJSON(t *testing.T) {
	var a answer
	if err := json.Unmarshal([]byte(must(t, "generate", "--prompt", once, "--tokens", "60", "--json")), &a); err != nil {
		t.Fatal(err)
	}
	if a.Prompt != once || a.Text != told(t) || a.Tokens != 60 || a.End != endLength {
		t.Errorf("%+v", a)
	}
	out := must(t, "generate", "--prompt", once, "--tokens", "60", "--json", "--stop", a.Text[20:24])
	if err := json.Unmarshal([]byte(out), &a); err != nil || a.End != endStop || a.Tokens >= 60 {
		t.Error(err, out)
	}
}

// A file of results that was cut anywhere becomes, by the same command, what it is without the cut.
func TestPromptsGoOn(t *testing.T) {
	tmp := t.TempDir()
	prompts, out := filepath.Join(tmp, "prompts.txt"), filepath.Join(tmp, "out.jsonl")
	if err := os.WriteFile(prompts, []byte("\ufeffOnce\r\n\nThe dog\n  Tom \nÉ\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"generate", "--prompts", prompts, "--tokens", "12", "--temperature", "1", "--seed", "7"}
	onScreen := must(t, args...)
	args = append(args, "--output", out)
	must(t, args...)
	whole, err := os.ReadFile(out)
	if err != nil || string(whole) != onScreen {
		t.Fatalf("%v\n%s\nwant\n%s", err, whole, onScreen)
	}
	for i, line := range bytes.Split(bytes.TrimSpace(whole), []byte("\n")) {
		want := struct {
			line   int
			prompt string
		}{[]int{1, 3, 4, 5}[i], []string{"Once", "The dog", "  Tom ", "É"}[i]}
		var a answer
		if err := json.Unmarshal(line, &a); err != nil || a.Line != want.line || a.Prompt != want.prompt || a.Tokens > 12 {
			t.Errorf("%v %s", err, line)
		}
		alone := must(t, "generate", "--prompt", want.prompt, "--tokens", "12", "--temperature", "1", "--seed", fmt.Sprint(7+i), "--json")
		var b answer
		if err := json.Unmarshal([]byte(alone), &b); err != nil || b.Text != a.Text {
			t.Errorf("%q alone, %q in the file", b.Text, a.Text)
		}
	}
	for cut := 0; cut <= len(whole); cut += 41 {
		if err := os.WriteFile(out, whole[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		must(t, args...)
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, whole) {
			t.Fatalf("cut at %d: %v\n%s", cut, err, got)
		}
	}
	// Nothing that is not ours is lost.
	for what, content := range map[string]string{"a poem": "Roses are red,\n", "a poem's beginning": "Roses", "other settings": strings.Replace(string(whole), `"settings":"`, `"settings":"0`, 1),
		"other prompts": strings.Replace(string(whole), "The dog", "The cat", 1), "more": string(whole) + string(whole)} {
		if err := os.WriteFile(out, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, stderr, code := cli(t, "", args...); code != 1 || !strings.Contains(stderr, "another --output") {
			t.Errorf("%s: %d %s", what, code, stderr)
		}
		if got, err := os.ReadFile(out); err != nil || string(got) != content {
			t.Errorf("%s was changed: %q", what, got)
		}
	}
}

func TestGenerateMistakes(t *testing.T) {
	tmp := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(tmp, name)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	good := write("good.txt", "Once\n")
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"--num-beams 4", 2, "Beam search is not here"},
		{"--min-p 2", 2, "min_p is 2"},
		{"--repetition-penalty 0", 2, "repetition_penalty is 0"},
		{"--repetition-penalty=-1", 2, "repetition_penalty is -1"},
		{"--min-new-tokens 300", 2, "min_new_tokens is 300"},
		{"--no-repeat-ngram-size=-1", 2, "no_repeat_ngram_size is -1"},
		{"--stop=", 2, "a stop text is empty"},
		{"--prompt a --prompts " + good, 2, "want one of them"},
		{"--prompt a --output " + good, 2, "--output is for"},
		{"--chat", 2, "--chat needs a message"},
		{"--chat --prompt a", 2, "--chat-template"},
		{"--chat-template klingon --prompt a", 2, "klingon"},
		{"--prompts " + filepath.Join(tmp, "none"), 1, "none"},
		{"--prompts " + write("empty.txt", "\n \n"), 1, "there are none"},
		{"--prompts " + write("latin.txt", "Once\nna\xefve\n"), 1, "latin.txt:2: not UTF-8"},
		{"--prompts " + write("bad.jsonl", "{\"prompt\": \"a\"}\n\n{\"promt\": \"b\"}\n"), 1, "bad.jsonl:3"},
		{"--prompts " + write("broken.jsonl", "{\"prompt\": \"a\"\n"), 1, "broken.jsonl:1"},
		{"--prompts " + write("both.jsonl", "{\"prompt\": \"a\", \"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n"), 1, "both.jsonl:1"},
		{"--prompts " + write("talk.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n"), 2, "give --chat"},
		{"--prompts " + write("list.json", "[]"), 1, "list.json: want lines"},
		{"--prompts " + good + " --output " + filepath.Join(tmp, "no", "such", "folder"), 1, "folder"},
		{"--tokens 600 --prompts " + good, 1, "good.txt:1: a prompt of"},
	} {
		out, err, code := cli(t, "", append([]string{"generate"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(err, c.want) || out != "" {
			t.Errorf("qlora generate %s: exit code %d, %q, %q; want %d, %q", c.args, code, err, out, c.code, c.want)
		}
	}
}
