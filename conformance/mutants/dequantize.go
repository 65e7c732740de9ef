package mutants

import (
	"math"
	"strings"

	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/quant"
)

// dequantizer is the way back from 4 bits in parts.
type dequantizer struct {
	nibble  func(packed []byte, i int) byte
	value   func(code byte, t num.DType) float32
	block   func(c *Case, i int) int
	scale   func(absmax float32) float32
	product func(value, absmax float32, t num.DType) float32
}

func dequantizing(book *quant.Codebook, spoil func(d *dequantizer)) Func {
	d := dequantizer{
		nibble:  func(packed []byte, i int) byte { return packed[i/2] >> (4 - i%2*4) & 15 },
		value:   func(code byte, _ num.DType) float32 { return book.Values[code] },
		block:   func(c *Case, i int) int { return i / c.Int("bs") },
		scale:   func(absmax float32) float32 { return absmax },
		product: func(value, absmax float32, t num.DType) float32 { return t.Round(float32(value * absmax)) },
	}
	spoil(&d)
	return func(c *Case, in Tensors) (Tensors, error) {
		x, t, absmax := make([]float32, c.Int("n")), compute(c), in["absmax"].F
		for i := range x {
			x[i] = d.product(d.value(d.nibble(in["codes"].B, i), t), d.scale(absmax[d.block(c, i)%len(absmax)]), t)
		}
		return Tensors{"x": {DType: c.DType, Shape: []int{len(x)}, F: x}}, nil
	}
}

