// Package config reads a command's options: from a struct's fields, a YAML file and flags, flags winning. `-` and `_` are
// alike in names; a name that is not known is an error that suggests the nearest.
//
// A field is an option if it has a tag `name:"max_steps"`; `alias:"steps"` gives it more names, `help:"…"` its description.
// The types are string, bool, int, uint64, float64, []string, Texts and Size.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The largest configuration file in bytes, and how deep brackets may nest in it: the parser takes time that grows with the square of that.
const (
	maxFile = 1 << 20
	deepest = 100
)

// depth is how deep brackets nest, whatever they stand in.
func depth(b []byte) (most int) {
	n := 0
	for _, c := range b {
		switch c {
		case '[', '{':
			n++
			most = max(most, n)
		case ']', '}':
			n = max(0, n-1)
		}
	}
	return most
}

// UsageError is a mistake in the command line or in a configuration file: exit code 2.
type UsageError struct{ Message string }

func (e *UsageError) Error() string { return e.Message }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }

// Texts are strings as they are written, commas and spaces included: each time that the flag is given adds one.
type Texts []string

// Size is a number of bytes, written 48GiB, 500MB or plainly.
type Size int64

// option is a field with its names.
type option struct {
	name, help string
	aliases    []string
	value      reflect.Value
}

// options lists the fields of the struct that into points to, and those of structs embedded in it.
func options(into any) []option { return fields(reflect.ValueOf(into).Elem()) }

func fields(v reflect.Value) (list []option) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			list = append(list, fields(v.Field(i))...)
		} else if name := f.Tag.Get("name"); name != "" {
			list = append(list, option{name, f.Tag.Get("help"), strings.Fields(f.Tag.Get("alias")), v.Field(i)})
		}
	}
	return list
}

// Refuser is what options implement that know names of which they do not take the values.
type Refuser interface {
	// Refused knows a name, as in a file, and says why its value is not taken; "" if that asks for nothing but what is done anyway.
	Refused(name, value string) (why string, known bool)
}

// find gives the option of a name.
func find(list []option, name string) (o option, found bool) {
	wanted := fileName(name)
	i := slices.IndexFunc(list, func(o option) bool { return o.name == wanted || slices.Contains(o.aliases, wanted) })
	if i < 0 {
		return option{}, false
	}
	return list[i], true
}

// unknown is what is wrong with a name that no option has, nil if its value asks for nothing. It suggests the nearest name, spelled as in a
// file or as a flag.
func unknown(into any, list []option, name, value string, spell func(string) string) error {
	wanted := fileName(name)
	if r, ok := into.(Refuser); ok {
		why, known := r.Refused(wanted, value)
		if known && why == "" {
			return nil
		}
		if known {
			return fmt.Errorf("not taken here: %s", why)
		}
	}
	best, least := "", 1+max(2, len(wanted)/3)
	for _, o := range list {
		for _, n := range append([]string{o.name}, o.aliases...) {
			// Names without a letter in common are no suggestion.
			if d := distance(n, wanted); d < least && d < max(len(n), len(wanted)) {
				best, least = n, d
			}
		}
	}
	if best == "" {
		return errors.New("unknown")
	}
	return fmt.Errorf("unknown; did you mean %s?", spell(best))
}

func fileName(name string) string { return strings.ReplaceAll(name, "-", "_") }

func flagName(name string) string { return "--" + strings.ReplaceAll(name, "_", "-") }

// distance is the number of characters to insert, delete or replace between a and b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// ParseFlags sets fields from flags, --name value or --name=value, and returns the other arguments. -1.5 is an argument, and
// all are after --. A bool's value may be left out; a value that begins with - is written after =. The error has a line for each mistake.
func ParseFlags(args []string, into any) (rest []string, err error) {
	list := options(into)
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			rest = append(rest, args[i+1:]...)
			break
		}
		if !isFlag(arg) {
			rest = append(rest, arg)
			continue
		}
		name, text, given := flag(arg)
		o, found := find(list, name)
		isSwitch := found && o.value.Kind() == reflect.Bool
		var wrong error
		switch {
		case given:
		case i+1 < len(args) && (isSwitch && isBool(args[i+1]) || !isSwitch && !isFlag(args[i+1])):
			i++
			text = args[i]
		case isSwitch || !found:
			text = "true"
		default:
			wrong = fmt.Errorf("needs a value: --%s VALUE, or --%s=VALUE if it begins with -", name, name)
		}
		switch {
		case wrong != nil:
		case found:
			wrong = set(o.value, strings.Split(text, ","), text)
		default:
			wrong = unknown(into, list, name, text, flagName)
		}
		if wrong != nil {
			err = errors.Join(err, Usagef("flag --%s: %v", name, wrong))
		}
	}
	if err != nil {
		return nil, err
	}
	return rest, nil
}

