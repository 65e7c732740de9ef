package mutants

import (
	"fmt"
	"math"

	"qlora/conformance"
	"qlora/ref/quant"
)

// quantizer is blockwise 4-bit quantization in parts.
type quantizer struct {
	accepts func(x float32) bool
	absmax  func(block []float32) float32
	zero    func(absmax float32) bool // whether the block counts as zeros
	scaled  func(v, absmax float32, c *Case, short bool) float32
	code    func(x float32) byte
	nothing byte // the code of 0.0
	pack    func(first, second byte) byte
	blocks  func(c *Case) int // elements in a block
}

func (q quantizer) quantize(c *Case, in Tensors) (Tensors, error) {
	x, bs := in["x"].F, q.blocks(c)
	for i, v := range x {
		if !q.accepts(v) {
			return nil, fmt.Errorf("element %d is %v", i, v)
		}
	}
	codes, absmax := make([]byte, len(x), len(x)+1), []float32(nil)
	for from := 0; from < len(x); from += bs {
		block := x[from:min(from+bs, len(x))]
		m := q.absmax(block)
		if q.zero(m) {
			m = 0
		}
		absmax = append(absmax, m)
		for i, v := range block {
			if codes[from+i] = q.nothing; !q.zero(m) {
				codes[from+i] = q.code(q.scaled(v, m, c, len(block) < bs))
			}
		}
	}
	if len(codes)%2 == 1 {
		codes = append(codes, q.nothing)
	}
	packed := make([]byte, len(codes)/2)
	for i := range packed {
		packed[i] = q.pack(codes[2*i], codes[2*i+1])
	}
	return Tensors{"codes": conformance.Bytes(packed), "absmax": conformance.Floats(f32, absmax)}, nil
}

// quantizing is quantization to a type, with a part that is wrong.
func quantizing(book *quant.Codebook, spoil func(q *quantizer)) Func {
	q := quantizer{
		accepts: func(x float32) bool { return x-x == 0 },
		absmax:  absmax,
		zero:    func(m float32) bool { return math.IsInf(float64(1/m), 0) },
		scaled:  func(v, m float32, _ *Case, _ bool) float32 { return v * (1 / m) },
		code:    book.Code,
		nothing: book.Code(0),
		pack:    func(first, second byte) byte { return first<<4 | second },
		blocks:  func(c *Case) int { return c.Int("bs") },
	}
	spoil(&q)
	return q.quantize
}

func absmax(x []float32) (m float32) {
	for _, v := range x {
		m = max(m, abs(v))
	}
	return m
}

// nf4Midpoints are NF4's thresholds.
var nf4Midpoints = func() (t [15]float32) {
	for i := range t {
		t[i] = (quant.NF4.Values[i] + quant.NF4.Values[i+1]) / 2
	}
	return t
}()

// count is the number of thresholds for which above holds.
func count(thresholds []float32, above func(t float32) bool) (n byte) {
	for _, t := range thresholds {
		if above(t) {
			n++
		}
	}
	return n
}

// nearest is the code of the table's value at the least distance, the first of equals.
func nearest(table []float32, x float32) (best byte) {
	for i, v := range table {
		if abs(x-v) < abs(x-table[best]) {
			best = byte(i)
		}
	}
	return best
}

// fourDecimals are NF4's values as torchao has them.
var fourDecimals = []float32{-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1}

// fp4Ascending are FP4's magnitudes by value, and fp4Literals the thresholds between them as bitsandbytes' kernels have them.
var (
	fp4Ascending = [8]byte{0, 1, 6, 7, 4, 5, 2, 3}
	fp4Literals  = [7]uint32{0x3b2aaab9, 0x3db00000, 0x3e555555, 0x3e955555, 0x3ed55556, 0x3f155550, 0x3f555555}
)

func flushed(x float32) float32 {
	if abs(x) < 0x1p-126 {
		return 0
	}
	return x
}

