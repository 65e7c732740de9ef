package mutants

import (
	"math"

	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/quant"
)

// quantizer8 is blockwise quantization to a dynamic 8-bit map in parts.
type quantizer8 struct {
	scaled func(v, absmax float32, short bool) float32
	zero   func(absmax float32) bool
	code   func(m *quant.Map8, x float32) byte
	blocks int // elements in a block; 0 is what is asked for
	book   func(signed bool) *quant.Map8
}

func (q quantizer8) quantize(x []float32, signed bool, bs int) (codes []byte, scales []float32) {
	m := q.book(signed)
	for from := 0; from < len(x); from += bs {
		block := x[from:min(from+bs, len(x))]
		top := absmax(block)
		if q.zero(top) {
			top = 0
		}
		scales = append(scales, top)
		for _, v := range block {
			if q.zero(top) {
				codes = append(codes, q.code(m, 0))
			} else {
				codes = append(codes, q.code(m, q.scaled(v, top, len(block) < bs)))
			}
		}
	}
	return codes, scales
}

func quantizing8(spoil func(q *quantizer8)) Func {
	q := newQuantizer8(spoil)
	return func(c *Case, in Tensors) (Tensors, error) {
		bs := c.Int("bs")
		if q.blocks > 0 {
			bs = q.blocks
		}
		codes, scales := q.quantize(in["x"].F, !c.Has("unsigned"), bs)
		return Tensors{"codes": conformance.Bytes(codes), "absmax": conformance.Floats(f32, scales)}, nil
	}
}

func newQuantizer8(spoil func(q *quantizer8)) quantizer8 {
	q := quantizer8{
		scaled: func(v, m float32, _ bool) float32 { return v * (1 / m) },
		zero:   func(m float32) bool { return math.IsInf(float64(1/m), 0) },
		code:   lowerCode,
		book:   dynamicMap,
	}
	spoil(&q)
	return q
}

func dynamicMap(signed bool) *quant.Map8 {
	if signed {
		return quant.DynamicSigned
	}
	return quant.DynamicUnsigned
}

// lowerCode is the nearest code by the float32 midpoints, the lower one at a tie.
func lowerCode(m *quant.Map8, x float32) (code byte) {
	for int(code) < 255 && x > (m[code]+m[code+1])/2 {
		code++
	}
	return code
}

// binned rounds x to one of 65,536 equal bins of −1…1 first.
func binned(m *quant.Map8, x float32) byte {
	bin := int(float32(float32((x+1)*0.5)*65535) + 0.5)
	return lowerCode(m, float32(-1+float32(2*float32(bin))/65535))
}

// float64Map is the dynamic map computed in float64 and rounded at the end.
func float64Map(signed bool) *quant.Map8 {
	m := *dynamicMap(signed)
	at := 1
	if signed {
		at = 128
	}
	for i := range 7 {
		n := 1 << i
		if !signed {
			n *= 2
		}
		for j := range n {
			m[at] = float32(math.Pow(10, float64(i-6)) * (0.1 + float64(0.9*(float64(j)+0.5)/float64(n))))
			if signed {
				m[254-at] = -m[at]
			}
			at++
		}
	}
	return &m
}

