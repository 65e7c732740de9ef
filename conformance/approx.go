package conformance

import (
	"math"

	"qlora/ref/num"
	"qlora/ref/op"
)

// approx is a real number v, computed in float64, and a radius e: every implementation of the arithmetic that is being
// followed has a value within e of v. This is running error analysis (Higham, Accuracy and Stability of Numerical Algorithms,
// section 3.3): an operation's radius is what its operands' radii can become, and what its own rounding adds.
//
// bounds.md derives each rule. float64's own rounding, 2^-29 of float32's, is covered by slack.
type approx struct {
	v, e float64
	over excess
}

// excess says what a value may be besides a number within its radius.
type excess uint8

const (
	noExcess excess = iota // nothing
	infinity               // the infinity of its sign: a rounding may go beyond the type's largest number
	anything               // an infinity or NaN: partial sums may, in one order or another
	unlooked               // any number, but a number: no bound was computed
)

// arithmetic is an op.Arithmetic by which radii grow.
type arithmetic struct {
	op.Arithmetic
	likely bool // the probabilistic bound of Higham and Mary (2019) for long sums, at λ = 8: advice, no verdict
	// kept are radii of inputs that an earlier operation has left for this one; none where the inputs are given.
	kept map[string][]float64
}

// input is an element of an input.
func (a arithmetic) input(in Tensors, name string, i int) approx {
	x := exactly(in[name].F[i])
	if e := a.kept[name]; e != nil {
		x.e = e[i]
	}
	return x
}

// inputs are all elements of an input.
func (a arithmetic) inputs(in Tensors, name string) []approx {
	x := make([]approx, in[name].Len())
	for i := range x {
		x[i] = a.input(in, name, i)
	}
	return x
}

const (
	unit32 = 0x1p-24 // unit roundoff of float32
	tiny32 = 0x1p-126
	slack  = 1 + 0x1p-20
	lambda = 8
)

func exactly(x float32) approx { return approx{v: float64(x)} }

func allExactly(x []float32) []approx {
	a := make([]approx, len(x))
	for i, v := range x {
		a[i] = exactly(v)
	}
	return a
}

// most is the largest magnitude that the number can have.
func (x approx) most() float64 { return math.Abs(x.v) + x.e }

// round is one rounding of an operation in float32: to nearest, or by truncation in a device that declares it.
func (a arithmetic) round(x approx) approx {
	x.e = x.e*slack + a.unit()*x.most() + a.least()
	if a.Flushes {
		x.e += tiny32
	}
	return x.upTo(math.MaxFloat32)
}

// least is what is lost below the smallest subnormal of float32: half of it, or all where numbers are cut.
func (a arithmetic) least() float64 {
	if a.Unit > unit32 {
		return 0x1p-149
	}
	return 0x1p-150
}

// operand is x as an operation sees it: zero, it may be, where subnormals count as that.
func (a arithmetic) operand(x approx) approx {
	if a.Flushes && math.Abs(x.v)-x.e < tiny32 {
		x.e += tiny32
	}
	return x
}

// upTo says whether what is rounded may be beyond a type's largest number.
func (x approx) upTo(largest float64) approx {
	if x.most() > largest {
		x.over = max(x.over, infinity)
	}
	return x
}

// after is the result of operands: one that may be an infinity can have made anything of it.
func (x approx) after(operands ...approx) approx {
	for _, y := range operands {
		if y.over != noExcess {
			x.e, x.over = math.Inf(1), anything
		}
	}
	return x
}

// unit is the unit roundoff of a single operation.
func (a arithmetic) unit() float64 { return max(unit32, a.Unit) }

// store is the rounding to a tensor's type, which a device may leave out where it keeps the value to itself; nothing happens in float32, to
// which the last operation has rounded already. Rounding is monotone, so the ends of the interval say where all of it goes.
func (a arithmetic) store(x approx, t num.DType) approx {
	if t == num.Float32 || math.IsInf(x.e, 1) || x.v-x.v != 0 {
		return x
	}
	x = a.operand(x)
	largest := 0x1.fep127
	if t == num.Float16 {
		largest = 65504
	}
	lo, hi := float32(x.v-x.e), float32(x.v+x.e)
	if float64(lo) > x.v-x.e {
		lo = math.Nextafter32(lo, -math.MaxFloat32)
	}
	if float64(hi) < x.v+x.e {
		hi = math.Nextafter32(hi, math.MaxFloat32)
	}
	x = x.upTo(largest)
	x.e = max(x.e, x.v-max(-largest, float64(t.Round(lo))), min(largest, float64(t.Round(hi)))-x.v)
	return x
}

