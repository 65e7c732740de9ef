package jinja

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// globals are the functions of every template; raise_exception is transformers'.
var globals = map[string]Function{
	"range":     rangeOf,
	"namespace": func(c *Call) any { return &namespace{c.Named} },
	"dict": func(c *Call) any {
		d := &Dict{}
		for _, name := range sortedKeys(c.Named) {
			d.set(c.Line, name, c.Named[name])
		}
		return d
	},
	"raise_exception": func(c *Call) any {
		c.Fail("the template refuses this conversation: %s", str(c.argument(0, "message", nil)))
		return nil
	},
}

func sortedKeys(m map[string]any) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// mostRange is Jinja's sandbox's own limit.
const mostRange = 100_000

func rangeOf(c *Call) any {
	from, to, step := 0, c.number(0, "stop", 0), c.number(2, "step", 1)
	if len(c.Arguments) > 1 {
		from, to = to, c.number(1, "stop", 0)
	}
	if step == 0 {
		c.Fail("range: the step is 0")
	}
	numbers := []any{}
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		if len(numbers) == mostRange {
			c.Fail("range has more than %d numbers", mostRange)
		}
		numbers = append(numbers, i)
	}
	return numbers
}

// filters are what stands after |.
var filters map[string]func(v any, c *Call) any

func init() { // and not above, for map and select look filters and tests up
	filters = map[string]func(v any, c *Call) any{
		"trim":       func(v any, c *Call) any { return strip(str(v), c, true, true) },
		"upper":      func(v any, c *Call) any { return strings.ToUpper(str(v)) },
		"lower":      func(v any, c *Call) any { return strings.ToLower(str(v)) },
		"title":      func(v any, c *Call) any { return title(str(v)) },
		"capitalize": func(v any, c *Call) any { return capitalized(str(v)) },
		"replace":    func(v any, c *Call) any { return replace(str(v), c) },
		"string":     func(v any, c *Call) any { return str(v) },
		"safe":       func(v any, c *Call) any { return v }, // nothing is escaped
		"length":     func(v any, c *Call) any { return len(items(c.Line, v)) },
		"count":      func(v any, c *Call) any { return len(items(c.Line, v)) },
		"list":       func(v any, c *Call) any { return items(c.Line, v) },
		"first":      func(v any, c *Call) any { return item(c.run, c.Line, items(c.Line, v), 0) },
		"last":       func(v any, c *Call) any { return item(c.run, c.Line, items(c.Line, v), -1) },
		"default":    otherwise,
		"d":          otherwise,
		"join": func(v any, c *Call) any {
			return join(c.Line, str(c.argument(0, "d", "")), attributes(v, c, c.argument(1, "attribute", nil)))
		},
		"items":      func(v any, c *Call) any { return pairs(v, c) },
		"dictsort":   dictsort,
		"map":        mapped,
		"select":     func(v any, c *Call) any { return selected(v, c, false, true) },
		"reject":     func(v any, c *Call) any { return selected(v, c, false, false) },
		"selectattr": func(v any, c *Call) any { return selected(v, c, true, true) },
		"rejectattr": func(v any, c *Call) any { return selected(v, c, true, false) },
		"reverse":    reversed,
		"indent":     indented,
		"tojson":     toJSON,
		"int":        toInt,
		"float":      toFloat,
		"abs": func(v any, c *Call) any {
			if x, ok := v.(float64); ok {
				return math.Abs(x)
			}
			n := c.whole(v)
			return max(n, -n)
		},
	}
}

func (c *Call) whole(v any) int {
	n, ok := integer(v)
	if !ok {
		c.Fail("want a number, found %s", typeName(v))
	}
	return n
}

func otherwise(v any, c *Call) any {
	if _, missing := v.(undefined); missing || truth(c.argument(1, "boolean", false)) && !truth(v) {
		return c.argument(0, "default_value", "")
	}
	return v
}

func join(line int, separator string, v any) any {
	var b strings.Builder
	for i, x := range items(line, v) {
		if i > 0 {
			b.WriteString(separator)
		}
		b.WriteString(str(x))
		if b.Len() > mostText {
			fail(line, "a text is longer than %d bytes", mostText)
		}
	}
	return b.String()
}

// path is an attribute of an attribute: a.b.0.
func path(c *Call, v any, names string) any {
	for name := range strings.SplitSeq(names, ".") {
		var key any = name
		if n, err := strconv.Atoi(name); err == nil {
			key = n
		}
		v = item(c.run, c.Line, v, key)
	}
	return v
}

// attributes gives an attribute of each, or each itself if there is none.
func attributes(v any, c *Call, attribute any) []any {
	all := slices.Clone(items(c.Line, v))
	for i, x := range all {
		if attribute != nil {
			all[i] = path(c, x, str(attribute))
		}
	}
	return all
}

// mapped gives an attribute of each, or what a filter makes of it.
func mapped(v any, c *Call) any {
	if attribute := c.Named["attribute"]; attribute != nil {
		return attributes(v, c, attribute)
	}
	name := c.text(0, "filter")
	f, ok := filters[name]
	if !ok {
		c.Fail("map: there is no filter %s here", name)
	}
	all := slices.Clone(items(c.Line, v))
	for i, x := range all {
		all[i] = f(x, &Call{Line: c.Line, Arguments: c.Arguments[1:], Named: c.Named, run: c.run})
		c.run.work(c.Line, all[i])
	}
	return all
}

