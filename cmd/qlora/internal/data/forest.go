package data

import (
	"errors"
	"fmt"
	"slices"
)

// forest is Open-Assistant's messages one a row, as in its Parquet files, which name the message that they answer.
type forest struct {
	messages []*flatMessage
	byID     map[string]*flatMessage
}

type flatMessage struct {
	where  Place
	parent string         // "" for the first message of a tree
	values map[string]any // as in the export of trees: replies among them, in the file's order
	inTree bool
}

// isFlat says that rows of these columns are messages of trees.
func isFlat(columns []string) bool { return slices.Contains(columns, "parent_id") }

// add takes a row.
func (f *forest) add(where Place, r row) error {
	t, err := r.texts("message_id", "role", "text")
	if err != nil {
		return err
	}
	parent, err := r.optional("parent_id")
	if err != nil {
		return err
	}
	if f.byID[t[0]] != nil {
		return r.wrong("message_id", fmt.Errorf("%s is also that of %v", excerpt([]byte(t[0]), 0), f.byID[t[0]].where))
	}
	m := &flatMessage{where: where, parent: parent, values: map[string]any{"role": t[1], "text": t[2]}}
	for _, name := range []string{"rank", "deleted", "review_result"} {
		m.values[name] = r.value(name)
	}
	if f.byID == nil {
		f.byID = map[string]*flatMessage{}
	}
	f.messages, f.byID[t[0]] = append(f.messages, m), m
	return nil
}

var errNoTree = errors.New("parent_id leads to no first message among those that can be read")

// visit gives the example of each tree, with the place of its first message, and the messages that are in no tree. It says whether to go on.
func (f *forest) visit(visit func(where Place, examples []Example, bad error) bool) {
	answers := map[*flatMessage][]*flatMessage{}
	for _, m := range f.messages {
		if to := f.byID[m.parent]; m.parent != "" && to != nil {
			answers[to] = append(answers[to], m)
			replies, _ := to.values["replies"].([]any)
			to.values["replies"] = append(replies, m.values)
		}
	}
	for _, m := range f.messages {
		if m.parent != "" {
			continue
		}
		for reached := []*flatMessage{m}; len(reached) > 0; reached = reached[1:] {
			reached[0].inTree = true
			reached = append(reached, answers[reached[0]]...)
		}
		examples, bad := bestPath(row{values: m.values})
		if !visit(m.where, examples, bad) {
			return
		}
	}
	for _, m := range f.messages {
		if !m.inTree && !visit(m.where, nil, errNoTree) {
			return
		}
	}
}
