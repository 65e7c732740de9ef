package num

import (
	"flag"
	"math"
	"math/big"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// The oracle is math/big at 200 bits, by other ways than the code's: plain Taylor series after many halvings.

const precision = 200

func bigFloat(x float64) *big.Float { return new(big.Float).SetPrec(precision).SetFloat64(x) }

func newBig() *big.Float { return new(big.Float).SetPrec(precision) }

// bigExp is e^x: Taylor's series at x/2^30, squared thirty times.
func bigExp(x *big.Float) *big.Float {
	r := newBig().SetMantExp(x, -30)
	sum, term := bigFloat(1), bigFloat(1)
	for n := 1; n < 7; n++ {
		term.Mul(term, r)
		term.Quo(term, bigFloat(float64(n)))
		sum.Add(sum, term)
	}
	for range 30 {
		sum.Mul(sum, sum)
	}
	return sum
}

// bigLog is Newton's step from float64, twice: each doubles the number of right bits.
func bigLog(x float64) *big.Float {
	y := bigFloat(math.Log(x))
	for range 2 {
		residual := newBig().Mul(bigFloat(x), bigExp(newBig().Neg(y)))
		residual.Sub(residual, bigFloat(1))
		y.Add(y, residual)
		y.Sub(y, newBig().Quo(residual.Mul(residual, residual), bigFloat(2)))
	}
	return y
}

// bigSinCos sums Taylor's series at x itself: |x| < 2^18 would cancel too much, so x is reduced by a long π first.
func bigSinCos(x float64) (sin, cos *big.Float) {
	const pi = "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798214808651328230664709384460955058223172535940812848111745"
	halfPi, _ := newBig().SetString(pi)
	halfPi.Quo(halfPi, bigFloat(2))
	q := math.Round(x / (math.Pi / 2))
	r := newBig().Sub(bigFloat(x), newBig().Mul(halfPi, bigFloat(q)))
	s, c := newBig(), newBig()
	term := bigFloat(1)
	for n := 0; n < 40; n++ {
		into := c
		if n%2 == 1 {
			into = s
		}
		if n%4 < 2 {
			into.Add(into, term)
		} else {
			into.Sub(into, term)
		}
		term.Mul(term, r)
		term.Quo(term, bigFloat(float64(n+1)))
	}
	switch ((int(q) % 4) + 4) % 4 {
	case 1:
		return c, s.Neg(s)
	case 2:
		return s.Neg(s), c.Neg(c)
	case 3:
		return c.Neg(c), s
	}
	return s, c
}

// functions are the five that devices compute too: the code, a float64 value within 8 units where it is not 0, and the truth.
var functions = []struct {
	name   string
	f      func(float32) float32
	near   func(float64) float64
	big    func(float64) *big.Float
	domain func(float64) bool // where big is defined and neither over- nor underflows
}{
	{"exp", Exp, math.Exp, func(x float64) *big.Float { return bigExp(bigFloat(x)) }, func(x float64) bool { return math.Abs(x) < 100 }},
	{"log", Log, math.Log, bigLog, func(x float64) bool { return x > 0 && !math.IsInf(x, 1) }},
	{"tanh", Tanh, math.Tanh, func(x float64) *big.Float {
		e := bigExp(bigFloat(2 * x))
		return newBig().Quo(newBig().Sub(e, bigFloat(1)), newBig().Add(e, bigFloat(1)))
	}, func(x float64) bool { return math.Abs(x) < 100 }},
	{"sigmoid", Sigmoid, func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }, func(x float64) *big.Float {
		return newBig().Quo(bigFloat(1), newBig().Add(bigFloat(1), bigExp(bigFloat(-x))))
	}, func(x float64) bool { return math.Abs(x) < 100 }},
	{"rsqrt", Rsqrt, func(x float64) float64 { return 1 / math.Sqrt(x) }, func(x float64) *big.Float {
		return newBig().Quo(bigFloat(1), newBig().Sqrt(bigFloat(x)))
	}, func(x float64) bool { return x > 0 && !math.IsInf(x, 1) }},
}

