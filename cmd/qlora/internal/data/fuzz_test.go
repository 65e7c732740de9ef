package data

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// Whatever a file holds, reading it ends, its rows are counted upwards, and what is taken for an example is one.
func FuzzRows(f *testing.F) {
	for _, name := range []string{"gsm8k.jsonl", "toolformer.json", "seed_tasks.jsonl", "hh-rlhf.jsonl.gz", "oasst_messages.jsonl", "oasst_flat.jsonl", "messages.parquet"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kindOf(name), b)
	}
	f.Add(".csv", []byte("input,output\n\"a\nb\",c\nd\n"))
	f.Add(".tsv", []byte("text\tid\r\na\t1\r\n"))
	f.Add(".json", []byte(`{"data": [{"text": "a"}, {"text": 1.5e3}]}`))
	f.Add(".json", []byte(`[{"text": "a"}, 7, "b", [{"text": "c"}], null,{"text": "d"}]`))
	f.Add(".json", []byte(`{"text": "a"}{"text": "\ud800"} {"messages": [{"from": "gpt"}]}`))
	f.Add(".txt", []byte("\ufeffa\n\nb"))
	f.Fuzz(func(t *testing.T, kind string, content []byte) {
		read := kinds[kind]
		if read == nil && kind != parquetKind {
			return
		}
		c := collector{Options: Options{SkipBad: true}}
		last := 0
		visit := func(n int, values map[string]any, bad error) bool {
			if n < last {
				t.Fatalf("row %d after %d", n, last)
			}
			last = n
			return c.visit(Place{"file", "line", n}, values, bad)
		}
		if kind == parquetKind {
			readParquet(bytes.NewReader(content), int64(len(content)), visit)
		} else if text, _, err := unpack(bytes.NewReader(content)); err == nil {
			read(bufio.NewReader(text), visit)
		}
		c.forest.visit(c.take)
		for _, x := range c.set.Examples {
			check(t, x)
		}
		if len(c.set.Reasons) > c.set.Skipped || c.set.Skipped > c.rows {
			t.Fatal(c.set.Reasons, c.set.Skipped, c.rows)
		}
	})
}

func check(t *testing.T, x Example) {
	texts, answer := []string{x.Text, x.Prompt, x.Response}, x.Text+x.Response
	for _, m := range x.Messages {
		texts = append(texts, m.Content)
		if m.Role == assistant {
			answer += m.Content
		}
	}
	for _, s := range texts {
		if !utf8.ValidString(s) {
			t.Fatalf("not UTF-8: %q", s)
		}
	}
	if strings.TrimSpace(answer) == "" {
		t.Fatalf("an example of nothing: %+v", x)
	}
	if x.Text != "" && x.Response != "" || x.Messages != nil && x.Text+x.Prompt+x.Response != "" {
		t.Fatalf("more than one kind of example: %+v", x)
	}
}

// A row gives the same by each format's name, or an error; none loses the response.
func FuzzFormats(f *testing.F) {
	f.Add(`{"instruction": "a", "input": "b", "output": "c"}`)
	f.Add(`{"instruction": "a", "instances": [{"instruction_with_input": "b", "output": "c"}], "reformulations": null}`)
	f.Add(`{"message_tree_id": "t", "prompt": {"text": "p", "role": "prompter", "replies": [{"text": "a", "role": "assistant", "rank": 1}]}}`)
	f.Add(`{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}`)
	f.Add(`{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}]}`)
	f.Add(`{"text": "<human>: a\n<bot>: b", "chosen": "c", "prompt": 1, "completion": true, "inputs": null, "targets": []}`)
	f.Fuzz(func(t *testing.T, text string) {
		if strings.TrimSpace(text) == "" {
			return
		}
		values, err := parseObject([]byte(text))
		if err != nil {
			return
		}
		detected, _, err := Options{}.choose(row{values: values})
		for _, name := range FormatNames() {
			f, columns, named := Options{Format: name}.choose(row{values: values})
			if named != nil {
				if err == nil && detected.name == name {
					t.Fatalf("%s is detected but does not fit: %v", name, named)
				}
				continue
			}
			if isFlat(columns) {
				continue // a row alone is no example
			}
			examples, bad := f.examples(row{values: values}, columns)
			if bad == nil && len(examples) == 0 {
				t.Fatalf("%s: neither an example nor an error", name)
			}
			for _, x := range examples {
				check(t, x)
			}
		}
	})
}
