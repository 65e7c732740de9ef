package mutants

import (
	"math"

	"qlora/conformance"
	"qlora/ref/num"
)

// merging is an adapter's merge in parts.
type merging struct {
	scale func(c *Case) float32
	at    func(w []float32, o, i, out, in int) *float32
	added func(w, delta float32) float32
}

func mergingWith(spoil func(m *merging)) Func {
	m := merging{
		scale: func(c *Case) float32 { return c.Float("scale") },
		at:    func(w []float32, o, i, _, in int) *float32 { return &w[o*in+i] },
		added: func(w, delta float32) float32 { return w + delta },
	}
	spoil(&m)
	return func(c *Case, in Tensors) (Tensors, error) {
		w, rank, cols := copyOf(in["w"]), c.Int("r"), c.Int("in")
		for o := range c.Int("out") {
			for i := range cols {
				var s float32
				for r := range rank {
					s += float32(in["b"].F[o*rank+r] * in["a"].F[r*cols+i])
				}
				p := m.at(w.F, o, i, c.Int("out"), cols)
				*p = m.added(*p, float32(m.scale(c)*s))
			}
		}
		return Tensors{"w": w}, nil
	}
}

// beginning is A before training, in parts.
type beginning struct {
	bound func(c *Case) float32
	value func(u, bound float32) float32
	layer func(c *Case) uint16
}

func beginningWith(spoil func(b *beginning)) Func {
	b := beginning{
		bound: func(c *Case) float32 { return float32(1 / math.Sqrt(float64(c.Int("in")))) },
		value: func(u, bound float32) float32 { return (float32(2*u) - 1) * bound },
		layer: func(c *Case) uint16 { return uint16(c.Int("layer")) },
	}
	spoil(&b)
	return func(c *Case, _ Tensors) (Tensors, error) {
		a := make([]float32, c.Int("r")*c.Int("in"))
		for i := range a {
			counter := num.Counter{Purpose: num.Purpose("lora_A/" + c.Param("name")), Layer: b.layer(c), Element: uint64(i)}
			a[i] = b.value(num.Uniform(seedOf(c), counter), b.bound(c))
		}
		return Tensors{"a": conformance.Floats(f32, a, c.Int("r"), c.Int("in"))}, nil
	}
}

var adapterMutants = []Mutant{
	{
		Name: "merged without scale", Bug: "W + B·A.", Op: "lora_merge",
		Func: mergingWith(func(m *merging) { m.scale = func(*Case) float32 { return 1 } }),
	},
	{
		Name: "merged transposed", Bug: "(B·A)ᵀ is added, as for a layer with fan_in_fan_out.", Op: "lora_merge",
		Func: mergingWith(func(m *merging) {
			m.at = func(w []float32, o, i, out, _ int) *float32 { return &w[i*out+o] }
		}),
	},
	{
		Name: "merged in bfloat16", Bug: "The sum is rounded to bfloat16.", Op: "lora_merge",
		Func: mergingWith(func(m *merging) { m.added = func(w, delta float32) float32 { return num.BFloat16.Round(w + delta) } }),
	},
	{
		Name: "unmerged", Bug: "The adapter is taken away in place of added.", Op: "lora_merge",
		Func: mergingWith(func(m *merging) { m.added = func(w, delta float32) float32 { return w - delta } }),
	},
	{
		Name: "begins within ±√(3/in)", Bug: "Kaiming's bound without a = √5.", Op: "lora_init",
		Func: beginningWith(func(b *beginning) {
			b.bound = func(c *Case) float32 { return float32(math.Sqrt(3 / float64(c.Int("in")))) }
		}),
	},
	{
		Name: "begins by the rank", Bug: "The bound is 1/√r: fan-out for fan-in.", Op: "lora_init",
		Func: beginningWith(func(b *beginning) {
			b.bound = func(c *Case) float32 { return float32(1 / math.Sqrt(float64(c.Int("r")))) }
		}),
	},
	{
		Name: "begins positive", Bug: "Uniform in 0…bound, not in ±bound.", Op: "lora_init",
		Func: beginningWith(func(b *beginning) { b.value = func(u, bound float32) float32 { return u * bound } }),
	},
	{
		Name: "all layers alike", Bug: "The layer does not enter the counter: every block begins with the same A.", Op: "lora_init",
		Func: beginningWith(func(b *beginning) { b.layer = func(*Case) uint16 { return 0 } }),
	},
	{
		Name: "rsLoRA's flag ignored", Bug: "α/r whatever is asked for.", Op: "lora_scale",
		Func: asked("lora_scale", func(c *Case, _ Tensors) { unset(c, "rslora") }),
	},
	{
		Name: "r/α", Bug: "The quotient is upside down.", Op: "lora_scale",
		Func: spoiled("lora_scale", func(_ *Case, _, out Tensors) { out["scale"].F[0] = 1 / out["scale"].F[0] }),
	},
	{
		Name: "√ in float32", Bug: "α/√r with a root that is rounded to float32 before the division.", Op: "lora_scale",
		Func: spoiled("lora_scale", func(c *Case, _, out Tensors) {
			if c.Has("rslora") {
				out["scale"].F[0] = float32(number(c, "alpha")) / float32(math.Sqrt(float64(c.Int("r"))))
			}
		}),
		Rounding: true,
	},
}

