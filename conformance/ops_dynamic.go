package conformance

import (
	"math"

	"qlora/ref/quant"
)

// The 8-bit dynamic types: signed for the scales of double quantization and AdamW's first moment, unsigned for its second.
func init() {
	register(
		&Operation{
			Name: "dynamic_quantize", Of: "quant.Quantize8",
			Formula: "x F32 [n], finite; codes U8 [n]; absmax F32 [blocks of bs elements, the last may be short]. r = " +
				"1/absmax rounded to float32; where it is not finite, absmax is 0 " +
				"and the codes are that of 0.0 (127 signed, 0 unsigned). code = the number of thresholds t with round32(x·r) " +
				"> t; thresholds are the 255 float32 midpoints of the map's neighbours. " +
				"The map is the signed dynamic one, or with the flag unsigned the other, as torch 2 makes it with fused " +
				"multiply-add: operation dynamic_map.",
			Cases: dynamicQuantizeCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				codes, absmax := quant.Quantize8(in["x"].F, dynamicMap(c.Has("unsigned")), c.Int("bs"), quant.Spec)
				return Tensors{"codes": Bytes(codes), "absmax": Floats(F32, absmax)}, nil
			},
		},
		&Operation{
			Name: "dynamic_dequantize", Of: "quant.Dequantize8",
			Formula: "codes U8 [n]; absmax F32 [blocks of bs elements]; x F32 [n] = map[codes[i]] · absmax[i/bs], rounded to " +
				"float32.",
			Cases: dynamicDequantizeCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				x := make([]float32, c.Int("n"))
				quant.Dequantize8(x, in["codes"].B, in["absmax"].F, dynamicMap(c.Has("unsigned")), c.Int("bs"))
				return Tensors{"x": Floats(F32, x)}, nil
			},
		},
		&Operation{
			Name: "dynamic_map", Of: "quant.DynamicSigned",
			Formula: "map F32 [256], ascending: 0, 1 and for i = 0…6 the value round32(10^(i−6)) · (b[j] + b[j+1])/2, signed " +
				"also its negative, where b is linspace(0.1, 1, 2^i + 1), unsigned 2^(i+1) + 1: " +
				"from the start in the first half and from the end in the second, multiply and add fused, all in float32.",
			Cases: func(m *Maker) {
				for _, unsigned := range []bool{false, true} {
					m.Add(Smoke, "", "file-map", []Param{Flag("unsigned", unsigned)}, func(*random) Tensors { return Tensors{} })
				}
				m.Add(Smoke, "", "every-code", []Param{Flag("unsigned", true)}, func(*random) Tensors { return Tensors{} })
			},
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				return Tensors{"map": Floats(F32, dynamicMap(c.Has("unsigned"))[:])}, nil
			},
		})
}

func dynamicMap(unsigned bool) *quant.Map8 {
	if unsigned {
		return quant.DynamicUnsigned
	}
	return quant.DynamicSigned
}

func dynamicQuantizeCases(m *Maker) {
	for _, unsigned := range []bool{false, true} {
		add := func(level Level, n, bs int, reason string, values func(r *random) []float32) {
			m.Add(level, "", reason, []Param{Int("n", n), Int("bs", bs), Flag("unsigned", unsigned)}, func(r *random) Tensors {
				x := values(r)
				for i, v := range x {
					if unsigned {
						x[i] = float32(math.Abs(float64(v)))
					}
				}
				return Tensors{"x": Floats(F32, x)}
			})
		}
		for _, bs := range []int{64, 256, 2048, 4096} {
			level := Quick
			if bs == 256 {
				level = Smoke
			}
			add(level, 3*bs, bs, "random", func(r *random) []float32 { return r.normal(3*bs, 1) })
			add(Quick, bs, bs, "random", func(r *random) []float32 { return r.normal(bs, 1e-3) })
			add(level, bs+bs/2+1, bs, "tail", func(r *random) []float32 { return r.normal(bs+bs/2+1, 1) })
			add(Quick, 1, bs, "tail", func(r *random) []float32 { return r.normal(1, 1) })
			add(level, 3*bs, bs, "zero-block", func(r *random) []float32 {
				x := r.normal(3*bs, 1)
				clear(x[bs : 2*bs])
				return x
			})
			add(Quick, bs, bs, "all-equal", func(r *random) []float32 { return repeated(bs, r.normal(1, 1)[0]) })
			add(Quick, 2*bs, bs, "alternating", func(r *random) []float32 { return alternating(r, 2*bs) })
			add(Quick, bs, bs, "one-large", func(r *random) []float32 {
				x := r.normal(bs, 1e-5)
				x[r.below(bs)] = -1
				return x
			})
			add(Quick, bs, bs, "near-zero-codes", func(r *random) []float32 { // zero, and what is near it, beside a one
				x := r.normal(bs, 1e-5)
				for i := 0; i < bs; i += 3 {
					x[i] = 0
				}
				x[r.below(bs)] = 1
				return x
			})
		}
		dynamicTies(dynamicMap(unsigned), add)
		for _, s := range []float32{0x1p-149, 0x1p-129, 0x1p-128, 0x1.000002p-128, 0x1p-126, 0x1p126, 0x1.8p126, math.MaxFloat32} {
			reason := "subnormal-scale"
			if s > 1 {
				reason = "huge-scale"
			}
			add(Quick, 256, 256, reason, func(*random) []float32 {
				x := make([]float32, 256)
				for i := range x {
					x[i] = float32(float64(s) * float64(i-127) / 128)
				}
				return x
			})
		}
		add(Full, 1<<20+77, 256, "random", func(r *random) []float32 { return r.normal(1<<20+77, 1) })
	}
}

