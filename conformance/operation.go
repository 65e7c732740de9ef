package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Operation is something that the specification defines and an implementation may have.
type Operation struct {
	Name string
	// Of is the function of ref that defines it, such as "quant.Quantize4".
	Of string
	// Formula says what is computed: inputs, outputs, their shapes and types, for those who have no Go.
	Formula string
	// Cases adds its cases.
	Cases func(m *Maker)
	// Reference computes the outputs. An error says that the input must be rejected.
	Reference Func
	// Device computes the outputs on a device; nil for what op.Device does not have.
	Device func(b *Bench, in Tensors) Tensors
	// Optional are gradients that a case may not ask for, each with the input whose shape it has.
	Optional map[string]string
	// Needs names the operations of op.Device that Device uses, with spaces between them, for Supports.
	Needs string
}

// Func computes an operation's outputs from a case's inputs, which it must leave as they are.
type Func func(c *Case, in Tensors) (Tensors, error)

// operations are all there are, in the order in which they are judged.
var operations []*Operation

func register(list ...*Operation) {
	for _, o := range list {
		if o.Optional != nil {
			o.Reference = o.Whole(o.Reference)
		}
	}
	operations = append(operations, list...)
}

// Whole is f, which gives all gradients, for cases that do not ask for all: those that they do not are zeros before and left out after.
func (o *Operation) Whole(f Func) Func {
	return func(c *Case, in Tensors) (Tensors, error) {
		out, err := f(c, o.filled(in))
		for name := range o.Optional {
			if _, ok := in[name]; !ok {
				delete(out, name)
			}
		}
		return out, err
	}
}

// filled is in with zeros for the gradients that are not asked for.
func (o *Operation) filled(in Tensors) Tensors {
	full := maps.Clone(in)
	for name, like := range o.Optional {
		if _, ok := in[name]; !ok {
			full[name] = Floats(in[like].DType, make([]float32, in[like].Len()), in[like].Shape...)
		}
	}
	return full
}

// Operations lists all operations by name.
func Operations() []*Operation {
	sorted := slices.Clone(operations)
	slices.SortFunc(sorted, func(a, b *Operation) int { return strings.Compare(a.Name, b.Name) })
	return sorted
}

// Lookup finds an operation.
func Lookup(name string) (*Operation, error) {
	for _, o := range operations {
		if o.Name == name {
			return o, nil
		}
	}
	return nil, fmt.Errorf("there is no operation %q", name)
}

// List gives the operation's cases up to a level.
func (o *Operation) List(level Level) (cases []*Case) {
	m := &Maker{op: o.Name, count: map[string]int{}}
	o.Cases(m)
	for _, c := range m.cases {
		if c.Level <= level {
			cases = append(cases, c)
		}
	}
	return cases
}
