package kernel

import (
	"math"

	"qlora/ref/num"
)

// portable is every kernel in plain Go: the loops of the comments in Set.
func portable() *Set {
	s := &Set{
		Name: "portable", MR: 4, NR: 4, RowWidth: 8,
		Prefetch: func([]uint16) {}, Transpose: transpose, Lines: lines, LinesBFloat16: linesBFloat16, Interleave: interleave, Magnitudes: magnitudes,
		WidenBFloat16: widenBFloat16, NarrowBFloat16: narrowBFloat16, RoundBFloat16: num.BFloat16.RoundAll,
		WidenFloat16: widenFloat16, NarrowFloat16: narrowFloat16, RoundFloat16: num.Float16.RoundAll,
		Dequantize4: dequantize4, Dequantize4Rounded: dequantize4Rounded, Dequantize4BFloat16: dequantize4BFloat16, Dequantize4BFloat16Past: dequantize4BFloat16,
		QuantizeFloat32: quantizeFloat32, QuantizeBFloat16: quantizeBFloat16,
		Dequantize8: dequantize8, Absmax: absmax, Codes8: codes8,
		Sum: num.Sum, Max: largest, Add: add, Mul: mul, Scale: scale, Shift: shift, Divide: divide,
		ExpMinus: expMinus, Tanh: tanh, SiLU: silu, AdamW: adamW, Lion: lion,
		Peak: peak, Read: func(x []float32) { absmax(x) },
	}
	s.MatVecRows = 8
	s.MatVec4 = func(c, x []float32, packed []byte, stride int, absmax []float32, values *[16]float32, blocksize int) {
		matVec4(c, x, packed, stride, absmax, values, blocksize, num.Float32)
	}
	s.MatVec4Rounded = func(c, x []float32, packed []byte, stride int, absmax []float32, values *[16]float32, blocksize int) {
		matVec4(c, x, packed, stride, absmax, values, blocksize, num.BFloat16)
	}
	// Both round each product, which has the fused ones' bits wherever those may be called.
	s.Tile, s.TileFused = tile, tile
	s.Row, s.RowFused = row, row
	return s
}

func tile(c []float32, stride int, a, b []float32) {
	for ; len(a) > 0; a, c = a[len(b):], c[min(4*stride, len(c)):] {
		tilePanel(c, stride, a[:len(b)], b)
	}
}

func tilePanel(c []float32, stride int, a, b []float32) {
	c0, c1, c2, c3 := c[:4], c[stride:stride+4], c[2*stride:2*stride+4], c[3*stride:3*stride+4]
	for j := range 4 {
		s0, s1, s2, s3 := c0[j], c1[j], c2[j], c3[j]
		for p := 0; p+4 <= len(b); p += 4 {
			x, v := a[p:p+4:p+4], b[p+j]
			s0 += float32(x[0] * v)
			s1 += float32(x[1] * v)
			s2 += float32(x[2] * v)
			s3 += float32(x[3] * v)
		}
		c0[j], c1[j], c2[j], c3[j] = s0, s1, s2, s3
	}
}

func row(c, a, b []float32) {
	s0, s1, s2, s3, s4, s5, s6, s7 := c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
	for p, x := range a {
		w := b[8*p : 8*p+8 : 8*p+8]
		s0 += float32(x * w[0])
		s1 += float32(x * w[1])
		s2 += float32(x * w[2])
		s3 += float32(x * w[3])
		s4 += float32(x * w[4])
		s5 += float32(x * w[5])
		s6 += float32(x * w[6])
		s7 += float32(x * w[7])
	}
	c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7] = s0, s1, s2, s3, s4, s5, s6, s7
}

// matVec4 goes through the rows one by one. A block has a table of its 16 weights.
func matVec4(c, x []float32, packed []byte, stride int, absmax []float32, values *[16]float32, blocksize int, t num.DType) {
	for i := range c {
		sum := c[i]
		for b := 0; b*blocksize < len(x); b++ {
			var weights [16]float32
			for code, v := range values {
				weights[code] = t.Round(float32(v * absmax[b*len(c)+i]))
			}
			block := x[b*blocksize : (b+1)*blocksize]
			for k, p := range packed[i*stride+b*blocksize/2:][:blocksize/2] {
				sum += float32(block[2*k] * weights[p>>4])
				sum += float32(block[2*k+1] * weights[p&15])
			}
		}
		c[i] = sum
	}
}

