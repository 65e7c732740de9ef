package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"qlora/ref/num"
	"qlora/ref/op"
)

// casesOf are the selected cases.
func casesOf(s Selection) []*Case {
	cases, err := s.Cases(context.Background())
	if err != nil {
		panic(err)
	}
	return cases
}

// doing is an implementation of one function for everything.
func doing(f Func) *Implementation {
	return &Implementation{Name: "test", Do: func(*Operation, DType) (Func, error) { return f, nil }}
}

// doubling is an operation for tests: y = 2x, and what is too large must be rejected.
var doubling = &Operation{Name: "doubling", Reference: func(c *Case, in Tensors) (Tensors, error) {
	x := in["x"]
	y := make([]float32, x.Len())
	for i, v := range x.F {
		if v > 1e30 {
			return nil, errors.New("too large")
		}
		y[i] = 2 * v
	}
	return Tensors{"y": Floats(F32, y), "n": Ints([]int32{int32(len(y))})}, nil
}}

func caseOf(x ...float32) *Case {
	return &Case{Op: "doubling", Reason: "random", Number: 1, make: func(*random) Tensors { return Tensors{"x": Floats(F32, x)} }}
}

// changed is the reference, then a change of its outputs.
func changed(change func(in, out Tensors)) Func {
	return func(c *Case, in Tensors) (Tensors, error) {
		out, err := doubling.Reference(c, in)
		if err == nil {
			change(in, out)
		}
		return out, err
	}
}

func TestVerdicts(t *testing.T) {
	nan := float32(math.NaN())
	plain, bad := []float32{1, 2, 3}, []float32{1, 2e30}
	for _, test := range []struct {
		name   string
		x      []float32
		do     Func
		want   Verdict
		detail string
	}{
		{"the reference", plain, doubling.Reference, Passed, ""},
		{"no elements", nil, doubling.Reference, Passed, ""},
		{"a unit in the last place", plain, changed(func(_, out Tensors) { out["y"].F[1] = math.Nextafter32(4, 5) }), Failed,
			"y: 1 of 3 differ, the first at 1: 4.0000005 (0x40800001), want 4 (0x40800000)"},
		{"NaN of another payload", []float32{nan}, changed(func(_, out Tensors) { out["y"].F[0] = math.Float32frombits(0xffc12345) }), Passed, ""},
		{"a number for NaN", []float32{nan}, changed(func(_, out Tensors) { out["y"].F[0] = 0 }), Failed, "want NaN"},
		{"NaN for a number", plain, changed(func(_, out Tensors) { out["y"].F[2] = nan }), Failed, "the first at 2: NaN"},
		{"-0 for +0", []float32{0}, changed(func(_, out Tensors) { out["y"].F[0] = float32(math.Copysign(0, -1)) }), Failed, "-0 (0x80000000), want 0"},
		{"an integer", plain, changed(func(_, out Tensors) { out["n"].I[0]++ }), Failed, "n: 1 of 1 differ, the first at 0: 4, want 3"},
		{"an output too few", plain, changed(func(_, out Tensors) { delete(out, "n") }), Failed, "it gave [y], the outputs are [n y]"},
		{"an output too many", plain, changed(func(_, out Tensors) { out["z"] = out["y"] }), Failed, "it gave [n y z]"},
		{"no outputs", plain, func(*Case, Tensors) (Tensors, error) { return nil, nil }, Failed, "it gave []"},
		{"another type", plain, changed(func(_, out Tensors) { out["y"] = Floats(BF16, out["y"].F) }), Failed, "y is BF16 [3], want F32 [3]"},
		{"another shape", plain, changed(func(_, out Tensors) { out["y"] = Floats(F32, out["y"].F, 3, 1) }), Failed, "y is F32 [3 1], want F32 [3]"},
		{"fewer values than the shape", plain, changed(func(_, out Tensors) { out["y"] = Tensor{DType: F32, Shape: []int{3}, F: []float32{2}} }), Failed,
			"F32 [3] holds 1 floats"},
		{"values of another type", plain, changed(func(_, out Tensors) { out["y"] = Tensor{DType: F32, Shape: []int{3}, B: []byte{1, 2, 3}} }), Failed, "3 bytes"},
		{"an input written over", plain, changed(func(in, _ Tensors) { in["x"].F[0] = 9 }), Failed, "it changed its inputs"},
		{"an input taken away", plain, changed(func(in, _ Tensors) { delete(in, "x") }), Failed, "it changed its inputs"},
		{"an input replaced", plain, changed(func(in, _ Tensors) { in["x"] = Ints([]int32{1, 2, 3}) }), Failed, "it changed its inputs"},
		{"a panic", plain, func(*Case, Tensors) (Tensors, error) { panic("out of range") }, Failed, "panic: out of range"},
		{"a panic on what must be rejected", bad, func(*Case, Tensors) (Tensors, error) { panic("out of range") }, Failed, "panic"},
		{"a good input rejected", plain, func(*Case, Tensors) (Tensors, error) { return nil, errors.New("no") }, Failed, "it rejected a good input: no"},
		{"a bad input rejected", bad, func(*Case, Tensors) (Tensors, error) { return nil, errors.New("no") }, Passed, ""},
		{"a bad input accepted", bad, func(_ *Case, in Tensors) (Tensors, error) { return Tensors{"y": in["x"]}, nil }, Failed, "it accepted what must be rejected: too large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if r := doing(test.do).Judge(doubling, caseOf(test.x...)); r.Verdict != test.want || !strings.Contains(r.Detail, test.detail) || r.Detail != "" != (test.want == Failed) {
				t.Errorf("%v: %q, want %v: %q", r.Verdict, r.Detail, test.want, test.detail)
			}
		})
	}
	lacking := &Implementation{Do: func(*Operation, DType) (Func, error) { return nil, errors.New("no tensor cores") }}
	if r := lacking.Judge(doubling, caseOf(1)); r.Verdict != NotSupported || r.Detail != "no tensor cores" {
		t.Error(r)
	}
}

