package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// row is a row of a file, or an object within one.
type row struct {
	values map[string]any    // as encoding/json has them, with json.Number; other types for numbers in Parquet
	names  map[string]string // Options.Columns
	within string            // where in the row the object stands, such as instances[2]
}

// name is the file's name of a column.
func (r row) name(column string) string {
	if name, ok := r.names[column]; ok {
		return name
	}
	return column
}

func (r row) value(column string) any { return r.values[r.name(column)] }

// has says whether there is a column, be it empty.
func (r row) has(columns ...string) bool {
	return !slices.ContainsFunc(columns, func(c string) bool { _, ok := r.values[r.name(c)]; return !ok })
}

// wrong says which column an error is about.
func (r row) wrong(column string, err error) error {
	name := r.name(column)
	if r.within != "" {
		name = r.within + "." + name
	}
	return fmt.Errorf("%s: %w", name, err)
}

var errMissing = errors.New("is missing")

// text is a column's text; a number or a truth value is as JSON writes it.
func (r row) text(column string) (string, error) {
	text, err := textOf(r.value(column))
	if err == errMissing && r.within == "" && !r.has(column) {
		err = fmt.Errorf("there is no such column, only %s", r.list())
	}
	if err != nil {
		return "", r.wrong(column, err)
	}
	return text, nil
}

// texts are the texts of columns.
func (r row) texts(columns ...string) ([]string, error) {
	texts := make([]string, len(columns))
	for i, c := range columns {
		var err error
		if texts[i], err = r.text(c); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// optional is the text of a column that need not be there.
func (r row) optional(column string) (string, error) {
	if r.value(column) == nil {
		return "", nil
	}
	return r.text(column)
}

func textOf(value any) (string, error) {
	switch v := value.(type) {
	case nil:
		return "", errMissing
	case string:
		if at := invalidUTF8([]byte(v)); at >= 0 {
			return "", fmt.Errorf("byte %d (0x%02x) is not UTF-8: %s", at, v[at], excerpt([]byte(v), at))
		}
		return v, nil
	case []any:
		return "", errors.New("is a list, want text")
	case map[string]any:
		return "", errors.New("is an object, want text")
	}
	b, err := json.Marshal(value)
	return string(b), err
}

// object is a column's object.
func (r row) object(column string) (row, error) {
	values, ok := r.value(column).(map[string]any)
	if !ok {
		return row{}, r.wrong(column, errors.New("want an object"))
	}
	return row{values: values, within: r.path(column)}, nil
}

// objects is a column's list of objects; it is empty where there is no such column.
func (r row) objects(column string) ([]row, error) {
	list, ok := r.value(column).([]any)
	if !ok && r.value(column) != nil {
		return nil, r.wrong(column, errors.New("want a list"))
	}
	rows := make([]row, len(list))
	for i, item := range list {
		values, ok := item.(map[string]any)
		if !ok {
			return nil, r.wrong(column, fmt.Errorf("item %d: want an object", i))
		}
		rows[i] = row{values: values, within: fmt.Sprintf("%s[%d]", r.path(column), i)}
	}
	return rows, nil
}

func (r row) path(column string) string {
	if r.within == "" {
		return r.name(column)
	}
	return r.within + "." + column
}

// list names the columns for an error.
func (r row) list() string {
	const most = 20
	names := slices.Sorted(maps.Keys(r.values))
	if len(names) == 0 {
		return "none"
	}
	text := strings.ToValidUTF8(strings.Join(names[:min(most, len(names))], ", "), "\ufffd")
	if len(names) > most {
		text += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return text
}
