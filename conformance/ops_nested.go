package conformance

import (
	"bytes"
	"math"

	"qlora/ref/num"
	"qlora/ref/quant"
)

// Double quantization: the scales of 4-bit blocks, quantized in turn.
func init() {
	register(
		&Operation{
			Name: "nested_quantize", Of: "quant.Nest",
			Formula: "absmax F32 [n]; offset F32 [1] = Sum(absmax)/n, the sum in the order of operation sum, the quotient " +
				"rounded; codes U8 [n] and absmax2 F32 [blocks of 256]: " +
				"dynamic_quantize, signed, bs=256, of round32(absmax − offset).",
			Cases: nestedQuantizeCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				n := quant.Nest(in["absmax"].F)
				return Tensors{"codes": Bytes(n.Codes), "absmax2": Floats(F32, n.Absmax), "offset": Floats(F32, []float32{n.Offset})}, nil
			},
		},
		&Operation{
			Name: "nested_quantize_around", Of: "quant.NestAround",
			Formula: "nested_quantize about an offset F32 [1] that is given: libraries sum the mean in orders of their own.",
			Cases:   nestedAroundCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				n := quant.NestAround(in["absmax"].F, in["offset"].F[0], quant.Spec)
				return Tensors{"codes": Bytes(n.Codes), "absmax2": Floats(F32, n.Absmax)}, nil
			},
		},
		&Operation{
			Name: "nested_dequantize", Of: "quant.Nested.Dequantize", Needs: "Dequantize",
			Formula: "codes U8 [n]; absmax2 F32 [blocks of 256]; map F32 [256]; offset F32 [1]; absmax F32 [n] = " +
				"round32(round32(map[codes[i]] · absmax2[i/256]) + offset).",
			Cases: nestedDequantizeCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				return Tensors{"absmax": Floats(F32, nestedOf(in["codes"].B, in).Dequantize())}, nil
			},
			Device: nestedScales,
		})
}

// nestedScales sees scales as the values of blocks of ones, a value of each.
func nestedScales(b *Bench, in Tensors) Tensors {
	const bs, ones = 32, 0xff // NF4's last code twice
	n := in["codes"].Len()
	q := &quant.Tensor{Type: quant.NF4, Blocksize: bs, Shape: []int{n, bs}, Packed: bytes.Repeat([]byte{ones}, n*bs/2), Nested: nestedOf(in["codes"].B, in)}
	x, absmax := b.dequantized(q, F32), make([]float32, n)
	for i := range absmax {
		absmax[i] = x.F[i*bs+i%bs]
	}
	return Tensors{"absmax": Floats(F32, absmax)}
}

func nestedQuantizeCases(m *Maker) {
	add := func(level Level, n int, reason string, values func(r *random) []float32) {
		m.Add(level, "", reason, []Param{Int("n", n)}, func(r *random) Tensors { return Tensors{"absmax": Floats(F32, values(r))} })
	}
	for _, n := range []int{1, 2, 31, 33, 255, 256, 257, 511, 1000, 4096, 65537} {
		level := Quick
		if n == 33 || n == 257 || n == 1000 {
			level = Smoke
		}
		add(level, n, "random", func(r *random) []float32 { return r.scales(n) })
	}
	add(Full, 1<<20+1, "random", func(r *random) []float32 { return r.scales(1<<20 + 1) })
	for _, n := range []int{1, 3, 256, 700} {
		add(Quick, n, "all-equal", func(r *random) []float32 { return repeated(n, r.scales(1)[0]) })
		add(Quick, n, "zero-block", func(*random) []float32 { return make([]float32, n) })
	}
	for _, n := range []int{300, 600, 1024} {
		add(Quick, n, "tail", func(r *random) []float32 { return r.scales(n) })
		add(Quick, n, "one-large", func(r *random) []float32 {
			x := r.scales(n)
			x[r.below(n)] = 100
			return x
		})
		add(Quick, n, "order-of-sum", func(r *random) []float32 { return r.sumsDiffer(n) })
	}
	add(Quick, 512, "subnormal-scale", func(r *random) []float32 { return multiplied(r.scales(512), 0x1p-130) })
	add(Quick, 512, "huge-scale", func(r *random) []float32 { return multiplied(r.scales(512), 0x1p118) })
}

// sumsDiffer draws scales of which the plain sum, one after the other, gives another mean.
func (r *random) sumsDiffer(n int) []float32 {
	for {
		x := r.scales(n)
		var s float32
		for _, v := range x {
			s += v
		}
		if s/float32(n) != num.Sum(x)/float32(n) {
			return x
		}
	}
}

