package data

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"qlora/cmd/qlora/internal/chat"
	"qlora/cmd/qlora/internal/config"
)

// Example is a training example before tokenization: a Text, or a Prompt and its Response, or Messages.
type Example struct {
	Text             string
	Prompt, Response string
	Messages         []chat.Message
	Where            Place

	Instruction, Input string // what Prompt was made of, where that is Alpaca's: what a user says to a model with a chat template
}

// Place is where a row begins.
type Place struct {
	File   string
	Unit   string // what Number counts from 1: line, or row where a file has no lines
	Number int
}

func (p Place) String() string { return fmt.Sprintf("%s: %s %d", p.File, p.Unit, p.Number) }

// Options say how rows are read.
type Options struct {
	Format  string            // one of FormatNames or its alias; "" detects it
	Columns map[string]string // from a format's name of a column to the file's
	SkipBad bool              // leave bad rows out
}

// ParseColumns reads Options.Columns from items of the form prompt=question. The error is a config.UsageError.
func ParseColumns(items []string) (map[string]string, error) {
	columns := map[string]string{}
	for _, item := range items {
		name, column, ok := strings.Cut(item, "=")
		name, column = strings.TrimSpace(name), strings.TrimSpace(column)
		if !ok || name == "" || column == "" {
			return nil, config.Usagef("columns: %q: want the format's name of a column, =, and the file's, such as prompt=question", item)
		}
		if _, twice := columns[name]; twice {
			return nil, config.Usagef("columns: %s is there twice", name)
		}
		columns[name] = column
	}
	return columns, nil
}

// Set is what was read.
type Set struct {
	Examples []Example
	Format   string  // by its own name, detected if it was not given
	Skipped  int     // bad rows that were left out
	Reasons  []error // why, for the first of them
}

// maxReasons is how many reasons a Set keeps.
const maxReasons = 5

// Read reads a file, or the files of a folder in the order of their names: .json, .jsonl, .ndjson, .csv, .tsv, .parquet and .txt, each
// also compressed with gzip. A .txt is one example, of the format document: a text to cut into sequences, not at the end of the first.
// The first row that can be read, and that fits a format where others are left out, decides the format and its columns for all. A row that
// cannot be read, or that is no example, is an error with its place, or is left out and counted. Errors in the options are
// config.UsageErrors.
func Read(path string, o Options) (*Set, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	names, err := dataFiles(path)
	if err != nil {
		return nil, err
	}
	c := collector{Options: o}
	for _, name := range names {
		before := c.rows
		if err := readFile(name, c.visit); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if c.err != nil {
			return nil, c.err
		}
		if c.rows == before {
			return nil, fmt.Errorf("%s has no rows", name)
		}
	}
	if c.forest.visit(c.take); c.err != nil {
		return nil, c.err
	}
	if len(c.set.Examples) == 0 {
		why := c.set.Reasons[0]
		if c.format == nil {
			why = cmp.Or(c.misfit, why)
		}
		return nil, fmt.Errorf("%s: none of %d rows is an example: %w", path, c.rows, why)
	}
	return &c.set, nil
}

// collector turns rows into a set.
type collector struct {
	Options
	format  *format  // nil before the first row that fits one
	columns []string // that the rows have: one of format.columns
	misfit  error    // why the first one before that fits none
	rows    int
	forest  forest
	set     Set
	err     error // ends the reading
}

// visit takes a row, or why it cannot be read, and says whether to go on.
func (c *collector) visit(where Place, values map[string]any, bad error) bool {
	c.rows++
	r := row{values: values, names: c.Columns}
	if bad == nil && c.format == nil {
		if bad = c.detect(where, r); c.err != nil {
			return false
		}
	}
	var examples []Example
	switch {
	case bad != nil:
	case isFlat(c.columns):
		bad = c.forest.add(where, r)
	default:
		examples, bad = c.format.examples(r, c.columns)
	}
	return c.take(where, examples, bad)
}

// detect finds the format of a row. One that fits none is left out, if such are, and says so in short.
func (c *collector) detect(where Place, r row) (bad error) {
	f, columns, err := c.choose(r)
	switch {
	case err == nil:
		c.format, c.columns, c.set.Format = f, columns, f.name
		return nil
	case !c.SkipBad || errors.Is(err, errAmbiguous):
		c.err = addPlace(where, err)
		return nil
	}
	c.misfit = cmp.Or(c.misfit, addPlace(where, err))
	return fmt.Errorf("the columns %s fit no format", r.list())
}

// take adds a row's examples, or leaves the row out, and says whether to go on.
func (c *collector) take(where Place, examples []Example, bad error) bool {
	if bad != nil {
		return c.skip(fmt.Errorf("%v: %w", where, bad))
	}
	for _, x := range examples {
		x.Where = where
		c.set.Examples = append(c.set.Examples, x)
	}
	return true
}

func (c *collector) skip(bad error) bool {
	if !c.SkipBad {
		c.err = fmt.Errorf("%w; mend the row, or leave such rows out with --skip-bad-rows", bad)
		return false
	}
	c.set.Skipped++
	if len(c.set.Reasons) < maxReasons {
		c.set.Reasons = append(c.set.Reasons, bad)
	}
	return true
}

// addPlace keeps a usage error one.
func addPlace(where Place, err error) error {
	var usage *config.UsageError
	if errors.As(err, &usage) {
		return config.Usagef("%v: %v", where, err)
	}
	return fmt.Errorf("%v: %w", where, err)
}

// check finds what is wrong whatever the file has.
func (o Options) check() error {
	var known []*format
	for i := range formats {
		if o.Format == "" || formats[i].called(o.Format) {
			known = append(known, &formats[i])
		}
	}
	if known == nil {
		return config.Usagef("format %q: want one of %s", o.Format, strings.Join(FormatNames(), ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Columns)) {
		if !slices.ContainsFunc(known, func(f *format) bool { return slices.Contains(f.names(), name) }) {
			return config.Usagef("columns: %s: no such name in a format; there are\n%s", name, describe(known))
		}
	}
	return nil
}
