package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// talk gives what a conversation with the demo writes, and what it says besides.
func talk(t *testing.T, lines string, flags ...string) (answers, said string) {
	t.Helper()
	answers, said, code := cli(t, lines, append([]string{"chat", "--tokens", "15", "--chat-template", "guanaco"}, flags...)...)
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, said)
	}
	return answers, said
}

// A conversation's answers are those that generate gives to the messages so far, with the seed and the number of messages before: what the
// cache keeps from turn to turn changes nothing.
func TestConversation(t *testing.T) {
	file := filepath.Join(t.TempDir(), "talk.jsonl")
	talk(t, "Once there was a dog.\nWhat did Tom do?\n And the sun?\n/save "+file+"\n", "--temperature", "1", "--system", "A story.", "--seed", "5")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all prompt
	if err := json.Unmarshal(b, &all); err != nil || len(all.Messages) != 7 || all.Messages[0] != (message{"system", "A story."}) || all.Messages[5].Content != "And the sun?" {
		t.Fatalf("%v %s", err, b)
	}
	for turn := range 3 {
		line, err := json.Marshal(prompt{Messages: all.Messages[:2*turn+2]})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, line, 0o644); err != nil {
			t.Fatal(err)
		}
		var a answer
		out := must(t, "generate", "--prompts", file, "--chat-template", "guanaco", "--tokens", "15", "--temperature", "1", "--top-p", "0.9", "--seed", []string{"5", "6", "7"}[turn])
		if err := json.Unmarshal([]byte(out), &a); err != nil || strings.TrimSpace(a.Text) != all.Messages[2*turn+2].Content {
			t.Errorf("turn %d: %q in the conversation, %q by itself", turn, all.Messages[2*turn+2].Content, a.Text)
		}
	}
}

// What is typed does what /help says.
func TestChatCommands(t *testing.T) {
	once, _ := talk(t, "Hello.\n")
	if twice, _ := talk(t, "Hello.\n/reset\nHello.\n"); twice != once+once {
		t.Errorf("%q, want %q twice", twice, once)
	}
	if first, _ := talk(t, "", "--prompt", "Hello."); first != once {
		t.Errorf("%q, want %q", first, once)
	}
	with, _ := talk(t, "/system Be a cat.\nHello.\n")
	if flag, _ := talk(t, "Hello.", "--system", "Be a cat."); flag != with || with == once {
		t.Errorf("%q and %q", flag, with)
	}
	if without, _ := talk(t, "/system\n\nHello.\r\n", "--system", "Be a cat."); without != once {
		t.Errorf("%q, want %q", without, once)
	}
	if quit, said := talk(t, "/help\n/quit\nHello.\n"); quit != "" || !strings.Contains(said, "/save FILE") {
		t.Errorf("%q %q", quit, said)
	}
	mine := filepath.Join(t.TempDir(), "mine")
	if err := os.WriteFile(mine, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{"/sing": "there is no /sing", "/save": "name is missing", "/save " + mine + "2": "nothing to save", "/save " + mine: "another name", strings.Repeat("many words ", 300): "shorten it"} {
		out, err, code := cli(t, line+"\nHello.\n", "chat", "--chat-template", "guanaco")
		if code != 1 || !strings.Contains(err, want) || out != "" {
			t.Errorf("%.20s: %d %q %q", line, code, out, err)
		}
	}
	if b, err := os.ReadFile(mine); err != nil || string(b) != "mine" {
		t.Errorf("%v %s", err, b)
	}
}

// A model without a template takes the paper's, and says so.
func TestChatWithoutTemplate(t *testing.T) {
	want, _ := talk(t, "Hello.\n")
	out, err, code := cli(t, "Hello.\n", "chat", "--tokens", "15")
	if code != 0 || out != want || !strings.Contains(err, "model demo has no chat template") || !strings.Contains(err, "taking guanaco") {
		t.Errorf("%d %q %q, want %q", code, out, err, want)
	}
}

// When the context is full the oldest messages leave, and it is said; the answer is that of a conversation that begins with what is left.
func TestChatOverflow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "talk.jsonl")
	long := strings.Repeat("The sun was big. ", 3)
	_, said := talk(t, "First.\n"+long+"\n"+long+"\nHello.\n/save "+file+"\n", "--max-context", "90", "--temperature", "0", "--system", "A cat.")
	if !strings.Contains(said, "have left") {
		t.Error(said)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all prompt
	if err := json.Unmarshal(b, &all); err != nil || len(all.Messages) < 3 || len(all.Messages) > 7 || all.Messages[0].Role != "system" {
		t.Fatalf("%v %s", err, b)
	}
	last := all.Messages[len(all.Messages)-1].Content
	all.Messages = all.Messages[:len(all.Messages)-1]
	if b, err = json.Marshal(all); err == nil {
		err = os.WriteFile(file, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	var a answer
	out := must(t, "generate", "--prompts", file, "--chat-template", "guanaco", "--tokens", "15")
	if err := json.Unmarshal([]byte(out), &a); err != nil || strings.TrimSpace(a.Text) != last {
		t.Errorf("%q in the conversation, %q by itself", last, a.Text)
	}
}

// Ctrl-C stops the answer, and the conversation goes on; SIGTERM ends it.
func TestChatInterrupt(t *testing.T) {
	b, m, _, err := defaultInference().load()
	if err != nil {
		t.Fatal(err)
	}
	template, err := templateOf(fallbackTemplate, b, b.Tokenizer.EOS)
	if err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	s := defaultSampling()
	s.Tokens = 30
	c := newConversation(console{context.Background(), strings.NewReader("Hello.\n"), &out, &said}, s.speech(b), m, template, 0)
	signals := make(chan os.Signal, 1)
	c.signals = signals
	signals <- os.Interrupt
	if err := c.take("Once"); err != nil || out.String() != "\n" || !strings.Contains(said.String(), "(stopped)") {
		t.Fatalf("%v %q %q", err, out.String(), said.String())
	}
	if err := c.run(""); err != nil || len(c.turns) != 4 || out.Len() < 20 {
		t.Errorf("%v %q", err, out.String())
	}
	signals <- os.Kill
	if err := c.take("Once more"); err != nil || !c.quit {
		t.Error(err, c.quit)
	}
}
