package conformance

import (
	"fmt"
	"math"
	"regexp"
	"slices"

	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// The 4-bit types: quantization to them, one operation each, with scales in float32 and with scales that are quantized themselves; and
// the use of what was quantized.
func init() {
	for _, c := range quant.Codebooks {
		register(quantize4(c))
	}
	for _, c := range []*quant.Codebook{quant.NF4, quant.FP4} {
		register(quantize4Nested(c))
	}
	register(quantizeLinear())
}

func quantize4(book *quant.Codebook) *Operation {
	return &Operation{
		Name: book.Name + "_quantize", Of: "quant.Quantize4", Needs: "Quantize",
		Formula: "x [n], or [n/cols, cols] where cols is given, float; codes U8 [(n+1)/2], element 2k in the high nibble; absmax F32 [blocks of bs elements of the flat x, the last may be short]. " +
			"r = 1/absmax rounded to float32; where it is not finite, absmax is 0 and the codes are those of 0.0. " +
			"code = the number of thresholds t with x·r > t, where thresholds are the float32 midpoints of neighbouring values.",
		Cases: func(m *Maker) { quantize4Cases(m, book) },
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			packed, absmax, err := quant.Quantize4(in["x"].F, book, c.Int("bs"), quant.Spec)
			return Tensors{"codes": Bytes(packed), "absmax": Floats(F32, absmax)}, err
		},
		Device: func(b *Bench, in Tensors) Tensors {
			q := b.quantized(in["x"], quant.Options{Type: book, Blocksize: b.Case.Int("bs")})
			return Tensors{"codes": Bytes(q.Packed), "absmax": Floats(F32, q.Absmax)}
		},
	}
}

func quantize4Nested(book *quant.Codebook) *Operation {
	options := func(c *Case) quant.Options {
		return quant.Options{Type: book, Blocksize: c.Int("bs"), DoubleQuant: true}
	}
	outputs := func(q *quant.Tensor) Tensors {
		n := q.Nested
		return Tensors{"codes": Bytes(q.Packed), "absmax": Bytes(n.Codes), "absmax2": Floats(F32, n.Absmax), "offset": Floats(F32, []float32{n.Offset})}
	}
	return &Operation{
		Name: book.Name + "_dq_quantize", Of: "quant.Quantize", Needs: "Quantize",
		Formula: book.Name + "_quantize, and nested_quantize of its absmax: x → codes U8 [(n+1)/2], absmax U8 [blocks of bs elements], absmax2 F32 " +
			"[blocks of 256 scales], offset F32 [1].",
		Cases: func(m *Maker) { quantize4NestedCases(m, book) },
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			q, err := quant.Quantize(in["x"].F, in["x"].Shape, options(c))
			if err != nil {
				return nil, err
			}
			return outputs(q), nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			q := b.quantized(in["x"], options(b.Case))
			if q.Nested == nil {
				b.fail(&broken{"the scales are not quantized"})
				return nil
			}
			if *q.Nested.Map != *quant.DynamicSigned {
				b.fail(&broken{"the map of the scales is not the signed dynamic one"})
			}
			return outputs(q)
		},
	}
}

// quantized is x as a device quantizes it and gives it back.
func (b *Bench) quantized(x Tensor, o quant.Options) *quant.Tensor {
	o.DType = num.Float16 // which is recorded, whatever x is
	w := b.Device.Quantize(Place, "conformance/w", b.Tensor("x", x), o)
	q, err := b.Device.ReadQuantized(w)
	if err != nil {
		b.fail(naming(err, x.F))
		return &quant.Tensor{Nested: &quant.Nested{Map: quant.DynamicSigned}}
	}
	if q.Type != o.Type || q.Blocksize != o.Blocksize || q.DType != o.DType || !slices.Equal(q.Shape, []int{x.Rows(), x.Cols()}) {
		b.fail(&broken{fmt.Sprintf("it gives back %s of %v in blocks of %d, of type %v, want %s of [%d %d] in blocks of %d, of type %v",
			q.Type.Name, q.Shape, q.Blocksize, q.DType, o.Type.Name, x.Rows(), x.Cols(), o.Blocksize, o.DType)})
	}
	return q
}

// naming is err, with which x was rejected, if it names the first element that is not finite.
func naming(err error, x []float32) error {
	i := slices.IndexFunc(x, func(v float32) bool { return v-v != 0 })
	if i >= 0 && !regexp.MustCompile(fmt.Sprintf(`\b%d\b`, i)).MatchString(err.Error()) {
		return &broken{fmt.Sprintf("its error does not name element %d: %v", i, err)}
	}
	return err
}