// dynamicTies puts values at all thresholds and beside them, under an absmax that is a power of two; and values for which the
// quotient is on another side of a threshold than the product with the rounded reciprocal.
func dynamicTies(map8 *quant.Map8, add func(Level, int, int, string, func(*random) []float32)) {
	tie := middles(map8)
	for _, scale := range []float32{1, 0x1p-20, 0x1p60} {
		block := func(towards float32) []float32 {
			x := []float32{scale}
			for _, t := range tie {
				if towards != 0 {
					t = math.Nextafter32(t, towards)
				}
				x = append(x, t*scale)
			}
			return x
		}
		add(Smoke, 256, 256, "tie", func(*random) []float32 { return block(0) })
		add(Quick, 512, 256, "beside-tie", func(*random) []float32 { return append(block(2), block(-2)...) })
	}
	for range 6 {
		add(Quick, 256, 256, "reciprocal", func(r *random) []float32 { return undecided8(r, tie) })
		add(Quick, 300, 256, "reciprocal", func(r *random) []float32 { return append(r.normal(256, 1), undecided8(r, tie)[:44]...) })
	}
}

// middles are half-way between neighbouring values of a map.
func middles(map8 *quant.Map8) []float32 {
	m := make([]float32, 255)
	for i := range m {
		m[i] = (map8[i] + map8[i+1]) / 2
	}
	return m
}

func undecided8(r *random, ties []float32) []float32 {
	for {
		absmax := 1 + float32(float32(r.below(1<<23))*0x1p-23)
		reciprocal := 1 / absmax
		x := []float32{absmax}
		for range 1 << 14 {
			t := ties[r.below(len(ties))]
			v := float32(float64(t) * float64(absmax))
			for range r.below(3) {
				v = math.Nextafter32(v, 4)
			}
			if (float32(v*reciprocal) > t) != (v/absmax > t) {
				x = append(x, v)
			}
			if len(x) == 256 {
				return x
			}
		}
	}
}

func dynamicDequantizeCases(m *Maker) {
	for _, unsigned := range []bool{false, true} {
		add := func(level Level, n, bs int, reason string, codes func(r *random) []byte, absmax func(r *random) []float32) {
			m.Add(level, "", reason, []Param{Int("n", n), Int("bs", bs), Flag("unsigned", unsigned)}, func(r *random) Tensors {
				return Tensors{"codes": Bytes(codes(r)), "absmax": Floats(F32, absmax(r))}
			})
		}
		for _, bs := range []int{64, 256, 2048, 4096} {
			for _, n := range []int{1, bs, 2*bs + 1, 4*bs + 77} {
				level, reason := Quick, "random"
				if n%bs != 0 {
					reason = "tail"
				}
				if bs == 256 && n > 1 {
					level = Smoke
				}
				add(level, n, bs, reason, func(r *random) []byte { return r.bytes(n) }, func(r *random) []float32 { return r.scales((n + bs - 1) / bs) })
			}
		}
		all := func(*random) []byte {
			b := make([]byte, 512)
			for i := range b {
				b[i] = byte(i)
			}
			return b
		}
		add(Smoke, 512, 256, "every-code", all, func(r *random) []float32 { return []float32{1, 3} })
		add(Quick, 512, 256, "zero-block", all, func(r *random) []float32 { return []float32{0, 1} })
		add(Quick, 512, 256, "subnormal-scale", all, func(r *random) []float32 { return []float32{0x1p-149, 0x1.8p-127} })
		add(Quick, 512, 256, "huge-scale", all, func(r *random) []float32 { return []float32{math.MaxFloat32, 0x1p127} })
		add(Full, 1<<20+77, 256, "random", func(r *random) []byte { return r.bytes(1<<20 + 77) }, func(r *random) []float32 { return r.scales(4097) })
	}
}
