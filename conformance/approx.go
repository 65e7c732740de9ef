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
type approx struct{ v, e float64 }

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
	unit32  = 0x1p-24 // unit roundoff of float32
	tiny32  = 0x1p-126
	slack   = 1 + 0x1p-20
	lambda  = 8
	epsilon = 0x1p-150 // half of the smallest subnormal of float32
)

func exactly(x float32) approx { return approx{float64(x), 0} }

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
	x.e = x.e*slack + a.unit()*x.most() + epsilon
	if a.Flushes {
		x.e += tiny32
	}
	return x
}

// unit is the unit roundoff of a single operation.
func (a arithmetic) unit() float64 { return max(unit32, a.Unit) }

// store is the rounding to a tensor's type; nothing is added for float32, where the last operation has rounded already.
func (a arithmetic) store(x approx, t num.DType) approx {
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
	return k * u / (1 - k*u)
}

// accumulator takes products, whether or not they are rounded before they are added.
type accumulator struct {
	s, size, e   float64
	n            int
	mostX, mostY float64
}

// add takes x·y.
func (c *accumulator) add(x, y approx) {
	c.s += x.v * y.v
	c.size += x.most() * y.most()
	c.e += math.Abs(x.v)*y.e + math.Abs(y.v)*x.e + x.e*y.e
	c.mostX, c.mostY = max(c.mostX, x.most()), max(c.mostY, y.most())
	c.n++
}

// result is the sum of the products.
func (a arithmetic) result(c accumulator) approx {
	e := c.e + a.terms(c.n)*c.size + float64(c.n)*epsilon
	if a.Flushes {
		e += float64(c.n) * tiny32 * (1 + c.mostX + c.mostY)
	}
	return approx{c.s, e * slack}
}

// dot is the sum of n products.
func (a arithmetic) dot(n int, term func(i int) (x, y approx)) approx {
	var c accumulator
	for i := range n {
		c.add(term(i))
	}
	return a.result(c)
}

var unity = approx{1, 0}

// total is a sum of numbers.
func (a arithmetic) total(x []approx) approx {
	return a.dot(len(x), func(i int) (approx, approx) { return x[i], unity })
}

// joined is a gradient that is added, rounded, to what is there.
func (a arithmetic) joined(there, x approx, t num.DType) approx {
	return a.store(a.add(there, a.store(x, t)), t)
}

func (a arithmetic) add(x, y approx) approx { return a.round(approx{x.v + y.v, x.e + y.e}) }

func (a arithmetic) sub(x, y approx) approx { return a.add(x, approx{-y.v, y.e}) }

func (a arithmetic) mul(x, y approx) approx {
	return a.round(approx{x.v * y.v, math.Abs(x.v)*y.e + math.Abs(y.v)*x.e + x.e*y.e})
}

// div wants a divisor that cannot be zero.
func (a arithmetic) div(x, y approx) approx {
	low := math.Abs(y.v) - y.e
	if low <= 0 {
		return approx{x.v / y.v, math.Inf(1)}
	}
	return a.elementary(approx{x.v / y.v, (x.e + math.Abs(x.v/y.v)*y.e) / low})
}

// function is a monotone function, for which the radius is what the ends of the interval become.
func (a arithmetic) function(x approx, f func(float64) float64) approx {
	y := f(x.v)
	return a.elementary(approx{y, max(math.Abs(f(x.v+x.e)-y), math.Abs(f(x.v-x.e)-y))})
}

// elementary is the rounding of a function or a quotient; below 2^-126 the specification has zeros.
func (a arithmetic) elementary(x approx) approx {
	x.e = x.e*slack + max(a.unit(), a.Elementary)*x.most() + tiny32
	return x
}