// quantizeLinear uses what was quantized where it lies, after the values that it was made of are gone.
func quantizeLinear() *Operation {
	options := func(c *Case) quant.Options {
		book, double := weightKind(c.Param("w"))
		return quant.Options{Type: book, Blocksize: c.Int("bs"), DoubleQuant: double}
	}
	return &Operation{
		Name: "quantize_linear", Of: "op.Device.Quantize", Needs: "Quantize Linear",
		Formula: "v F32 [n, k], x [m, k] → y [m, n]: linear without bias, where W is what quantization to the type w in blocks of bs makes of v, " +
			"with nested scales where the name ends in _dq (see nf4_quantize and nf4_dq_quantize).",
		Cases: quantizeLinearCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			y, err := linear(c, linearOf(c, in))
			return Tensors{"y": y}, err
		},
		Device: func(b *Bench, in Tensors) Tensors {
			l, o := layerOf(b.Case), options(b.Case)
			v := b.State("v", in["v"])
			w := b.Device.Quantize(Place, "conformance/w", v, o)
			b.Device.Write(v, repeated(v.Len(), float32(math.NaN())))
			y := b.Result("y", b.Case.DType, l.m, l.n)
			b.Device.Linear(Place, y, b.Tensor("x", in["x"]), op.Weight{Quantized: w}, nil)
			return Tensors{"y": b.Read(y, l.m, l.n)}
		},
	}
}

// linearOf are the inputs of linear for a case that begins with the values of W.
func linearOf(c *Case, in Tensors) Tensors {
	l := layerOf(c)
	other := weightInputs(in["v"].F, c.DType, l.weight, l.n, l.k, l.bs)
	other["x"] = in["x"]
	return other
}

func quantizeLinearCases(m *Maker) {
	for _, t := range []DType{F32, BF16, F16} {
		add := func(level Level, reason string, l layer, changes ...change) {
			m.Add(level, t, reason, l.params(), func(r *random) Tensors {
				v := values{"x": r.normal(l.m*l.k, 1), "w": r.normal(l.n*l.k, 0.5)}
				for _, f := range changes {
					f(r, l, v)
				}
				return Tensors{"x": Floats(t, v["x"], l.m, l.k), "v": Floats(F32, v["w"], l.n, l.k)}
			})
		}
		for i, s := range packedSizes {
			add(smokeIf(i == 3 && t == BF16), "random", layer{m: s[0], n: s[1], k: s[2], weight: weightKinds[i%len(weightKinds)], bs: 64})
		}
		for _, w := range append([]string{"fp4_dq", "int4", "e2m1", "e3m0"}, weightKinds...) {
			add(smokeIf(w == "nf4_dq"), "straddle", layer{m: 2, n: 11, k: 81, weight: w, bs: 64})
			add(Quick, "straddle", layer{m: 3, n: 7, k: 33, weight: w, bs: 32})
			add(Quick, "odd", layer{m: 3, n: 7, k: 37, weight: w, bs: 128}, identityTimes("x", "", 1))
			add(Quick, "weight-rounded", layer{m: 65, n: 40, k: 65, weight: w, bs: 64}, identityTimes("x", "", 1))
			add(smokeIf(w == "nf4"), "zero-block", layer{m: 3, n: 12, k: 48, weight: w, bs: 32}, func(r *random, l layer, v values) { clear(v["w"][64:128]) })
			if t != F16 {
				add(Quick, "subnormal-scale", layer{m: 3, n: 12, k: 48, weight: w, bs: 32}, func(r *random, l layer, v values) { multiplied(v["w"], 0x1p-127) })
			}
		}
		for _, w := range []string{"nf4_dq", "fp4_dq"} {
			add(Quick, "second-level", layer{m: 2, n: 64, k: 257, weight: w, bs: 32})
		}
	}
}