func transpose(dst []float32, width int, src []float32, stride, rows, cols int) {
	for i := range rows {
		for j, v := range src[i*stride : i*stride+cols] {
			dst[j*width+i] = v
		}
	}
}

func lines(dst []float32, width, depth int, src []float32, stride, rows, lanes int) {
	for i := 0; i*width < lanes; i++ {
		n := min(width, lanes-i*width)
		for r := range rows {
			copy(dst[(i*depth+r)*width:][:n], src[r*stride+i*width:])
		}
	}
}

func linesBFloat16(dst []float32, width, depth int, src []uint16, stride, rows, lanes int) {
	for i := 0; i*width < lanes; i++ {
		n := min(width, lanes-i*width)
		for r := range rows {
			widenBFloat16(dst[(i*depth+r)*width:][:n], src[r*stride+i*width:][:n])
		}
	}
}

func magnitudes(x []float32) (least, greatest uint32) {
	least = math.MaxUint32
	for _, v := range x {
		b := math.Float32bits(v) &^ (1 << 31)
		greatest = max(greatest, b)
		if b != 0 {
			least = min(least, b)
		}
	}
	return least, greatest
}

func widenBFloat16(dst []float32, src []uint16) {
	src = src[:len(dst)]
	for i := range dst {
		dst[i] = num.FromBFloat16(src[i])
	}
}

func narrowBFloat16(dst []uint16, src []float32) {
	src = src[:len(dst)]
	for i := range dst {
		dst[i] = num.ToBFloat16(src[i])
	}
}

func widenFloat16(dst []float32, src []uint16) {
	for i := range dst {
		dst[i] = num.FromFloat16(src[i])
	}
}

func narrowFloat16(dst []uint16, src []float32) {
	for i := range dst {
		dst[i] = num.ToFloat16(src[i])
	}
}

func dequantize4(dst []float32, packed []byte, absmax []float32, values *[16]float32, blocksize int) {
	dequantize4To(num.Float32, dst, packed, absmax, values, blocksize)
}

func dequantize4Rounded(dst []float32, packed []byte, absmax []float32, values *[16]float32, blocksize int) {
	dequantize4To(num.BFloat16, dst, packed, absmax, values, blocksize)
}

// dequantize4To scales and rounds the 16 values of each block, and looks up the codes among them.
func dequantize4To(t num.DType, dst []float32, packed []byte, absmax []float32, values *[16]float32, blocksize int) {
	for b := 0; b*blocksize < len(dst); b++ {
		block := dst[b*blocksize : min((b+1)*blocksize, len(dst))]
		var scaled [16]float32
		for c, v := range values {
			scaled[c] = float32(v * absmax[b])
		}
		t.RoundAll(scaled[:])
		for i, p := range packed[b*blocksize/2 : b*blocksize/2+len(block)/2] {
			block[2*i], block[2*i+1] = scaled[p>>4], scaled[p&15]
		}
	}
}

func dequantize4BFloat16(dst []uint16, packed []byte, absmax []float32, values *[16]float32, blocksize int) {
	for b := 0; b*blocksize < len(dst); b++ {
		block := dst[b*blocksize : min((b+1)*blocksize, len(dst))]
		var scaled [16]uint16
		for c, v := range values {
			scaled[c] = num.ToBFloat16(float32(v * absmax[b]))
		}
		for i, p := range packed[b*blocksize/2 : b*blocksize/2+len(block)/2] {
			block[2*i], block[2*i+1] = scaled[p>>4], scaled[p&15]
		}
	}
}

func dequantize8(dst []float32, codes []byte, absmax []float32, values *[256]float32, offset float32) {
	for i := range dst {
		dst[i] = float32(values[codes[i]]*absmax[i/256]) + offset
	}
}

// absmax compares bits: those of magnitudes are in the order of the magnitudes.
func absmax(x []float32) float32 {
	m := uint32(0)
	for _, v := range x {
		m = max(m, math.Float32bits(v)&^(1<<31))
	}
	return math.Float32frombits(m)
}

// quantizer4 is the type of a kernel that quantizes blocks.
type quantizer4[T any] = func(packed []byte, absmax []float32, x []T, blocksize int, thresholds *[15]float32, ascending *[16]uint8) int