// unrounded is x, which the specification has rounded to a type and a device has not.
func (x approx) unrounded(t num.DType) approx {
	switch t {
	case num.BFloat16:
		x.e += 0x1p-8*x.most()*(1+0x1p-8) + 0x1p-134
	case num.Float16:
		x.e += 0x1p-11*x.most()*(1+0x1p-11) + 0x1p-25
	}
	return x
}

// terms is γ for a sum of n products: how many times its size can be lost to rounding (Higham, section 3.1).
func (a arithmetic) terms(n int) float64 {
	k := float64(n)
	if a.Block > 1 { // a block's products are aligned and cut before they are summed, and the sum is cut again
		k *= 1 + 2/float64(a.Block)
	}
	k += float64(max(1, a.SplitK)) - 1
	u := a.unit()
	if a.likely {
		return lambda * math.Sqrt(k) * u
	}
	if k*u >= 1 { // nothing can be said
		return math.Inf(1)
	}
	return k * u / (1 - k*u)
}

// accumulator takes products, whether or not they are rounded before they are added.
type accumulator struct {
	s, size, e   float64
	n            int
	mostX, mostY float64
	over         bool // an operand may be an infinity
}

// add takes x·y.
func (c *accumulator) add(x, y approx) {
	c.s += x.v * y.v
	c.size += x.most() * y.most()
	c.e += math.Abs(x.v)*y.e + math.Abs(y.v)*x.e + x.e*y.e
	c.mostX, c.mostY = max(c.mostX, x.most()), max(c.mostY, y.most())
	c.over = c.over || x.over != noExcess || y.over != noExcess
	c.n++
}

// result is the sum of the products.
func (a arithmetic) result(c accumulator) approx {
	e := c.e + a.terms(c.n)*c.size + float64(c.n)*a.least()
	if a.Flushes {
		e += float64(c.n) * tiny32 * (1 + c.mostX + c.mostY)
	}
	sum := approx{v: c.s, e: e * slack}
	if c.over {
		return sum.after(approx{over: anything})
	}
	if c.size*(1+a.terms(c.n)) > math.MaxFloat32 { // partial sums, in whatever order
		if sum.over = anything; a.Unit > unit32 { // what is cut stays at the largest number, and goes on from there
			sum.e = math.Inf(1)
		}
	}
	return sum
}

// dot is the sum of n products.
func (a arithmetic) dot(n int, term func(i int) (x, y approx)) approx {
	var c accumulator
	for i := range n {
		c.add(term(i))
	}
	return a.result(c)
}

var unity = approx{v: 1}

// total is a sum of numbers.
func (a arithmetic) total(x []approx) approx {
	return a.dot(len(x), func(i int) (approx, approx) { return x[i], unity })
}

// joined is a gradient that is added, rounded, to what is there.
func (a arithmetic) joined(there, x approx, t num.DType) approx {
	return a.store(a.add(there, a.store(x, t)), t)
}

func (a arithmetic) add(x, y approx) approx {
	x, y = a.operand(x), a.operand(y)
	return a.round(approx{v: x.v + y.v, e: x.e + y.e}).after(x, y)
}

func (a arithmetic) sub(x, y approx) approx { return a.add(x, approx{-y.v, y.e, y.over}) }

func (a arithmetic) mul(x, y approx) approx {
	x, y = a.operand(x), a.operand(y)
	return a.round(approx{v: x.v * y.v, e: math.Abs(x.v)*y.e + math.Abs(y.v)*x.e + x.e*y.e}).after(x, y)
}

// div wants a divisor that cannot be zero.
func (a arithmetic) div(x, y approx) approx {
	x, y = a.operand(x), a.operand(y)
	low := math.Abs(y.v) - y.e
	if low <= 0 {
		return approx{x.v / y.v, math.Inf(1), anything}
	}
	return a.elementary(approx{v: x.v / y.v, e: (x.e + math.Abs(x.v/y.v)*y.e) / low}).after(x, y)
}

// function is a monotone function, for which the radius is what the ends of the interval become.
func (a arithmetic) function(x approx, f func(float64) float64) approx {
	x = a.operand(x)
	y, low := f(x.v), f(x.v-x.e)
	if low != low { // a root of what is below zero only by rounding
		low = f(0)
	}
	e := max(math.Abs(f(x.v+x.e)-y), math.Abs(low-y))
	if math.IsInf(e, 1) {
		return approx{y, e, anything}
	}
	return a.elementary(approx{v: y, e: e}).after(x)
}

// elementary is the rounding of a function or a quotient; below 2^-126 the specification has zeros.
func (a arithmetic) elementary(x approx) approx {
	x.e = x.e*slack + max(a.unit(), a.Elementary)*x.most() + tiny32
	return x.upTo(math.MaxFloat32)
}