var dequantizeMutants = []Mutant{
	{
		Name: "nibbles swapped on the way back", Bug: "The first element of a pair is read from the low nibble.",
		Seen: "bitsandbytes PR #1472 (CPU and XPU)", Op: "nf4_dequantize",
		Func: dequantizing(quant.NF4, func(d *dequantizer) {
			d.nibble = func(packed []byte, i int) byte { return packed[i/2] >> (i % 2 * 4) & 15 }
		}),
	},
	{
		Name: "scale by row", Bug: "The scale's index is row·⌊cols/bs⌋ + column/bs: right only where blocks end with rows.",
		Seen: "bitsandbytes on CPUs with AVX-512 (95f9af30); the cause behind PR #1828", Op: "nf4_dequantize",
		Func: dequantizing(quant.NF4, func(d *dequantizer) {
			d.block = func(c *Case, i int) int {
				bs, cols := c.Int("bs"), colsOf(c)
				return i/cols*(cols/bs) + i%cols/bs
			}
		}),
	},
	{
		Name: "blocks within rows", Bug: "Every row begins a new block, where blocks go over the flat tensor.", Op: "fp4_dequantize",
		Func: dequantizing(quant.FP4, func(d *dequantizer) {
			d.block = func(c *Case, i int) int {
				bs, cols := c.Int("bs"), colsOf(c)
				return i/cols*((cols+bs-1)/bs) + i%cols/bs
			}
		}),
	},
	{
		Name: "scale of the neighbour", Bug: "The scale's index is that of the next element.", Op: "nf4_dequantize",
		Func: dequantizing(quant.NF4, func(d *dequantizer) { d.block = func(c *Case, i int) int { return (i + 1) / c.Int("bs") } }),
	},
	{
		Name: "table in the output's type", Bug: "The table's value is rounded to the output's type before it is multiplied.",
		Seen: "bitsandbytes up to 0.49.2, default back end", Op: "nf4_dequantize",
		Func: dequantizing(quant.NF4, func(d *dequantizer) {
			d.value = func(code byte, t num.DType) float32 { return t.Round(quant.NF4.Values[code]) }
		}),
	},
	{
		Name: "table of four decimals", Bug: "The table has four decimals.", Seen: "torchao, NF4Tensor", Op: "nf4_dequantize",
		Func: dequantizing(quant.NF4, func(d *dequantizer) { d.value = func(code byte, _ num.DType) float32 { return fourDecimals[code] } }),
	},
	{
		Name: "scale in bfloat16", Bug: "absmax is kept in bfloat16.",
		Seen: "bitsandbytes' repacking for CPUs, _convert_weight_packed_for_cpu", Op: "nf4_dequantize",
		Func: dequantizing(quant.NF4, func(d *dequantizer) { d.scale = num.BFloat16.Round }),
	},
	{
		Name: "scale in float16", Bug: "absmax is kept in float16: small ones lose their bits, large ones are infinite.", Op: "fp4_dequantize",
		Func: dequantizing(quant.FP4, func(d *dequantizer) { d.scale = num.Float16.Round }),
	},
	{
		Name: "scale and value in the type", Bug: "Value and scale are rounded to the type, and their product again.",
		Seen: "bitsandbytes' 4-bit product for few rows (Soup #776)", Op: "nf4_dequantize",
		Func: dequantizing(quant.NF4, func(d *dequantizer) {
			d.product = func(value, absmax float32, t num.DType) float32 {
				return t.Round(float32(t.Round(value) * t.Round(absmax)))
			}
		}),
	},
	{
		Name: "rounded once", Bug: "The exact product is rounded to the type at once, not to float32 first.", Op: "nf4_dequantize",
		Func: dequantizing(quant.NF4, func(d *dequantizer) {
			d.product = func(value, absmax float32, t num.DType) float32 {
				exact := float64(value) * float64(absmax)
				y := float32(exact)
				if float64(y) != exact && math.Float32bits(y)&1 == 0 { // to odd: the second rounding sees what was cut off
					y = math.Nextafter32(y, float32(math.Copysign(math.MaxFloat32, exact-float64(y))))
				}
				return t.Round(y)
			}
		}),
		Rounding: true,
	},
	{
		Name: "cut to bfloat16", Bug: "The product is cut to the upper half of its bits.", Op: "nf4_dequantize",
		Func: dequantizing(quant.NF4, func(d *dequantizer) {
			d.product = func(value, absmax float32, t num.DType) float32 {
				if t == num.BFloat16 {
					return math.Float32frombits(math.Float32bits(value*absmax) &^ 0xffff)
				}
				return t.Round(float32(value * absmax))
			}
		}),
	},
	{
		Name: "subnormal products flushed", Bug: "Products below 2^-126 are zero.", Seen: "bitsandbytes on CUDA, -ftz=true", Op: "nf4_dequantize",
		Func: dequantizing(quant.NF4, func(d *dequantizer) {
			d.product = func(value, absmax float32, t num.DType) float32 { return t.Round(flushed(value * absmax)) }
		}),
	},
	{
		Name: "FP4's nibble 8 is −0", Bug: "Nibble 8 stands for −0.", Seen: "bitsandbytes on CUDA; its scalar CPU kernel", Op: "fp4_dequantize",
		Func: dequantizing(quant.FP4, func(d *dequantizer) {
			d.value = func(code byte, _ num.DType) float32 {
				if code == 8 {
					return float32(math.Copysign(0, -1))
				}
				return quant.FP4.Values[code]
			}
		}),
	},
	{
		Name: "E2M1 for FP4", Bug: "FP4 of bitsandbytes is taken for E2M1, whose exponent is not inverted.", Op: "fp4_dequantize",
		Func: dequantizing(quant.FP4, func(d *dequantizer) {
			d.value = func(code byte, _ num.DType) float32 { return quant.E2M1.Values[code] }
		}),
	},
	{
		Name: "int4 without a sign", Bug: "Nibbles of two's complement are read as 0 to 15.", Op: "int4_dequantize",
		Func: dequantizing(quant.Int4, func(d *dequantizer) { d.value = func(code byte, _ num.DType) float32 { return float32(code) / 7 } }),
	},
	{
		Name: "codes of scales as scales", Bug: "Nested scales are dequantized without their own scales.", Op: "nf4_dq_dequantize",
		Func: asked("nf4_dq_dequantize", func(_ *Case, in Tensors) {
			for i := range in["absmax2"].F {
				in["absmax2"].F[i] = 1
			}
		}),
	},
	{
		Name: "nested offset in bfloat16", Bug: "The mean of the scales is rounded to bfloat16.",
		Seen: "bitsandbytes PR #1971", Op: "fp4_dq_dequantize",
		Func: asked("fp4_dq_dequantize", func(_ *Case, in Tensors) { num.BFloat16.RoundAll(in["offset"].F) }),
	},
	{
		Name: "second-level scales by row", Bug: "The second-level scale changes with every 256 weights, not with every 256 scales.",
		Op: "nf4_dq_dequantize",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			m, top := in["map"].F, in["absmax2"].F
			scales := make([]float32, in["absmax"].Len())
			for i, code := range in["absmax"].B {
				scales[i] = float32(m[code]*top[i*c.Int("bs")/256%len(top)]) + in["offset"].F[0]
			}
			return dequantizing(quant.NF4, func(*dequantizer) {})(c, Tensors{"codes": in["codes"], "absmax": conformance.Floats(f32, scales)})
		},
	},
}

// colsOf is the width of the matrix; of a case that has none all is one row.
func colsOf(c *Case) int {
	if c.Has("cols") {
		return c.Int("cols")
	}
	return c.Int("n")
}

// weightOf is W as products of the case's type see it.
func weightOf(c *Case, in Tensors) []float32 { return weightIn(c, in, compute(c)) }

// weightIn is W, rounded to t where it has 4 bits.
func weightIn(c *Case, in Tensors, t num.DType) []float32 {
	if w, ok := in["w"]; ok {
		return w.F
	}
	name, nested := strings.CutSuffix(c.Param("w"), "_dq")
	book, err := quant.ParseCodebook(name)
	if err != nil {
		panic(err)
	}
	q := quant.Tensor{Type: book, Blocksize: c.Int("bs"), Shape: []int{c.Int("n"), c.Int("k")}, Packed: in["codes"].B, Absmax: in["absmax"].F}
	if nested {
		q.Nested = &quant.Nested{Codes: in["absmax"].B, Absmax: in["absmax2"].F, Map: (*quant.Map8)(in["map"].F), Offset: in["offset"].F[0]}
	}
	w := make([]float32, c.Int("n")*c.Int("k"))
	if err := q.Dequantize(w, t); err != nil {
		panic(err)
	}
	return w
}