// dropping is dropout in parts.
type dropping struct {
	keep    func(p float32) float32
	drops   func(u, p float32) bool
	dropped func(x float32) float32
	seed    func(c *Case) uint64
	step    func(c *Case) int
	element func(first, token, column, d int) uint64
	kept    func(x, keep float32) float32
}

func (d dropping) mask(c *Case, x []float32, cols int, y func(i int, v float32)) {
	p, counter := c.Float("p"), maskCounter(d.step(c))
	for i, v := range x {
		counter.Element = d.element(c.Int("first"), i/cols, i%cols, cols)
		if d.drops(num.Uniform(d.seed(c), counter), p) {
			y(i, d.dropped(v))
		} else {
			y(i, compute(c).Round(d.kept(v, d.keep(p))))
		}
	}
}

func droppingParts(spoil func(d *dropping)) dropping {
	d := dropping{
		keep:    func(p float32) float32 { return 1 / (1 - p) },
		drops:   func(u, p float32) bool { return u < p },
		dropped: func(float32) float32 { return 0 },
		seed:    seedOf,
		step:    func(c *Case) int { return c.Int("step") },
		element: func(first, token, column, d int) uint64 { return uint64(first+token)*uint64(d) + uint64(column) },
		kept:    func(x, keep float32) float32 { return x * keep },
	}
	spoil(&d)
	return d
}

func dropout(spoil func(d *dropping)) Func {
	d := droppingParts(spoil)
	return func(c *Case, in Tensors) (Tensors, error) {
		y := copyOf(in["x"])
		d.mask(c, in["x"].F, in["x"].Cols(), func(i int, v float32) { y.F[i] = v })
		return Tensors{"y": y}, nil
	}
}

func dropoutBackward(spoil func(d *dropping), join func(there, g float32, t num.DType) float32) Func {
	d := droppingParts(spoil)
	return func(c *Case, in Tensors) (Tensors, error) {
		dx := copyOf(in["dx"])
		d.mask(c, in["dy"].F, in["dy"].Cols(), func(i int, v float32) { dx.F[i] = join(dx.F[i], v, compute(c)) })
		return Tensors{"dx": dx}, nil
	}
}

var dropoutMutants = []Mutant{
	{
		Name: "1/(1 − p) missing", Bug: "What is kept is not scaled up.", Op: "dropout",
		Func: dropout(func(d *dropping) { d.keep = func(float32) float32 { return 1 } }),
	},
	{
		Name: "p for 1 − p", Bug: "p is the probability of keeping.", Op: "dropout",
		Func: dropout(func(d *dropping) { d.drops = func(u, p float32) bool { return u >= p } }),
	},
	{
		Name: "dropped at equality", Bug: "u ≤ p in place of u < p.", Op: "dropout",
		Func: dropout(func(d *dropping) { d.drops = func(u, p float32) bool { return u <= p } }),
	},
	{
		Name: "divided by 1 − p", Bug: "x/(1 − p) in place of x·(1/(1 − p)).", Op: "dropout",
		Func: dropout(func(d *dropping) {
			d.keep = func(p float32) float32 { return 1 - p }
			d.kept = func(x, q float32) float32 { return x / q }
		}),
		Rounding: true,
	},
	{
		Name: "dropped as x·0", Bug: "A mask is multiplied: −1·0 is −0, and NaN stays.",
		Seen: "torch.nn.functional.dropout multiplies by a mask", Op: "dropout",
		Func: dropout(func(d *dropping) { d.dropped = func(x float32) float32 { return x * 0 } }),
	},
	{
		Name: "mask restarts with each micro-batch", Bug: "The index of the micro-batch's first token is not added.", Op: "dropout",
		Func: dropout(func(d *dropping) {
			d.element = func(_, token, column, d int) uint64 { return uint64(token*d + column) }
		}),
	},
	{
		Name: "element in 32 bits", Bug: "The element's index wraps around at 2^32.", Op: "dropout",
		Func: dropout(func(d *dropping) {
			d.element = func(first, token, column, d int) uint64 {
				return uint64(uint32(first+token)*uint32(d) + uint32(column))
			}
		}),
	},
	{
		Name: "one mask for all tokens", Bug: "Only the column enters the counter: whole features are dropped.", Op: "dropout",
		Func: dropout(func(d *dropping) { d.element = func(_, _, column, _ int) uint64 { return uint64(column) } }),
	},
	{
		Name: "seed in 32 bits", Bug: "The upper half of the seed does not count.", Op: "dropout",
		Func: dropout(func(d *dropping) { d.seed = func(c *Case) uint64 { return uint64(uint32(seedOf(c))) } }),
	},
	{
		Name: "same mask in every step", Bug: "The step does not enter the counter.", Op: "dropout",
		Func: dropout(func(d *dropping) { d.step = func(*Case) int { return 0 } }),
	},
	{
		Name: "dropout_backward: another mask", Bug: "Backward draws the numbers of the next step.", Op: "dropout_backward",
		Func: dropoutBackward(func(d *dropping) { d.step = func(c *Case) int { return c.Int("step") + 1 } }, joined),
	},
	{
		Name: "dropout_backward: not scaled", Bug: "The gradient lacks 1/(1 − p).", Op: "dropout_backward",
		Func: dropoutBackward(func(d *dropping) { d.keep = func(float32) float32 { return 1 } }, joined),
	},
	{
		Name: "dropout_backward: overwrites", Bug: "The gradient replaces what is there.", Op: "dropout_backward",
		Func: dropoutBackward(func(*dropping) {}, func(_, g float32, _ num.DType) float32 { return g }),
	},
}
