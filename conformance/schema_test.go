package conformance

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// schema checks values against the part of JSON Schema that schema.json uses; a word that it does not know is an error.
type schema struct {
	defs     map[string]any
	patterns map[string]*regexp.Regexp
}

func newSchema(t testing.TB) *schema {
	t.Helper()
	b, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(b, &root); err != nil {
		t.Fatal(err)
	}
	return &schema{root["$defs"].(map[string]any), map[string]*regexp.Regexp{}}
}

func (s *schema) check(def string, v any) error { return s.at(s.defs[def], v, def) }

func (s *schema) at(rule, v any, where string) error {
	for word, arg := range rule.(map[string]any) {
		if err := s.word(word, arg, rule.(map[string]any), v, where); err != nil {
			return err
		}
	}
	return nil
}

func (s *schema) word(word string, arg any, rule map[string]any, v any, where string) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s", where, fmt.Sprintf(format, args...))
	}
	object, _ := v.(map[string]any)
	list, _ := v.([]any)
	text, isText := v.(string)
	number, isNumber := v.(float64)
	switch word {
	case "$ref":
		return s.at(s.defs[strings.TrimPrefix(arg.(string), "#/$defs/")], v, where)
	case "type":
		if !isType(arg.(string), v) {
			return fail("%v is no %v", v, arg)
		}
	case "const":
		if v != arg {
			return fail("%v is not %v", v, arg)
		}
	case "enum":
		if !slices.Contains(arg.([]any), v) {
			return fail("%v is none of %v", v, arg)
		}
	case "oneOf":
		n, errs := 0, []string{}
		for _, one := range arg.([]any) {
			if err := s.at(one, v, where); err == nil {
				n++
			} else {
				errs = append(errs, err.Error())
			}
		}
		if n != 1 {
			return fail("%d of the alternatives fit: %s", n, strings.Join(errs, " | "))
		}
	case "required":
		for _, name := range arg.([]any) {
			if _, ok := object[name.(string)]; !ok {
				return fail("%v is missing", name)
			}
		}
	case "properties":
		for name, r := range arg.(map[string]any) {
			if x, ok := object[name]; ok {
				if err := s.at(r, x, where+"."+name); err != nil {
					return err
				}
			}
		}
	case "additionalProperties":
		known, _ := rule["properties"].(map[string]any)
		for name, x := range object {
			if _, ok := known[name]; ok {
				continue
			}
			if arg == false {
				return fail("%s is not known", name)
			}
			if err := s.at(arg, x, where+"."+name); err != nil {
				return err
			}
		}
	case "items":
		for i, x := range list {
			if err := s.at(arg, x, fmt.Sprintf("%s[%d]", where, i)); err != nil {
				return err
			}
		}
	case "minItems":
		if float64(len(list)) < arg.(float64) {
			return fail("%d items", len(list))
		}
	case "minLength":
		if isText && float64(len(text)) < arg.(float64) {
			return fail("%q is too short", text)
		}
	case "minimum":
		if isNumber && number < arg.(float64) {
			return fail("%v is below %v", number, arg)
		}
	case "maximum":
		if isNumber && number > arg.(float64) {
			return fail("%v is above %v", number, arg)
		}
	case "pattern":
		p := s.patterns[arg.(string)]
		if p == nil {
			p = regexp.MustCompile(arg.(string))
			s.patterns[arg.(string)] = p
		}
		if isText && !p.MatchString(text) {
			return fail("%q does not match %v", text, arg)
		}
	default:
		return fail("the schema uses %q, which this test does not check", word)
	}
	return nil
}

func isType(name string, v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return name == "object"
	case []any:
		return name == "array"
	case string:
		return name == "string"
	case bool:
		return name == "boolean"
	case float64:
		return name == "number" || name == "integer" && v == math.Trunc(v)
	}
	return false
}

// TestLint holds the export of every smoke case against the schema, and what a schema cannot say against the names in it.
func TestLint(t *testing.T) {
	files, err := exportFiles(archived)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(files[manifestFile].Data, &v); err != nil {
		t.Fatal(err)
	}
	s := newSchema(t)
	if err := s.check("manifest", v); err != nil {
		t.Error(err)
	}
	m, err := readManifest(files)
	if err != nil {
		t.Fatal(err)
	}
	formulas, used := map[string]bool{}, map[string]bool{}
	for _, o := range m.Operations {
		formulas[o.Name] = true
	}
	for _, c := range m.Cases {
		used[c.Op] = true
		if !formulas[c.Op] || !strings.HasPrefix(c.Name, c.Op+"/") || !strings.Contains(c.Name, "/"+c.Reason+"#") || m.Reasons[c.Reason].Teaches == "" {
			t.Errorf("case %s: operation %s, reason %s", c.Name, c.Op, c.Reason)
		}
		for name, x := range c.Inputs {
			if x.File != "" && (files[x.File] == nil || x.File != inputsDir+"/"+c.Op+".safetensors") {
				t.Errorf("case %s: input %s is in %s", c.Name, name, x.File)
			}
		}
	}
	for name := range formulas {
		if !used[name] {
			t.Errorf("operation %s has no case", name)
		}
	}
}

// The schema refuses what the reader refuses.
func TestSchemaBites(t *testing.T) {
	s := newSchema(t)
	for def, texts := range map[string][]string{
		"manifest": {`{}`, `{"schema":"qlora-conformance/2"}`, `[]`},
		"values":   {`{"dtype":"F32","shape":[1],"values":["1.5"]}`, `{"dtype":"F64","shape":[],"values":[]}`, `{"dtype":"U8","shape":[-1],"values":[]}`, `{"dtype":"U8","shape":[1],"values":[1.5]}`},
		"file":     {`{"dtype":"F32","shape":[1],"file":"../x.safetensors"}`, `{"dtype":"F32","shape":[1],"file":"inputs/x.json"}`},
		"declare": {`{}`, `{"name":""}`, `{"name":"x","arithmetic":{"units":1}}`, `{"name":"x","arithmetic":{"unit":0.004}}`, `{"name":"x","not_supported":{"add":""}}`,
			`{"name":"a\nb"}`, `{"name":"x","driver":"\u001b"}`},
		"rejected": {`{}`, `[1]`},
	} {
		for _, text := range texts {
			var v any
			if err := json.Unmarshal([]byte(text), &v); err != nil {
				t.Fatal(err)
			}
			if s.check(def, v) == nil {
				t.Errorf("%s: %s is taken", def, text)
			}
		}
	}
	for def, text := range map[string]string{
		"values":  `{"dtype":"F32","shape":[2,2],"values":["0x1.8p-3","-0x0p+0","nan","-inf"]}`,
		"declare": `{"name":"x","driver":"","arithmetic":{"unit":1e-7,"block":8,"split_k":2,"flushes":true,"elementary":0,"weight_unrounded":false},"not_supported":{"add":"no"}}`,
	} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if err := s.check(def, v); err != nil {
			t.Error(err)
		}
	}
}
