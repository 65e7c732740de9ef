package runs

import (
	"slices"
	"strconv"
	"strings"
)

// Setting is an option of a run by its name, with its value as text.
type Setting struct{ Name, Value string }

// ParseSettings reads lines `name: value`, as config.YAML writes them. Quotes are taken off.
func ParseSettings(text string) (all []Setting) {
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok {
			continue
		}
		if plain, err := strconv.Unquote(value); err == nil && plain != "" {
			value = plain
		}
		all = append(all, Setting{name, value})
	}
	return all
}

// Value is a setting's value, "" if there is no setting of this name.
func Value(all []Setting, name string) string {
	if i := slices.IndexFunc(all, func(s Setting) bool { return s.Name == name }); i >= 0 {
		return all[i].Value
	}
	return ""
}

// Difference is a setting that several runs do not have the same value of. A run that has no such setting has the value "".
type Difference struct {
	Name   string   `json:"name"`
	Values []string `json:"values"` // one a run
}

// Differences compares runs name by name, in the order in which the names first appear.
func Differences(runs ...[]Setting) (all []Difference) {
	seen := map[string]bool{}
	for _, settings := range runs {
		for _, s := range settings {
			if seen[s.Name] {
				continue
			}
			seen[s.Name] = true
			d := Difference{Name: s.Name}
			for _, other := range runs {
				d.Values = append(d.Values, Value(other, s.Name))
			}
			if slices.ContainsFunc(d.Values, func(v string) bool { return v != d.Values[0] }) {
				all = append(all, d)
			}
		}
	}
	return all
}