// selected keeps those of which a test, or their truth, is what is wanted: of themselves or of an attribute.
func selected(v any, c *Call, ofAttribute, wanted bool) any {
	arguments := c.Arguments
	attribute := ""
	if ofAttribute {
		attribute = c.text(0, "attribute")
		arguments = arguments[1:]
	}
	test := func(v any, _ *Call) bool { return truth(v) }
	if len(arguments) > 0 {
		name := str(arguments[0])
		test = tests[name]
		if test == nil {
			c.Fail("there is no test %s here", name)
		}
		arguments = arguments[1:]
	}
	kept := []any{}
	for _, x := range items(c.Line, v) {
		of := x
		if ofAttribute {
			of = path(c, x, attribute)
		}
		if test(of, &Call{Line: c.Line, Arguments: arguments, run: c.run}) == wanted {
			kept = append(kept, x)
		}
	}
	return kept
}

func pairs(v any, c *Call) []any {
	switch d := v.(type) {
	case undefined:
		return nil
	case *Dict:
		return d.items()
	}
	c.Fail("want a dict, found %s", typeName(v))
	return nil
}

// dictsort gives a dict's pairs by key, letters' case apart.
func dictsort(v any, c *Call) any {
	all := pairs(v, c)
	slices.SortStableFunc(all, func(a, b any) int {
		x, y := a.([]any)[0], b.([]any)[0]
		if s, ok := x.(string); ok {
			x = strings.ToLower(s)
		}
		if s, ok := y.(string); ok {
			y = strings.ToLower(s)
		}
		return ordered(c.Line, x, y)
	})
	return all
}

func reversed(v any, c *Call) any {
	all := slices.Clone(items(c.Line, v))
	slices.Reverse(all)
	if _, ok := v.(string); ok {
		return join(c.Line, "", all)
	}
	return all
}

// indented has spaces before every line but the first, and but empty ones.
func indented(v any, c *Call) any {
	by, first := strings.Repeat(" ", min(max(c.number(0, "width", 4), 0), 1000)), truth(c.argument(1, "first", false))
	lines := strings.Split(str(v), "\n")
	if len(lines)*len(by) > mostText {
		c.Fail("a text is longer than %d bytes", mostText)
	}
	for i, line := range lines {
		if (i > 0 || first) && (line != "" || truth(c.argument(2, "blank", false))) {
			lines[i] = by + line
		}
	}
	return join(c.Line, "\n", list(lines))
}

func toInt(v any, c *Call) any {
	switch v := v.(type) {
	case float64:
		if math.Abs(v) < 1<<31 {
			return int(v)
		}
	case string:
		if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil {
			return n
		}
		if x, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil && math.Abs(x) < 1<<31 {
			return int(x)
		}
	case int, bool:
		n, _ := integer(v)
		return n
	}
	return c.argument(0, "default", 0)
}

func toFloat(v any, c *Call) any {
	if s, ok := v.(string); ok {
		if x, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil {
			return x
		}
	}
	if x, ok := numeric(v); ok {
		return x
	}
	return c.argument(0, "default", 0.0)
}

// tests are what stands after is.
var tests = map[string]func(v any, c *Call) bool{
	"defined":   func(v any, c *Call) bool { return !isUndefined(v) },
	"undefined": func(v any, c *Call) bool { return isUndefined(v) },
	"none":      func(v any, c *Call) bool { return v == nil },
	"string":    func(v any, c *Call) bool { return is[string](v) },
	"number":    func(v any, c *Call) bool { return is[int](v) || is[float64](v) || is[bool](v) },
	"integer":   func(v any, c *Call) bool { return is[int](v) },
	"float":     func(v any, c *Call) bool { return is[float64](v) },
	"boolean":   func(v any, c *Call) bool { return is[bool](v) },
	"true":      func(v any, c *Call) bool { return v == true },
	"false":     func(v any, c *Call) bool { return v == false },
	"mapping":   func(v any, c *Call) bool { return is[*Dict](v) },
	"sequence":  func(v any, c *Call) bool { return is[[]any](v) || is[string](v) || is[*Dict](v) || isUndefined(v) },
	"iterable":  func(v any, c *Call) bool { return is[[]any](v) || is[string](v) || is[*Dict](v) || isUndefined(v) },
	"callable":  func(v any, c *Call) bool { return is[Function](v) },
	"odd":       func(v any, c *Call) bool { return c.whole(v)%2 != 0 },
	"even":      func(v any, c *Call) bool { return c.whole(v)%2 == 0 },
	"divisibleby": func(v any, c *Call) bool {
		by := c.number(0, "num", 0)
		if by == 0 {
			c.Fail("divisibleby 0")
		}
		return c.whole(v)%by == 0
	},
	"equalto": testOf("=="),
	"eq":      testOf("=="),
	"==":      testOf("=="),
	"ne":      testOf("!="),
	"!=":      testOf("!="),
	"lt":      testOf("<"),
	"le":      testOf("<="),
	"gt":      testOf(">"),
	"ge":      testOf(">="),
	"in":      testOf("in"),
	"sameas": func(v any, c *Call) bool {
		return typeName(v) == typeName(c.argument(0, "other", nil)) && testOf("==")(v, c)
	},
}

func is[T any](v any) bool {
	_, ok := v.(T)
	return ok
}

func isUndefined(v any) bool { return is[undefined](v) }

func testOf(op string) func(v any, c *Call) bool {
	return func(v any, c *Call) bool { return compare(c.run, c.Line, op, v, c.argument(0, "other", nil)) }
}
