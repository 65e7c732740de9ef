package data

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"qlora/cmd/qlora/internal/config"
)

// format is a way in which rows hold examples.
type format struct {
	name     string
	aliases  []string
	columns  [][]string       // one of these a row has
	optional []string         // and may have
	is       func(r row) bool // tells rows of the same columns apart; nil if all are of this format
	// examples makes a row's examples; columns is the one of format.columns that the first row had.
	examples func(r row, columns []string) ([]Example, error)
}

// formats has, of two formats with the same columns, the more special one first. The names are those of qlora.py, and the usual ones
// of what qlora.py has not.
var formats = []format{
	{name: "alpaca", aliases: []string{"alpaca-clean", "alpaca-gpt4"},
		columns: [][]string{{"instruction", "output"}}, optional: []string{"input", "text"}, examples: alpaca},
	{name: "self-instruct",
		columns: [][]string{{"prompt", "completion"}, {"instruction", "instances"}}, is: isSelfInstruct, examples: selfInstruct},
	{name: "chip2",
		columns: [][]string{{"text"}}, is: isChip2, examples: chip2},
	{name: "hh-rlhf",
		columns: [][]string{{"chosen"}}, optional: []string{"rejected"}, is: isHH, examples: plain},
	{name: "oasst1",
		columns: [][]string{{"message_tree_id", "prompt"}, {"message_id", "replies", "text"}, {"message_id", "parent_id", "text"}, {"text"}},
		is:      isOasst, examples: oasst},
	{name: "unnatural-instructions",
		columns: [][]string{{"instruction", "instances"}}, optional: []string{"reformulations"}, examples: unnatural("instances")},
	{name: "unnatural-instructions-full",
		columns: [][]string{{"instruction", "instances"}}, optional: []string{"reformulations"}, examples: unnatural("instances", "reformulations")},
	{name: "sharegpt", aliases: []string{"vicuna"},
		columns: [][]string{{"conversations"}, {"conversation"}}, examples: conversation},
	{name: "chat", aliases: []string{"messages"},
		columns: [][]string{{"messages"}}, examples: conversation},
	{name: "prompt-completion", aliases: []string{"flan"},
		columns: [][]string{{"prompt", "completion"}, {"prompt", "response"}, {"inputs", "targets"}}, examples: pairs},
	{name: "input-output", aliases: []string{"longform"},
		columns: [][]string{{"input", "output"}}, examples: pairs},
	{name: "text",
		columns: [][]string{{"text"}}, examples: plain},
	{name: "document", // a .txt file
		columns: [][]string{{"document"}}, examples: plain},
}

// listColumns are the columns that hold lists of objects within a row.
var listColumns = []string{"instances", "reformulations", "conversations", "conversation", "messages", "replies"}

// FormatNames are the names that Options.Format takes, without aliases.
func FormatNames() []string {
	var names []string
	for _, f := range formats {
		names = append(names, f.name)
	}
	return names
}

func (f *format) called(name string) bool { return f.name == name || slices.Contains(f.aliases, name) }

// names are those of all columns that the format knows.
func (f *format) names() []string { return slices.Concat(append(f.columns, f.optional)...) }

// match is the one of the format's columns that a row has, with the names that Options.Columns give among them; nil if there is none.
func (f *format) match(r row) []string {
	for _, columns := range f.columns {
		named := slices.Concat(columns, f.optional)
		mapped := !slices.ContainsFunc(slices.Collect(maps.Keys(r.names)), func(n string) bool { return !slices.Contains(named, n) })
		if mapped && r.has(columns...) {
			return columns
		}
	}
	return nil
}

// describe lists formats with their columns.
func describe(list []*format) string {
	var b strings.Builder
	for i, f := range list {
		if i > 0 {
			b.WriteByte('\n')
		}
		var ways []string
		for _, columns := range f.columns {
			ways = append(ways, strings.Join(columns, ", "))
		}
		fmt.Fprintf(&b, "  %s: %s", f.name, strings.Join(ways, "; or "))
		if f.optional != nil {
			fmt.Fprintf(&b, "; optionally %s", strings.Join(f.optional, ", "))
		}
	}
	return b.String()
}

var errAmbiguous = errors.New("fit more than one format")

// choose is the format of a file whose first row is r, and the columns by which it has it. Where it is not given, it is the one whose
// columns the row has; one whose columns are among those of another gives way to that; of two that have the same, the first stays.
func (o Options) choose(r row) (*format, []string, error) {
	for _, name := range slices.Sorted(maps.Keys(o.Columns)) {
		if column := o.Columns[name]; !r.has(name) {
			return nil, nil, config.Usagef("columns: %s=%s: the file has no column %s, only %s", name, column, column, r.list())
		}
	}
	var known, fit []*format
	for i := range formats {
		f := &formats[i]
		if o.Format != "" && !f.called(o.Format) {
			continue
		}
		known = append(known, f)
		if f.match(r) != nil && (o.Format != "" || f.is == nil || f.is(r)) {
			fit = append(fit, f)
		}
	}
	var best []*format
	for i, f := range fit {
		if !slices.ContainsFunc(fit[:i], func(g *format) bool { return g.covers(f, r) }) &&
			!slices.ContainsFunc(fit[i+1:], func(g *format) bool { return g.covers(f, r) && !f.covers(g, r) }) {
			best = append(best, f)
		}
	}
	switch {
	case len(best) == 1:
		return best[0], best[0].match(r), nil
	case len(best) > 1:
		return nil, nil, fmt.Errorf("the columns %s %w: name it with --dataset-format\n%s", r.list(), errAmbiguous, describe(best))
	case o.Format != "":
		return nil, nil, fmt.Errorf("format %s does not fit the columns %s: name the file's with --columns NAME=COLUMN,…\n%s",
			o.Format, r.list(), describe(known))
	}
	return nil, nil, fmt.Errorf("the columns %s fit no format: name the file's with --columns, such as prompt=question,response=answer\n%s",
		r.list(), describe(known))
}

// covers says whether all columns of a row that g knows are known to f.
func (f *format) covers(g *format, r row) bool {
	mine := slices.Concat(f.match(r), f.optional)
	for _, column := range slices.Concat(g.match(r), g.optional) {
		if r.has(column) && !slices.Contains(mine, column) {
			return false
		}
	}
	return true
}