// flushed is the specification's one exception to correct rounding.
func flushed(y float32) float32 {
	if math.Abs(float64(y)) < 0x1p-126 {
		return float32(math.Copysign(0, float64(y)))
	}
	return y
}

func same(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

// rounded is the nearest float32; an x of zero takes its sign from the argument.
func rounded(x *big.Float, sign float64) float32 {
	y, _ := x.Float32()
	if x.Sign() == 0 {
		return float32(math.Copysign(0, sign))
	}
	return flushed(y)
}

// check compares with the oracle itself.
func check(t *testing.T, x float32) {
	t.Helper()
	for _, f := range functions {
		if !f.domain(float64(x)) {
			continue
		}
		if got, want := f.f(x), rounded(f.big(float64(x)), float64(x)); !same(got, want) {
			t.Errorf("%s(%x) = %x, want %x", f.name, x, got, want)
		}
	}
}

func TestAll16BitInputs(t *testing.T) {
	eachInput(1<<16, func(bits uint32) {
		check(t, FromBFloat16(uint16(bits)))
		check(t, FromFloat16(uint16(bits)))
	})
}

func TestRandomInputs(t *testing.T) {
	eachInput(20000, func(i uint32) {
		bits := Bits(1, Counter{Element: uint64(i)})
		check(t, math.Float32frombits(bits))
		check(t, 20*Uniform(2, Counter{Element: uint64(i)})-10) // where most of the work is
	})
}

// TestHardInputs has inputs whose results lie nearest to a midpoint of two float32, found by TestExhaustive (see the package
// documentation), and the neighbours of the exact values.
func TestHardInputs(t *testing.T) {
	for _, x := range hardInputs {
		check(t, x)
	}
	for _, x := range []float32{0, 1, 2, 4, 0.25, 0.5, 1.0 / 32, 88.72283, -87.33654, -87.33655, -87.34, 9.010913, 17.32868, 0x1p-126, 0x1p-149} {
		for _, y := range []float32{x, -x, math.Nextafter32(x, 100), math.Nextafter32(x, -100)} {
			check(t, y)
		}
	}
}

func TestLimits(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		name  string
		f     func(float32) float32
		x, fx float32
	}{
		{"exp", Exp, inf, inf}, {"exp", Exp, -inf, 0}, {"exp", Exp, 1e30, inf}, {"exp", Exp, -1e30, 0},
		{"log", Log, inf, inf}, {"log", Log, 0, -inf}, {"log", Log, -1, nan}, {"log", Log, -inf, nan},
		{"tanh", Tanh, inf, 1}, {"tanh", Tanh, -inf, -1}, {"tanh", Tanh, 1e30, 1},
		{"sigmoid", Sigmoid, inf, 1}, {"sigmoid", Sigmoid, -inf, 0}, {"sigmoid", Sigmoid, -1e30, 0},
		{"rsqrt", Rsqrt, inf, 0}, {"rsqrt", Rsqrt, 0, inf}, {"rsqrt", Rsqrt, float32(math.Copysign(0, -1)), -inf}, {"rsqrt", Rsqrt, -1, nan},
	} {
		if got := c.f(c.x); !same(got, c.fx) && !(got != got && c.fx != c.fx) {
			t.Errorf("%s(%v) = %v, want %v", c.name, c.x, got, c.fx)
		}
		if got := c.f(nan); got == got {
			t.Errorf("%s(NaN) = %v", c.name, got)
		}
	}
}

func TestSinCos(t *testing.T) {
	checkAngle := func(x float32) {
		if math.Abs(float64(x)) >= 1<<18 || x != x {
			return
		}
		s, c := SinCos(x)
		bs, bc := bigSinCos(float64(x))
		if ws, wc := rounded(bs, float64(x)), rounded(bc, 1); !same(s, ws) || !same(c, wc) {
			t.Errorf("SinCos(%x) = %x, %x, want %x, %x", x, s, c, ws, wc)
		}
	}
	eachInput(1<<16, func(i uint32) {
		checkAngle(FromBFloat16(uint16(i)))
		checkAngle(float32(i) * Uniform(4, Counter{Element: uint64(i)}))
	})
	for k := 1; k < 1000; k++ { // the float32 nearest to multiples of π/2
		checkAngle(float32(float64(k) * math.Pi / 2))
	}
	for _, x := range []float32{1 << 18, float32(math.Inf(1)), float32(math.NaN())} {
		if s, c := SinCos(x); s == s || c == c {
			t.Errorf("SinCos(%v) = %v, %v, want NaN", x, s, c)
		}
	}
}

