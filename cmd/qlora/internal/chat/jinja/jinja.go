// Package jinja renders chat templates: the part of Jinja2 that they are written in, with what transformers adds to it and the way it
// sets it up: trim_blocks and lstrip_blocks on, break and continue, {% generation %}, no autoescape, an immutable sandbox.
//
// Read lex.go, parse.go (a template becomes functions), eval.go (Python's values), then what templates call: methods.go, filters.go.
//
// A template comes from a stranger. It sees nothing but its variables, and it ends: steps, text and nesting have limits.
package jinja

import (
	"fmt"
	"strings"
)

// Limits of a rendering.
const (
	mostSteps = 2_000_000 // see run.steps
	mostText  = 8 << 20   // bytes of any text, and elements of any list
	mostDepth = 100       // of brackets and blocks in each other, and of macro calls
)

// Error is a mistake in a template, or one that it reports itself (raise_exception).
type Error struct {
	Line    int // from 1
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Message) }

func fail(line int, format string, args ...any) { panic(&Error{line, fmt.Sprintf(format, args...)}) }

// caught turns fail's panic into an error.
func caught(err *error) {
	switch e := recover().(type) {
	case nil:
	case *Error:
		*err = e
	default:
		panic(e)
	}
}

// Template is a template that was read.
type Template struct {
	body       []statement
	Generation bool // it says with {% generation %} what the assistant generates
}

// Parse reads a template.
func Parse(source string) (t *Template, err error) {
	defer caught(&err)
	p := &parser{tokens: lex(source)}
	body, _ := p.body("")
	return &Template{body, p.generation}, nil
}

// Span is a part of a rendered text, in bytes.
type Span struct{ Start, End int }

// Render gives the text, and the parts of it that are in {% generation %}. The variables' values are nil, bool, int, float64, string,
// []any, *Dict and Function.
func (t *Template) Render(variables map[string]any) (text string, generated []Span, err error) {
	defer caught(&err)
	r := &run{out: new(strings.Builder), scope: &scope{names: map[string]any{}}}
	for name, f := range globals {
		r.scope.names[name] = f
	}
	for name, v := range variables {
		r.scope.names[name] = v
	}
	r.scope = r.inner()
	r.execute(t.body)
	return r.out.String(), r.generated, nil
}

// run is a rendering.
type run struct {
	out       *strings.Builder // the text, or what a macro writes
	generated []Span
	scope     *scope
	steps     int // work that was done: names, calls, operators, and the sizes of what they take and give
	depth     int // of macro calls
}

// expression and statement are what a template's parts become.
type (
	expression func(*run) any
	statement  func(*run) flow
)

// flow says how a statement ended.
type flow int

const (
	onward flow = iota
	breaking
	continuing
)

// scope is the variables of a block, over those outside.
type scope struct {
	names map[string]any
	outer *scope
}

func (r *run) inner() *scope { return &scope{map[string]any{}, r.scope} }

func (s *scope) get(name string) any {
	for ; s != nil; s = s.outer {
		if v, ok := s.names[name]; ok {
			return v
		}
	}
	return undefined{fmt.Sprintf("%q is undefined", name)}
}

// within runs a body with variables of its own.
func (r *run) within(s *scope, body []statement) flow {
	outer := r.scope
	r.scope = s
	f := r.execute(body)
	r.scope = outer
	return f
}

func (r *run) execute(body []statement) flow {
	for _, s := range body {
		if f := s(r); f != onward {
			return f
		}
	}
	return onward
}

// capture is what a body writes.
func (r *run) capture(s *scope, body []statement) string {
	outer := r.out
	r.out = new(strings.Builder)
	r.within(s, body)
	text := r.out.String()
	r.out = outer
	return text
}

func (r *run) write(line int, text string) {
	if r.out.Len()+len(text) > mostText {
		fail(line, "the text is longer than %d bytes", mostText)
	}
	r.out.WriteString(text)
}

// work counts a step, and more for large values.
func (r *run) work(line int, values ...any) {
	r.steps++
	for _, v := range values {
		switch v := v.(type) {
		case string:
			r.steps += len(v) / 32
		case []any:
			r.steps += len(v) / 4
		}
	}
	if r.steps > mostSteps {
		fail(line, "the template does not come to an end: %d steps were taken", mostSteps)
	}
}