// Given are the names of the options that flags set. ParseFlags has taken the flags.
func Given(args []string, into any) map[string]bool {
	list, given := options(into), map[string]bool{}
	for _, arg := range args {
		if arg == "--" {
			break
		}
		name, _, _ := flag(arg)
		if o, found := find(list, name); found && isFlag(arg) {
			given[o.name] = true
		}
	}
	return given
}

// flag cuts --name=value.
func flag(arg string) (name, value string, given bool) {
	return strings.Cut(strings.TrimLeft(arg, "-"), "=")
}

func isFlag(arg string) bool {
	if len(arg) < 2 || arg[0] != '-' {
		return false
	}
	_, err := strconv.ParseFloat(arg, 64)
	return err != nil && !errors.Is(err, strconv.ErrRange)
}

// isBool tells a bool flag's value from the argument after it: 1 is an argument.
func isBool(arg string) bool {
	return strings.EqualFold(arg, "true") || strings.EqualFold(arg, "false")
}

// ParseFile sets fields from a YAML file.
func ParseFile(name string, into any) error {
	f, err := os.Open(name)
	if err != nil {
		return Usagef("configuration: %v", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Usagef("configuration: %v", err)
	}
	return ParseYAML(b, name, into)
}

// ParseYAML sets fields from a mapping of names to values; name is the file's, for errors, which have a line for each mistake.
func ParseYAML(b []byte, name string, into any) error {
	if len(b) > maxFile {
		return Usagef("%s: over %d bytes: no configuration", name, maxFile)
	}
	if depth(b) > deepest {
		return Usagef("%s: more than %d brackets are open at once: no configuration", name, deepest)
	}
	if !utf8.Valid(b) {
		return Usagef("%s: not UTF-8 text", name)
	}
	file, err := parser.ParseBytes(bytes.TrimPrefix(b, []byte("\ufeff")), 0)
	if err != nil {
		return syntaxError(err, name)
	}
	list, seen := options(into), map[string]bool{}
	var mistakes error
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		pairs, err := mapping(doc.Body)
		if err != nil {
			return Usagef("%s:%d: %v", name, line(doc.Body), err)
		}
		for _, pair := range pairs {
			key := keyName(pair.Key)
			o, found := find(list, key)
			var wrong error
			switch {
			case !found:
				wrong = unknown(into, list, key, nodeText(pair.Value), fileName)
			case seen[o.name]:
				wrong = errors.New("is there twice")
			default:
				wrong = setNode(o.value, pair.Value)
			}
			if wrong != nil {
				mistakes = errors.Join(mistakes, Usagef("%s:%d: %s: %v", name, line(pair.Key), key, wrong))
			}
			seen[o.name] = true
		}
	}
	return mistakes
}

// syntaxError leaves out the parser's excerpt of the file.
func syntaxError(err error, name string) error {
	var e interface {
		error
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &e) && e.GetToken() != nil && e.GetToken().Position != nil {
		return Usagef("%s:%d: %s", name, e.GetToken().Position.Line, e.GetMessage())
	}
	return Usagef("%s: %v", name, err)
}

func keyName(n ast.MapKeyNode) string {
	if s, ok := n.(*ast.StringNode); ok {
		return s.Value // without quotes
	}
	return n.String()
}

func line(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

func mapping(n ast.Node) ([]*ast.MappingValueNode, error) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, nil
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, nil
	case *ast.CommentGroupNode, *ast.NullNode:
		return nil, nil
	}
	return nil, fmt.Errorf("want lines of the form name: value")
}

// setNode takes a scalar, or a list of scalars.
func setNode(v reflect.Value, n ast.Node) error {
	if seq, ok := n.(*ast.SequenceNode); ok {
		if v.Kind() != reflect.Slice {
			return fmt.Errorf("want one value, not a list")
		}
		items := []string{}
		for _, item := range seq.Values {
			text, err := scalar(item)
			if err != nil {
				return err
			}
			items = append(items, text)
		}
		return set(v, items, "")
	}
	text, err := scalar(n)
	if err != nil {
		return err
	}
	return set(v, strings.Split(text, ","), text)
}