var quantizeMutants = []Mutant{
	{
		Name: "nibbles swapped", Bug: "The first element of a pair goes to the low nibble.",
		Seen: "bitsandbytes PR #1472 (CPU and XPU)", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) { q.pack = func(first, second byte) byte { return second<<4 | first } }),
	},
	{
		Name: "tie goes up", Bug: "A value on a threshold takes the upper code: ≥ in place of >.", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) {
			q.code = func(x float32) byte { return count(nf4Midpoints[:], func(t float32) bool { return x >= t }) }
		}),
	},
	{
		Name: "nearest by distance", Bug: "The code is that of the least float32 distance: rounding makes distances equal that are not.",
		Seen: "bitsandbytes up to 0.49 on CPUs", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) { q.code = func(x float32) byte { return nearest(quant.NF4.Values[:], x) } }),
	},
	{
		Name: "four decimals", Bug: "The table of NF4 has four decimals.", Seen: "torchao, NF4Tensor", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) { q.code = func(x float32) byte { return nearest(fourDecimals, x) } }),
	},
	{
		Name: "rounded down", Bug: "The code is that of the largest value not above x, not the nearest.", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) {
			q.code = func(x float32) byte { return count(quant.NF4.Values[1:], func(v float32) bool { return x >= v }) }
		}),
	},
	{
		Name: "divides", Bug: "v/absmax in place of v·(1/absmax).", Seen: "torchao; bitsandbytes' Triton kernels for XPU", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) { q.scaled = func(v, m float32, _ *Case, _ bool) float32 { return v / m } }),
	},
	{
		Name: "divides in the tail", Bug: "A short last block divides where all others multiply by the reciprocal.",
		Seen: "bitsandbytes 0.50 on CPUs", Op: "fp4_quantize",
		Func: quantizing(quant.FP4, func(q *quantizer) {
			q.scaled = func(v, m float32, _ *Case, short bool) float32 {
				if short {
					return v / m
				}
				return v * (1 / m)
			}
		}),
	},
	{
		Name: "approximate reciprocal", Bug: "1/absmax is one unit in the last place too large.",
		Seen: "bitsandbytes on CUDA, -prec-div=false", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) {
			q.scaled = func(v, m float32, _ *Case, _ bool) float32 { return v * math.Nextafter32(1/m, 2) }
		}),
	},
	{
		Name: "tail forgotten", Bug: "The elements behind the last whole block get no codes and no absmax of their own.",
		Seen: "bitsandbytes PR #1884 (the last absmax of sizes that are no multiples)", Op: "nf4_quantize",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			out, err := reference("nf4_quantize", c, in)
			if whole := in["x"].Len() / c.Int("bs"); err == nil && whole < out["absmax"].Len() {
				out["absmax"].F[whole] = 0
				for i := whole * c.Int("bs") / 2; i < out["codes"].Len(); i++ {
					out["codes"].B[i] = 0x77
				}
			}
			return out, err
		},
	},
	{
		Name: "odd element forgotten", Bug: "The low nibble of the last byte of an odd number of elements is 0, which is −1 and not 0.",
		Op: "nf4_quantize",
		Func: spoiled("nf4_quantize", func(_ *Case, in, out Tensors) {
			if in["x"].Len()%2 == 1 {
				out["codes"].B[out["codes"].Len()-1] &= 0xf0
			}
		}),
	},
	{
		Name: "zero block is −1", Bug: "0·(1/0) is NaN, for which no comparison holds: a block of zeros gets code 0.",
		Seen: "bitsandbytes on CUDA; on CPUs before 0.50", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) { q.zero = func(float32) bool { return false } }),
	},
	{
		Name: "subnormal scales flushed", Bug: "An absmax below 2^-126 counts as zero.", Seen: "bitsandbytes on CUDA, -ftz=true", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) { q.absmax = func(x []float32) float32 { return flushed(absmax(x)) } }),
	},
	{
		Name: "subnormal reciprocals flushed", Bug: "1/absmax is zero for an absmax above 2^126.",
		Seen: "bitsandbytes on CUDA, -ftz=true", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) {
			q.scaled = func(v, m float32, _ *Case, _ bool) float32 { return v * flushed(1/m) }
		}),
	},
	{
		Name: "NaN accepted", Bug: "NaN is quantized, to code 0, in place of an error.",
		Seen: "bitsandbytes on CUDA: fmaxf passes over NaN", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) { q.accepts = func(x float32) bool { return !math.IsInf(float64(x), 0) } }),
	},
	{
		Name: "infinity accepted", Bug: "An infinity is quantized in place of an error.", Seen: "bitsandbytes", Op: "fp4_quantize",
		Func: quantizing(quant.FP4, func(q *quantizer) { q.accepts = func(x float32) bool { return x == x } }),
	},
	{
		Name: "max in place of absmax", Bug: "The sign is forgotten: blocks are scaled by their largest value.", Op: "nf4_quantize",
		Func: quantizing(quant.NF4, func(q *quantizer) {
			q.absmax = func(x []float32) (m float32) {
				for _, v := range x {
					m = max(m, v)
				}
				return m
			}
		}),
	},
	{
		Name: "large blocks in halves", Bug: "Blocks of 4096 are quantized in blocks of 2048: another kernel's template.",
		Seen: "bitsandbytes #565, PR #1160", Op: "fp4_quantize",
		Func: quantizing(quant.FP4, func(q *quantizer) { q.blocks = func(c *Case) int { return min(2048, c.Int("bs")) } }),
	},
	{
		Name: "FP4 thresholds off", Bug: "Five of the seven thresholds of FP4 are decimal literals, up to 14 units off the middle.",
		Seen: "bitsandbytes on CUDA", Op: "fp4_quantize",
		Func: quantizing(quant.FP4, func(q *quantizer) {
			q.code = func(x float32) byte {
				var sign byte
				if x < 0 {
					sign = 8
				}
				at := 0
				for _, bits := range fp4Literals {
					if abs(x) > math.Float32frombits(bits) {
						at++
					}
				}
				return sign | fp4Ascending[at]
			}
		}),
	},
	{
		Name: "FP4 signs of zero exchanged", Bug: "Small negative values get the nibble of +0 and small positive ones that of −0.",
		Seen: "bitsandbytes 0.50 on CPUs", Op: "fp4_quantize",
		Func: quantizing(quant.FP4, func(q *quantizer) {
			q.code = func(x float32) byte {
				if code := quant.FP4.Code(x); code&7 != 0 || x == 0 {
					return code
				} else {
					return code ^ 8
				}
			}
		}),
	},
	{
		Name: "int4 from −8", Bug: "Values are scaled by 8, not by 7: −1 takes the nibble that is not used, and 1 is clamped.", Op: "int4_quantize",
		Func: quantizing(quant.Int4, func(q *quantizer) {
			q.code = func(x float32) byte { return byte(max(-8, min(7, int(math.Floor(float64(x)*8+0.5))))) & 15 }
		}),
	},
	{
		Name: "E2M1 ties to even", Bug: "A tie goes to the even code, as hardware converts.", Op: "e2m1_quantize",
		Func: quantizing(quant.E2M1, func(q *quantizer) {
			q.code = func(x float32) byte {
				code := quant.E2M1.Code(x)
				if up := quant.E2M1.Code(math.Nextafter32(x, float32(math.Copysign(2, float64(x))))); up != code && up&1 == 0 {
					return up
				}
				return code
			}
		}),
	},
	{
		Name: "one scale for all", Bug: "One absmax for the whole tensor.", Op: "e3m0_quantize",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			whole := absmax(in["x"].F)
			return quantizing(quant.E3M0, func(q *quantizer) { q.absmax = func([]float32) float32 { return whole } })(c, in)
		},
	},
}