func quantize4Cases(m *Maker, book *quant.Codebook) {
	add := func(level Level, t DType, n, bs int, reason string, values func(r *random) []float32) {
		m.Add(level, t, reason, []Param{Int("n", n), Int("bs", bs)}, func(r *random) Tensors {
			return Tensors{"x": Floats(t, values(r))}
		})
	}
	for _, t := range []DType{F32, BF16, F16} {
		for _, bs := range blocksizes {
			level := Quick
			if bs == 64 {
				level = Smoke
			}
			for _, n := range []int{bs, 2 * bs, 5*bs + 2} {
				add(level, t, n, bs, "random", func(r *random) []float32 { return r.normal(n, 0.02) })
			}
			add(level, t, bs+bs/2, bs, "tail", func(r *random) []float32 { return r.normal(bs+bs/2, 0.02) })
			add(Quick, t, 3*bs+7, bs, "odd", func(r *random) []float32 { return r.normal(3*bs+7, 1) })
			add(level, t, 3*bs, bs, "zero-block", func(r *random) []float32 {
				x := r.normal(3*bs, 1)
				clear(x[bs : 2*bs])
				return x
			})
			add(Quick, t, 2*bs, bs, "alternating", func(r *random) []float32 { return alternating(r, 2*bs) })
			add(Quick, t, 2*bs, bs, "all-equal", func(r *random) []float32 { return repeated(2*bs, r.normal(1, 1)[0]) })
			add(Quick, t, 2*bs, bs, "one-large", func(r *random) []float32 {
				x := r.normal(2*bs, 0.01)
				x[r.below(bs)], x[bs+r.below(bs)] = 1, -8
				return x
			})
		}
		straddling(m, t)
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			add(Quick, t, 200, 64, "not-finite", func(r *random) []float32 { return r.oneBad(200, bad) })
		}
		for _, at := range []int{0, 31, 96} { // a block's ends, and a last block that is nothing else
			add(smokeIf(at == 96), t, 97, 32, "not-finite", func(r *random) []float32 {
				x := r.normal(97, 1)
				x[at] = float32(math.NaN())
				return x
			})
		}
	}
	for _, c := range []struct {
		reason string
		scales []float32
	}{
		{"subnormal-scale", []float32{0x1p-149, 0x1p-129, 0x1p-128, 0x1.000002p-128, 0x1p-127, 0x1p-126, 0x1.8p-126}},
		{"huge-scale", []float32{0x1p125, 0x1p126, 0x1.8p126, 0x1p127, math.MaxFloat32}},
	} {
		for _, s := range c.scales {
			add(Quick, F32, 64, 64, c.reason, func(r *random) []float32 {
				x := make([]float32, 64)
				for i := range x {
					x[i] = float32(float64(s) * float64(i-32) / 32)
				}
				return x
			})
		}
	}
	thresholdCases(book, add)
}

// straddling adds matrices of which blocks begin in one row and end in another: a short one at the end of most, a byte that rows share in
// those of odd width, an odd number of elements in some of these.
func straddling(m *Maker, t DType) {
	for i, s := range [][3]int{{8, 33, 64}, {7, 33, 32}, {8, 160, 64}, {3, 1, 32}, {65, 1, 64}, {5, 4097, 4096}, {1, 1, 32}, {9, 96, 128}} {
		m.Add(smokeIf(i == 0), t, "straddle", []Param{Int("n", s[0]*s[1]), Int("bs", s[2]), Int("cols", s[1])}, func(r *random) Tensors {
			return Tensors{"x": Floats(t, r.normal(s[0]*s[1], 0.02), s[0], s[1])}
		})
	}
}

// oneBad is n ordinary values, and one that is not, anywhere.
func (r *random) oneBad(n int, v float64) []float32 {
	x := r.normal(n, 1)
	x[r.below(n)] = float32(v)
	return x
}

func quantize4NestedCases(m *Maker, book *quant.Codebook) {
	add := func(level Level, t DType, n, bs int, reason string, values func(r *random) []float32) {
		m.Add(level, t, reason, []Param{Int("n", n), Int("bs", bs)}, func(r *random) Tensors { return Tensors{"x": Floats(t, values(r))} })
	}
	for _, t := range []DType{F32, BF16, F16} {
		for _, bs := range []int{32, 64, 128, 1024} {
			for _, c := range []struct {
				reason string
				n      int
				level  Level
			}{{"random", 5 * bs, smokeIf(bs == 64)}, {"tail", 3*bs + 2, smokeIf(bs == 64)}, {"tail", 1, Quick}, {"odd", bs + 7, Quick}} {
				add(c.level, t, c.n, bs, c.reason, func(r *random) []float32 { return r.normal(c.n, 0.02) })
			}
		}
		straddling(m, t)
		for _, blocks := range []int{255, 256, 257, 513} {
			add(Quick, t, 32*blocks, 32, "second-level", func(r *random) []float32 { return r.normal(32*blocks, 0.02) })
		}
		add(Quick, t, 200, 64, "not-finite", func(r *random) []float32 { return r.oneBad(200, math.Inf(-1)) })
		add(Full, t, 64*3000+33, 64, "random", func(r *random) []float32 { return r.normal(64*3000+33, 0.02) })
	}
	scaled := func(level Level, n int, reason string, scales func(r *random) []float32) {
		add(level, F32, 32*n-5, 32, reason, func(r *random) []float32 { return r.blocksOf(scales(r))[:32*n-5] })
	}
	for _, n := range []int{1, 3, 256, 700} {
		scaled(smokeIf(n == 3), n, "all-equal", func(r *random) []float32 { return repeated(n, r.scales(1)[0]) })
		scaled(smokeIf(n == 3), n, "zero-block", func(*random) []float32 { return make([]float32, n) })
	}
	for _, n := range []int{300, 1024} {
		scaled(Quick, n, "zero-block", func(r *random) []float32 {
			x := r.scales(n)
			clear(x[n/3 : n/2])
			return x
		})
		scaled(Quick, n, "one-large", func(r *random) []float32 {
			x := r.scales(n)
			x[r.below(n)] = 100
			return x
		})
		scaled(Quick, n, "order-of-sum", func(r *random) []float32 { return r.sumsDiffer(n) })
	}
	scaled(Quick, 512, "subnormal-scale", func(r *random) []float32 { return multiplied(r.scales(512), 0x1p-122) })
	scaled(Quick, 512, "huge-scale", func(r *random) []float32 { return multiplied(r.scales(512), 0x1p118) })
	scaled(Full, 65537, "long-sum", func(r *random) []float32 { return r.scales(65537) })
}

