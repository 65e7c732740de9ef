package conformance

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

func init() {
	register(&Operation{
		Name: "rope", Of: "op.RoPE", Needs: "RoPE",
		Formula: "x [tokens, heads·d], cos, sin F32 [positions, d/2], positions I32 [tokens] → y like x. In each head element i < d/2 goes with " +
			"element i + d/2, c and s from row positions[token]: y[i] = round(x[i]·c[i] − x[i+d/2]·s[i]), y[i+d/2] = round(x[i+d/2]·c[i] + x[i]·s[i]); " +
			"products and sums are rounded to float32. A position that is negative or that the tables have no row for must be rejected.",
		Cases: ropeCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			x := in["x"]
			if err := within(in["positions"], in["cos"].Rows(), "position"); err != nil {
				return nil, err
			}
			y := make([]float32, x.Len())
			op.RoPE(y, x.F, in["cos"].F, in["sin"].F, in["positions"].I, c.Int("heads"), c.Int("d"), floats[c.DType].num)
			return Tensors{"y": Floats(c.DType, y, x.Shape...)}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			x := in["x"]
			y := b.Result("y", x.DType, x.Rows(), x.Cols())
			b.Device.RoPE(Place, y, b.Tensor("x", x), b.Tensor("cos", in["cos"]), b.Tensor("sin", in["sin"]), b.Ints("positions", in["positions"]))
			return Tensors{"y": b.Read(y, x.Shape...)}
		},
	}, &Operation{
		Name: "rope_backward", Of: "op.RoPEBackward", Needs: "RoPEBackward",
		Formula: "dy, dx [tokens, heads·d], cos, sin F32 [positions, d/2], positions I32 [tokens] → dx. dx = round(dx + round(dy turned as in rope, but by −sin)). " +
			"A position that is negative or that the tables have no row for must be rejected.",
		Cases: ropeBackwardCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			dx := in["dx"].clone()
			if err := within(in["positions"], in["cos"].Rows(), "position"); err != nil {
				return nil, err
			}
			op.RoPEBackward(dx.F, in["dy"].F, in["cos"].F, in["sin"].F, in["positions"].I, c.Int("heads"), c.Int("d"), floats[c.DType].num)
			return Tensors{"dx": dx}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			dx := b.State("dx", in["dx"])
			b.Device.RoPEBackward(Place, dx, b.Tensor("dy", in["dy"]), b.Tensor("cos", in["cos"]), b.Tensor("sin", in["sin"]),
				b.Ints("positions", in["positions"]))
			return Tensors{"dx": b.Read(dx, in["dx"].Shape...)}
		},
	})
}

// ropeCase is what a case of rotary embeddings is made of.
type ropeCase struct {
	tokens, heads, d, rows int
	reason                 string
	positions              func(r *random, tokens, rows int) []int32
	tables                 func(r *random, rows, half int) (cos, sin []float32)
	x                      func(r *random, n int, cos, sin []float32) []float32
}

func (a ropeCase) inputs(r *random, t DType, x string) Tensors {
	cos, sin := a.tables(r, a.rows, a.d/2)
	positions := a.positions(r, a.tokens, a.rows)
	return Tensors{
		x:     Floats(t, a.x(r, a.tokens*a.heads*a.d, cos, sin), a.tokens, a.heads*a.d),
		"cos": Floats(F32, cos, a.rows, a.d/2), "sin": Floats(F32, sin, a.rows, a.d/2), "positions": Ints(positions, a.tokens),
	}
}

func (a ropeCase) params() []Param {
	return []Param{Int("tokens", a.tokens), Int("heads", a.heads), Int("d", a.d), Int("positions", a.rows)}
}

// angles are tables as models have them.
func angles(_ *random, rows, half int) (cos, sin []float32) {
	inverse := num.RoPEInvFreq(10000, 2*half)
	for p := range rows {
		for _, f := range inverse {
			s, c := num.SinCos(num.RoPEAngle(p, f))
			cos, sin = append(cos, c), append(sin, s)
		}
	}
	return cos, sin
}

// anyTables hold no angles at all: what computes sine and cosine by itself is found.
func anyTables(r *random, rows, half int) (cos, sin []float32) {
	return r.normal(rows*half, 1), r.normal(rows*half, 1)
}

func ascending(_ *random, tokens, rows int) []int32 {
	p := make([]int32, tokens)
	for i := range p {
		p[i] = int32(i % rows)
	}
	return p
}

