package conformance

import (
	"math"
	"slices"

	"qlora/ref/num"
	"qlora/ref/quant"
)

// The way back from 4 bits, with scales in float32 and with scales that are quantized themselves.
func init() {
	for _, c := range quant.Codebooks {
		register(dequantize4(c))
	}
	for _, c := range []*quant.Codebook{quant.NF4, quant.FP4} {
		register(dequantize4Nested(c))
	}
}

// blocksizes are those of 4-bit types.
var blocksizes = []int{32, 64, 128, 256, 512, 1024, 2048, 4096}

func dequantize4(book *quant.Codebook) *Operation {
	return &Operation{
		Name: book.Name + "_dequantize", Of: "quant.Profile.Dequantize4", Needs: "Dequantize",
		Formula: "codes U8 [(n+1)/2], element 2k in the high nibble; absmax F32 [blocks of bs elements of the flat x, the " +
			"last may be short]; x [n] in the case's type. " +
			"x[i] = values[code of i] · absmax[i/bs], rounded to float32, then to the type. cols, where it is given, is the " +
			"width of the matrix whose rows x is.",
		Cases: func(m *Maker) { dequantize4Cases(m, book) },
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			x := make([]float32, c.Int("n"))
			quant.Spec.Dequantize4(x, 0, in["codes"].B, in["absmax"].F, book, c.Int("bs"), floats[c.DType].num)
			return Tensors{"x": Floats(c.DType, x)}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			return Tensors{"x": b.dequantized(tensor4(b.Case, book, in), b.Case.DType)}
		},
	}
}

func dequantize4Nested(book *quant.Codebook) *Operation {
	return &Operation{
		Name: book.Name + "_dq_dequantize", Of: "quant.Tensor.Dequantize", Needs: "Dequantize",
		Formula: "codes U8 [(n+1)/2]; absmax U8 [blocks of bs elements]: codes of the scales; absmax2 F32 [blocks of 256 " +
			"scales]; map F32 [256]; offset F32 [1]; x [n] in the case's type. " +
			"scale[j] = round32(round32(map[absmax[j]] · absmax2[j/256]) + offset); x[i] = values[code of i] · scale[i/bs], " +
			"rounded to float32, then to the type. " +
			"map and offset are those that are given, never computed anew.",
		Cases: func(m *Maker) { dequantize4NestedCases(m, book) },
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			x := make([]float32, c.Int("n"))
			if err := tensor4(c, book, in).Dequantize(x, floats[c.DType].num); err != nil {
				return nil, err
			}
			return Tensors{"x": Floats(c.DType, x)}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			return Tensors{"x": b.dequantized(tensor4(b.Case, book, in), b.Case.DType)}
		},
	}
}

// tensor4 is a case's 4-bit weight: a matrix of cols columns, else a row.
func tensor4(c *Case, book *quant.Codebook, in Tensors) *quant.Tensor {
	n, cols := c.Int("n"), c.Int("n")
	if c.Has("cols") {
		cols = c.Int("cols")
	}
	t := &quant.Tensor{Type: book, Blocksize: c.Int("bs"), Shape: []int{n / cols, cols}, Packed: in["codes"].B}
	if in["absmax"].B == nil {
		t.Absmax = in["absmax"].F
		return t
	}
	t.Nested = nestedOf(in["absmax"].B, in)
	return t
}

// nestedOf is a double quantization as its tensors describe it.
func nestedOf(codes []byte, in Tensors) *quant.Nested {
	return &quant.Nested{Codes: codes, Absmax: in["absmax2"].F, Map: (*quant.Map8)(in["map"].F), Offset: in["offset"].F[0]}
}

// dequantized brings q to the device and gives what it stands for there, flat. What is read back from it must be q.
func (b *Bench) dequantized(q *quant.Tensor, t DType) Tensor {
	w := b.Device.NewQuantized("conformance/w", q)
	x := b.Result("x", t, q.Shape[0], q.Shape[1])
	b.Device.Dequantize(Place, x, w)
	again, err := b.Device.ReadQuantized(w)
	if err != nil {
		b.fail(err)
	} else if !same(quantizedInputs(q), quantizedInputs(again)) || q.Type != again.Type || q.Blocksize != again.Blocksize || !slices.Equal(q.Shape, again.Shape) {
		b.fail(&broken{"the weight that it gives back is not the one that it was given"})
	}
	return b.Read(x, x.Len())
}

