package jinja

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// undefined is the value of what is not there: empty text, an empty list, false; anything else that is done with it is an error.
type undefined struct{ why string }

// Function is what a template can call.
type Function func(c *Call) any

// Call is a call's arguments.
type Call struct {
	Line      int
	Arguments []any
	Named     map[string]any

	run *run
}

// Fail ends the rendering with an error at the line of the call.
func (c *Call) Fail(format string, args ...any) { fail(c.Line, format, args...) }

// argument is the i-th, or the one of a name, or what is given for neither.
func (c *Call) argument(i int, name string, otherwise any) any {
	if i < len(c.Arguments) {
		return c.Arguments[i]
	}
	if v, ok := c.Named[name]; ok {
		return v
	}
	return otherwise
}

// text is an argument that must be a text.
func (c *Call) text(i int, name string) string {
	v := c.argument(i, name, undefined{"argument " + name + " is missing"})
	s, ok := v.(string)
	if !ok {
		c.Fail("want a text for %s, found %s", name, typeName(v))
	}
	return s
}

// number is an argument that must be a whole number.
func (c *Call) number(i int, name string, otherwise int) int {
	v := c.argument(i, name, otherwise)
	n, ok := integer(v)
	if !ok {
		c.Fail("want a whole number for %s, found %s", name, typeName(v))
	}
	return n
}

// Dict is Python's: keys in the order in which they came.
type Dict struct {
	keys   []any
	values map[any]any
}

// NewDict makes a Dict of texts: name, value, name, value.
func NewDict(pairs ...string) *Dict {
	d := &Dict{}
	for i := 0; i < len(pairs); i += 2 {
		d.set(0, pairs[i], pairs[i+1])
	}
	return d
}

func (d *Dict) set(line int, key, value any) {
	key = hashable(line, key)
	if _, ok := d.values[key]; !ok {
		d.keys = append(d.keys, key)
	}
	if d.values == nil {
		d.values = map[any]any{}
	}
	d.values[key] = value
}

// hashable is a key: whole numbers are equal whatever their type.
func hashable(line int, key any) any {
	switch k := key.(type) {
	case string, nil:
		return k
	case float64:
		if n := int(k); float64(n) == k {
			return n
		}
		return k
	}
	if n, ok := integer(key); ok {
		return n
	}
	fail(line, "%s cannot be a key", typeName(key))
	return nil
}

func (d *Dict) get(line int, key any) (any, bool) {
	v, ok := d.values[hashable(line, key)]
	return v, ok
}

// items are the pairs.
func (d *Dict) items() []any {
	all := make([]any, len(d.keys))
	for i, k := range d.keys {
		all[i] = []any{k, d.values[k]}
	}
	return all
}

// namespace is an object whose attributes can be set.
type namespace struct{ names map[string]any }

// loop is the variable of that name.
type loop struct {
	items []any
	index int
}

func (l *loop) attribute(name string) any {
	neighbour := func(i int) any {
		if i < 0 || i >= len(l.items) {
			return undefined{"there is no " + name}
		}
		return l.items[i]
	}
	switch name {
	case "index":
		return l.index + 1
	case "index0":
		return l.index
	case "revindex":
		return len(l.items) - l.index
	case "revindex0":
		return len(l.items) - l.index - 1
	case "first":
		return l.index == 0
	case "last":
		return l.index == len(l.items)-1
	case "length":
		return len(l.items)
	case "previtem":
		return neighbour(l.index - 1)
	case "nextitem":
		return neighbour(l.index + 1)
	}
	return undefined{"loop has no attribute " + name}
}

// integer is the value of a whole number or a bool.
func integer(v any) (int, bool) {
	switch v := v.(type) {
	case int:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// numeric is the value of any number.
func numeric(v any) (float64, bool) {
	if x, ok := v.(float64); ok {
		return x, true
	}
	n, ok := integer(v)
	return float64(n), ok
}

func truth(v any) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case *Dict:
		return len(v.keys) > 0
	}
	x, ok := numeric(v)
	return !ok || x != 0
}

// typeName is the type's in Python.
func typeName(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case undefined:
		return "nothing (" + v.why + ")"
	case bool:
		return "bool"
	case int:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case []any:
		return "list"
	case *Dict:
		return "dict"
	}
	return "object"
}

// str is Python's str().
func str(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case undefined:
		return ""
	case []any, *Dict:
		var b strings.Builder
		repr(&b, v, 0)
		return b.String()
	case bool:
		if v {
			return "True"
		}
		return "False"
	case nil:
		return "None"
	case int:
		return strconv.Itoa(v)
	case float64:
		return floatText(v)
	}
	return "<object>"
}

