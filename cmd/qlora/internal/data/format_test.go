package data

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qlora/cmd/qlora/internal/chat"
)

func user1(content string) chat.Message { return chat.Message{Role: "user", Content: content} }
func bot(content string) chat.Message   { return chat.Message{Role: "assistant", Content: content} }

// task is an example of Alpaca's.
func task(instruction, input, output string) Example {
	return Example{Prompt: alpacaPrompt(instruction, input), Response: output, Instruction: instruction, Input: input}
}

// The rows are ours, of the documented columns of each format; the examples are what qlora.py maps them to, where it knows the format.
func TestFormats(t *testing.T) {
	for name, c := range map[string]struct {
		row    string
		format string // detected
		want   []Example
	}{
		"alpaca": {`{"instruction": "Add.", "input": "1 2", "output": "3"}`, "alpaca", []Example{{
			Prompt: "Below is an instruction that describes a task, paired with an input that provides further context. " +
				"Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response: ",
			Response: "3", Instruction: "Add.", Input: "1 2"}}},
		"alpaca without input": {`{"instruction": "Sing.", "input": "", "output": "La", "text": "Below …"}`, "alpaca", []Example{{
			Prompt:   "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nSing.\n\n### Response: ",
			Response: "La", Instruction: "Sing."}}},
		"alpaca without the column": {`{"instruction": "Sing.", "output": "La"}`, "alpaca", []Example{{
			Prompt:   "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nSing.\n\n### Response: ",
			Response: "La", Instruction: "Sing."}}},
		"self-instruct": {`{"prompt": "Q:", "completion": " yes<|endoftext|>"}`, "self-instruct", []Example{{Prompt: "Q:", Response: " yes"}}},
		"self-instruct's tasks": {`{"id": "t", "instruction": "Sing.", "instances": [{"input": "", "output": "La"}, {"input": "low", "output": "Lo"}], "is_classification": false}`,
			"self-instruct", []Example{task("Sing.", "", "La"), task("Sing.", "low", "Lo")}},
		"chip2":   {`{"text": "<human>: Who?\nTell.\n<bot>: Me: <b>", "metadata": {"source": "unified_chip2"}}`, "chip2", []Example{{Prompt: "Who?\nTell.", Response: "Me: <b>"}}},
		"hh-rlhf": {`{"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "…"}`, "hh-rlhf", []Example{{Text: "\n\nHuman: Hi\n\nAssistant: Hello"}}},
		"guanaco": {`{"text": "### Human: Hi### Assistant: Hello"}`, "oasst1", []Example{{Text: "### Human: Hi### Assistant: Hello"}}},
		"unnatural-instructions": {`{"instruction": "I", "instances": [{"instruction_with_input": "I: x", "input": "x", "constraints": "None.", "output": "y"},
			{"instruction_with_input": "I: z", "input": "z", "constraints": "None.", "output": 5}], "reformulations": [{"instruction": "J", "instruction_with_input": "J: x", "input": "x", "output": "y"}]}`,
			"unnatural-instructions", []Example{{Prompt: "I: x", Response: "y"}, {Prompt: "I: z", Response: "5"}}},
		"flan":              {`{"inputs": "a", "targets": "b", "task": "t"}`, "prompt-completion", []Example{{Prompt: "a", Response: "b"}}},
		"prompt-completion": {`{"prompt": "a", "completion": "b"}`, "prompt-completion", []Example{{Prompt: "a", Response: "b"}}},
		"prompt, response":  {`{"prompt": "a", "response": "b"}`, "prompt-completion", []Example{{Prompt: "a", Response: "b"}}},
		"longform":          {`{"input": "a", "output": "b", "source": "c"}`, "input-output", []Example{{Prompt: "a", Response: "b"}}},
		"text":              {`{"text": "a <bot>: b", "id": 3}`, "text", []Example{{Text: "a <bot>: b"}}},
		"sharegpt": {`{"id": "x", "conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]}`,
			"sharegpt", []Example{{Messages: []chat.Message{{Role: "system", Content: "S"}, user1("a"), bot("b"), user1("c"), bot("d")}}}},
		"sharegpt with roles": {`{"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}`, "sharegpt", []Example{{Messages: []chat.Message{user1("a"), bot("b")}}}},
		"chat": {`{"messages": [{"role": "user", "content": "a", "name": null}, {"role": "assistant", "content": "b", "tool_calls": null}, {"role": "user", "content": "c"}], "prompt": "a"}`,
			"chat", []Example{{Messages: []chat.Message{user1("a"), bot("b"), user1("c")}}}},
		"chat with tools": {`{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "call"}, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, {"role": "assistant", "content": "b"}]}`,
			"chat", []Example{{Messages: []chat.Message{user1("a"), bot("call"), {Role: "tool", Content: "1"}, {Role: "tool", Content: "2"}, bot("b")}}}},
		"chat in parts": {`{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "assistant", "content": "c"}]}`,
			"chat", []Example{{Messages: []chat.Message{user1("ab"), bot("c")}}}},
		// Of the replies, 3 is deleted, 2 was rejected, 0 has no rank: 1 is next; below it, the first prompt, though its sibling has the better answer; and its last prompt has no answer.
		"oasst1 tree": {`{"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": {"text": "p", "role": "prompter", "replies": [
			{"text": "a0", "role": "assistant", "rank": null, "replies": []},
			{"text": "a1", "role": "assistant", "rank": 3, "review_result": true, "replies": [
				{"text": "q0", "role": "prompter", "replies": [
					{"text": "b1", "role": "assistant", "rank": 1, "replies": []},
					{"text": "b0", "role": "assistant", "rank": 0, "replies": [{"text": "r", "role": "prompter", "replies": [{"text": "x", "role": "assistant", "deleted": true}]}]}]},
				{"text": "q1", "role": "prompter", "replies": [{"text": "c0", "role": "assistant", "rank": 0, "replies": []}]}]},
			{"text": "a2", "role": "assistant", "rank": 1, "review_result": false, "replies": []},
			{"text": "a3", "role": "assistant", "rank": 0, "deleted": true, "replies": []},
			{"text": "a4", "role": "assistant", "rank": 3, "replies": []}]}}`, "oasst1", []Example{{Messages: []chat.Message{user1("p"), bot("a1"), user1("q0"), bot("b0")}}}},
		"oasst1 messages": {`{"message_id": "m", "parent_id": null, "text": "p", "role": "prompter", "replies": [{"text": "a", "role": "assistant", "rank": 0}]}`,
			"oasst1", []Example{{Messages: []chat.Message{user1("p"), bot("a")}}}},
	} {
		row := strings.ReplaceAll(strings.ReplaceAll(c.row, "\n", ""), "\t", "")
		s, err := Read(write(t, "row.jsonl", row), Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i := range s.Examples {
			s.Examples[i].Where = Place{}
		}
		if s.Format != c.format || !cmp.Equal(s.Examples, c.want) {
			t.Errorf("%s: %s: %s", name, s.Format, cmp.Diff(c.want, s.Examples))
		}
	}
}

// A format by its name or alias reads what is not detected so.
func TestNamedFormats(t *testing.T) {
	for _, c := range []struct {
		format, row string
		want        []Example
	}{
		{"alpaca-clean", `{"instruction": "a", "output": "b"}`, []Example{task("a", "", "b")}},
		{"longform", `{"input": "a", "output": "b", "instruction": "c"}`, []Example{{Prompt: "a", Response: "b"}}},
		{"self-instruct", `{"prompt": "a", "completion": "b"}`, []Example{{Prompt: "a", Response: "b"}}},
		{"flan", `{"prompt": "a", "completion": "b<|endoftext|>"}`, []Example{{Prompt: "a", Response: "b<|endoftext|>"}}},
		{"vicuna", `{"conversations": [{"from": "user", "value": "a"}, {"from": "chatgpt", "value": "b"}]}`, []Example{{Messages: []chat.Message{user1("a"), bot("b")}}}},
		{"oasst1", `{"text": "a"}`, []Example{{Text: "a"}}},
		{"text", `{"text": "a\n<bot>: b"}`, []Example{{Text: "a\n<bot>: b"}}},
		{"hh-rlhf", `{"chosen": "a"}`, []Example{{Text: "a"}}},
		{"unnatural-instructions-full", `{"instruction": "I", "instances": [{"instruction_with_input": "a", "output": "b"}], "reformulations": [{"instruction_with_input": "c", "output": "b"}]}`,
			[]Example{{Prompt: "a", Response: "b"}, {Prompt: "c", Response: "b"}}},
		{"unnatural-instructions-full", `{"instruction": "I", "instances": [{"instruction_with_input": "a", "output": "b"}], "reformulations": null}`, []Example{{Prompt: "a", Response: "b"}}},
	} {
		if got, _ := read(t, write(t, "row.jsonl", c.row), Options{Format: c.format}); !cmp.Equal(got, c.want) {
			t.Errorf("%s: %s: %s", c.format, c.row, cmp.Diff(c.want, got))
		}
	}
}

// One row's conversation in a .json file is a row, not an object around rows.
func TestSingleRow(t *testing.T) {
	got, _ := read(t, write(t, "row.json", `{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}`), Options{})
	if want := []Example{{Messages: []chat.Message{user1("a"), bot("b")}}}; !cmp.Equal(got, want) {
		t.Error(got)
	}
}

// Beginnings of real files: see testdata/README.md.
func TestRealFiles(t *testing.T) {
	gsm8k := map[string]string{"prompt": "question", "response": "answer"}
	for _, c := range []struct {
		file, format string
		columns      map[string]string
		count        int
		first        Example
	}{
		{"gsm8k.jsonl", "prompt-completion", gsm8k, 3, Example{Prompt: "What is fifteen more than a quarter of 48?",
			Response: "A quarter of 48 is 48/4=<<48/4=12>>12.\nThe number is 12+15=<<12+15=27>>27.\n#### 27"}},
		{"toolformer.json", "alpaca", nil, 2, task(
			"toolformer: enabled\ntoolformer access: wikipedia\nA wrapper around Wikipedia. Useful for when you need to display general information about "+
				"people, places, companies, historical events, or other subjects found in an encyclopedia, displays a snippet summary of the topic. Input should be a search query.\n"+
				"wikipedia(query)\nProvide a summary of a famous historical event based on the input event given", "French Revolution",
			"Summary of the French Revolution: wikipedia('French Revolution')")},
		{"seed_tasks.jsonl", "self-instruct", nil, 2, task(
			"Is there anything I can eat for a breakfast that doesn't include eggs, yet includes protein, and has roughly 700-1000 calories?", "",
			"Yes, you can have 1 oatmeal banana protein shake and 4 strips of bacon. The oatmeal banana protein shake may contain 1/2 cup oatmeal, 60 grams whey "+
				"protein powder, 1/2 medium banana, 1tbsp flaxseed oil and 1/2 cup watter, totalling about 550 calories. The 4 strips of bacon contains about 200 calories.")},
		{"hh-rlhf.jsonl.gz", "hh-rlhf", nil, 2, Example{Text: "\n\nHuman: Is it possible to download a car?\n\nAssistant: I’m not sure what you mean. Can you clarify?"}},
		{"oasst_messages.jsonl", "oasst1", nil, 1, Example{Messages: []chat.Message{user1("Who invented the honeycomb?"),
			bot("Honeycombs are a natural phenomenon. They are formed by bees using their specialized glands. The bees use the honeycomb to store their honey and pollen.")}}},
	} {
		s, err := Read(filepath.Join("testdata", c.file), Options{Columns: c.columns})
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		first := s.Examples[0]
		first.Where = Place{}
		if s.Format != c.format || len(s.Examples) != c.count || !cmp.Equal(first, c.first) {
			t.Errorf("%s: %s, %d examples: %s", c.file, s.Format, len(s.Examples), cmp.Diff(c.first, first))
		}
	}
}