// A device that truncates may be a little off where the operation has a bound, and nowhere else; the share tells how much.
func TestBounded(t *testing.T) {
	find := func(name string) (*Operation, *Case) {
		list, err := (Selection{Level: Quick, Only: regexp.MustCompile("^" + regexp.QuoteMeta(name) + "$")}).list(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatal(name, err)
		}
		return list[0].o, list[0].c
	}
	judge := func(name string, change func(out []float32)) Result {
		o, c := find(name)
		i := doing(func(c *Case, in Tensors) (Tensors, error) {
			out, err := o.Reference(c, in)
			change(out["y"].F)
			return out, err
		})
		i.Arithmetic = op.Arithmetic{Unit: 0x1p-23}
		return i.Judge(o, c)
	}
	up := func(n int) func([]float32) {
		return func(y []float32) { y[5] = math.Float32frombits(math.Float32bits(y[5]) + uint32(n)) }
	}
	const add = "add/f32/n=33/random#1"
	if r := judge(add, up(0)); r.Verdict != Passed || r.Share != 0 {
		t.Error(r)
	}
	if r := judge(add, up(1)); r.Verdict != Bounded || r.Share <= 0 || r.Share > 1 {
		t.Error(r)
	}
	if r := judge(add, up(1000)); r.Verdict != Failed || r.Share <= 1 || !strings.Contains(r.Detail, "of the bound") {
		t.Error(r)
	}
	if r := judge(add, func(y []float32) { y[5] = float32(math.NaN()) }); r.Verdict != Failed || !math.IsInf(r.Share, 1) {
		t.Error(r)
	}
}