// quantizeFloat32 makes a block of zeros of one whose reciprocal overflows.
func quantizeFloat32(packed []byte, absmaxes, x []float32, blocksize int, thresholds *[15]float32, ascending *[16]uint8) int {
	for b := range absmaxes {
		x, packed := x[b*blocksize:(b+1)*blocksize], packed[b*blocksize/2:(b+1)*blocksize/2]
		m := absmax(x)
		if !(m <= math.MaxFloat32) {
			return b
		}
		r := 1 / m
		if r > math.MaxFloat32 {
			m, r = 0, 0
		}
		absmaxes[b] = m
		for i := range packed {
			packed[i] = code4(float32(x[2*i]*r), thresholds, ascending)<<4 | code4(float32(x[2*i+1]*r), thresholds, ascending)
		}
	}
	return -1
}

func quantizeBFloat16(packed []byte, absmax []float32, x []uint16, blocksize int, thresholds *[15]float32, ascending *[16]uint8) int {
	var block [4096]float32
	for b := range absmax {
		widenBFloat16(block[:blocksize], x[b*blocksize:])
		if quantizeFloat32(packed[b*blocksize/2:], absmax[b:b+1], block[:], blocksize, thresholds, ascending) == 0 {
			return b
		}
	}
	return -1
}

// code4 finds the number of thresholds below x by halves. NaN exceeds none.
func code4(x float32, thresholds *[15]float32, ascending *[16]uint8) uint8 {
	n := 0
	for half := 8; half > 0; half /= 2 {
		if x > thresholds[n+half-1] {
			n += half
		}
	}
	return ascending[n]
}

func largest(x []float32) float32 {
	m := x[0]
	for _, v := range x {
		m = max(m, v)
	}
	return m
}

func add(y, a, b []float32) {
	a, b = a[:len(y)], b[:len(y)]
	for i := range y {
		y[i] = a[i] + b[i]
	}
}

func mul(y, a, b []float32) {
	a, b = a[:len(y)], b[:len(y)]
	for i := range y {
		y[i] = a[i] * b[i]
	}
}

func scale(y, a []float32, s float32) {
	a = a[:len(y)]
	for i := range y {
		y[i] = a[i] * s
	}
}

func shift(y, a []float32, s float32) {
	a = a[:len(y)]
	for i := range y {
		y[i] = a[i] + s
	}
}

func divide(y, a []float32, s float32) {
	a = a[:len(y)]
	for i := range y {
		y[i] = a[i] / s
	}
}

func expMinus(y, x []float32, m float32) {
	for i := range y {
		y[i] = num.Exp(x[i] - m)
	}
}

func tanh(y, x []float32) {
	for i := range y {
		y[i] = num.Tanh(x[i])
	}
}

func silu(y, slope, x []float32) {
	for i := range y {
		v := x[i]
		s := num.Sigmoid(v)
		y[i] = float32(v * s)
		if slope != nil {
			slope[i] = float32(s * (1 + float32(v*(1-s))))
		}
	}
}

// The scalars of a step, in the order of package optim.
const (
	decay = iota
	beta1
	oneMinusBeta1
	beta2
	oneMinusBeta2
	rootBias2
	eps
	stepSize
)

func adamW(p, m, v, g, s []float32, clip float32) {
	for i := range p {
		gi := float32(g[i] * clip)
		m[i] = float32(m[i]*s[beta1]) + float32(gi*s[oneMinusBeta1])
		v[i] = float32(v[i]*s[beta2]) + float32(float32(gi*s[oneMinusBeta2])*gi)
		root := float32(math.Sqrt(float64(v[i])))
		p[i] = float32(p[i]*s[decay]) + float32(m[i]*s[stepSize])/(root/s[rootBias2]+s[eps])
	}
}

// lion takes the sign by its bit: half of the branches on a gradient's sign would be guessed wrong.
func lion(p, m, g, s []float32, clip float32) {
	one := math.Float32bits(1)
	for i := range p {
		gi := float32(g[i] * clip)
		c := float32(m[i]*s[beta1]) + float32(gi*s[oneMinusBeta1])
		sign := math.Float32frombits(math.Float32bits(c)&(1<<31) | one)
		if c == 0 {
			sign = 0
		} else if c != c {
			sign = c
		}
		p[i] = float32(p[i]*s[decay]) + float32(sign*s[stepSize])
		m[i] = float32(m[i]*s[beta2]) + float32(gi*s[oneMinusBeta2])
	}
}

// peak is tile, for plain Go has nothing faster, on what stays in the first-level cache.
func peak(rounds int) int {
	var c [16]float32
	var a, b [4 * 128]float32
	for range rounds {
		tile(c[:], 4, a[:], b[:])
	}
	return rounds * 2 * 4 * len(b)
}