func multiplied(x []float32, by float32) []float32 {
	for i := range x {
		x[i] *= by
	}
	return x
}

func nestedAroundCases(m *Maker) {
	for _, n := range []int{1, 255, 257, 1000} {
		for _, c := range []struct {
			reason string
			offset func(mean float32) float32
		}{
			{"random", func(mean float32) float32 { return mean }},
			{"offset", func(mean float32) float32 { return math.Nextafter32(mean, 1) }},
			{"offset", func(mean float32) float32 { return num.BFloat16.Round(mean) }},
			{"offset", func(float32) float32 { return 0 }},
		} {
			level := Quick
			if n == 257 {
				level = Smoke
			}
			m.Add(level, "", c.reason, []Param{Int("n", n)}, func(r *random) Tensors {
				x := r.scales(n)
				return Tensors{"absmax": Floats(F32, x), "offset": Floats(F32, []float32{c.offset(num.Sum(x) / float32(n))})}
			})
		}
	}
}

func nestedDequantizeCases(m *Maker) {
	add := func(level Level, n int, reason string, change func(r *random, in Tensors)) {
		m.Add(level, "", reason, []Param{Int("n", n)}, func(r *random) Tensors {
			in := nestedInputs(r, n)
			if change != nil {
				change(r, in)
			}
			return in
		})
	}
	for _, n := range []int{1, 31, 255, 256, 257, 512, 1000, 65537} {
		level := Quick
		if n == 256 || n == 257 {
			level = Smoke
		}
		add(level, n, "random", nil)
	}
	add(Smoke, 512, "every-code", func(r *random, in Tensors) {
		for i := range in["codes"].B {
			in["codes"].B[i] = byte(i)
		}
	})
	add(Quick, 512, "zero-block", func(r *random, in Tensors) { in["absmax2"].F[1] = 0 })
	add(Quick, 512, "subnormal-scale", func(r *random, in Tensors) {
		in["absmax2"].F[0], in["absmax2"].F[1], in["offset"].F[0] = 0x1p-126, 0x1p-140, 0x1p-140
	})
	add(Quick, 512, "huge-scale", func(r *random, in Tensors) {
		in["absmax2"].F[0], in["absmax2"].F[1], in["offset"].F[0] = math.MaxFloat32, 0x1p127, 0x1p127
	})
	for _, reason := range []string{"file-map", "offset", "fused"} {
		for _, n := range []int{100, 700} {
			add(Quick, n, reason, func(r *random, in Tensors) { nestedChange[reason](r, in, in["codes"].B) })
		}
	}
}

// nestedInputs are n scales, quantized about their mean.
func nestedInputs(r *random, n int) Tensors {
	q := quant.Nest(r.scales(n))
	return Tensors{"codes": Bytes(q.Codes), "absmax2": Floats(F32, q.Absmax), "map": Floats(F32, quant.DynamicSigned[:]),
		"offset": Floats(F32, []float32{q.Offset})}
}

// nestedAbsmax is nestedInputs under the names that they have in a weight.
func nestedAbsmax(r *random, n int) Tensors {
	in := nestedInputs(r, n)
	in["absmax"] = in["codes"]
	delete(in, "codes")
	return in
}

// nestedChange makes inputs of double quantization such as only some reasons need; codes are those of the scales.
var nestedChange = map[string]func(r *random, in Tensors, codes []byte){
	"file-map": func(r *random, in Tensors, codes []byte) { // as other versions of torch and bitsandbytes have made it
		m := in["map"].F
		for i := range m {
			if r.below(4) == 0 {
				m[i] = math.Nextafter32(m[i], 2)
			}
		}
		m[0] = -1
		codes[0] = 0
	},
	"offset": func(r *random, in Tensors, codes []byte) { // rounded, as by a loader in bfloat16
		in["offset"].F[0] = num.BFloat16.Round(in["offset"].F[0])
	},
	"fused": func(r *random, in Tensors, codes []byte) { // codes whose scale one fused rounding would change
		m, offset := in["map"].F, in["offset"].F[0]
		for i := range codes {
			top := in["absmax2"].F[i/quant.NestedBlocksize]
			for range 1000 {
				code := byte(r.below(256))
				if float32(math.FMA(float64(m[code]), float64(top), float64(offset))) != float32(m[code]*top)+offset {
					codes[i] = code
					break
				}
			}
		}
	},
}
