package conformance

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"qlora/ref/num"
	"qlora/ref/op"
)

// The reference itself rounds to nearest: its results must lie within the bounds of that arithmetic, for every case.
func TestReferenceWithinItsBounds(t *testing.T) {
	a := arithmetic{Arithmetic: op.Arithmetic{Unit: unit32}}
	for _, name := range slices.Sorted(maps.Keys(bounds)) {
		if programs[name] != nil { // whose bounds are around the reference's own values
			continue
		}
		o, err := Lookup(name)
		if err != nil {
			t.Error(err)
			continue
		}
		worst, at, inputs := 0.0, "", 0
		for _, c := range o.List(Smoke) {
			in := c.Inputs()
			out, err := o.Reference(c, in)
			if err != nil {
				continue
			}
			inputs++
			for output, limits := range bounds[name](c, in, a) {
				if len(limits) != out[output].Len() {
					t.Fatalf("%s: %d limits for %d elements of %s", c.Name(), len(limits), out[output].Len(), output)
				}
				for i, l := range limits {
					got := float64(out[output].F[i])
					if math.IsInf(got, 0) || math.IsNaN(got) || !(l.e < math.Inf(1)) {
						continue
					}
					share := 0.0
					if got != l.v {
						share = math.Abs(got-l.v) / l.e
					}
					if !(share <= 1) {
						t.Errorf("%s: %s[%d] is %v, want %v ± %v", c.Name(), output, i, got, l.v, l.e)
						break
					}
					if share > worst {
						worst, at = share, c.Name()
					}
				}
			}
		}
		t.Logf("%-22s %3d cases, at most %3.0f%% of the bound: %s", name, inputs, 100*worst, at)
	}
}

// rough is an implementation of linear whose sums are those of tensor cores and other fast kernels.
type rough struct {
	truncate bool // each addition, in place of rounding to nearest
	block    int  // products that are summed at once
	splitK   int
	flushes  bool

	unrounded bool // weights of 4 bits
}

func (r rough) judge(c *Case, declared op.Arithmetic) Result {
	o, _ := Lookup(c.Op)
	i := &Implementation{Name: "rough", Arithmetic: declared, Do: func(o *Operation, t DType) (Func, error) {
		return func(c *Case, in Tensors) (Tensors, error) { return r.linear(c, in), nil }, nil
	}}
	return i.Judge(o, c)
}

func (r rough) linear(c *Case, in Tensors) Tensors {
	l := layerOf(c)
	w := r.weight(c, in)
	y := r.products(in["x"].F, w, l.m, l.n, l.k)
	if bias, ok := in["bias"]; ok {
		for i := range y {
			y[i] += bias.F[i%l.n]
		}
	}
	return Tensors{"y": Floats(c.DType, y, l.m, l.n)}
}

// weight is W, of 4 bits rounded to the type or not.
func (r rough) weight(c *Case, in Tensors) []float32 {
	w, _ := weightValues(c, in)
	if q := quantizedWeight(c, in); q != nil && r.unrounded {
		must(q.Dequantize(w, num.Float32))
	}
	return w
}

func (r rough) dot(x, w []float32) float32 {
	parts := make([]float32, max(1, r.splitK))
	size := (len(x) + len(parts) - 1) / len(parts)
	block := max(1, r.block)
	for p := range parts {
		for from := p * size; from < min((p+1)*size, len(x)); from += block {
			parts[p] = r.add(parts[p], r.aligned(x[from:min(from+block, (p+1)*size, len(x))], w[from:]))
		}
	}
	s := parts[0]
	for _, p := range parts[1:] {
		s = r.add(s, float64(p))
	}
	return s
}

// aligned sums products that are cut at the last place of the largest, as tensor cores do.
func (r rough) aligned(x, w []float32) (s float64) {
	largest := 0.0
	for i := range x {
		largest = max(largest, math.Abs(r.product(x[i], w[i])))
	}
	if largest == 0 {
		return 0
	}
	unit := math.Ldexp(1, math.Ilogb(largest)-23)
	for i := range x {
		p := r.product(x[i], w[i])
		if len(x) > 1 {
			p = math.Trunc(p/unit) * unit
		}
		s += p
	}
	return s
}

func (r rough) product(x, w float32) float64 {
	p := float64(x) * float64(w)
	if r.flushes && (small(float64(x)) || small(float64(w)) || small(p)) {
		return 0
	}
	return p
}

