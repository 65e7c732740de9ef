package jinja

import (
	"fmt"
	"slices"
	"strings"
)

// toJSON is json.dumps(v, ensure_ascii=False, indent, separators, sort_keys), as transformers' filter calls it.
func toJSON(v any, c *Call) any {
	if truth(c.argument(0, "ensure_ascii", false)) {
		c.Fail("tojson: ensure_ascii is not supported")
	}
	w := &jsonWriter{call: c, comma: ", ", colon: ": "}
	switch indent := c.argument(1, "indent", nil).(type) {
	case nil:
	case string:
		if len(indent) > 1000 {
			c.Fail("tojson: the indent is too long")
		}
		w.indented, w.by = true, indent
	default:
		w.indented, w.by = true, strings.Repeat(" ", min(max(c.whole(indent), 0), 1000))
	}
	if w.indented {
		w.comma = ","
	}
	if separators := c.argument(2, "separators", nil); separators != nil {
		pair := items(c.Line, separators)
		if len(pair) != 2 {
			c.Fail("tojson: want two separators")
		}
		w.comma, w.colon = str(pair[0]), str(pair[1])
	}
	w.sorted = truth(c.argument(3, "sort_keys", false))
	w.value(v, 0)
	return w.String()
}

type jsonWriter struct {
	strings.Builder
	call         *Call
	indented     bool // over several lines
	by           string
	comma, colon string
	sorted       bool
}

func (w *jsonWriter) value(v any, depth int) {
	if depth > mostDepth || w.Len() > mostText {
		w.call.Fail("tojson: too much")
	}
	switch v := v.(type) {
	case nil:
		w.WriteString("null")
	case bool:
		w.WriteString(strings.ToLower(str(v)))
	case int, float64:
		w.WriteString(strings.NewReplacer("inf", "Infinity", "nan", "NaN").Replace(str(v)))
	case string:
		w.text(v)
	case []any:
		w.group("[", "]", len(v), depth, func(i int) { w.value(v[i], depth+1) })
	case *Dict:
		all := v.items()
		if w.sorted {
			slices.SortFunc(all, func(a, b any) int { return strings.Compare(str(a.([]any)[0]), str(b.([]any)[0])) })
		}
		w.group("{", "}", len(all), depth, func(i int) {
			pair := all[i].([]any)
			w.text(str(pair[0]))
			w.WriteString(w.colon)
			w.value(pair[1], depth+1)
		})
	default:
		w.call.Fail("tojson: %s has no JSON", typeName(v))
	}
}

func (w *jsonWriter) group(begin, end string, n, depth int, write func(i int)) {
	w.WriteString(begin)
	for i := range n {
		if i > 0 {
			w.WriteString(w.comma)
		}
		w.newline(depth + 1)
		write(i)
	}
	if n > 0 {
		w.newline(depth)
	}
	w.WriteString(end)
}

func (w *jsonWriter) newline(depth int) {
	if w.indented {
		w.WriteString("\n" + strings.Repeat(w.by, depth))
	}
}

func (w *jsonWriter) text(s string) {
	w.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			w.WriteByte('\\')
			w.WriteRune(r)
		case r < ' ' && strings.ContainsRune("\n\r\t\f\b", r):
			w.WriteString(map[rune]string{'\n': `\n`, '\r': `\r`, '\t': `\t`, '\f': `\f`, '\b': `\b`}[r])
		case r < ' ':
			fmt.Fprintf(w, "\\u%04x", r)
		default:
			w.WriteRune(r)
		}
	}
	w.WriteByte('"')
}
