package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"testing"

	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/op"
)

// own is a device that somebody else might write: it adds in its own way and has no attention.
type own struct{ *op.Plain }

func (own) Name() string { return "own" }

func (o own) Supports(operation string, t num.DType) error {
	if operation == "Attention" {
		return errors.New("not written yet")
	}
	return o.Plain.Supports(operation, t)
}

func (o own) Add(at op.At, y, a, b *op.Tensor) { o.Plain.Add(at, y, b, a) }

// In a Go test, five lines are enough.
func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Smoke, func() (op.Device, error) {
		return own{op.NewPlain(0)}, nil
	})
}

// Outside of tests, a report comes back.
func ExampleImplementation_Run() {
	i, err := conformance.OnDevice(func() (op.Device, error) { return own{op.NewPlain(0)}, nil })
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := i.Run(context.Background(), conformance.Options{
		Selection: conformance.Selection{Level: conformance.Smoke, Only: regexp.MustCompile("^(add/bf16/n=33|attention/bf16/.*)/random#1$")},
		Require:   []string{"add"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	operations, _ := r.Summaries()
	for _, s := range operations {
		fmt.Printf("%s: all pass %t, all not supported %t\n", s.Operation, s.Counts[conformance.Passed] == s.Cases, s.Counts[conformance.NotSupported] == s.Cases)
	}
	fmt.Println(r.Results[0].Case.Name(), r.Results[0].Verdict)
	fmt.Println(r.Err())
	// Output:
	// add: all pass true, all not supported false
	// attention: all pass false, all not supported true
	// add/bf16/n=33/random#1 pass
	// <nil>
}