// scalar is the text of a value as it was written. Anchors, aliases and tags are refused.
func scalar(n ast.Node) (string, error) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, nil
	case *ast.LiteralNode: // lines after | or >
		return n.Value.Value, nil
	case *ast.NullNode:
		return "", nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, nil
	}
	return "", fmt.Errorf("want a plain value, found YAML's %s", strings.ToLower(n.Type().String()))
}

// nodeText is a value in one line, for an option that takes none.
func nodeText(n ast.Node) string {
	if text, err := scalar(n); err == nil {
		return text
	}
	return n.String()
}

// set converts text, or items if the field is a list.
func set(v reflect.Value, items []string, text string) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("%q: want UTF-8 text", text)
	}
	switch p := v.Addr().Interface().(type) {
	case *string:
		*p = text
		return nil
	case *[]string:
		*p = nil
		for _, item := range items {
			if item = strings.TrimSpace(item); item != "" {
				*p = append(*p, item)
			}
		}
		return nil
	case *Texts:
		if text != "" {
			items = []string{text} // not cut at commas
		}
		*p = append(*p, items...)
		return nil
	case *bool:
		return convert(p, strconv.ParseBool, text, "true or false")
	case *int:
		return convert(p, strconv.Atoi, text, "a whole number")
	case *uint64:
		return convert(p, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }, text, "a whole number that is not negative")
	case *float64:
		return convert(p, parseNumber, text, "a finite number")
	case *Size:
		return convert(p, parseSize, text, "a size such as 48GiB")
	}
	panic(fmt.Sprintf("config: a field of type %v", v.Type()))
}

func convert[T any](p *T, parse func(string) (T, error), text, want string) error {
	x, err := parse(text)
	if err != nil {
		return fmt.Errorf("%q: want %s", text, want)
	}
	*p = x
	return nil
}

func parseNumber(text string) (float64, error) {
	x, err := strconv.ParseFloat(text, 64)
	if err == nil && (math.IsNaN(x) || math.IsInf(x, 0)) {
		err = strconv.ErrRange
	}
	return x, err
}

// units in which sizes are written, longer names first.
var units = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

func parseSize(text string) (Size, error) {
	number, scale := strings.TrimSpace(text), 1.0
	for _, u := range units {
		if n, ok := strings.CutSuffix(number, u.name); ok {
			number, scale = strings.TrimSpace(n), u.bytes
			break
		}
	}
	x, err := strconv.ParseFloat(number, 64)
	if err != nil || !(x >= 0) || x*scale >= 1<<62 {
		return 0, fmt.Errorf("not a size")
	}
	return Size(x * scale), nil
}

// String gives the largest binary unit in which the size is a whole number.
func (s Size) String() string {
	for _, unit := range []string{"", "KiB", "MiB", "GiB"} {
		if s == 0 || s%1024 != 0 {
			return strconv.FormatInt(int64(s), 10) + unit
		}
		s /= 1024
	}
	return strconv.FormatInt(int64(s), 10) + "TiB"
}

// YAML writes all fields so that ParseYAML reads the same back.
func YAML(from any) string {
	var b strings.Builder
	for _, o := range options(from) {
		fmt.Fprintf(&b, "%s: %s\n", o.name, yamlValue(o.value))
	}
	return b.String()
}

func yamlValue(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		return strconv.Quote(x)
	case []string:
		return yamlList(x)
	case Texts:
		return yamlList(x)
	case float64:
		return strconv.FormatFloat(x, 'g', -1, 64)
	}
	return fmt.Sprint(v.Interface())
}

func yamlList(items []string) string {
	quoted := make([]string, len(items))
	for i, item := range items {
		quoted[i] = strconv.Quote(item)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// Help lists the options with their current values, but for those that are empty or false.
func Help(of any) string {
	var b strings.Builder
	for _, o := range options(of) {
		names := flagName(o.name)
		for _, a := range o.aliases {
			names += ", " + flagName(a)
		}
		fmt.Fprintf(&b, "  %-44s %s", names, o.help)
		if now := yamlValue(o.value); now != `""` && now != "[]" && now != "false" {
			fmt.Fprintf(&b, " (%s)", now)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