// floatText is the shortest that reads back, with a point and an exponent where Python has them.
func floatText(x float64) string {
	switch {
	case math.IsInf(x, 1):
		return "inf"
	case math.IsInf(x, -1):
		return "-inf"
	case math.IsNaN(x):
		return "nan"
	case x != 0 && (math.Abs(x) < 1e-4 || math.Abs(x) >= 1e16):
		return strconv.FormatFloat(x, 'e', -1, 64)
	}
	s := strconv.FormatFloat(x, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// repr is Python's repr(), as far as lists and dicts are written with it.
func repr(b *strings.Builder, v any, depth int) {
	if depth > mostDepth || b.Len() > mostText {
		b.WriteString("...")
		return
	}
	switch v := v.(type) {
	case string:
		quote := "'"
		if strings.Contains(v, "'") && !strings.Contains(v, `"`) {
			quote = `"`
		}
		b.WriteString(quote + strings.NewReplacer(`\`, `\\`, quote, `\`+quote, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(v) + quote)
	case []any:
		b.WriteByte('[')
		for i, x := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			repr(b, x, depth+1)
		}
		b.WriteByte(']')
	case *Dict:
		b.WriteByte('{')
		for i, k := range v.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			repr(b, k, depth+1)
			b.WriteString(": ")
			repr(b, v.values[k], depth+1)
		}
		b.WriteByte('}')
	default:
		b.WriteString(str(v))
	}
}

// items are what a loop goes over.
func items(line int, v any) []any {
	switch v := v.(type) {
	case []any:
		return v
	case *Dict:
		return v.keys
	case undefined:
		return nil
	case string:
		var all []any
		for _, r := range v {
			all = append(all, string(r))
		}
		return all
	}
	fail(line, "%s is no list", typeName(v))
	return nil
}

func equal(r *run, line int, a, b any) bool {
	r.work(line)
	if x, ok := numeric(a); ok {
		y, ok := numeric(b)
		return ok && x == y
	}
	switch a := a.(type) {
	case nil:
		return b == nil
	case undefined:
		_, ok := b.(undefined)
		return ok
	case string:
		b, ok := b.(string)
		return ok && a == b
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, func(x, y any) bool { return equal(r, line, x, y) })
	case *Dict:
		b, ok := b.(*Dict)
		if !ok || len(a.keys) != len(b.keys) {
			return false
		}
		for _, k := range a.keys {
			if w, ok := b.values[k]; !ok || !equal(r, line, a.values[k], w) {
				return false
			}
		}
		return true
	case *namespace:
		return a == b
	case *loop:
		return a == b
	}
	return false
}

func compare(r *run, line int, op string, a, b any) bool {
	r.work(line, a, b)
	switch op {
	case "==":
		return equal(r, line, a, b)
	case "!=":
		return !equal(r, line, a, b)
	case "in":
		return contains(r, line, b, a)
	case "not in":
		return !contains(r, line, b, a)
	}
	order := ordered(line, a, b)
	switch op {
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	}
	return order >= 0
}

// ordered is negative where a comes before b, 0 where they are equal.
func ordered(line int, a, b any) int {
	if s, ok := a.(string); ok {
		if t, ok := b.(string); ok {
			return strings.Compare(s, t)
		}
	}
	x, isNumber := numeric(a)
	y, bothNumbers := numeric(b)
	if !isNumber || !bothNumbers {
		fail(line, "%s and %s have no order", typeName(a), typeName(b))
	}
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func contains(r *run, line int, list, v any) bool {
	switch list := list.(type) {
	case string:
		s, ok := v.(string)
		if !ok {
			fail(line, "want a text before in, found %s", typeName(v))
		}
		return strings.Contains(list, s)
	case *Dict:
		_, ok := list.get(line, v)
		return ok
	}
	return slices.ContainsFunc(items(line, list), func(x any) bool { return equal(r, line, x, v) })
}

func arithmetic(r *run, line int, op string, a, b any) any {
	for _, v := range []any{a, b} {
		if u, ok := v.(undefined); ok && op != "~" {
			fail(line, "%s", u.why)
		}
	}
	x, isNumber := numeric(a)
	y, bothNumbers := numeric(b)
	n, isInteger := integer(a)
	m, bothIntegers := integer(b)
	switch {
	case op == "~":
		return joined(line, str(a), str(b))
	case isInteger && bothIntegers && op != "/":
		return whole(line, op, n, m)
	case isNumber && bothNumbers:
		return fraction(line, op, x, y)
	case op == "+":
		if s, ok := a.(string); ok {
			if t, ok := b.(string); ok {
				return joined(line, s, t)
			}
		}
		if s, ok := a.([]any); ok {
			if t, ok := b.([]any); ok {
				return slices.Concat(s, t)
			}
		}
	case op == "*" && (isInteger || bothIntegers):
		if isInteger {
			return repeated(line, b, n)
		}
		return repeated(line, a, m)
	}
	fail(line, "%s %s %s cannot be computed", typeName(a), op, typeName(b))
	return nil
}

func joined(line int, a, b string) string {
	if len(a)+len(b) > mostText {
		fail(line, "a text is longer than %d bytes", mostText)
	}
	return a + b
}

func repeated(line int, v any, n int) any {
	length := 0
	switch v := v.(type) {
	case string:
		length = len(v)
	case []any:
		length = len(v)
	default:
		fail(line, "%s cannot be repeated", typeName(v))
	}
	if n = max(n, 0); length > 0 && n > mostText/length {
		fail(line, "a text or list is longer than %d", mostText)
	}
	if s, ok := v.(string); ok {
		return strings.Repeat(s, n)
	}
	return slices.Repeat(v.([]any), n)
}

// whole computes with whole numbers. Those of a template are small: what does not fit into 32 bits is refused.
func whole(line int, op string, a, b int) any {
	const most = 1 << 31
	if max(a, -a) > most || max(b, -b) > most || a == math.MinInt || b == math.MinInt {
		fail(line, "a number is too large")
	}
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "**":
		if x := math.Pow(float64(a), float64(b)); b >= 0 && math.Abs(x) <= most {
			return int(x)
		}
		fail(line, "a number is too large")
	}
	if b == 0 {
		fail(line, "division by zero")
	}
	q := a / b
	if a%b != 0 && (a < 0) != (b < 0) {
		q-- // Python rounds down
	}
	if op == "//" {
		return q
	}
	return a - q*b
}

func fraction(line int, op string, a, b float64) any {
	if b == 0 && (op == "/" || op == "//" || op == "%") {
		fail(line, "division by zero")
	}
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "/":
		return a / b
	case "**":
		return math.Pow(a, b)
	}
	q := math.Floor(a / b)
	if op == "//" {
		return q
	}
	return a - q*b
}

// attribute is object.name: a method first, as in Python.
func attribute(r *run, line int, object any, name string) any {
	switch o := object.(type) {
	case undefined:
		fail(line, "%s", o.why)
	case *namespace:
		if v, ok := o.names[name]; ok {
			return v
		}
	case *loop:
		return o.attribute(name)
	case *Dict:
		if m := dictMethod(o, name); m != nil {
			return m
		}
		if v, ok := o.get(line, name); ok {
			return v
		}
	case string:
		if m, ok := textMethods[name]; ok {
			r.work(line, o)
			return Function(func(c *Call) any { return m(o, c) })
		}
	}
	return undefined{fmt.Sprintf("%s has no attribute %q", typeName(object), name)}
}

// item is object[key].
func item(r *run, line int, object, key any) any {
	switch o := object.(type) {
	case undefined:
		fail(line, "%s", o.why)
	case *Dict:
		if v, ok := o.get(line, key); ok {
			return v
		}
	case string, []any:
		if i, ok := integer(key); ok {
			all := items(line, o)
			if _, isText := o.(string); isText {
				r.work(line, o) // all of it was looked at
			}
			if i < 0 {
				i += len(all)
			}
			if i < 0 || i >= len(all) {
				return undefined{fmt.Sprintf("%s has no element %d", typeName(object), i)}
			}
			return all[i]
		}
	}
	if name, ok := key.(string); ok {
		return attribute(r, line, object, name)
	}
	return undefined{fmt.Sprintf("%s has no element %s", typeName(object), str(key))}
}

// slice is object[from:to:step], with nil for what is not given.
func slice(r *run, line int, object any, bounds [3]any) any {
	_, isText := object.(string)
	if _, ok := object.([]any); !ok && !isText {
		fail(line, "%s has no slices", typeName(object))
	}
	r.work(line, object)
	all := items(line, object)
	n, step := len(all), bound(line, bounds[2], 1)
	var picked []any
	switch {
	case step == 0:
		fail(line, "the step of a slice is 0")
	case step > 0:
		from, to := place(line, bounds[0], 0, 0, n), place(line, bounds[1], n, 0, n)
		for i := from; i < to; i += min(step, n) {
			picked = append(picked, all[i])
		}
	default:
		from, to := place(line, bounds[0], n-1, -1, n-1), place(line, bounds[1], -1, -1, n-1)
		for i := from; i > to; i += max(step, -n) {
			picked = append(picked, all[i])
		}
	}
	if !isText {
		return picked
	}
	var b strings.Builder
	for _, c := range picked {
		b.WriteString(c.(string))
	}
	return b.String()
}

func bound(line int, v any, otherwise int) int {
	if v == nil {
		return otherwise
	}
	n, ok := integer(v)
	if !ok {
		fail(line, "want a whole number in a slice, found %s", typeName(v))
	}
	return n
}

// place is where a bound of a slice lies from low to high; negative ones count from the end.
func place(line int, v any, otherwise, low, high int) int {
	if v == nil {
		return otherwise
	}
	n := bound(line, v, 0)
	if n < 0 {
		n += high - low
	}
	return min(max(n, low), high)
}
