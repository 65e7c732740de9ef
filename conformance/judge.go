package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"qlora/ref/op"
)

// Implementation is what is judged.
type Implementation struct {
	Name string
	// Driver is what stands between it and the hardware, with its version; "" for none.
	Driver string
	// Arithmetic is what it declares of its rounding: the zero value is exact.
	Arithmetic op.Arithmetic
	// Do gives its function for an operation in a compute type, or an error that says why it has none.
	Do func(o *Operation, t DType) (Func, error)
	// Parallel says that Do and the functions that it gives may be called by several goroutines at once. Otherwise they are
	// called one at a time; the reference and the comparison run beside them either way.
	Parallel bool

	turn sync.Mutex
}

// inTurn calls f alone, if that is what the implementation needs.
func (i *Implementation) inTurn(f func()) {
	if !i.Parallel {
		i.turn.Lock()
		defer i.turn.Unlock()
	}
	f()
}

// function is Do in turn.
func (i *Implementation) function(o *Operation, t DType) (f Func, err error) {
	i.inTurn(func() { f, err = i.Do(o, t) })
	return f, err
}

// Verdict is what becomes of a case.
type Verdict int

// The verdicts. Only Failed fails a run.
const (
	Passed       Verdict = iota // the reference's bits
	Bounded                     // other bits, within the bound that follows from the declared arithmetic
	NotSupported                // declared as lacking
	Waived                      // a failure that is known (see Waiver)
	Failed
)

var verdicts = [...]string{"pass", "bounded", "not supported", "waived", "failed"}

func (v Verdict) String() string { return verdicts[v] }

// Result is a case with its verdict.
type Result struct {
	Case    *Case
	Verdict Verdict
	Share   float64 // the largest share of the bound that was used; 0 for the reference's bits
	Likely  float64 // the same of the probabilistic bound, which is advice: more than 1 is improbable, not wrong
	Detail  string  // what differed, or why it is not supported, or which waiver holds
	Took    time.Duration
	Checker time.Duration // of that, the reference's and the comparison's part
}

// Judge runs one case.
func (i *Implementation) Judge(o *Operation, c *Case) Result {
	r := Result{Case: c}
	f, err := i.function(o, c.DType)
	if err != nil {
		r.Verdict, r.Detail = NotSupported, err.Error()
		return r
	}
	start := time.Now()
	in := c.Inputs()
	given := in.clone()
	r.Checker = time.Since(start)
	var got Tensors
	var gotErr error
	i.inTurn(func() {
		start = time.Now()
		got, gotErr = safely(f, c, in)
		r.Took = time.Since(start)
	})
	start = time.Now()
	want, wantErr := o.Reference(c, given.clone())
	var broken *broken
	switch {
	case errors.As(gotErr, &broken):
		r.Verdict, r.Detail = Failed, gotErr.Error()
	case !same(in, given):
		r.Verdict, r.Detail = Failed, "it changed its inputs"
	case wantErr != nil && gotErr == nil:
		r.Verdict, r.Detail = Failed, fmt.Sprintf("it accepted what must be rejected: %v", wantErr)
	case wantErr == nil && gotErr != nil:
		r.Verdict, r.Detail = Failed, fmt.Sprintf("it rejected a good input: %v", gotErr)
	case wantErr == nil:
		i.compare(c, &r, o.filled(given), want, got)
	}
	r.Checker += time.Since(start)
	r.Took += r.Checker
	return r
}

// broken is an error that is no rejection of an input: a panic, or memory written over.
type broken struct{ what string }

func (b *broken) Error() string { return b.what }

func safely(f Func, c *Case, in Tensors) (out Tensors, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, &broken{fmt.Sprintf("panic: %v", p)}
		}
	}()
	return f(c, in)
}

// same says whether all bits are equal.
func same(a, b Tensors) bool {
	return maps.EqualFunc(a, b, func(x, y Tensor) bool {
		if x.DType != y.DType || !slices.Equal(x.Shape, y.Shape) || x.whole() != nil {
			return false
		}
		n, _ := differences(x, y)
		return n == 0
	})
}

// differences counts the elements of which the bits differ and gives the first. The tensors are of one type and shape.
func differences(a, b Tensor) (n, first int) {
	if a.F != nil {
		return differFloats(a.F, b.F)
	}
	first = -1
	if bytes.Equal(a.B, b.B) && slices.Equal(a.I, b.I) {
		return 0, first
	}
	for i := range a.Len() {
		if a.bits(i) != b.bits(i) {
			if n++; n == 1 {
				first = i
			}
		}
	}
	return n, first
}

// worthALook is the share below which the probabilistic bound is not computed, as it cannot be passed there: for sums of up to 2^18
// terms it is no less than 1/64 of the other.
const worthALook = 1.0 / 64

// compareBand holds the outputs of a program against its band, if it has one.
func (i *Implementation) compareBand(c *Case, r *Result, in, want, got Tensors) (wrong []string) {
	band := bandOf(c, in, want, arithmetic{Arithmetic: i.Arithmetic})
	if band == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		share := band.share(name, want[name], got[name])
		if r.Share = max(r.Share, share); !(share <= 1) {
			wrong = append(wrong, fmt.Sprintf("%s is %.2f times as far from the reference's as its band is wide", name, share))
		}
	}
	return wrong
}

// compare holds every output against the reference's, to the bit or within the bound.
func (i *Implementation) compare(c *Case, r *Result, in, want, got Tensors) {
	if !slices.Equal(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))) {
		r.Verdict = Failed
		r.Detail = fmt.Sprintf("it gave %v, the outputs are %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		return
	}
	var wrong []string
	other := false // bits than the reference's
	bound := boundOf(c, i.Arithmetic)
	var limits, likely map[string][]approx
	for _, name := range slices.Sorted(maps.Keys(want)) {
		w, g := want[name], got[name]
		if w.DType != g.DType || !slices.Equal(w.Shape, g.Shape) {
			wrong = append(wrong, fmt.Sprintf("%s is %s %v, want %s %v", name, g.DType, g.Shape, w.DType, w.Shape))
			continue
		}
		if err := g.whole(); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		n, first := differences(w, g)
		if n == 0 {
			continue
		}
		other = true
		if bound != nil {
			if limits == nil {
				limits = bound(c, in, arithmetic{Arithmetic: i.Arithmetic})
			}
			if len(limits[name]) != w.Len() {
				wrong = append(wrong, fmt.Sprintf("%s: the suite has %d bounds for %d values", name, len(limits[name]), w.Len()))
				continue
			}
			share, worst := used(w, g, limits[name])
			if r.Share = max(r.Share, share); share > worthALook && likely == nil {
				likely = bound(c, in, arithmetic{Arithmetic: i.Arithmetic, likely: true})
			}
			shareLikely, _ := used(w, g, likely[name])
			r.Likely = max(r.Likely, shareLikely)
			if share > 1 {
				limit := limits[name][worst]
				wrong = append(wrong, fmt.Sprintf("%s[%d] is %s, want %.9g ± %.3g (the reference has %s): %.2f of the bound",
					name, worst, g.text(worst), limit.v, limit.e, w.text(worst), share))
			}
			continue
		}
		wrong = append(wrong, fmt.Sprintf("%s: %d of %d differ, the first at %d: %s, want %s", name, n, w.Len(), first, g.text(first), w.text(first)))
	}
	if other && bound != nil && wrong == nil {
		wrong = i.compareBand(c, r, in, want, got)
	}
	switch {
	case wrong != nil:
		r.Verdict, r.Detail = Failed, strings.Join(wrong, "; ")
	case other:
		r.Verdict = Bounded
	}
}
