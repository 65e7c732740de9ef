package main

import (
	"fmt"
	"math"
	"strings"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The correctly rounded functions of num are evaluated in float64 and rounded once. Unless the float64 value is nearer to a midpoint of
// two float32 than its error, that gives the right result; a block with an element of which this cannot be said is left to num.
//
// The error: x = k·ln 2 + r, |r| < widest, where r is within 2^-48, for k = 1 within 2^-54, and exact for k = 0. p = r + r²·q is within
// 2^-40.9·r² < 2^-44 of e^r − 1. Relative to the results, and but for at most six roundings of 2^-53,
//
//	e^x = 2^k·p + 2^k            is within 2^-44/e^r + 2^-48 < 2^-43.4,
//	sigmoid x = e^x/(e^x + 1)    is within that,
//	tanh x = e/(e + 2)           of x > 0, where e = e^2x − 1 = 2^k·p + (2^k − 1), is for k = 0 within 2^-40.9·r²/e < 2^-42.4, and else
//	                             within 2^(k-44)/e·2/(e + 2), at most 2^-42 for k = 1, r = −ln 2/2.
//
// That is at most 2^11 units in the last place of float64. A margin of twice that leaves one element of 65,536 to num.
const margin = 1 << 12

const (
	terms   = 8      // of q, which are even in number
	widest  = 0.3466 // > ln 2/2
	streams = 4      // registers of a block. Their steps alternate, for those of one wait for each other.
)

// Constants of float64, by their bits.
var (
	one       = math.Float64bits(1)
	two       = math.Float64bits(2)
	invLn2    = math.Float64bits(1 / math.Ln2)
	ln2       = math.Float64bits(math.Ln2)
	magic     = math.Float64bits(3<<51 + 1023)        // + x ends in the integer nearest to x and the exponents' bias
	lowest    = math.Float64bits(-88)                 // e^x and sigmoid are 0 from here down
	highest   = math.Float64bits(89)                  // and ∞ and 1 from here up, and tanh is 1 from its half up
	least     = math.Float64bits(0x1p-126 - 0x1p-150) // is rounded to 2^-126; what is less is a zero
	magnitude = uint64(1<<63 - 1)
)

// coefficients are those of a polynomial within 2^-40.9 of (e^r − 1 − r)/r² for |r| ≤ widest: Taylor's series, from which multiples of
// Chebyshev's polynomials have taken the terms beyond r^7 away (economization; Lanczos, 1938).
func coefficients() [terms]uint64 {
	var c [13]float64
	f := 1.0
	for n := range c {
		f *= float64(n + 2) // (n+2)!
		c[n] = 1 / f
	}
	for n := len(c) - 1; n >= terms; n-- {
		t := chebyshev(n)
		scale := c[n] / t[n] * math.Pow(widest, float64(n))
		for i, v := range t {
			c[i] -= scale * v / math.Pow(widest, float64(i))
		}
	}
	var bits [terms]uint64
	for n := range bits {
		bits[n] = math.Float64bits(c[n])
	}
	return bits
}

// chebyshev are the coefficients of T_n, by T_n+1 = 2z·T_n − T_n-1.
func chebyshev(n int) []float64 {
	before, t := []float64{1}, []float64{0, 1}
	for len(t) <= n {
		next := make([]float64, len(t)+1)
		for i, v := range t {
			next[i+1] += 2 * v
		}
		for i, v := range before {
			next[i] -= v
		}
		before, t = t, next
	}
	return t
}

// The last 29 bits of a float64 and three zeros, w, are 1<<31 at a midpoint of two float32, and within the margin of one if w + toEdge < edge
// as signed integers. Both are here twice.
const (
	toEdge = 8 * margin * (1<<32 + 1)
	edge   = (1<<31 + 16*margin + 1) * (1<<32 + 1)
)

func init() {
	groups["elementary"] = func() {
		const yx, s, y = "y, x []float32", "s := num.Sigmoid(x[i])", "y[i] = float32(x[i] * s)"
		for _, v := range []vectors{ymm, zmm} {
			elementary(v, "expMinus", yx+", m float32", (*block).minusM, (*block).exp, (*block).result, "y[i] = num.Exp(x[i] - m)")
			elementary(v, "tanh", yx, nil, (*block).tanh, (*block).signed, "y[i] = num.Tanh(x[i])")
			elementary(v, "silu", yx, nil, (*block).sigmoid, (*block).product, s, y)
			elementary(v, "siluSlope", "y, slope, x []float32", nil, (*block).sigmoid, (*block).productAndSlope, s, y,
				"slope[i] = s * (1 + float32(x[i]*(1-s)))")
		}
	}
}

// elementary writes a loop over blocks that ends with the last element or before the first block in doubt. Of a register of x, argument
// makes the function's, in float32; from all registers of those f makes the results in float64; and store stores one, rounded to float32.
func elementary(v vectors, name, parameters string, argument func(*block, reg.VecVirtual), f func(*block),
	store func(b *block, y reg.VecVirtual, j int), formulas ...string) {
	name += v.name
	lanes := streams * v.lanes / 2
	TEXT(name, NOSPLIT, "func("+parameters+") (done int)")
	doc := []string{name + " computes", "", "\tfor i := range done {"}
	for _, f := range formulas {
		doc = append(doc, "\t\t"+f)
	}
	Doc(append(doc, "\t}", "", fmt.Sprintf("where done is len(y), or where the first block of %d in doubt begins.", lanes))...)
	Pragma("noescape")
	b := newBlock(v, parameters)
	n, end := Load(Param("y").Len(), GP64()), GP64()
	write := func() {
		b.load(argument)
		f(b)
		b.jumpIfDoubtful(name + "_done")
		for j := range b.v {
			store(b, b.rounded(j), j)
		}
	}
	XORQ(b.i, b.i)
	LEAQ(Mem{Base: b.i, Disp: lanes}, end)
	Label(name + "_loop")
	CMPQ(end, n)
	JA(LabelRef(name + "_tail"))
	write()
	MOVQ(end, b.i)
	ADDQ(U8(lanes), end)
	JMP(LabelRef(name + "_loop"))
	Label(name + "_tail")
	CMPQ(b.i, n)
	JEQ(LabelRef(name + "_done"))
	b.mask(n)
	write()
	MOVQ(n, b.i)
	Label(name + "_done")
	MOVQ(b.i, result(0))
	VZEROUPPER()
	RET()
}

// block is what one turn of a loop computes.
type block struct {
	vectors
	y, slope, x reg.Register     // addresses; slope may be nil
	i           reg.Register     // the first element
	masks       [streams]Op      // which elements of a register there are, nil for all
	v           []reg.VecVirtual // what is computed, in float64
	r, power    [streams]Op      // what later steps need: in registers if there are 32
}

func newBlock(v vectors, parameters string) *block {
	b := &block{vectors: v, i: GP64()}
	b.y = Load(Param("y").Base(), GP64())
	b.x = Load(Param("x").Base(), GP64())
	if strings.Contains(parameters, "slope") {
		b.slope = Load(Param("slope").Base(), GP64())
	}
	for j := range streams {
		if b.wide() {
			b.r[j], b.power[j] = b.new(), b.new()
		} else {
			b.r[j], b.power[j] = AllocLocal(v.bytes()), AllocLocal(v.bytes())
		}
	}
	return b
}

func (b *block) wide() bool { return b.lanes == zmm.lanes }

// mask leaves the elements before n.
func (b *block) mask(n reg.Register) {
	left := GP64()
	MOVQ(n, left)
	SUBQ(b.i, left)
	if b.wide() {
		bits := GP64()
		MOVQ(I32(-1), bits)
		BZHIQ(left, bits, bits)
		for j := range b.masks {
			k := K()
			KMOVW(bits.As32(), k)
			SHRQ(U8(8), bits)
			b.masks[j] = k
		}
		return
	}
	var ones [16]Constant
	for i := range ones {
		ones[i] = U64(0)
		if i < len(ones)/2 {
			ones[i] = U64(1<<64 - 1)
		}
	}
	table := GP64()
	LEAQ(shared("elementary_ones", ones[:]...), table)
	SHLQ(U8(2), left)
	SUBQ(left, table)
	for j := range b.masks {
		b.masks[j] = Mem{Base: table, Disp: 64 + 16*j}
	}
}

// half is a register of as many float32 as one has float64.
func (b *block) half() reg.VecVirtual {
	if b.wide() {
		return YMM()
	}
	return XMM()
}

// broadcast is a half with the same float32 in each lane.
func (b *block) broadcast(m Mem) reg.VecVirtual {
	r := b.half()
	VBROADCASTSS(m, r)
	return r
}

func (b *block) elements(base reg.Register, j int) Mem {
	return Mem{Base: base, Index: b.i, Scale: 4, Disp: 2 * j * b.lanes}
}

// from loads elements of register j.
func (b *block) from(base reg.Register, j int) reg.VecVirtual {
	r, m := b.half(), b.elements(base, j)
	switch {
	case b.masks[j] == nil:
		VMOVUPS(m, r)
	case b.wide():
		VMOVUPS_Z(m, b.masks[j], r)
	default:
		VMOVUPS(b.masks[j], r)
		VMASKMOVPS(m, r, r)
	}
	return r
}

// to stores elements of register j.
func (b *block) to(base reg.Register, j int, r reg.VecVirtual) {
	m := b.elements(base, j)
	switch {
	case b.masks[j] == nil:
		VMOVUPS(r, m)
	case b.wide():
		VMOVUPS(r, b.masks[j], m)
	default:
		mask := b.half()
		VMOVUPS(b.masks[j], mask)
		VMASKMOVPS(r, mask, m)
	}
}

// constant is a register that holds it in each lane.
func (b *block) constant(bits uint64) reg.VecVirtual {
	r := b.new()
	VBROADCASTSD(shared(fmt.Sprintf("elementary_%016x", bits), U64(bits)), r)
	return r
}

var written = map[string]Mem{}

// shared is data that is written once for all functions of a group.
func shared(name string, values ...Constant) Mem {
	if _, ok := written[name]; !ok {
		written[name] = data(name, values...)
	}
	return written[name]
}

// load fills v with the arguments of the function.
func (b *block) load(argument func(*block, reg.VecVirtual)) {
	b.v = b.news(streams)
	for j, x64 := range b.v {
		x := b.from(b.x, j)
		if argument != nil {
			argument(b, x)
		}
		VCVTPS2PD(x, x64)
	}
}

func (b *block) minusM(x reg.VecVirtual) { VSUBPS(b.broadcast(param("m")), x, x) }

// clamp keeps NaN.
func (b *block) clamp() {
	low, high := b.constant(lowest), b.constant(highest)
	for _, x := range b.v {
		VMAXPD(x, low, x)
		VMINPD(x, high, x)
	}
}

// exponential changes x to p, and leaves 2^k in power, for e^x = 2^k·(1 + p).
func (b *block) exponential() {
	toInteger, scale, unit := b.constant(magic), b.constant(invLn2), b.constant(ln2)
	for j, x := range b.v {
		integer, k := b.new(), b.new()
		VMOVAPD(toInteger, integer)
		VFMADD231PD(scale, x, integer)
		VSUBPD(toInteger, integer, k)
		VPSLLQ(U8(52), integer, integer)
		VMOVUPD(integer, b.power[j])
		VFNMADD231PD(unit, k, x)
		VMOVUPD(x, b.r[j])
		VMULPD(x, x, x) // r²
	}
	even, odd := b.news(streams), b.news(streams) // polynomials of r², q = even + r·odd
	coefficients := coefficients()
	for n := terms - 2; n >= 0; n -= 2 {
		c, d := b.constant(coefficients[n]), b.constant(coefficients[n+1])
		for j, r2 := range b.v {
			if n == terms-2 {
				VMOVAPD(c, even[j])
				VMOVAPD(d, odd[j])
				continue
			}
			VFMADD213PD(c, r2, even[j])
			VFMADD213PD(d, r2, odd[j])
		}
	}
	for j, r2 := range b.v {
		VFMADD231PD(b.r[j], odd[j], even[j])
		VFMADD213PD(b.r[j], r2, even[j])
	}
	b.v = even
}

func (b *block) exp() {
	b.clamp()
	b.exponential()
	for j, y := range b.v {
		power := b.new()
		VMOVUPD(b.power[j], power)
		VFMADD213PD(power, power, y)
	}
	b.flush()
}

func (b *block) sigmoid() {
	b.clamp()
	b.exponential()
	c := b.constant(one)
	for j, y := range b.v {
		power, divisor := b.new(), b.new()
		VMOVUPD(b.power[j], power)
		VFMADD213PD(power, power, y)
		VADDPD(c, y, divisor)
		VDIVPD(divisor, y, y)
	}
	b.flush()
}

// tanh is that of |x|.
func (b *block) tanh() {
	m, high := b.constant(magnitude), b.constant(highest)
	for _, x := range b.v {
		VANDPD(m, x, x)
		VADDPD(x, x, x)
		VMINPD(x, high, x)
	}
	b.exponential()
	c, d := b.constant(one), b.constant(two)
	for j, y := range b.v {
		power, divisor := b.new(), b.new()
		VMOVUPD(b.power[j], power)
		VSUBPD(c, power, divisor)
		VFMADD213PD(divisor, power, y)
		VADDPD(d, y, divisor)
		VDIVPD(divisor, y, y)
	}
	b.flush()
}

// flush makes what is to be a zero one.
func (b *block) flush() {
	const notLess = 0x15 // NaN is not
	limit := b.constant(least)
	for _, y := range b.v {
		if b.wide() {
			keep := K()
			VCMPPD(U8(notLess), limit, y, keep)
			VMOVAPD_Z(y, keep, y)
			continue
		}
		keep := b.new()
		VCMPPD(U8(notLess), limit, y, keep)
		VANDPD(keep, y, y)
	}
}

// jumpIfDoubtful goes to a label if any element is within the margin of a midpoint.
func (b *block) jumpIfDoubtful(label string) {
	above, limit := b.constant(toEdge), b.constant(edge)
	w := b.news(streams / 2)
	for j, w := range w {
		VSHUFPS(U8(0b10_00_10_00), b.v[2*j+1], b.v[2*j], w) // the lower halves of float64
		VPSLLD(U8(3), w, w)
		VPADDD(above, w, w)
	}
	VPMINSD(w[1], w[0], w[0])
	if b.wide() {
		doubtful := K()
		VPCMPGTD(w[0], limit, doubtful)
		KORTESTW(doubtful, doubtful)
	} else {
		doubtful := GP32()
		VPCMPGTD(w[0], limit, w[0])
		VMOVMSKPS(w[0], doubtful)
		TESTL(doubtful, doubtful)
	}
	JNE(LabelRef(label))
}

func (b *block) rounded(j int) reg.VecVirtual {
	r := b.half()
	if b.wide() {
		VCVTPD2PS(b.v[j], r)
	} else {
		VCVTPD2PSY(b.v[j], r)
	}
	return r
}

func (b *block) result(y reg.VecVirtual, j int) { b.to(b.y, j, y) }

// signed gives y the sign of x.
func (b *block) signed(y reg.VecVirtual, j int) {
	sign := b.broadcast(shared("elementary_sign", U32(1<<31)))
	VANDPS(b.from(b.x, j), sign, sign)
	VORPS(sign, y, y)
	b.to(b.y, j, y)
}

func (b *block) product(s reg.VecVirtual, j int) {
	x := b.from(b.x, j)
	VMULPS(s, x, x)
	b.to(b.y, j, x)
}

func (b *block) productAndSlope(s reg.VecVirtual, j int) {
	c, x, t := b.broadcast(shared("elementary_one", F32(1))), b.from(b.x, j), b.half()
	VSUBPS(s, c, t)
	VMULPS(x, t, t)
	VADDPS(c, t, t)
	VMULPS(s, t, t)
	VMULPS(s, x, x)
	b.to(b.slope, j, t)
	b.to(b.y, j, x)
}
