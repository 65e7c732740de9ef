package data

import (
	"errors"
	"fmt"
	"strings"
)

var (
	errEmpty         = errors.New("is empty")
	errEmptyResponse = errors.New("empty response")
)

// pair is an example of a prompt, which may be empty, and its response, which may not.
func pair(prompt, response string) ([]Example, error) {
	if strings.TrimSpace(response) == "" {
		return nil, errEmptyResponse
	}
	return []Example{{Prompt: prompt, Response: response}}, nil
}

// pairs takes a prompt and its response as they are.
func pairs(r row, columns []string) ([]Example, error) {
	t, err := r.texts(columns...)
	if err != nil {
		return nil, err
	}
	x, err := pair(t[0], t[1])
	if err != nil {
		return nil, r.wrong(columns[1], err)
	}
	return x, nil
}

// plain takes a text as it is.
func plain(r row, columns []string) ([]Example, error) {
	text, err := r.text(columns[0])
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(text) == "" {
		return nil, r.wrong(columns[0], errEmpty)
	}
	return []Example{{Text: text}}, nil
}

// alpacaPrompt is Alpaca's prompt as qlora.py has it, with a space at its end.
func alpacaPrompt(instruction, input string) string {
	if input == "" {
		return "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n" +
			"### Instruction:\n" + instruction + "\n\n### Response: "
	}
	return "Below is an instruction that describes a task, paired with an input that provides further context. " +
		"Write a response that appropriately completes the request.\n\n" +
		"### Instruction:\n" + instruction + "\n\n### Input:\n" + input + "\n\n### Response: "
}

func alpaca(r row, _ []string) ([]Example, error) {
	t, err := r.texts("instruction", "output")
	if err != nil {
		return nil, err
	}
	input, err := r.optional("input")
	if err != nil {
		return nil, err
	}
	x, err := pair(alpacaPrompt(t[0], input), t[1])
	if err != nil {
		return nil, r.wrong("output", err)
	}
	x[0].Instruction, x[0].Input = t[0], input
	return x, nil
}

// endOfText is how GPT-3's fine-tuning files, and so self-instruct's, end a completion.
const endOfText = "<|endoftext|>"

func isSelfInstruct(r row) bool {
	if instances, err := r.objects("instances"); err == nil && len(instances) > 0 {
		return !instances[0].has("instruction_with_input")
	}
	completion, _ := r.value("completion").(string)
	return strings.HasSuffix(completion, endOfText)
}

// selfInstruct takes a prompt and its completion without GPT-3's end marker, which qlora.py leaves there: the end of sequence is
// the tokenizer's matter. Tasks are an instruction with instances, which become Alpaca's prompts.
func selfInstruct(r row, columns []string) ([]Example, error) {
	if columns[1] == "instances" {
		return tasks(r)
	}
	t, err := r.texts(columns...)
	if err != nil {
		return nil, err
	}
	x, err := pair(t[0], strings.TrimSuffix(t[1], endOfText))
	if err != nil {
		return nil, r.wrong("completion", err)
	}
	return x, nil
}

func tasks(r row) (list []Example, err error) {
	instruction, err := r.text("instruction")
	if err != nil {
		return nil, err
	}
	instances, err := r.objects("instances")
	if err != nil {
		return nil, err
	}
	for _, i := range instances {
		i.values = map[string]any{"instruction": instruction, "input": i.value("input"), "output": i.value("output")}
		x, err := alpaca(i, nil)
		if err != nil {
			return nil, err
		}
		list = append(list, x...)
	}
	if len(list) == 0 {
		return nil, r.wrong("instances", errEmpty)
	}
	return list, nil
}

// unnatural takes the instances, and with them or without the reformulations, of a row of Unnatural Instructions.
func unnatural(lists ...string) func(r row, columns []string) ([]Example, error) {
	return func(r row, _ []string) (list []Example, err error) {
		for _, column := range lists {
			instances, err := r.objects(column)
			if err != nil {
				return nil, err
			}
			for _, i := range instances {
				x, err := pairs(i, []string{"instruction_with_input", "output"})
				if err != nil {
					return nil, err
				}
				list = append(list, x...)
			}
		}
		if len(list) == 0 {
			return nil, r.wrong("instances", errEmpty)
		}
		return list, nil
	}
}

// isHH tells whole conversations from the bare answers that other preference data has in this column: training on those would be
// training without prompts.
func isHH(r row) bool {
	text, _ := r.value("chosen").(string)
	return strings.Contains(text, "\n\nHuman:")
}

// The marks of a turn in OIG's chip2.
const (
	chip2Human = "<human>: "
	chip2Bot   = "\n<bot>: "
)

func isChip2(r row) bool {
	text, _ := r.value("text").(string)
	return strings.Contains(text, chip2Bot)
}

// chip2 cuts a text at the bot's mark and takes the human's out, as qlora.py does. Of more than one turn qlora.py loses answers.
func chip2(r row, _ []string) ([]Example, error) {
	text, err := r.text("text")
	if err != nil {
		return nil, err
	}
	human, bot, found := strings.Cut(text, chip2Bot)
	switch {
	case !found:
		return nil, r.wrong("text", fmt.Errorf("no %q in %s", chip2Bot, excerpt([]byte(text), 0)))
	case strings.Contains(bot, chip2Bot):
		return nil, r.wrong("text", fmt.Errorf("more than one %q: conversations belong in the format chat", chip2Bot))
	}
	x, err := pair(strings.ReplaceAll(human, chip2Human, ""), bot)
	if err != nil {
		return nil, r.wrong("text", err)
	}
	return x, nil
}
