package conformance

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
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

// list gives the selected cases: operations by name, each one's cases in their own order. For MaxElements it makes all inputs, unless
// ctx is done.
func (s Selection) list(ctx context.Context) (list []work, err error) {
	for _, o := range Operations() {
		for _, c := range o.List(s.Level) {
			if s.Only == nil || s.Only.MatchString(c.Name()) {
				list = append(list, work{o, c})
			}
		}
	}
	if s.MaxElements == 0 {
		return list, nil
	}
	large := make([]bool, len(list))
	each(ctx, len(list), func(at int) { large[at] = list[at].c.Inputs().elements() > s.MaxElements })
	var small []work
	for at, w := range list {
		if !large[at] {
			small = append(small, w)
		}
	}
	return small, ctx.Err()
}

// each calls f with 0 to n−1, as many at once as there are processors to use. Once ctx is done no call is begun.
func each(ctx context.Context, n int, f func(at int)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) {
		group.Go(func() {
			for ctx.Err() == nil {
				at := int(next.Add(1)) - 1
				if at >= n {
					return
				}
				f(at)
			}
		})
	}
	group.Wait()
}

func (ts Tensors) elements() (n int) {
	for _, t := range ts {
		n += t.Len()
	}
	return n
}

// Cases gives the selected cases in the order in which they are reported, or that ctx is done.
func (s Selection) Cases(ctx context.Context) (cases []*Case, err error) {
	list, err := s.list(ctx)
	for _, w := range list {
		cases = append(cases, w.c)
	}
	return cases, err
}

// Options are the settings of a run.
type Options struct {
	Selection
	Waivers []Waiver
	// Require names operations, or patterns of names of cases, that must be there, supported and not waived.
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

// check gives the plan without its list.
func (o Options) check() (s plan, err error) {
	s = plan{Options: o}
	if s.now.IsZero() {
		s.now = time.Now()
	}
	if s.waivers, err = checkWaivers(o.Waivers); err != nil {
		return s, err
	}
	s.require, err = parseRequirements(o.Require)
	return s, err
}

func (i *Implementation) plan(ctx context.Context, o Options) (s plan, err error) {
	if err := Arithmetic(i.Arithmetic).check(); err != nil {
		return s, fmt.Errorf("%s: %w", i.Name, err)
	}
	if s, err = o.check(); err != nil {
		return s, err
	}
	if s.list, err = o.list(ctx); err == nil && len(s.list) == 0 {
		err = ErrNoCase
	}
	return s, err
}

// Run judges the selected cases, as many at once as there are processors to use. Once ctx is done no case is begun; the report
// then has those that were judged.
func (i *Implementation) Run(ctx context.Context, o Options) (*Report, error) {
	s, err := i.plan(ctx, o)
	if err != nil {
		return nil, err
	}
	return i.run(ctx, s), nil
}

func (i *Implementation) run(ctx context.Context, s plan) *Report {
	begun := time.Now()
	r := &Report{Statement: i.state(s), Total: len(s.list)}
	results := i.judgeAll(ctx, s)
	r.Took = time.Since(begun)
	r.Unmet, r.Notes = s.unmet(results), s.waiverNotes()
	r.Results = slices.DeleteFunc(results, func(r Result) bool { return r.Case == nil })
	return r
}

// judgeAll gives the results in the plan's order; one without a case was not reached.
func (i *Implementation) judgeAll(ctx context.Context, s plan) []Result {
	results := make([]Result, len(s.list))
	var lock sync.Mutex
	done := 0
	each(ctx, len(s.list), func(at int) {
		results[at] = i.judge(s, s.list[at])
		lock.Lock()
		defer lock.Unlock()
		if done++; s.Progress != nil {
			s.Progress(done, len(s.list), results[at])
		}
	})
	return results
}

// judge is Judge with the plan's waivers. A panic outside of the implementation, in a reference or a bound, fails its case alone, and no
// waiver covers it.
func (i *Implementation) judge(s plan, w work) (r Result) {
	defer func() {
		if p := recover(); p != nil {
			r = Result{Case: w.c, Verdict: Failed, Detail: fmt.Sprintf("the suite itself panicked: %v\n%s", p, debug.Stack())}
		}
	}()
	return s.waive(i.Judge(w.o, w.c))
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

// unmet says of every requirement that is not met why. What failed, and what was not reached, fails the run by itself.
func (s plan) unmet(results []Result) (why []string) {
	for _, r := range s.require {
		found, lacks := false, ""
		for at, w := range s.list {
			if !r.matches(w) {
				continue
			}
			found = true
			if v := results[at].Verdict; lacks == "" && (v == NotSupported || v == Waived) {
				lacks = fmt.Sprintf("required %s: %s is %v: %s", r.text, w.c.Name(), v, results[at].Detail)
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

// Run judges a device in a Go test, with a subtest for each operation and, in it, one for each case:
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

// Test is Run for any implementation and with all options but Progress. What is not supported, and what is waived, is skipped; only
// what failed fails.
func (i *Implementation) Test(t *testing.T, o Options) {
	t.Helper()
	s, err := i.plan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + i.state(s).String())
	results := make([]Result, len(s.list)) // some stay empty: -run may leave subtests out
	left := results
	for list := range chunks(s.list) {
		part := left[:len(list)]
		left = left[len(list):]
		t.Run(list[0].o.Name, func(t *testing.T) {
			for at, w := range list {
				t.Run(strings.TrimPrefix(w.c.Name(), w.o.Name+"/"), func(t *testing.T) {
					t.Parallel()
					part[at] = i.judge(s, w)
					part[at].tell(t)
				})
			}
		})
	}
	for _, why := range s.unmet(results) {
		t.Error(why)
	}
	for _, note := range s.waiverNotes() {
		t.Log(note)
	}
}

// tell ends the subtest of a case.
func (r Result) tell(t *testing.T) {
	switch r.Verdict {
	case Failed:
		t.Errorf("%s  again: %s", r.explain(), testAgain(t.Name()))
	case NotSupported, Waived:
		t.Skipf("%v: %s", r.Verdict, r.Detail)
	}
}

// testAgain is the command that runs one test once more.
func testAgain(name string) string {
	parts := strings.Split(name, "/")
	for n, part := range parts {
		parts[n] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return "go test -run '" + strings.Join(parts, "/") + "'"
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