func anyPositions(r *random, tokens, rows int) []int32 { return r.indices(tokens, rows) }

// packedPositions restart with each of three sequences.
func packedPositions(_ *random, tokens, rows int) []int32 {
	p := make([]int32, tokens)
	for i := range p {
		p[i] = int32(i % (tokens/3 + 1))
	}
	return p
}

func anyValues(r *random, n int, _, _ []float32) []float32 { return r.normal(n, 1) }

// ropeBothCases are those of forward and backward.
func ropeBothCases(t DType, add func(level Level, a ropeCase)) {
	for _, d := range []int{2, 4, 6, 8, 16, 24, 32, 64, 80, 128} {
		for _, heads := range []int{1, 2, 3, 7} {
			level := Quick
			if d == 6 && heads == 3 || d == 64 && heads == 2 {
				level = Smoke
			}
			add(level, ropeCase{5, heads, d, 7, "random", ascending, angles, anyValues})
			add(Quick, ropeCase{9, heads, d, 11, "any-position", anyPositions, anyTables, anyValues})
		}
		add(Quick, ropeCase{31, 2, d, 13, "positions-restart", packedPositions, angles, anyValues})
		add(Quick, ropeCase{6, 2, d, 9, "last-position", func(_ *random, tokens, rows int) []int32 {
			return []int32{8, 0, 8, 7, 1, 8}
		}, angles, anyValues})
		add(Quick, ropeCase{1, 1, d, 1, "first-position", ascending, angles, anyValues})
	}
	for _, tokens := range []int{1, 2, 31, 33, 65, 129} {
		add(Quick, ropeCase{tokens, 3, 8, 130, "random", ascending, angles, anyValues})
		level := Quick
		if tokens == 33 {
			level = Smoke
		}
		add(level, ropeCase{tokens, 1, 8, 130, "any-position", anyPositions, angles, anyValues})
	}
	add(Smoke, ropeCase{12, 2, 8, 5, "positions-restart", packedPositions, anyTables, anyValues})
	for _, d := range []int{4, 32, 128} { // x is turned by its own angle: both products are equal and cancel
		add(Quick, ropeCase{4, 1, d, 4, "cancellation", ascending, angles, func(r *random, n int, cos, sin []float32) []float32 {
			x := make([]float32, n)
			for i := range x {
				row, j := i/d, i%d
				if scale := float32(1 + r.below(7)); j < d/2 {
					x[i] = float32(sin[row*d/2+j] * scale)
				} else {
					x[i] = float32(cos[row*d/2+j-d/2] * scale)
				}
			}
			return x
		}})
		add(Quick, ropeCase{8, 2, d, 6, "integers", anyPositions, func(r *random, rows, half int) (cos, sin []float32) {
			return r.integers(rows*half, 4), r.integers(rows*half, 4)
		}, func(r *random, n int, _, _ []float32) []float32 { return r.integers(n, 8) }})
	}
	for _, k := range finite[1:] {
		add(Quick, ropeCase{8, 2, 16, 6, k.reason, anyPositions, angles, func(r *random, n int, _, _ []float32) []float32 { return k.values(r, n, t) }})
	}
	add(Quick, ropeCase{0, 2, 8, 3, "empty", ascending, angles, anyValues})
	for _, bad := range outside(7) {
		add(smokeIf(bad == 7), ropeCase{5, 2, 8, 7, "out-of-range", func(r *random, tokens, rows int) []int32 { return r.withOne(bad, tokens, rows) }, angles, anyValues})
	}
}

func ropeCases(m *Maker) {
	for _, t := range []DType{F32, BF16, F16} {
		add := func(level Level, a ropeCase) {
			m.Add(level, t, a.reason, a.params(), func(r *random) Tensors { return a.inputs(r, t, "x") })
		}
		ropeBothCases(t, add)
		add(Full, ropeCase{300, 8, 128, 300, "random", ascending, angles, anyValues})
	}
}

func ropeBackwardCases(m *Maker) {
	for _, t := range []DType{F32, BF16} {
		ropeBothCases(t, func(level Level, a ropeCase) {
			m.Add(level, t, a.reason, a.params(), func(r *random) Tensors {
				in := a.inputs(r, t, "dy")
				dx := r.normal(in["dy"].Len(), 1)
				if a.reason == "integers" {
					dx = r.integers(len(dx), 8)
				}
				in["dx"] = Floats(t, dx, in["dy"].Shape...)
				return in
			})
		})
	}
}
