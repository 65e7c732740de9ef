package conformance

import (
	"math"
	"strconv"

	"qlora/ref/num"
	"qlora/ref/op"
)

func init() {
	register(&Operation{
		Name: "dropout", Of: "op.ApplyDropout", Needs: "Dropout",
		Formula: "x [tokens, d] → y. y = round(x·(1/(1−p))) where u ≥ p, else +0; 1−p and its reciprocal are rounded to float32. u is the uniform (operation uniform) " +
			"of seed, purpose \"dropout/conformance\", layer 3, the step and element (first + token)·d + column: first is the index of the first token within the whole batch.",
		Cases: dropoutCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			x := in["x"]
			return Tensors{"y": Floats(c.DType, dropped(c, x), x.Shape...)}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			x := in["x"]
			y := b.Result("y", x.DType, x.Rows(), x.Cols())
			b.Device.Dropout(Place, y, b.Tensor("x", x), b.dropout())
			return Tensors{"y": b.Read(y, x.Shape...)}
		},
	}, &Operation{
		Name: "dropout_backward", Of: "op.ApplyDropout", Needs: "DropoutBackward",
		Formula: "dy, dx [tokens, d] → dx. dx = round(dx + dropout(dy)), by the mask of forward.",
		Cases:   dropoutBackwardCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			dx := in["dx"].clone()
			op.Add(dx.F, dx.F, dropped(c, in["dy"]), floats[c.DType].num)
			return Tensors{"dx": dx}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			dx := b.State("dx", in["dx"])
			b.Device.DropoutBackward(Place, dx, b.Tensor("dy", in["dy"]), b.dropout())
			return Tensors{"dx": b.Read(dx, in["dx"].Shape...)}
		},
	})
}

// dropped is x after the case's dropout.
func dropped(c *Case, x Tensor) []float32 {
	y := make([]float32, x.Len())
	op.ApplyDropout(y, x.F, x.Cols(), c.Float("p"), c.seed(), maskCounter(c.at, c.Int("step")), c.Int("first"), floats[c.DType].num)
	return y
}

// maskCounter selects the random numbers of a place's mask.
func maskCounter(at op.At, step int) num.Counter {
	return num.Counter{Purpose: num.Purpose("dropout/" + at.Name), Layer: at.Layer, Step: uint32(step)}
}

// dropout is the case's, with a clock on the device.
func (b *Bench) dropout() op.Dropout {
	c := b.Case
	return op.Dropout{P: c.Float("p"), Seed: c.seed(), Clock: b.Clock(c.Int("step"), c.Int("first"))}
}

// seed is all 64 bits of it.
func (c *Case) seed() uint64 {
	s, err := strconv.ParseUint(c.Param("seed"), 10, 64)
	if err != nil {
		panic("conformance: " + c.Name() + " has no number seed")
	}
	return s
}

// seed makes the parameter.
func seed(s uint64) Param { return Text("seed", strconv.FormatUint(s, 10)) }

// single is a float32 parameter, in as few digits as say it.
func single(name string, v float32) Param {
	return Param{name, strconv.FormatFloat(float64(v), 'g', -1, 32)}
}

// mask is what a mask depends on, but for the place.
type mask struct {
	tokens, d   int
	p           float32
	seed        uint64
	step, first int
}

func (k mask) params() []Param {
	return []Param{Int("tokens", k.tokens), Int("d", k.d), single("p", k.p), seed(k.seed), Int("step", k.step), Int("first", k.first)}
}

// maskCases are those of forward and backward.
func maskCases(add func(level Level, reason string, k mask)) {
	for i, d := range []int{1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, 129, 256, 257} {
		for j, p := range []float32{0.05, 0.1, 0.5, 0.9} {
			level := Quick
			if d == 33 {
				level = Smoke
			}
			add(level, "random", mask{1 + 3*i%7 + 2*j, d, p, uint64(1 + i), i * j, 0})
		}
	}
	for _, p := range []float32{0, 0.001, 0.3, 1.0 / 3, 0.7, 0.8, 0.999, 0.99999} {
		add(Quick, "probability", mask{9, 50, p, 7, 3, 0})
	}
	add(Smoke, "seed", mask{4, 40, 0.5, 1<<32 + 1, 0, 0})
	for _, s := range []uint64{0, 1, 1<<32 - 1, 1 << 32, 0xdeadbeef00000001, math.MaxUint64} {
		add(Quick, "seed", mask{4, 40, 0.5, s, 0, 0})
	}
	for _, step := range []int{0, 1, 2, 255, 65536, 1 << 24, math.MaxInt32} {
		add(Quick, "step", mask{4, 40, 0.5, 11, step, 0})
	}
	for _, first := range []int{1, 2, 3, 5, 31, 127, 4096, 1 << 24, 1 << 28, math.MaxInt32} {
		level := Quick
		if first == 3 || first == math.MaxInt32 {
			level = Smoke
		}
		add(level, "micro-batch", mask{3, 33, 0.5, 5, 2, first})
		add(Quick, "micro-batch", mask{3, 4096, 0.25, 5, 2, first})
		add(Quick, "micro-batch", mask{7, 1, 0.5, 5, 2, first})
	}
	// p is the uniform of an element, which is kept then, or the next float32, with which it is dropped.
	for element := range 64 {
		c := maskCounter(Place, 2)
		c.Element = uint64(element)
		p := num.Uniform(21, c)
		if element < 4 {
			add(Quick, "uniform-is-p", mask{8, 8, p, 21, 2, 0})
		}
		if p < 0x1p-4 { // what has more than 24 bits below it could be compared with it, too
			add(Quick, "uniform-is-p", mask{8, 8, math.Nextafter32(p, 1), 21, 2, 0})
		}
	}
	add(Quick, "empty", mask{0, 8, 0.5, 1, 1, 0})
	add(Full, "random", mask{300, 4096, 0.1, 3, 17, 1000})
}

func dropoutCases(m *Maker) {
	for _, t := range []DType{F32, BF16} {
		add := func(level Level, k kind, a mask, reason string) {
			m.Add(level, t, reason, a.params(), func(r *random) Tensors {
				return Tensors{"x": Floats(t, k.values(r, a.tokens*a.d, t), a.tokens, a.d)}
			})
		}
		maskCases(func(level Level, reason string, k mask) { add(level, ordinary, k, reason) })
		for _, k := range everything[1:] {
			add(Quick, k, mask{6, 40, 0.4, 3, 1, 0}, k.reason)
		}
	}
}

func dropoutBackwardCases(m *Maker) {
	for _, t := range []DType{F32, BF16} {
		add := func(level Level, k kind, a mask, reason string) {
			m.Add(level, t, reason, a.params(), func(r *random) Tensors {
				return Tensors{"dy": Floats(t, k.values(r, a.tokens*a.d, t), a.tokens, a.d), "dx": Floats(t, r.normal(a.tokens*a.d, 1), a.tokens, a.d)}
			})
		}
		maskCases(func(level Level, reason string, k mask) { add(level, ordinary, k, reason) })
		for _, k := range everything[1:] {
			add(Quick, k, mask{6, 40, 0.4, 3, 1, 0}, k.reason)
		}
	}
}