func TestWaivers(t *testing.T) {
	const day = "2026-03-31"
	cases := casesOf(Selection{Level: Smoke, Only: regexp.MustCompile("^add/f32/")})
	bad, good := cases[0].Name(), cases[1].Name()
	i := &Implementation{Do: func(o *Operation, _ DType) (Func, error) {
		return func(c *Case, in Tensors) (Tensors, error) {
			out, err := o.Reference(c, in)
			if c.Name() == bad {
				out["y"].F[0]++
			}
			return out, err
		}, nil
	}}
	run := func(now string, list ...Waiver) (*Report, map[string]Result) {
		t.Helper()
		at, err := time.Parse(time.DateTime, now)
		if err != nil {
			t.Fatal(err)
		}
		r, err := i.Run(t.Context(), Options{Selection: Selection{Level: Smoke, Only: regexp.MustCompile("^add/f32/")}, Waivers: list, now: at})
		if err != nil {
			t.Fatal(err)
		}
		results := map[string]Result{}
		for _, one := range r.Results {
			results[one.Case.Name()] = one
		}
		return r, results
	}
	waiver := Waiver{ID: "#7", Cases: regexp.QuoteMeta(bad), Reason: "the driver adds wrong", Expires: day}
	if r, by := run(day+" 23:59:59", waiver); by[bad].Verdict != Waived || !strings.Contains(by[bad].Detail, "the driver adds wrong") || r.Err() != nil {
		t.Error(by[bad], r.Err())
	}
	if r, by := run("2026-04-01 00:00:00", waiver); by[bad].Verdict != Failed || !strings.Contains(by[bad].Detail, "waiver #7 expired on "+day) || r.Err() == nil {
		t.Error(by[bad], r.Err())
	}
	waiver.Cases = regexp.QuoteMeta(good)
	if r, by := run(day+" 00:00:00", waiver); by[good].Verdict != Failed || !strings.Contains(by[good].Detail, "take the waiver back") || r.Err() == nil {
		t.Error(by[good], r.Err())
	}
	if r, by := run("2026-04-01 00:00:00", waiver); by[good].Verdict != Passed || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "waiver #7 expired on "+day+", and its cases that were judged pass") {
		t.Error(by[good], r.Notes)
	}
	waiver.Cases = "add/.*" // one of them fails still
	if r, _ := run("2026-04-01 00:00:00", waiver); len(r.Notes) != 0 {
		t.Error(r.Notes)
	}
	waiver.Cases = bad[:len(bad)-1] // a part of the name is not the name
	if r, by := run(day+" 00:00:00", waiver); by[bad].Verdict != Failed || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "#7") {
		t.Error(by[bad], r.Notes)
	}
}

