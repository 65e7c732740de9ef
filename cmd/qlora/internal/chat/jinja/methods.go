package jinja

import (
	"slices"
	"strings"
	"unicode"
)

// textMethods are those of Python's str.
var textMethods = map[string]func(s string, c *Call) any{
	"strip":  func(s string, c *Call) any { return strip(s, c, true, true) },
	"lstrip": func(s string, c *Call) any { return strip(s, c, true, false) },
	"rstrip": func(s string, c *Call) any { return strip(s, c, false, true) },
	"split":  func(s string, c *Call) any { return split(s, c, false) },
	"rsplit": func(s string, c *Call) any { return split(s, c, true) },
	"splitlines": func(s string, c *Call) any {
		if s == "" {
			return []any{}
		}
		return list(strings.Split(strings.TrimSuffix(s, "\n"), "\n"))
	},
	"upper":        func(s string, c *Call) any { return strings.ToUpper(s) },
	"lower":        func(s string, c *Call) any { return strings.ToLower(s) },
	"capitalize":   func(s string, c *Call) any { return capitalized(s) },
	"title":        func(s string, c *Call) any { return title(s) },
	"startswith":   func(s string, c *Call) any { return affix(s, c, strings.HasPrefix) },
	"endswith":     func(s string, c *Call) any { return affix(s, c, strings.HasSuffix) },
	"removeprefix": func(s string, c *Call) any { return strings.TrimPrefix(s, c.text(0, "prefix")) },
	"removesuffix": func(s string, c *Call) any { return strings.TrimSuffix(s, c.text(0, "suffix")) },
	"replace":      replace,
	"find":         func(s string, c *Call) any { return runesBefore(s, strings.Index(s, c.text(0, "sub"))) },
	"rfind":        func(s string, c *Call) any { return runesBefore(s, strings.LastIndex(s, c.text(0, "sub"))) },
	"count":        func(s string, c *Call) any { return strings.Count(s, c.text(0, "sub")) },
	"join":         func(s string, c *Call) any { return join(c.Line, s, c.argument(0, "iterable", nil)) },
	"isdigit":      func(s string, c *Call) any { return all(s, unicode.IsDigit) },
	"isalpha":      func(s string, c *Call) any { return all(s, unicode.IsLetter) },
	"isspace":      func(s string, c *Call) any { return all(s, isSpace) },
	"isupper":      func(s string, c *Call) any { return strings.ToUpper(s) == s && strings.ToLower(s) != s },
	"islower":      func(s string, c *Call) any { return strings.ToLower(s) == s && strings.ToUpper(s) != s },
}

func all(s string, is func(rune) bool) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return !is(r) }) < 0
}

func list(texts []string) []any {
	values := make([]any, len(texts))
	for i, t := range texts {
		values[i] = t
	}
	return values
}

// Strip is Python's str.strip().
func Strip(s string) string { return strings.TrimFunc(s, isSpace) }

// strip takes white space, or characters that are given, from the ends.
func strip(s string, c *Call, left, right bool) any {
	unwanted := isSpace
	if v := c.argument(0, "chars", nil); v != nil {
		chars := c.text(0, "chars")
		unwanted = func(r rune) bool { return strings.ContainsRune(chars, r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, unwanted)
	}
	if right {
		s = strings.TrimRightFunc(s, unwanted)
	}
	return s
}

// split cuts at a separator, at most maxsplit times from the left or the right; without one at white space.
func split(s string, c *Call, right bool) any {
	most := c.number(1, "maxsplit", -1)
	if c.argument(0, "sep", nil) == nil {
		if most >= 0 {
			c.Fail("split with maxsplit needs a separator here")
		}
		return list(strings.FieldsFunc(s, isSpace))
	}
	separator := c.text(0, "sep")
	if separator == "" {
		c.Fail("split: the separator is empty")
	}
	parts := strings.Split(s, separator)
	switch {
	case most < 0 || len(parts) <= most+1:
	case right:
		n := len(parts) - most
		parts = append([]string{strings.Join(parts[:n], separator)}, parts[n:]...)
	default:
		parts = append(parts[:most:most], strings.Join(parts[most:], separator))
	}
	return list(parts)
}

// affix compares with a text, or with any of a list.
func affix(s string, c *Call, has func(s, part string) bool) bool {
	if options, ok := c.argument(0, "prefix", nil).([]any); ok {
		return slices.ContainsFunc(options, func(v any) bool {
			part, ok := v.(string)
			return ok && has(s, part)
		})
	}
	return has(s, c.text(0, "prefix"))
}

func replace(s string, c *Call) any {
	from, to, n := c.text(0, "old"), c.text(1, "new"), c.number(2, "count", -1)
	if len(s)+(strings.Count(s, from)*len(to)) > mostText {
		c.Fail("a text is longer than %d bytes", mostText)
	}
	return strings.Replace(s, from, to, n)
}

// runesBefore counts characters up to a byte; −1 stays.
func runesBefore(s string, i int) int {
	if i < 0 {
		return i
	}
	return len([]rune(s[:i]))
}

func capitalized(s string) string {
	r := []rune(strings.ToLower(s))
	if len(r) > 0 {
		r[0] = unicode.ToTitle(r[0])
	}
	return string(r)
}

// title has a capital at the beginning of every run of letters.
func title(s string) string {
	inWord := false
	return strings.Map(func(r rune) rune {
		begins := !inWord
		inWord = unicode.IsLetter(r)
		if begins {
			return unicode.ToTitle(r)
		}
		return unicode.ToLower(r)
	}, s)
}

// dictMethod is one of Python's dict that change nothing; nil if it is none.
func dictMethod(d *Dict, name string) any {
	switch name {
	case "items":
		return Function(func(*Call) any { return d.items() })
	case "keys":
		return Function(func(*Call) any { return d.keys })
	case "values":
		return Function(func(*Call) any {
			values := make([]any, len(d.keys))
			for i, k := range d.keys {
				values[i] = d.values[k]
			}
			return values
		})
	case "get":
		return Function(func(c *Call) any {
			if v, ok := d.get(c.Line, c.argument(0, "key", nil)); ok {
				return v
			}
			return c.argument(1, "default", nil)
		})
	}
	return nil
}