// TestRoPE holds the frequencies against math/big and one angle against Hugging Face's definition.
func TestRoPE(t *testing.T) {
	for _, base := range []float64{10000, 500000, 1e6} {
		for _, dim := range []int{8, 64, 128} {
			for i, got := range RoPEInvFreq(base, dim) {
				x := bigFloat(float64(float32(2*i) / float32(dim)))
				power, _ := bigExp(x.Mul(x, bigLog(base))).Float32()
				if want := 1 / power; !same(got, want) {
					t.Errorf("base %v, dim %d: frequency %d is %x, want %x", base, dim, i, got, want)
				}
			}
		}
	}
	if got := RoPEAngle(3, 0.1); got != 0.3 && got != math.Nextafter32(0.3, 1) {
		t.Error(got)
	}
}

func TestPowInt(t *testing.T) {
	if PowInt(0.999, 0) != 1 || PowInt(3, 5) != 243 || PowInt(2, 100) != 0x1p100 {
		t.Error(PowInt(0.999, 0), PowInt(3, 5), PowInt(2, 100))
	}
	for _, n := range []int{1, 2, 1000, 100000} {
		want, _ := bigExp(newBig().Mul(bigFloat(float64(n)), bigLog(0.999))).Float64()
		if got := PowInt(0.999, n); math.Abs(got-want) > float64(n)*want/(1<<52) {
			t.Errorf("0.999^%d = %v, want %v", n, got, want)
		}
	}
}

func TestULPDistance(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		a, b float32
		want uint32
	}{
		{1, 1, 0}, {0, float32(math.Copysign(0, -1)), 0}, {1, math.Nextafter32(1, 2), 1}, {-0x1p-149, 0x1p-149, 2},
		{2, 1, 1 << 23}, {math.MaxFloat32, inf, 1}, {-inf, inf, 2 * 0x7f800000}, {nan, nan, 0}, {nan, 1, math.MaxUint32},
	} {
		if got := ULPDistance(c.a, c.b); got != c.want || ULPDistance(c.b, c.a) != got {
			t.Errorf("%v and %v are %d apart, want %d", c.a, c.b, got, c.want)
		}
	}
}

var exhaustive = flag.Bool("exhaustive", false, "try all 2^32 inputs of every elementary function (a few minutes)")

// TestExhaustive tries every float32, with -exhaustive, else every 4099th. A float64 value of package math decides where it
// is farther than 16 units from a midpoint; the oracle decides the rest.
func TestExhaustive(t *testing.T) {
	stride := uint64(4099)
	if *exhaustive {
		stride = 1
	}
	for _, f := range functions {
		var near atomic.Int64
		inputs := (1<<32 + stride - 1) / stride
		eachInput(inputs, func(i uint32) {
			bits := uint32(uint64(i) * stride)
			x := math.Float32frombits(bits)
			want := f.near(float64(x))
			w := flushed(float32(want))
			if isMidpoint(want, 16) {
				near.Add(1)
				w = rounded(f.big(float64(x)), float64(x))
			}
			if got := f.f(x); !same(got, w) && !(got != got && w != w) {
				t.Errorf("%s(%x) = %x, want %x", f.name, x, got, w)
			}
		})
		t.Logf("%s: %d inputs, %d decided by math/big", f.name, inputs, near.Load())
	}
}

// eachInput calls f for 0 ≤ i < n on all processors.
func eachInput(n uint64, f func(uint32)) {
	var next atomic.Uint64
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			const run = 256
			for from := next.Add(run) - run; from < n; from = next.Add(run) - run {
				for i := from; i < min(n, from+run); i++ {
					f(uint32(i))
				}
			}
		})
	}
	wait.Wait()
}