func small(x float64) bool { return math.Abs(x) < tiny32 }

func (r rough) add(s float32, p float64) float32 {
	sum := float64(s) + p
	y := float32(sum)
	if r.truncate && math.Abs(float64(y)) > math.Abs(sum) {
		y = math.Nextafter32(y, 0)
	}
	return y
}

// What rounds as it declares stays within the bound, on random data and on data made against it. What is one rounding worse
// than it declares is found out by the latter.
func TestBoundsHoldAndBite(t *testing.T) {
	nearest, truncating := op.Arithmetic{Unit: unit32}, op.Arithmetic{Unit: 2 * unit32}
	with := func(a op.Arithmetic, change func(*op.Arithmetic)) op.Arithmetic { change(&a); return a }
	for what, c := range map[string]struct {
		device   rough
		honest   op.Arithmetic
		boastful op.Arithmetic // what it must not be believed
	}{
		"truncating":          {rough{truncate: true}, truncating, nearest},
		"blocks of 8":         {rough{truncate: true, block: 8}, with(truncating, func(a *op.Arithmetic) { a.Block = 8 }), op.Arithmetic{}},
		"split in 4":          {rough{splitK: 4}, with(nearest, func(a *op.Arithmetic) { a.SplitK = 4 }), op.Arithmetic{}},
		"split, truncating":   {rough{splitK: 4, truncate: true}, with(truncating, func(a *op.Arithmetic) { a.SplitK = 4 }), op.Arithmetic{}},
		"weights not rounded": {rough{unrounded: true}, with(nearest, func(a *op.Arithmetic) { a.WeightUnrounded = true }), nearest},
		"flushing":            {rough{flushes: true}, with(nearest, func(a *op.Arithmetic) { a.Flushes = true }), nearest},
	} {
		caught := 0
		for _, k := range adversaries(t) {
			if r := c.device.judge(k, c.honest); r.Verdict == Failed {
				t.Errorf("%s: %s: %s", what, k.Name(), r.Detail)
			}
			if r := c.device.judge(k, c.boastful); r.Verdict == Failed {
				caught++
			}
		}
		if caught == 0 {
			t.Errorf("%s: no case shows that it does not round as %+v", what, c.boastful)
		}
	}
}

// adversaries are the cases of linear of which all inputs are numbers.
func adversaries(t *testing.T) (cases []*Case) {
	o, err := Lookup("linear")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range o.List(Quick) {
		if l := layerOf(c); c.Reason != "nan-inf" && l.m*l.n*l.k < 1<<14 || c.Reason == "truncation" {
			cases = append(cases, c)
		}
	}
	return cases
}

// The same for functions: an exponential that is off by as much as is declared, and by eight times that.
func TestElementaryHoldsAndBites(t *testing.T) {
	o, err := Lookup("gate")
	if err != nil {
		t.Fatal(err)
	}
	const declared = 0x1p-18
	for off, want := range map[float64]Verdict{declared / 2: Bounded, 8 * declared: Failed} {
		i := &Implementation{Arithmetic: op.Arithmetic{Unit: unit32, Elementary: declared}, Do: func(*Operation, DType) (Func, error) {
			return func(c *Case, in Tensors) (Tensors, error) {
				y := make([]float32, in["gate"].Len())
				for j, x := range in["gate"].F {
					y[j] = float32(float64(x) * (1 + off) / (1 + math.Exp(-float64(x))) * float64(in["up"].F[j]))
				}
				return Tensors{"y": Floats(c.DType, y, in["gate"].Shape...)}, nil
			}, nil
		}}
		for _, c := range o.List(Quick) {
			if c.DType == F32 && c.Param("act") == "silu" && c.Reason == ordinary.reason && c.Int("n") > 100 {
				if r := i.Judge(o, c); r.Verdict != want {
					t.Errorf("off by %v: %s: %v %s", off, c.Name(), r.Verdict, r.Detail)
				}
			}
		}
	}
}

func ExampleBound() {
	// One product sum of 1000 terms of size 1, on a device that rounds to nearest and on one that truncates.
	for _, unit := range []float64{unit32, 2 * unit32} {
		a := arithmetic{Arithmetic: op.Arithmetic{Unit: unit}}
		fmt.Printf("%.3g\n", a.dot(1000, func(int) (approx, approx) { return unity, unity }).e)
	}
	// Output:
	// 0.0596
	// 0.119
}
