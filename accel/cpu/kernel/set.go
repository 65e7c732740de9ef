package kernel

import (
	"fmt"
	"os"
	"strings"
)

// Set is one implementation of all kernels. Slices that a kernel writes do not overlap those that it reads, unless they are the
// same from their first element on; where a comment speaks of n, it is the length of the slice that is written, and the others are as long.
type Set struct {
	Name string // portable, avx2, avx512

	// MR and NR are the rows and columns of Tile's block; Row's is one row of RowWidth columns. RowWidth is a multiple of NR.
	MR, NR, RowWidth int

	// Tile goes through panels of MR rows that lie in a one after the other. For k = len(b)/NR > 0, i < len(a)/k, j < NR:
	// c[i*stride+j] += a[(i/MR*k+p)*MR+i%MR]·b[p*NR+j], p ascending, each product and each sum rounded.
	Tile func(c []float32, stride int, a, b []float32)
	// TileFused rounds once for the product and its sum: Tile's bits where every product is exact (see Exact).
	TileFused func(c []float32, stride int, a, b []float32)
	// TilePairs: for p, i < MR, j < NR: c[i*stride+j] = DotPair(c[i*stride+j], a[p*MR+i], b[p*NR+j]), p ascending to len(b)/NR. It has not
	// Tile's bits. nil where there is no such instruction; a processor that is not Intel's may add the two products in another order.
	TilePairs func(c []float32, stride int, a, b []uint32)
	// Row: for p, j < RowWidth: c[j] += a[p]·b[p*RowWidth+j], p ascending, each product and each sum rounded.
	Row func(c, a, b []float32)
	// RowFused is to Row as TileFused is to Tile.
	RowFused func(c, a, b []float32)
	// MatVec4 multiplies MatVecRows rows of 4-bit codes with a vector: for k < len(x), i < MatVecRows: c[i] += x[k]·values[code(i, k)]·
	// absmax[k/blocksize*MatVecRows+i], k ascending, every product and every sum rounded. Code 2k of row i is the high nibble of
	// packed[i*stride+k]; len(x) is a multiple of blocksize.
	MatVec4 func(c, x []float32, packed []byte, stride int, absmax []float32, values *[16]float32, blocksize int)
	// MatVec4Rounded rounds weights to bfloat16, and then once for the product with x and its sum: the bits of rounding both where
	// that product is exact. No weight is NaN.
	MatVec4Rounded func(c, x []float32, packed []byte, stride int, absmax []float32, values *[16]float32, blocksize int)
	MatVecRows     int

	// Transpose: for i < rows, j < cols: dst[j*width+i] = src[i*stride+j]. rows ≤ width. It may write up to 8 elements beyond the
	// last of dst that it sets, if dst is that long, and elements rows…width-1 of each line: whoever needs zeros there writes them after.
	Transpose func(dst []float32, width int, src []float32, stride, rows, cols int)
	// Lines cuts rows of lanes into panels: for i·width < lanes, r < rows, j < width: dst[(i*depth+r)*width+j] = src[r*stride+i*width+j],
	// but for lanes that are not there, which it leaves alone. rows > 0.
	Lines func(dst []float32, width, depth int, src []float32, stride, rows, lanes int)
	// LinesBFloat16 is Lines of num.FromBFloat16(src[…]).
	LinesBFloat16 func(dst []float32, width, depth int, src []uint16, stride, rows, lanes int)
	// Interleave: dst[i] = a[i] | b[i]<<16.
	Interleave func(dst []uint32, a, b []uint16)
	// Prefetch changes nothing; x will be read soon.
	Prefetch func(x []uint16)
	// Magnitudes gives the least of those |x| that are not 0 and the greatest |x|, as bits; no such is MaxUint32 and 0.
	Magnitudes func(x []float32) (least, greatest uint32)

	// WidenBFloat16: dst[i] = num.FromBFloat16(src[i]); NarrowBFloat16: dst[i] = num.ToBFloat16(src[i]); RoundBFloat16: one after the
	// other, x[i] = num.BFloat16.Round(x[i]). The same of float16. Payloads of NaN are free.
	WidenBFloat16  func(dst []float32, src []uint16)
	NarrowBFloat16 func(dst []uint16, src []float32)
	RoundBFloat16  func(x []float32)
	WidenFloat16   func(dst []float32, src []uint16)
	NarrowFloat16  func(dst []uint16, src []float32)
	RoundFloat16   func(x []float32)

	// Dequantize4: dst[i] = values[code i]·absmax[i/blocksize], rounded to float32. Code 2k is the high nibble of packed[k]; len(dst)
	// is even, and blocksize is a power of two from 32 on.
	Dequantize4 func(dst []float32, packed []byte, absmax []float32, values *[16]float32, blocksize int)
	// Dequantize4Rounded rounds once more, to bfloat16, and gives float32.
	Dequantize4Rounded func(dst []float32, packed []byte, absmax []float32, values *[16]float32, blocksize int)
	// Dequantize4BFloat16 rounds once more, to bfloat16.
	Dequantize4BFloat16 func(dst []uint16, packed []byte, absmax []float32, values *[16]float32, blocksize int)
	// Dequantize4BFloat16Past is Dequantize4BFloat16 of what will not be read before it would have left the caches.
	Dequantize4BFloat16Past func(dst []uint16, packed []byte, absmax []float32, values *[16]float32, blocksize int)
	// Dequantize8: dst[i] = values[codes[i]]·absmax[i/256], rounded, + offset, rounded.
	Dequantize8 func(dst []float32, codes []byte, absmax []float32, values *[256]float32, offset float32)
	// Absmax is the largest |x|, 0 of none. No x is NaN.
	Absmax func(x []float32) float32
	// QuantizeFloat32 quantizes blocks of x as quant.Quantize4 does, len(absmax) of them; code 2k is the high nibble of packed[k]. An element
	// has the code ascending[the number of thresholds below x·(1/absmax)]. It stops at a block with NaN or an infinity, whose number it gives,
	// else −1. Thresholds ascend; they are 2^-100 to 1 in magnitude, or +Inf. blocksize is a power of two from 32 to 4096.
	QuantizeFloat32 func(packed []byte, absmax, x []float32, blocksize int, thresholds *[15]float32, ascending *[16]uint8) int
	// QuantizeBFloat16 quantizes num.FromBFloat16 of each x.
	QuantizeBFloat16 func(packed []byte, absmax []float32, x []uint16, blocksize int, thresholds *[15]float32, ascending *[16]uint8) int

	// Codes8: codes[i] = the number of s's thresholds below x[i]·r, finite numbers.
	Codes8 func(codes []byte, x []float32, r float32, s *Search8)

	// Sum is num.Sum of at most 65,536 elements.
	Sum func(x []float32) float32
	// Max is the largest x, as max(x[0], x[1], …) has it; len(x) > 0.
	Max func(x []float32) float32
	// Add: y[i] = a[i] + b[i].
	Add func(y, a, b []float32)
	// Mul: y[i] = a[i]·b[i].
	Mul func(y, a, b []float32)
	// Scale: y[i] = a[i]·s.
	Scale func(y, a []float32, s float32)
	// Shift: y[i] = a[i] + s.
	Shift func(y, a []float32, s float32)
	// Divide: y[i] = a[i]/s.
	Divide func(y, a []float32, s float32)
	// ExpMinus: y[i] = num.Exp(x[i] − m).
	ExpMinus func(y, x []float32, m float32)
	// Tanh: y[i] = num.Tanh(x[i]).
	Tanh func(y, x []float32)
	// SiLU: y[i] = x[i]·num.Sigmoid(x[i]), and, where slope is not nil, slope[i] = s·(1 + x[i]·(1 − s)), as op.SiLU has them.
	SiLU func(y, slope, x []float32)

	// AdamW is optim.AdamW with clip = optim.ClipScale(norm, …) given.
	AdamW func(p, m, v, g, scalars []float32, clip float32)
	// Lion is optim.Lion, likewise.
	Lion func(p, m, g, scalars []float32, clip float32)

	// Peak multiplies and adds in registers as fast as this set can, and says how many operations that were: no product of float32 is
	// faster. A round takes less than a microsecond.
	Peak func(rounds int) (flops int)
	// Read loads every x as fast as this set can. len(x) is a multiple of 128.
	Read func(x []float32)
}

// Variable is the environment variable that names a Set.
const Variable = "QLORA_CPU"

// Sets are what this processor can run, the plain one first and the best last.
func Sets() []*Set { return sets }

// Choose gives the best set, or the one that the environment variable names.
func Choose() (*Set, error) {
	name := os.Getenv(Variable)
	if name == "" {
		return sets[len(sets)-1], nil
	}
	var names []string
	for _, s := range sets {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return nil, fmt.Errorf("%s=%s: this processor runs %s", Variable, name, strings.Join(names, ", "))
}

var sets = append([]*Set{portable()}, accelerated()...)
