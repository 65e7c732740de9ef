package data

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"qlora/cmd/qlora/internal/chat"
)

// The roles of a conversation.
const (
	system    = "system"
	user      = "user"
	assistant = "assistant"
	tool      = "tool"
)

// roles are the names that files have for them.
var roles = map[string]string{
	"system": system,
	"user":   user, "human": user, "prompter": user,
	"assistant": assistant, "gpt": assistant, "chatgpt": assistant,
	"tool": tool,
}

// follows says after which roles one may stand; "" is the beginning.
var follows = map[string][]string{
	system:    {""},
	user:      {"", system, assistant},
	assistant: {user, tool},
	tool:      {assistant, tool},
}

// conversation takes a list of turns: role and content, or ShareGPT's from and value.
func conversation(r row, columns []string) ([]Example, error) {
	turns, err := r.objects(columns[0])
	if err != nil {
		return nil, err
	}
	messages := make([]chat.Message, len(turns))
	for i, turn := range turns {
		if messages[i], err = message(turn); err != nil {
			return nil, err
		}
	}
	return dialogue(messages)
}

func message(turn row) (m chat.Message, err error) {
	if calls, _ := turn.value("tool_calls").([]any); len(calls) > 0 {
		return m, turn.wrong("tool_calls", errors.New("calls of tools are not supported: write them into the content"))
	}
	role, content := "role", "content"
	if turn.has("from") && !turn.has("role") {
		role, content = "from", "value"
	}
	name, err := turn.text(role)
	if err != nil {
		return m, err
	}
	if m.Role = roles[name]; m.Role == "" {
		return m, turn.wrong(role, fmt.Errorf("unknown role %s: want system, user (human, prompter), assistant (gpt, chatgpt) or tool", excerpt([]byte(name), 0)))
	}
	m.Content, err = contentText(turn, content)
	return m, err
}

// contentText is a text, or a list of parts of {"type": "text", "text": …}.
func contentText(turn row, column string) (string, error) {
	if _, list := turn.value(column).([]any); !list {
		return turn.text(column)
	}
	parts, err := turn.objects(column)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, p := range parts {
		kind, err := p.text("type")
		if err != nil {
			return "", err
		}
		if kind != "text" {
			return "", p.wrong("type", fmt.Errorf("%s: only text is supported", excerpt([]byte(kind), 0)))
		}
		text, err := p.text("text")
		if err != nil {
			return "", err
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// dialogue checks the order of turns.
func dialogue(messages []chat.Message) ([]Example, error) {
	before := ""
	for i, m := range messages {
		if !slices.Contains(follows[m.Role], before) {
			if before == "" {
				before = "nothing"
			}
			return nil, fmt.Errorf("turn %d: %s after %s: the order is system (optional), user, assistant, user, …", i+1, m.Role, before)
		}
		if m.Role == assistant && strings.TrimSpace(m.Content) == "" {
			return nil, fmt.Errorf("turn %d: %w", i+1, errEmptyResponse)
		}
		before = m.Role
	}
	if !slices.ContainsFunc(messages, func(m chat.Message) bool { return m.Role == assistant }) {
		return nil, errors.New("no turn of the assistant")
	}
	return []Example{{Messages: messages}}, nil
}

// isOasst knows what Open-Assistant exports, and Guanaco's dialogues by their first words.
func isOasst(r row) bool {
	if r.has("message_tree_id", "prompt") || r.has("message_id") {
		return true
	}
	text, _ := r.value("text").(string)
	return strings.HasPrefix(text, "### Human:")
}

// oasst takes Guanaco's dialogues as they are, the loss on all of it; of a tree of the Open-Assistant export it takes the path that
// people liked best. Messages one a row do not come here: see forest.
func oasst(r row, columns []string) ([]Example, error) {
	switch {
	case slices.Contains(columns, "prompt"):
		root, err := r.object("prompt")
		if err != nil {
			return nil, err
		}
		return bestPath(root)
	case slices.Contains(columns, "replies"):
		return bestPath(r)
	}
	return plain(r, columns)
}

// bestPath goes from a tree's first message to a leaf. Of the replies that are not deleted and whose review_result is not false, it
// takes the one of the lowest rank; those without a rank, as prompts are, come after those with one, and of equal ones the first in
// the file stays. A last message of the prompter has no answer and is left out.
func bestPath(m row) ([]Example, error) {
	if rejected(m) {
		return nil, errors.New("the tree's first message is deleted, or was rejected in review")
	}
	var messages []chat.Message
	for more := true; more; {
		t, err := m.texts("role", "text")
		if err != nil {
			return nil, err
		}
		role := roles[t[0]]
		if role == "" {
			return nil, m.wrong("role", fmt.Errorf("unknown role %s: want prompter or assistant", excerpt([]byte(t[0]), 0)))
		}
		messages = append(messages, chat.Message{Role: role, Content: t[1]})
		if m, more, err = bestReply(m); err != nil {
			return nil, err
		}
	}
	if last := len(messages) - 1; messages[last].Role == user {
		messages = messages[:last]
	}
	return dialogue(messages)
}

func bestReply(m row) (best row, found bool, err error) {
	replies, err := m.objects("replies")
	if err != nil {
		return row{}, false, err
	}
	lowest := math.Inf(1)
	for _, reply := range replies {
		if rejected(reply) {
			continue
		}
		rank := math.Inf(1)
		if text, err := textOf(reply.value("rank")); err == nil {
			if rank, err = strconv.ParseFloat(text, 64); err != nil {
				return row{}, false, reply.wrong("rank", fmt.Errorf("%s is no number", excerpt([]byte(text), 0)))
			}
		}
		if !found || rank < lowest {
			best, found, lowest = reply, true, rank
		}
	}
	return best, found, nil
}

func rejected(m row) bool {
	passed, reviewed := m.value("review_result").(bool)
	return m.value("deleted") == true || reviewed && !passed
}
