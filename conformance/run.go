package conformance

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"qlora/ref/op"
)

// Selection says which cases are meant.
type Selection struct {
	Level       Level
	Only        *regexp.Regexp // of their names; nil is all
	MaxElements int            // of all inputs of a case together; 0 is no limit
}

// work is a case with its operation.
type work struct {
	o *Operation
	c *Case
}

// list gives the selected cases: operations by name, each one's cases in their own order.
func (s Selection) list() (list []work) {
	for _, o := range Operations() {
		for _, c := range o.List(s.Level) {
			if (s.Only == nil || s.Only.MatchString(c.Name())) && (s.MaxElements == 0 || c.Inputs().elements() <= s.MaxElements) {
				list = append(list, work{o, c})
			}
		}
	}
	return list
}

func (ts Tensors) elements() (n int) {
	for _, t := range ts {
		n += t.Len()
	}
	return n
}

// Cases gives the selected cases in the order in which they are reported.
func (s Selection) Cases() (cases []*Case) {
	for _, w := range s.list() {
		cases = append(cases, w.c)
	}
	return cases
}

// Options are the settings of a run.
type Options struct {
	Selection
	Waivers []Waiver
	// Require names operations, or patterns of names of cases, that must be there and supported.
	Require []string
	// Progress is called after every case, one call at a time.
	Progress func(done, total int, r Result)

	now time.Time // for tests of waivers; the zero time is now
}

// ErrNoCase says that a selection is empty.
var ErrNoCase = errors.New("no case is selected")

// plan is options that were checked, with the cases that they select.
type plan struct {
	Options
	list    []work
	waivers []*waiver
	require []requirement
}

func (o Options) check() (s plan, err error) {
	s = plan{Options: o, list: o.list()}
	if len(s.list) == 0 {
		return s, ErrNoCase
	}
	if s.now.IsZero() {
		s.now = time.Now()
	}
	if s.waivers, err = checkWaivers(o.Waivers); err != nil {
		return s, err
	}
	s.require, err = parseRequirements(o.Require)
	return s, err
}

// Run judges the selected cases, as many at once as there are processors to use. Once ctx is done no case is begun; the report
// then has those that were judged.
func (i *Implementation) Run(ctx context.Context, o Options) (*Report, error) {
	s, err := o.check()
	if err != nil {
		return nil, err
	}
	return i.run(ctx, s), nil
}

func (i *Implementation) run(ctx context.Context, s plan) *Report {
	begun := time.Now()
	r := &Report{Statement: i.state(s), Total: len(s.list), Unmet: i.unmet(s)}
	r.Results = i.judgeAll(ctx, s)
	r.Took = time.Since(begun)
	for _, w := range s.waivers {
		if !w.used.Load() {
			r.Notes = append(r.Notes, fmt.Sprintf("waiver %s: no case that was judged has a name of the pattern %s", w.ID, w.Cases))
		}
	}
	return r
}

func (i *Implementation) judgeAll(ctx context.Context, s plan) []Result {
	results := make([]Result, len(s.list))
	var next atomic.Int64
	var lock sync.Mutex
	var group sync.WaitGroup
	done := 0
	for range min(runtime.GOMAXPROCS(0), len(s.list)) {
		group.Go(func() {
			for ctx.Err() == nil {
				at := int(next.Add(1)) - 1
				if at >= len(s.list) {
					return
				}
				results[at] = s.waive(i.Judge(s.list[at].o, s.list[at].c))
				lock.Lock()
				if done++; s.Progress != nil {
					s.Progress(done, len(s.list), results[at])
				}
				lock.Unlock()
			}
		})
	}
	group.Wait()
	return slices.DeleteFunc(results, func(r Result) bool { return r.Case == nil })
}

// requirement is a name of an operation, or a pattern of names of cases.
type requirement struct {
	text    string
	pattern *regexp.Regexp // nil for an operation
}

func parseRequirements(texts []string) (list []requirement, err error) {
	for _, text := range texts {
		r := requirement{text: text}
		if _, unknown := Lookup(text); unknown != nil {
			if r.pattern, err = regexp.Compile(text); err != nil {
				return nil, fmt.Errorf("required %q: %w", text, err)
			}
		}
		list = append(list, r)
	}
	return list, nil
}

func (r requirement) matches(w work) bool {
	if r.pattern == nil {
		return w.o.Name == r.text
	}
	return r.pattern.MatchString(w.c.Name())
}

// unmet says of every requirement that is not met why.
func (i *Implementation) unmet(s plan) (why []string) {
	for _, r := range s.require {
		found, lacks := false, ""
		for _, w := range s.list {
			if !r.matches(w) {
				continue
			}
			found = true
			if _, err := i.function(w.o, w.c.DType); err != nil && lacks == "" {
				lacks = fmt.Sprintf("required %s: %s is not supported: %v", r.text, w.c.Name(), err)
			}
		}
		if !found {
			lacks = fmt.Sprintf("required %s: no selected case is of it", r.text)
		}
		if lacks != "" {
			why = append(why, lacks)
		}
	}
	return why
}

// Reference is the reference itself: op.Plain as a device, a fresh one for every case, and ref's functions for what op.Device
// does not have.
func Reference() *Implementation {
	return &Implementation{Name: "ref", Parallel: true, Do: func(o *Operation, t DType) (Func, error) {
		if o.Device == nil {
			return o.Reference, nil
		}
		i, err := OnDevice(func() (op.Device, error) { return op.NewPlain(0), nil })
		if err != nil {
			return nil, err
		}
		return i.Do(o, t)
	}}
}

// Run judges a device in a Go test, a subtest an operation:
//
//	func TestConformance(t *testing.T) {
//		conformance.Run(t, conformance.Quick, func() (op.Device, error) { return mine.Open() })
//	}
func Run(t *testing.T, level Level, open func() (op.Device, error)) {
	t.Helper()
	i, err := OnDevice(open)
	if err != nil {
		t.Fatal(err)
	}
	i.Test(t, Options{Selection: Selection{Level: level}})
}

// Test is Run for any implementation and with all options. What is not supported, and what is waived, is logged; only what
// failed fails.
func (i *Implementation) Test(t *testing.T, o Options) {
	t.Helper()
	s, err := o.check()
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + i.state(s).String())
	for _, why := range i.unmet(s) {
		t.Error(why)
	}
	for list := range chunks(s.list) {
		t.Run(list[0].o.Name, func(t *testing.T) {
			part := s
			part.list = list
			logged := map[string]bool{}
			for _, r := range i.judgeAll(t.Context(), part) {
				switch line := fmt.Sprintf("%v: %s", r.Verdict, r.Detail); {
				case r.Verdict == Failed:
					t.Errorf("%s", r.explain())
				case r.Verdict == Waived:
					t.Logf("%s: %s", r.Case.Name(), line)
				case r.Verdict == NotSupported && !logged[line]:
					logged[line] = true
					t.Logf("%s/%s: %s", r.Case.Op, floats[r.Case.DType].short, line)
				}
			}
		})
	}
}

// chunks cuts a list into the operations' parts.
func chunks(list []work) func(yield func([]work) bool) {
	return func(yield func([]work) bool) {
		for len(list) > 0 {
			n := slices.IndexFunc(list, func(w work) bool { return w.o != list[0].o })
			if n < 0 {
				n = len(list)
			}
			if !yield(list[:n]) {
				return
			}
			list = list[n:]
		}
	}
}