var dynamicMutants = []Mutant{
	{
		Name: "65,536 bins", Bug: "Values are rounded to one of 65,536 equal bins before the nearest code is looked up: zero does not stay zero.",
		Seen: "bitsandbytes 0.50 on CPUs, PR #1901", Op: "dynamic_quantize",
		Func: quantizing8(func(q *quantizer8) { q.code = binned }),
	},
	{
		Name: "8 bits: ties to even", Bug: "At the middle of two values the even code wins.",
		Seen: "bitsandbytes on CUDA, dQuantize", Op: "dynamic_quantize",
		Func: quantizing8(func(q *quantizer8) {
			q.code = func(m *quant.Map8, x float32) byte {
				code := lowerCode(m, x)
				if code%2 == 1 && code < 255 && x == (m[code]+m[code+1])/2 {
					code++
				}
				return code
			}
		}),
	},
	{
		Name: "8 bits: divides", Bug: "v/absmax in place of v·(1/absmax).",
		Seen: "bitsandbytes' 8-bit optimizers on CUDA, fdividef", Op: "dynamic_quantize",
		Func: quantizing8(func(q *quantizer8) { q.scaled = func(v, m float32, _ bool) float32 { return v / m } }),
	},
	{
		Name: "8 bits: divides in the tail", Bug: "A short last block divides where all others multiply by the reciprocal.",
		Seen: "bitsandbytes 0.50, default back end", Op: "dynamic_quantize",
		Func: quantizing8(func(q *quantizer8) {
			q.scaled = func(v, m float32, short bool) float32 {
				if short {
					return v / m
				}
				return v * (1 / m)
			}
		}),
	},
	{
		Name: "8 bits: zero block is the lowest value", Bug: "A block of zeros gets code 0.",
		Seen: "bitsandbytes on CUDA and CPUs", Op: "dynamic_quantize",
		Func: quantizing8(func(q *quantizer8) { q.zero = func(float32) bool { return false } }),
	},
	{
		Name: "8 bits: −1 written into the map", Bug: "The lowest value of the signed map is −1.",
		Seen: "bitsandbytes 0.4x to 0.49 on CPUs: code[0] = −1.0", Op: "dynamic_quantize",
		Func: quantizing8(func(q *quantizer8) {
			q.book = func(signed bool) *quant.Map8 {
				m := *dynamicMap(signed)
				if signed {
					m[0] = -1
				}
				return &m
			}
		}),
	},
	{
		Name: "8 bits: one block size", Bug: "Blocks are of 256 elements whatever is asked for.", Op: "dynamic_quantize",
		Func: quantizing8(func(q *quantizer8) { q.blocks = 256 }),
	},
	{
		Name: "8 bits: signed map for both", Bug: "Values that have no sign go by the signed map and lose a bit.", Op: "dynamic_quantize",
		Func: quantizing8(func(q *quantizer8) { q.book = func(bool) *quant.Map8 { return quant.DynamicSigned } }),
	},
	{
		Name: "8 bits: scale of the next block", Bug: "The block's index is counted from 1.", Op: "dynamic_dequantize",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			x, m, bs := make([]float32, in["codes"].Len()), dynamicMap(!c.Has("unsigned")), c.Int("bs")
			for i, code := range in["codes"].B {
				x[i] = m[code] * in["absmax"].F[min(i/bs+1, in["absmax"].Len()-1)]
			}
			return Tensors{"x": conformance.Floats(f32, x)}, nil
		},
	},
	{
		Name: "8 bits: map in float64", Bug: "The map is computed in float64 and rounded at the end: a hundred of its values have other bits.",
		Seen: "a port of bitsandbytes to MLX", Op: "dynamic_map",
		Func: func(c *Case, _ Tensors) (Tensors, error) {
			return Tensors{"map": conformance.Floats(f32, float64Map(!c.Has("unsigned"))[:])}, nil
		},
		Rounding: true,
	},
}

// nesting is double quantization in parts.
type nesting struct {
	offset  func(absmax []float32) float32
	centred func(v, offset float32) float32
	blocks  int
	code    func(m *quant.Map8, x float32) byte
}

func (n nesting) quantize(_ *Case, in Tensors) (Tensors, error) {
	absmax := in["absmax"].F
	offset := n.offset(absmax)
	centred := make([]float32, len(absmax))
	for i, v := range absmax {
		centred[i] = n.centred(v, offset)
	}
	codes, scales := newQuantizer8(func(q *quantizer8) { q.code = n.code }).quantize(centred, true, n.blocks)
	return Tensors{"codes": conformance.Bytes(codes), "absmax2": conformance.Floats(f32, scales),
		"offset": conformance.Floats(f32, []float32{offset})}, nil
}

func nestingWith(spoil func(n *nesting)) Func {
	n := nesting{
		offset:  func(x []float32) float32 { return num.Sum(x) / float32(len(x)) },
		centred: func(v, offset float32) float32 { return v - offset },
		blocks:  quant.NestedBlocksize, code: lowerCode,
	}
	spoil(&n)
	return n.quantize
}

// unnesting is the way back in parts.
type unnesting struct {
	offset float32
	book   *[256]float32
	scale  func(value, absmax2, offset float32) float32
	blocks int
}

