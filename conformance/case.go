package conformance

import (
	"fmt"
	"strconv"
	"strings"

	"qlora/ref/op"
)

// Level says how long a judgement may take. Each contains those before it.
type Level int

// The levels.
const (
	Smoke      Level = iota // what a device needs in every run of its tests: seconds
	Quick                   // every reason for every operation: minutes
	Full                    // more sizes and more draws: half an hour
	Exhaustive              // every input there is, where that can be done: hours
)

var levels = [...]string{"smoke", "quick", "full", "exhaustive"}

func (l Level) String() string { return levels[l] }

// ParseLevel is the inverse of String.
func ParseLevel(name string) (Level, error) {
	for l, n := range levels {
		if n == name {
			return Level(l), nil
		}
	}
	return 0, fmt.Errorf("level %q: want %s", name, strings.Join(levels[:], ", "))
}

// Param is a setting of a case that is no tensor: a block size, a rank, an activation.
type Param struct{ Name, Value string }

// Int, Float and Bool make parameters.
func Int(name string, v int) Param       { return Param{name, strconv.Itoa(v)} }
func Float(name string, v float64) Param { return Param{name, strconv.FormatFloat(v, 'g', -1, 64)} }
func Text(name, v string) Param          { return Param{name, v} }

// Flag is a parameter that is there or is not.
func Flag(name string, on bool) Param {
	if !on {
		return Param{}
	}
	return Param{Name: name}
}

// Case is one judgement: an operation, its settings, its inputs, and why it was chosen. Its name says all that its inputs are
// made from, so that the name alone reproduces it.
type Case struct {
	Op     string
	DType  DType // the compute type; "" where the operation has but one
	Params []Param
	Reason string // a key of Reasons
	Number int    // of the cases of the same settings and reason, from 1
	Level  Level

	at   op.At // where its operation stands: Place, but for one that is observed within a model
	make func(r *random) Tensors
}

// Name is op/dtype/param=value/…/reason#number.
func (c *Case) Name() string {
	parts := []string{c.Op}
	if c.DType != "" {
		parts = append(parts, floats[c.DType].short)
	}
	for _, p := range c.Params {
		switch {
		case p.Name == "":
		case p.Value == "":
			parts = append(parts, p.Name)
		default:
			parts = append(parts, p.Name+"="+p.Value)
		}
	}
	return fmt.Sprintf("%s/%s#%d", strings.Join(parts, "/"), c.Reason, c.Number)
}

// Inputs are made anew at each call.
func (c *Case) Inputs() Tensors { return c.make(newRandom(c.Name())) }

// Param gives a setting's text, "" for none. Int and Float give it as a number: a case without it is a bug.
func (c *Case) Param(name string) string {
	for _, p := range c.Params {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

func (c *Case) Int(name string) int {
	n, err := strconv.Atoi(c.Param(name))
	if err != nil {
		panic(fmt.Sprintf("conformance: %s has no number %s", c.Name(), name))
	}
	return n
}

func (c *Case) Float(name string) float32 {
	x, err := strconv.ParseFloat(c.Param(name), 32)
	if err != nil {
		panic(fmt.Sprintf("conformance: %s has no number %s", c.Name(), name))
	}
	return float32(x)
}

// Has says whether a flag is set.
func (c *Case) Has(name string) bool {
	for _, p := range c.Params {
		if p.Name == name {
			return true
		}
	}
	return false
}

// Maker collects the cases of an operation.
type Maker struct {
	op    string
	cases []*Case
	count map[string]int
}

// Add appends a case. make draws its inputs.
func (m *Maker) Add(level Level, t DType, reason string, params []Param, make func(r *random) Tensors) {
	if _, ok := Reasons[reason]; !ok {
		panic(fmt.Sprintf("conformance: %s: no note explains the reason %q", m.op, reason))
	}
	c := &Case{Op: m.op, DType: t, Params: params, Reason: reason, Level: level, at: Place, make: make}
	key := c.Name()
	m.count[key]++
	c.Number = m.count[key]
	m.cases = append(m.cases, c)
}