func dequantize4Cases(m *Maker, book *quant.Codebook) {
	add := func(level Level, t DType, n, bs, cols int, reason string, codes func(r *random) []byte, absmax func(r *random) []float32) {
		params := []Param{Int("n", n), Int("bs", bs)}
		if cols > 0 {
			params = append(params, Int("cols", cols))
		}
		m.Add(level, t, reason, params, func(r *random) Tensors {
			return Tensors{"codes": Bytes(codes(r)), "absmax": Floats(F32, absmax(r))}
		})
	}
	random4 := func(level Level, t DType, n, bs, cols int, reason string) {
		add(level, t, n, bs, cols, reason, func(r *random) []byte { return r.nibbles(n) },
			func(r *random) []float32 { return r.scales((n + bs - 1) / bs) })
	}
	for _, t := range []DType{F32, BF16, F16} {
		for _, bs := range blocksizes {
			level := Quick
			if bs == 64 {
				level = Smoke
			}
			random4(level, t, 3*bs, bs, 0, "random")
			random4(Quick, t, bs, bs, 0, "random")
			random4(level, t, bs+bs/2, bs, 0, "tail")
			random4(Quick, t, 1, bs, 0, "tail")
			random4(level, t, 3*bs+7, bs, 0, "odd")
			random4(Quick, t, (3*bs/96+2)*96, bs, 96, "straddle")
			random4(Full, t, 50*bs+34, bs, 0, "random")
		}
		for _, cols := range []int{33, 160} {
			random4(Quick, t, 8*cols, 64, cols, "straddle")
		}
		everyByte := func(*random) []byte { return everyByte() }
		add(Smoke, t, 512, 64, 0, "every-code", everyByte, func(*random) []float32 { return eightScales["every-code"] })
		add(Quick, t, 512, 32, 0, "every-code", everyByte, func(r *random) []float32 { return r.scales(16) })
		add(Quick, t, 512, 64, 0, "zero-block", everyByte, func(r *random) []float32 {
			s := r.scales(8)
			s[0], s[3], s[7] = 0, 0, 0
			return s
		})
		for _, reason := range []string{"subnormal-scale", "huge-scale"} {
			add(Quick, t, 512, 64, 0, reason, everyByte, func(*random) []float32 { return eightScales[reason] })
		}
		if t != F32 {
			for range 4 {
				add(Quick, t, 16*64, 64, 0, "table-rounded", func(r *random) []byte { return r.nibbles(16 * 64) },
					func(r *random) []float32 { return r.scales(16) })
			}
			add(Quick, t, 8*64, 64, 0, "rounded-twice", func(*random) []byte { return sixteenCodes(8 * 64) },
				func(r *random) []float32 { return roundedTwice(r, book, floats[t].num, 8) })
		}
	}
}

// eightScales are those of 512 codes in blocks of 64.
var eightScales = map[string][]float32{
	"every-code":      {1, 2, 4, 8, 16, 32, 64, 128},
	"subnormal-scale": {0x1p-149, 0x1.fp-140, 0x1p-133, 0x1p-127, 0x1.fffffcp-127, 0x1p-126, 0x1.8p-25, 0x1p-14},
	"huge-scale":      {65504, 65519, 65520, 0x1.8p16, 0x1p126, 0x1.fep127, 0x1.ffp127, math.MaxFloat32},
}

// everyByte are the codes 0 to 255.
func everyByte() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// nibbles is n random codes, packed.
func (r *random) nibbles(n int) []byte { return r.bytes((n + 1) / 2) }

func (r *random) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.below(256))
	}
	return b
}

// scales are magnitudes as blocks of weights have them.
func (r *random) scales(n int) []float32 {
	x := r.normal(n, 0.05)
	for i, v := range x {
		x[i] = float32(math.Abs(float64(v))) + 0x1p-10
	}
	return x
}

// sixteenCodes repeats codes 0 to 15.
func sixteenCodes(n int) []byte {
	b := make([]byte, n/2)
	for i := range b {
		b[i] = byte(2*i%16<<4 | (2*i+1)%16)
	}
	return b
}

// roundedTwice draws scales with which a value is another one when the exact product is rounded at once to t.
func roundedTwice(r *random, book *quant.Codebook, t num.DType, n int) (scales []float32) {
	for tries := 0; len(scales) < n; tries++ {
		s := 1 + float32(float32(r.below(1<<23))*0x1p-23)
		for _, v := range book.Values {
			exact := float64(v) * float64(s) // 48 bits: exact
			if tries > 1<<16 || t.Round(float32(exact)) != roundOnce(exact, t) {
				scales = append(scales, s)
				break
			}
		}
	}
	return scales
}

// roundOnce rounds a float64 to a 16-bit type: to float32 towards odd first, which loses nothing that the second rounding needs.
func roundOnce(x float64, t num.DType) float32 {
	y := float32(x)
	if float64(y) != x && math.Float32bits(y)&1 == 0 {
		if math.Abs(float64(y)) < math.Abs(x) {
			y = math.Float32frombits(math.Float32bits(y) + 1)
		} else {
			y = math.Float32frombits(math.Float32bits(y) - 1)
		}
	}
	return t.Round(y)
}

func dequantize4NestedCases(m *Maker, book *quant.Codebook) {
	add := func(level Level, t DType, n, bs int, reason string, change func(r *random, in Tensors)) {
		m.Add(level, t, reason, []Param{Int("n", n), Int("bs", bs)}, func(r *random) Tensors {
			in := nestedAbsmax(r, (n+bs-1)/bs)
			in["codes"] = Bytes(r.nibbles(n))
			if change != nil {
				change(r, in)
			}
			return in
		})
	}
	for _, t := range []DType{F32, BF16, F16} {
		for _, bs := range []int{32, 64, 128, 1024} {
			level := Quick
			if bs == 64 {
				level = Smoke
			}
			add(level, t, 5*bs, bs, "random", nil)
			add(level, t, 3*bs+2, bs, "tail", nil)
			add(Quick, t, bs+7, bs, "odd", nil)
		}
		for _, blocks := range []int{255, 256, 257, 513} {
			add(Quick, t, 32*blocks, 32, "second-level", nil)
		}
		add(Quick, t, 64*300, 64, "every-code", func(r *random, in Tensors) {
			for i := range in["absmax"].B {
				in["absmax"].B[i] = byte(i)
			}
		})
		for _, reason := range []string{"file-map", "offset", "fused"} {
			add(Quick, t, 64*20, 64, reason, func(r *random, in Tensors) { nestedChange[reason](r, in, in["absmax"].B) })
		}
		add(Full, t, 64*3000+33, 64, "random", nil)
	}
}
