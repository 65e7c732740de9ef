package conformance

import (
	"math"
	"slices"

	"qlora/ref/quant"
)

// The 4-bit types: quantization to them, one operation each.
func init() {
	for _, c := range quant.Codebooks {
		register(quantize4(c))
	}
}

func quantize4(book *quant.Codebook) *Operation {
	return &Operation{
		Name: book.Name + "_quantize", Of: "quant.Quantize4",
		Formula: "x [any shape] float; codes U8 [(n+1)/2], element 2k in the high nibble; absmax F32 [blocks of bs elements of the flat x, the last may be short]. " +
			"r = 1/absmax rounded to float32; where it is not finite, absmax is 0 and the codes are those of 0.0. " +
			"code = the number of thresholds t with x·r > t, where thresholds are the float32 midpoints of neighbouring values.",
		Cases: func(m *Maker) { quantize4Cases(m, book) },
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			packed, absmax, err := quant.Quantize4(in["x"].F, book, c.Int("bs"), quant.Spec)
			return Tensors{"codes": Bytes(packed), "absmax": Floats(F32, absmax)}, err
		},
	}
}

func quantize4Cases(m *Maker, book *quant.Codebook) {
	add := func(level Level, t DType, n, bs int, reason string, values func(r *random) []float32) {
		m.Add(level, t, reason, []Param{Int("n", n), Int("bs", bs)}, func(r *random) Tensors {
			return Tensors{"x": Floats(t, values(r))}
		})
	}
	for _, t := range []DType{F32, BF16, F16} {
		for _, bs := range []int{32, 64, 128, 256, 512, 1024, 2048, 4096} {
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
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			add(Quick, t, 200, 64, "not-finite", func(r *random) []float32 {
				x := r.normal(200, 1)
				x[r.below(200)] = float32(bad)
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
