package conformance

import (
	"fmt"
	"math"
	"strings"

	"qlora/ref/num"
	"qlora/ref/op"
)

func init() {
	register(&Operation{
		Name: "noise", Of: "op.AddNoise", Needs: "Noise",
		Formula: "x [tokens, d], segments I32 [sequences + 1] → y [tokens, d]. In rows segments[s] … segments[s+1]−1, L of them: y = round(x + round(m·(2u − 1))), m = " +
			"alpha/√(L·d); L·d, its root, the quotient and the product m·(2u − 1) are rounded to float32, as is each sum. u is the uniform (operation uniform) of seed, " +
			"purpose \"noise/conformance\", layer 3, the step and element (first + token)·d + column: first is the index of the first token within the whole batch. Where " +
			"alpha is 0, and in rows from the last bound on, y = x. Bounds that do not ascend from 0 or lie beyond the rows must be rejected.",
		Cases: noiseCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			x, bounds := in["x"], in["segments"].I
			if err := op.CheckSegments("segments", bounds, x.Rows()); err != nil {
				return nil, err
			}
			y := make([]float32, x.Len())
			op.AddNoise(y, x.F, bounds, x.Cols(), c.Float("alpha"), c.seed(), noiseCounter(c), c.Int("first"), c.num())
			return Tensors{"y": Floats(c.DType, y, x.Shape...)}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			c, x := b.Case, in["x"]
			y := b.Result("y", x.DType, x.Rows(), x.Cols())
			n := op.Noise{Alpha: c.Float("alpha"), Seed: c.seed(), Clock: b.Clock(c.Int("step"), c.Int("first"))}
			b.Device.Noise(Place, y, b.Tensor("x", x), b.Ints("segments", in["segments"]), n)
			return Tensors{"y": b.Read(y, x.Shape...)}
		},
	})
}

// noiseCounter selects the random numbers of a case.
func noiseCounter(c *Case) num.Counter {
	return num.Counter{Purpose: num.Purpose("noise/" + c.at.Name), Layer: c.at.Layer, Step: uint32(c.Int("step"))}
}

// noisy is what noise depends on, but for the place.
type noisy struct {
	lengths     []int // of the sequences
	behind      int   // rows that are in none
	d           int
	alpha       float32
	seed        uint64
	step, first int
}

func (k noisy) params() []Param {
	lengths := strings.ReplaceAll(strings.Trim(fmt.Sprint(k.lengths), "[]"), " ", "+")
	return []Param{Text("lengths", lengths), Int("behind", k.behind), Int("d", k.d), single("alpha", k.alpha), seed(k.seed), Int("step", k.step), Int("first", k.first)}
}

func (k noisy) inputs(r *random, t DType, values kind) Tensors {
	rows, bounds := 0, []int32{0}
	for _, n := range k.lengths {
		rows += n
		bounds = append(bounds, int32(rows))
	}
	rows += k.behind
	return Tensors{"x": Floats(t, values.values(r, rows*k.d, t), rows, k.d), "segments": Ints(bounds)}
}

func noiseCases(m *Maker) {
	for _, t := range []DType{F32, BF16} {
		add := func(level Level, reason string, k noisy, values kind) {
			m.Add(level, t, reason, k.params(), func(r *random) Tensors { return k.inputs(r, t, values) })
		}
		for i, d := range []int{1, 2, 3, 5, 8, 31, 32, 33, 64, 65, 128, 257} {
			add(smokeIf(d == 33), "random", noisy{[]int{1 + 3*i%7}, 0, d, 5, uint64(1 + i), i, 0}, ordinary)
			add(Quick, "noise-length", noisy{[]int{3, 1, 7, 2}, 0, d, 10, uint64(1 + i), i, 0}, ordinary)
		}
		add(Smoke, "noise-length", noisy{[]int{2, 9, 1}, 0, 40, 5, 3, 1, 0}, ordinary)
		add(Quick, "noise-length", noisy{[]int{2, 0, 5, 0}, 0, 24, 5, 3, 1, 0}, ordinary)
		add(Smoke, "noise-outside", noisy{[]int{3, 2}, 3, 24, 5, 3, 1, 0}, ordinary)
		add(Quick, "noise-outside", noisy{nil, 4, 24, 5, 3, 1, 0}, ordinary)
		add(Quick, "noise-outside", noisy{[]int{3, 2}, 1, 24, 0, 3, 1, 0}, finite[1])
		for _, alpha := range []float32{0x1p-140, 0.1, 1.0 / 3, 15, 1000} {
			add(Quick, "noise-size", noisy{[]int{5, 6}, 0, 48, alpha, 8, 2, 0}, ordinary)
		}
		add(Smoke, "seed", noisy{[]int{4}, 0, 40, 5, 1<<32 + 1, 0, 0}, ordinary)
		for _, s := range []uint64{0, 1<<32 - 1, 1 << 32, math.MaxUint64} {
			add(Quick, "seed", noisy{[]int{4}, 0, 40, 5, s, 0, 0}, ordinary)
		}
		for _, step := range []int{1, 255, 1 << 24, math.MaxInt32} {
			add(smokeIf(step == 255), "step", noisy{[]int{4}, 0, 40, 5, 11, step, 0}, ordinary)
		}
		for _, first := range []int{1, 3, 127, 1 << 24, math.MaxInt32} {
			add(smokeIf(first == 3), "micro-batch", noisy{[]int{2, 1}, 0, 33, 5, 5, 2, first}, ordinary)
			add(Quick, "micro-batch", noisy{[]int{3}, 0, 4096, 5, 5, 2, first}, ordinary)
		}
		add(Quick, "empty", noisy{nil, 0, 8, 5, 1, 1, 0}, ordinary)
		for _, k := range everything[1:] {
			add(Quick, k.reason, noisy{[]int{4, 3}, 1, 40, 5, 3, 1, 0}, k)
		}
		k := noisy{[]int{3, 3}, 0, 8, 5, 3, 1, 0}
		for i, bounds := range [][]int32{{0, 3, 7}, {1, 3, 6}, {0, 4, 3}, {0, -1, 6}} {
			m.Add(smokeIf(i == 0), t, "out-of-range", k.params(), func(r *random) Tensors {
				in := k.inputs(r, t, ordinary)
				in["segments"] = Ints(bounds)
				return in
			})
		}
	}
}