// blocksOf are blocks of 32 values with these scales, which stand, of either sign, among the first 27 of each.
func (r *random) blocksOf(scales []float32) []float32 {
	x := make([]float32, 32*len(scales))
	for i, s := range scales {
		for j := range 32 {
			x[32*i+j] = float32(s * float32(float32(r.below(255)-127)*0x1p-7))
		}
		x[32*i+r.below(27)] = s
		if j := r.below(27); r.below(2) == 0 {
			x[32*i+j] = -s
		}
	}
	return x
}

// thresholdCases puts an absmax that is a power of two, for which x·r is exact, and values at the thresholds and beside them;
// then absmaxes for which the product with the rounded reciprocal and the quotient fall on different sides of a threshold.
func thresholdCases(book *quant.Codebook, add func(Level, DType, int, int, string, func(*random) []float32)) {
	var at, beside []float32
	for _, t := range thresholds(book) {
		at = append(at, t, -t)
		for _, v := range []float32{t, -t} {
			beside = append(beside, math.Nextafter32(v, 2), math.Nextafter32(v, -2))
		}
	}
	for _, scale := range []float32{1, 0x1p-10, 0x1p40} {
		for _, c := range []struct {
			reason string
			values []float32
		}{{"tie", at}, {"beside-tie", beside}} {
			add(Quick, F32, 64, 64, c.reason, func(r *random) []float32 {
				x := make([]float32, 64)
				for i := range x[1:] {
					x[1+i] = c.values[i%len(c.values)] * scale
				}
				x[0] = scale
				return x
			})
		}
	}
	for range 12 {
		add(Quick, F32, 64, 64, "reciprocal", func(r *random) []float32 { return undecided(r, book) })
		add(Quick, F32, 100, 64, "reciprocal", func(r *random) []float32 { return append(r.normal(64, 1), undecided(r, book)[:36]...) })
	}
}

// thresholds between neighbouring values are found by bisection in what Code does, so that no list of them has to be trusted:
// each is the largest value that has the lower code.
func thresholds(book *quant.Codebook) (list []float32) {
	values := slices.Clone(book.Values[:])
	slices.Sort(values)
	for i := range len(values) - 1 {
		lo, hi := values[i], values[i+1]
		code := book.Code(lo)
		if code == book.Code(hi) {
			continue
		}
		for {
			middle := float32((float64(lo) + float64(hi)) / 2)
			if middle == lo || middle == hi {
				break
			}
			if book.Code(middle) == code {
				lo = middle
			} else {
				hi = middle
			}
		}
		list = append(list, lo)
	}
	return list
}

// undecided draws an absmax and values of which many have another code when they are divided by it than when they are multiplied
// by its rounded reciprocal.
func undecided(r *random, book *quant.Codebook) []float32 {
	list := thresholds(book)
	for {
		absmax := 1 + float32(float32(r.below(1<<23))*0x1p-23)
		reciprocal := 1 / absmax
		x := []float32{absmax}
		for range 4096 {
			v := float32(float64(list[r.below(len(list))]) * float64(absmax))
			for range r.below(4) {
				v = math.Nextafter32(v, 4)
			}
			if book.Code(float32(v*reciprocal)) != book.Code(v/absmax) {
				x = append(x, v)
			}
			if len(x) == 64 {
				return x
			}
		}
	}
}

func alternating(r *random, n int) []float32 {
	x := r.normal(n, 1)
	for i := range x {
		x[i] = float32(math.Abs(float64(x[i])))
		if i%2 == 1 {
			x[i] = -x[i]
		}
	}
	return x
}

func repeated(n int, v float32) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = v
	}
	return x
}