func TestParseWaivers(t *testing.T) {
	const good = `{"id":"a","cases":"add/.*","reason":"b","expires":"2026-03-31"}`
	if list, err := ParseWaivers([]byte("["+good+"]"), "w.json"); err != nil || len(list) != 1 || list[0].Cases != "add/.*" {
		t.Error(list, err)
	}
	for text, want := range map[string]string{
		`{}`:                          "cannot unmarshal",
		"[" + good + "," + good + "]": "waiver a is there twice",
		"[" + good + "] x":            "more follows",
		"[" + strings.Replace(good, `"a"`, `""`, 1) + "]":          "waiver 1 has no id",
		"[" + strings.Replace(good, `"b"`, `""`, 1) + "]":          "no reason",
		"[" + strings.Replace(good, `add/.*`, ``, 1) + "]":         "names no cases",
		"[" + strings.Replace(good, `add/.*`, `(`, 1) + "]":        "missing closing )",
		"[" + strings.Replace(good, `2026-03-31`, `soon`, 1) + "]": `expires "soon"`,
		"[" + strings.Replace(good, `reason`, `why`, 1) + "]":      `unknown field "why"`,
		"[" + strings.Replace(good, `{`, `{"id":"c",`, 1) + "]":    `the key "id" stands there twice`,
	} {
		if _, err := ParseWaivers([]byte(text), "w.json"); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "w.json: ") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestRequire(t *testing.T) {
	i := &Implementation{Do: func(o *Operation, d DType) (Func, error) {
		if o.Name == "add" && d == F16 {
			return nil, errors.New("no float16")
		}
		return o.Reference, nil
	}}
	only := regexp.MustCompile("^(add|gate)/")
	for require, want := range map[string]string{
		"gate":          "",
		"^add/bf16/":    "",
		"add":           "is not supported: no float16",
		"add/f16":       "is not supported: no float16",
		"sum":           "required sum: no selected case is of it",
		"^nosuch/":      "no selected case",
		"gate/f32/.*#1": "",
	} {
		r, err := i.Run(t.Context(), Options{Selection: Selection{Level: Smoke, Only: only}, Require: []string{require}})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(r.Unmet, "; "); want == "" != (got == "") || !strings.Contains(got, want) || (r.Err() == nil) != (want == "") {
			t.Errorf("%s: %q, want %q", require, got, want)
		}
	}
	wrong := doing(func(*Case, Tensors) (Tensors, error) { return nil, nil })
	r, err := wrong.Run(t.Context(), Options{Selection: Selection{Only: only}, Waivers: []Waiver{{"W", ".*", "known", "9999-01-01"}}, Require: []string{"add"}})
	if err != nil || len(r.Unmet) != 1 || !strings.Contains(r.Unmet[0], "is waived: waiver W") || r.Err() == nil {
		t.Error(err, r.Unmet)
	}
	if _, err := i.Run(t.Context(), Options{Require: []string{"("}}); err == nil {
		t.Error("a broken pattern was taken")
	}
	if _, err := i.Run(t.Context(), Options{Selection: Selection{Only: regexp.MustCompile("nosuch")}}); !errors.Is(err, ErrNoCase) {
		t.Error(err)
	}
}

// An arithmetic that would let anything pass is refused before a case is judged.
func TestArithmeticLimits(t *testing.T) {
	for field, a := range map[string]op.Arithmetic{"unit": {Unit: 0x1.8p-8}, "elementary": {Elementary: math.NaN()}, "block": {Block: 1<<16 + 1}, "split_k": {SplitK: -1}} {
		i := Reference()
		i.Arithmetic = a
		if r, err := i.Run(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "ref: arithmetic: "+field+" is ") {
			t.Error(field, err, r)
		}
	}
	i := Reference()
	i.Arithmetic = op.Arithmetic{Unit: 0x1p-8, Elementary: 0x1p-8, Block: 1 << 16, SplitK: 1 << 16}
	if _, err := i.Run(t.Context(), Options{Selection: Selection{Only: regexp.MustCompile("^sum/")}}); err != nil {
		t.Error(err)
	}
}

// A reference that panics fails its case.
func TestSuitePanics(t *testing.T) {
	o := &Operation{Name: "doubling", Reference: func(*Case, Tensors) (Tensors, error) { panic("a bug") }}
	s := plan{list: []work{{o, caseOf(1)}, {doubling, caseOf(2)}}}
	r := doing(doubling.Reference).judgeAll(t.Context(), s)
	if r[0].Verdict != Failed || !strings.HasPrefix(r[0].Detail, "the suite itself panicked: a bug") || r[1].Verdict != Passed {
		t.Error(r)
	}
}

// What cannot be called by several goroutines is not, though cases are judged by several.
func TestOneAtATime(t *testing.T) {
	busy := make(chan bool, 1)
	i := &Implementation{Do: func(o *Operation, _ DType) (Func, error) {
		return func(c *Case, in Tensors) (Tensors, error) {
			select {
			case busy <- true:
			default:
				panic("two at once")
			}
			defer func() { <-busy }()
			time.Sleep(time.Millisecond)
			return o.Reference(c, in)
		}, nil
	}}
	calls := 0
	r, err := i.Run(t.Context(), Options{Selection: Selection{Only: regexp.MustCompile("^(add|sum)/")}, Progress: func(done, total int, _ Result) {
		if calls++; done != calls || total < 10 {
			t.Error(done, calls, total)
		}
	}})
	if err != nil || r.Err() != nil || calls != r.Total || !slices.IsSortedFunc(r.Results, func(a, b Result) int { return strings.Compare(a.Case.Op, b.Case.Op) }) {
		t.Error(err, r.Err(), calls)
	}
}

func TestStop(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	r, err := Reference().Run(ctx, Options{Progress: func(done, _ int, _ Result) {
		if done == 3 {
			stop()
		}
	}})
	if err != nil || len(r.Results) < 3 || len(r.Results) == r.Total {
		t.Fatal(err, len(r.Results))
	}
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("stopped after %d of %d cases", len(r.Results), r.Total)) {
		t.Error(err)
	}
	var junit bytes.Buffer
	if err := r.WriteJUnit(&junit); err != nil || !strings.Contains(junit.String(), `<testcase name="interrupted" classname="run"`) {
		t.Error(err, junit.String())
	}
	if _, err := Reference().Run(ctx, Options{Selection: Selection{MaxElements: 100}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// failing is a report with every verdict in it, of an implementation that says it has bounds.
func failing(t *testing.T) *Report {
	i := &Implementation{Name: "mine", Driver: "driver 7", Arithmetic: op.Arithmetic{Unit: 0x1p-23, Block: 8, Flushes: true}, Do: func(o *Operation, d DType) (Func, error) {
		if d == F16 {
			return nil, errors.New("no float16 & no <hope>")
		}
		return func(c *Case, in Tensors) (Tensors, error) {
			out, err := o.Reference(c, in)
			switch {
			case c.Reason == "odd" || d == BF16:
				out["y"].F[0] += 64
			case c.Int("n") > 5:
				out["y"].F[5] = math.Nextafter32(out["y"].F[5], 100)
			}
			return out, err
		}, nil
	}}
	r, err := i.Run(t.Context(), Options{Selection: Selection{Level: Quick, Only: regexp.MustCompile("^add/(f32|f16|bf16)/n=(1|33|64)/random#")},
		Waivers: []Waiver{{"W", "add/bf16/n=33/.*", "known", "9999-01-01"}}, Require: []string{"rope"}})
	if err != nil {
		t.Fatal(err)
	}
	r.Again = "qlora conformance run --device mine --level quick"
	return r
}

func TestReports(t *testing.T) {
	r := failing(t)
	_, total := r.Summaries()
	if total.Counts[Passed] == 0 || total.Counts[Bounded] == 0 || total.Counts[NotSupported] == 0 || total.Counts[Waived] == 0 || total.Counts[Failed] == 0 || total.Share <= 0 {
		t.Fatal(total)
	}
	var console bytes.Buffer
	if err := r.Print(&console); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"device    mine\n", "driver    driver 7\n", "declares  unit roundoff 1.1920928955078125e-07, 8 products summed at once, subnormals flushed\n",
		"\nfailed: add/bf16/n=1/random#1\n  random: " + Reasons["random"].Teaches, "y[0] is ", "\nwaived: add/bf16/n=33/", "not supported: no float16 & no <hope>: add/f16\n",
		"failed: required rope: no selected case is of it"} {
		if !strings.Contains(console.String(), want) {
			t.Errorf("%q is missing in\n%s", want, console.String())
		}
	}
	// The command that repeats a failure selects that case alone.
	again := regexp.MustCompile(`again: qlora conformance run --device mine --level quick --only '(.*)'\n`).FindStringSubmatch(console.String())
	if again == nil {
		t.Fatal(console.String())
	}
	if cases := casesOf(Selection{Level: Quick, Only: regexp.MustCompile(again[1])}); len(cases) != 1 || !strings.Contains(console.String(), "failed: "+cases[0].Name()+"\n") {
		t.Error(again[1], cases)
	}

	var lines bytes.Buffer
	if err := r.WriteJSON(&lines); err != nil {
		t.Fatal(err)
	}
	counts, kinds := map[string]int{}, map[string]int{}
	for d := json.NewDecoder(&lines); ; {
		var line struct {
			Type, Name, Verdict, Device string
			Counts                      map[string]int
			OK                          *bool
			Arithmetic                  map[string]any
		}
		if err := d.Decode(&line); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		kinds[line.Type]++
		switch line.Type {
		case "statement":
			if line.Device != "mine" || line.Arithmetic["block"] != 8. {
				t.Error(line)
			}
		case "case":
			counts[line.Verdict]++
		case "summary":
			for verdict, n := range line.Counts {
				if n != counts[verdict] {
					t.Errorf("%s: %d lines, the summary says %d", verdict, counts[verdict], n)
				}
			}
			if line.OK == nil || *line.OK {
				t.Error("ok")
			}
		}
	}
	if kinds["statement"] != 1 || kinds["summary"] != 1 || kinds["case"] != len(r.Results) {
		t.Error(kinds)
	}

	var junit bytes.Buffer
	if err := r.WriteJUnit(&junit); err != nil {
		t.Fatal(err)
	}
	var suites junitSuites
	if err := xml.Unmarshal(junit.Bytes(), &suites); err != nil {
		t.Fatal(err)
	}
	tests, failures, skipped := 0, 0, 0
	for _, s := range suites.Suites {
		if _, err := time.Parse("2006-01-02T15:04:05", s.Timestamp); err != nil || s.Hostname == "" || !slices.Contains(s.Properties, junitProperty{"device", "mine"}) {
			t.Error(s.Name, err, s.Hostname, s.Properties)
		}
		for _, c := range s.Cases {
			tests++
			if c.Failure != nil {
				failures++
			}
			if c.Skipped != nil {
				skipped++
			}
		}
	}
	if tests != suites.Tests || failures != suites.Failures || skipped != suites.Skipped || failures != total.Counts[Failed]+1 || tests != total.Cases+1 || skipped != total.Counts[NotSupported]+total.Counts[Waived] {
		t.Error(tests, failures, skipped, suites.Tests, suites.Failures, suites.Skipped)
	}
	r.Unmet = nil
	junit.Reset()
	if err := r.WriteJUnit(&junit); err != nil || strings.Contains(junit.String(), `"run"`) || !strings.Contains(junit.String(), ` errors="0" `) {
		t.Error(err, "a suite of nothing")
	}
}

// Devices that do what devices do wrong.
type (
	stray  struct{ *op.Plain } // writes a row too many
	before struct{ *op.Plain } // writes a row too early
	crash  struct{ *op.Plain } // panics, and is of no use any more
	greedy struct{ *op.Plain } // writes over its input
)

func (s stray) Add(at op.At, y, a, b *op.Tensor) {
	s.Plain.Add(at, y, a, b)
	row := *y
	row.FirstRow, row.Rows = y.FirstRow+y.Rows, 1
	s.Write(&row, make([]float32, row.Len()))
}

func (s before) Add(at op.At, y, a, b *op.Tensor) {
	s.Plain.Add(at, y, a, b)
	row := *y
	row.FirstRow, row.Rows = y.FirstRow-1, 1
	s.Write(&row, make([]float32, row.Len()))
}

func (s greedy) Add(at op.At, y, a, b *op.Tensor) {
	s.Plain.Add(at, y, a, b)
	s.Plain.Add(at, a, a, b) // when the result is there already
}

// crashed counts how many devices were opened.
var crashed = 0

func (s crash) Add(at op.At, y, a, b *op.Tensor) {
	if a.Len() == 33 && a.DType == num.Float32 {
		s.Plain.Embedding(at, y, a, s.NewInts(op.Step, "ids", y.Rows)) // sets the device's error, unless it panics
		panic("illegal address")
	}
	s.Plain.Add(at, y, a, b)
}

func TestGuards(t *testing.T) {
	for name, test := range map[string]struct {
		open func(*op.Plain) op.Device
		want string
	}{
		"after":  {func(p *op.Plain) op.Device { return stray{p} }, "it wrote outside of conformance/y"},
		"before": {func(p *op.Plain) op.Device { return before{p} }, "it wrote outside of conformance/y"},
		"input":  {func(p *op.Plain) op.Device { return greedy{p} }, "it changed its input conformance/a"},
	} {
		i, err := OnDevice(func() (op.Device, error) { return test.open(op.NewPlain(0)), nil })
		if err != nil {
			t.Fatal(err)
		}
		r, err := i.Run(t.Context(), Options{Selection: Selection{Level: Smoke, Only: regexp.MustCompile("^add/")}})
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range r.Results {
			if one.Verdict != Failed || !strings.Contains(one.Detail, test.want) {
				t.Errorf("%s: %s: %v %s", name, one.Case.Name(), one.Verdict, one.Detail)
			}
		}
	}
}

// A panic fails its case; the device is opened again and the next cases are judged.
func TestCrash(t *testing.T) {
	i, err := OnDevice(func() (op.Device, error) { crashed++; return crash{op.NewPlain(0)}, nil })
	if err != nil {
		t.Fatal(err)
	}
	r, err := i.Run(t.Context(), Options{Selection: Selection{Level: Smoke, Only: regexp.MustCompile("^add/")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range r.Results {
		if bad := strings.HasPrefix(one.Case.Name(), "add/f32/n=33/"); bad != (one.Verdict == Failed) || bad && !strings.Contains(one.Detail, "panic") {
			t.Errorf("%s: %v %s", one.Case.Name(), one.Verdict, one.Detail)
		}
	}
}

// TestOfDevice runs Run on a bad device in a process of its own, and expects that process to fail, and once more the case that it names.
func TestOfDevice(t *testing.T) {
	if os.Getenv("CONFORMANCE_BAD") != "" {
		Run(t, Smoke, func() (op.Device, error) { return stray{op.NewPlain(0)}, nil })
		return
	}
	bad := func(run string) []byte {
		cmd := exec.Command(os.Args[0], "-test.run="+run, "-test.v")
		cmd.Env = append(os.Environ(), "CONFORMANCE_BAD=1")
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("a bad device passed:\n%s", out)
		}
		return out
	}
	out := bad("^TestOfDevice$/^(add|gate)$")
	for _, want := range []string{"--- FAIL: TestOfDevice/add ", "--- FAIL: TestOfDevice/add/f32/n=33/random#1 ", "--- PASS: TestOfDevice/gate ", "it wrote outside of conformance/y", "device    ref"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	again := regexp.MustCompile(`again: go test -run '(.*/\^f32\$/\^n=33\$/\^random#1\$)'`).FindSubmatch(out)
	if again == nil {
		t.Fatalf("%s", out)
	}
	if out := bad(string(again[1])); bytes.Count(out, []byte("--- FAIL: TestOfDevice/add/")) != 1 || bytes.Contains(out, []byte("--- PASS: TestOfDevice/add/")) {
		t.Errorf("%s", out)
	}
}

// BenchmarkCompare compares float32 outputs that are equal; the bytes are those of one of the two.
func BenchmarkCompare(b *testing.B) {
	for _, n := range []int{1 << 16, 1 << 24} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			x := newRandom("compare").bits(1 << 16)
			for len(x) < n {
				x = append(x, x...)
			}
			one, other := Floats(F32, x), Floats(F32, x)
			b.SetBytes(int64(4 * n))
			for b.Loop() {
				if d, _ := differences(one, other); d != 0 {
					b.Fatal(d)
				}
			}
		})
	}
}