func unnestingWith(spoil func(n *unnesting)) Func {
	return func(_ *Case, in Tensors) (Tensors, error) {
		n := unnesting{
			offset: in["offset"].F[0], book: (*[256]float32)(in["map"].F), blocks: quant.NestedBlocksize,
			scale: func(value, absmax2, offset float32) float32 { return float32(value*absmax2) + offset },
		}
		spoil(&n)
		x := make([]float32, in["codes"].Len())
		for i, code := range in["codes"].B {
			x[i] = n.scale(n.book[code], in["absmax2"].F[min(i/n.blocks, in["absmax2"].Len()-1)], n.offset)
		}
		return Tensors{"absmax": conformance.Floats(f32, x)}, nil
	}
}

var nestedMutants = []Mutant{
	{
		Name: "mean by a plain sum", Bug: "The mean of the scales is summed one after the other.",
		Seen: "torch's means differ between CPU and CUDA", Op: "nested_quantize",
		Func:     nestingWith(func(n *nesting) { n.offset = func(x []float32) float32 { return plainSum(x) / float32(len(x)) } }),
		Rounding: true,
	},
	{
		Name: "mean in float64", Bug: "The mean of the scales is summed in float64.", Op: "nested_quantize",
		Func:     nestingWith(func(n *nesting) { n.offset = func(x []float32) float32 { return wideSum(x) / float32(len(x)) } }),
		Rounding: true,
	},
	{
		Name: "offset not taken away", Bug: "The scales are quantized as they are; the mean is added back all the same.", Op: "nested_quantize",
		Func: nestingWith(func(n *nesting) { n.centred = func(v, _ float32) float32 { return v } }),
	},
	{
		Name: "nested blocks of 64", Bug: "The second level has the block size of the first.", Op: "nested_quantize",
		Func: nestingWith(func(n *nesting) { n.blocks = 64 }),
	},
	{
		Name: "nested in 65,536 bins", Bug: "The scales go through 65,536 equal bins.",
		Seen: "bitsandbytes 0.50 on CPUs, PR #1901", Op: "nested_quantize",
		Func: nestingWith(func(n *nesting) { n.code = binned }),
	},
	{
		Name: "offset computed anew", Bug: "The mean is used in place of the offset that is given.", Op: "nested_quantize_around",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			out, err := nestingWith(func(*nesting) {})(c, in)
			delete(out, "offset")
			return out, err
		},
	},
	{
		Name: "offset added before scaling", Bug: "(value + offset)·absmax2.", Op: "nested_dequantize",
		Func: unnestingWith(func(n *unnesting) {
			n.scale = func(value, absmax2, offset float32) float32 { return (value + offset) * absmax2 }
		}),
	},
	{
		Name: "offset in bfloat16", Bug: "The offset is rounded to the model's default type when it is loaded.",
		Seen: "bitsandbytes PR #1971: loss 7.0, then NaN", Op: "nested_dequantize",
		Func: unnestingWith(func(n *unnesting) { n.offset = num.BFloat16.Round(n.offset) }),
	},
	{
		Name: "offset forgotten", Bug: "Nothing is added back.", Op: "nested_dequantize",
		Func: unnestingWith(func(n *unnesting) { n.offset = 0 }),
	},
	{
		Name: "scales fused", Bug: "value·absmax2 + offset is one fused multiply-add.",
		Seen: "bitsandbytes' fused 4-bit product on CUDA", Op: "nested_dequantize",
		Func: unnestingWith(func(n *unnesting) {
			n.scale = func(value, absmax2, offset float32) float32 {
				return float32(math.FMA(float64(value), float64(absmax2), float64(offset)))
			}
		}),
		Rounding: true,
	},
	{
		Name: "map made anew", Bug: "The file's map is not used; the process makes its own.",
		Seen: "torch's linspace differs by version and processor", Op: "nested_dequantize",
		Func: unnestingWith(func(n *unnesting) { n.book = (*[256]float32)(quant.DynamicSigned) }),
	},
	{
		Name: "one second-level scale", Bug: "All blocks of 256 scales have the first one's absmax2.", Op: "nested_dequantize",
		Func: unnestingWith(func(n *unnesting) { n.blocks = math.MaxInt }),
	},
}
