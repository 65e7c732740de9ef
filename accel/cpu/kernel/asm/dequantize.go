package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func init() {
	groups["dequantize"] = func() {
		dequantize4()
		dequantize4Bytes("dequantize4RoundedAVX2", asRounded)
		dequantize4Bytes("dequantize4BFloat16AVX2", asBFloat16)
		dequantize4Bytes("dequantize4BFloat16PastAVX2", pastBFloat16)
		dequantize4Wide("dequantize4AVX512", asFloat32)
		dequantize4Wide("dequantize4RoundedAVX512", asRounded)
		dequantize4Wide("dequantize4BFloat16AVX512", asBFloat16)
		dequantize8()
	}
}

// output is what becomes of a value.
type output struct {
	to, formula string
	size        int  // of an element in bytes
	past        bool // the caches
}

const product = "values[code i] * absmax[i/blocksize]"

var (
	asFloat32    = output{"float32", product, 4, false}
	asRounded    = output{"float32", "num.BFloat16.Round(" + product + ")", 4, false}
	asBFloat16   = output{"uint16", "num.ToBFloat16(" + product + ")", 2, false}
	pastBFloat16 = output{asBFloat16.to, asBFloat16.formula, 2, true}
)

// dequantizer is the loop over blocks that all functions for 4-bit codes share.
type dequantizer struct {
	output
	name                        string
	dst, packed, absmax, values reg.Register
	n, blocksize                reg.Register // elements that are left, elements of a block
	left                        reg.Register // elements that are left of the block
}

func newDequantizer(name string, o output) *dequantizer {
	TEXT(name, NOSPLIT, fmt.Sprintf("func(dst []%s, packed []byte, absmax []float32, values *[16]float32, blocksize int)", o.to))
	conditions := "where code 2k is the high nibble of packed[k], and len(dst) is a multiple of 32"
	if o.past {
		conditions += ", as dst's address is; stores go past the caches"
	}
	Doc(fmt.Sprintf("%s computes", name), "",
		"\tfor i := range dst {",
		"\t\tdst[i] = "+o.formula,
		"\t}", "",
		conditions+".")
	Pragma("noescape")
	return &dequantizer{
		output:    o,
		name:      name,
		dst:       Load(Param("dst").Base(), GP64()),
		n:         Load(Param("dst").Len(), GP64()),
		packed:    Load(Param("packed").Base(), GP64()),
		absmax:    Load(Param("absmax").Base(), GP64()),
		values:    Load(Param("values"), GP64()),
		blocksize: Load(Param("blocksize"), GP64()),
		left:      GP64(),
	}
}

// blocks writes the loop over blocks, each of which begins with table and goes on with steps.
func (d *dequantizer) blocks(table, steps func()) {
	block, end := d.name+"_block", d.name+"_end"
	Label(block)
	TESTQ(d.n, d.n)
	JEQ(LabelRef(end))
	MOVQ(d.blocksize, d.left)
	CMPQ(d.n, d.left)
	CMOVQLT(d.n, d.left)
	SUBQ(d.left, d.n)
	table()
	ADDQ(U8(4), d.absmax)
	steps()
	JMP(LabelRef(block))
	Label(end)
	if d.past {
		SFENCE() // before whoever is told that this is done
	}
	VZEROUPPER()
	RET()
}

// step writes a loop that takes codes, as long as there are so many.
func (d *dequantizer) step(codes int, body func()) {
	loop, end := fmt.Sprintf("%s_%d", d.name, codes), fmt.Sprintf("%s_%d_end", d.name, codes)
	Label(loop)
	CMPQ(d.left, U8(codes))
	JLT(LabelRef(end))
	body()
	ADDQ(U32(codes/2), d.packed)
	ADDQ(U32(codes*d.size), d.dst)
	SUBQ(U8(codes), d.left)
	JMP(LabelRef(loop))
	Label(end)
}

// dequantize4 has the scaled values of a block in two registers, of which bit 3 of the code chooses.
func dequantize4() {
	d := newDequantizer("dequantize4AVX2", asFloat32)
	var values, scaled [2]reg.VecVirtual
	for half := range values {
		values[half], scaled[half] = YMM(), YMM()
		VMOVUPS(Mem{Base: d.values, Disp: 32 * half}, values[half])
	}
	shifts := YMM()
	VMOVDQU(data("dequantize4_shifts", U32(4), U32(0), U32(12), U32(8), U32(20), U32(16), U32(28), U32(24)), shifts)
	d.blocks(func() {
		m := YMM()
		VBROADCASTSS(Mem{Base: d.absmax}, m)
		for half := range values {
			VMULPS(values[half], m, scaled[half])
		}
	}, func() {
		d.step(32, func() {
			for eight := range 4 {
				code, bit3, low, high := YMM(), YMM(), YMM(), YMM()
				VPBROADCASTD(Mem{Base: d.packed, Disp: 4 * eight}, code)
				VPSRLVD(shifts, code, code) // in the lowest bits
				VPSLLD(U8(28), code, bit3)
				VPERMPS(scaled[0], code, low)
				VPERMPS(scaled[1], code, high)
				VBLENDVPS(bit3, high, low, low)
				VMOVUPS(low, Mem{Base: d.dst, Disp: 32 * eight})
			}
		})
	})
}

// dequantize4Bytes looks bytes up: the scaled and rounded values of a block are two tables, of their lower bytes and of their upper
// bytes.
func dequantize4Bytes(name string, o output) {
	d := newDequantizer(name, o)
	f := ymm.bfloat16()
	var values [2]reg.VecVirtual
	for i := range values { // codes 0…3 and 8…11, 4…7 and 12…15
		values[i] = YMM()
		VMOVUPS(Mem{Base: d.values, Disp: 16 * i}, values[i].AsX())
		VINSERTF128(U8(1), Mem{Base: d.values, Disp: 16*i + 32}, values[i], values[i])
	}
	gather, nibble := YMM(), ymm.everywhere(0x0f0f0f0f)
	VBROADCASTI128(data(name+"_gather", U64(0x0f0b0703_0e0a0602), U64(0)), gather)
	order, lower, upper := YMM(), YMM(), YMM()
	VBROADCASTI128(data(name+"_order", orders[o.size]...), order)
	d.blocks(func() {
		m := YMM()
		VBROADCASTSS(Mem{Base: d.absmax}, m)
		var bytes [2]reg.VecVirtual
		for i := range values {
			x := YMM()
			VMULPS(values[i], m, x)
			bytes[i] = f.round(x)
			VPSHUFB(gather, bytes[i], bytes[i]) // four lower bytes, four upper ones
		}
		both := YMM()
		VPUNPCKLDQ(bytes[1], bytes[0], both) // eight lower ones, eight upper ones, the same of the codes from 8 on
		VPERMQ(U8(0b10_00_10_00), both, lower)
		VPERMQ(U8(0b11_01_11_01), both, upper)
	}, func() {
		d.step(64, func() {
			p := YMM()
			VMOVDQU(Mem{Base: d.packed}, p)
			VPSHUFB(order, p, p)
			VPERMQ(U8(0b11_01_10_00), p, p)
			expand(YMM, p, lower, upper, nibble, o, Mem{Base: d.dst})
		})
		d.step(32, func() {
			p := XMM()
			VMOVDQU(Mem{Base: d.packed}, p)
			expand(XMM, p, lower.AsX(), upper.AsX(), nibble.AsX(), o, Mem{Base: d.dst})
		})
	})
}

// dequantize4Wide has the values of a block in one register, those of 16 bits twice, for indices of 32 have a bit that is not the code's.
func dequantize4Wide(name string, o output) {
	d := newDequantizer(name, o)
	values, table := ZMM(), ZMM()
	VMOVUPS(Mem{Base: d.values}, values)
	var f bfloat16
	if o != asFloat32 {
		f = zmm.bfloat16()
	}
	upper := zmm.everywhere(0xffff << 16)
	d.blocks(func() {
		VBROADCASTSS(Mem{Base: d.absmax}, table)
		VMULPS(table, values, table)
		switch o {
		case asRounded:
			VPANDD(upper, f.round(table), table)
		case asBFloat16:
			x, half := f.round(table), YMM()
			VPSRLD(U8(16), x, x)
			VPMOVDW(x, half)
			VINSERTI64X4(U8(1), half, half.AsZ(), table)
		}
	}, func() {
		d.step(32, func() {
			// Each byte of packed in a lane of two elements, and so shifted that the lowest bits of each element are its code.
			code, shifted := ZMM(), ZMM()
			if o.size == 2 {
				VPMOVZXBD(Mem{Base: d.packed}, code)
				VPSLLD(U8(20), code, shifted)
				VPORD(code, shifted, code)
				VPSRLW(U8(4), code, code)
				VPERMW(table, code, code)
				VMOVDQU32(code, Mem{Base: d.dst})
				return
			}
			for half := range 2 {
				VPMOVZXBQ(Mem{Base: d.packed, Disp: 8 * half}, code)
				VPSLLQ(U8(36), code, shifted)
				VPORD(code, shifted, code)
				VPSRLD(U8(4), code, code)
				VPERMPS(table, code, code)
				VMOVUPS(code, Mem{Base: d.dst, Disp: 64 * half})
			}
		})
	})
}

// orders are those of the bytes in each half of a register. By them, and by a change of places between quarters 1 and 2 after that, the
// bytes of which a store takes the codes (8, or 4 where elements are of 4 bytes) come to lie one half of them in each half of the register,
// at the same place: so unpacking, which works in halves, leaves the elements in order.
var orders = map[int][]Constant{
	2: {U64(0x0b0a0908_03020100), U64(0x0f0e0d0c_07060504)},
	4: {U64(0x0d0c0908_05040100), U64(0x0f0e0b0a_07060302)},
}

// expand writes the elements of the codes in p.
func expand(register func() reg.VecVirtual, p, lower, upper, nibble reg.Register, o output, dst Mem) {
	news := func() (r [4]reg.VecVirtual) {
		for i := range r {
			r[i] = register()
		}
		return r
	}
	even, odd := register(), register()
	VPSRLD(U8(4), p, even)
	VPAND(nibble, even, even)
	VPAND(nibble, p, odd)
	bytes := news()
	VPSHUFB(even, lower, bytes[0])
	VPSHUFB(even, upper, bytes[1])
	VPSHUFB(odd, lower, bytes[2])
	VPSHUFB(odd, upper, bytes[3])
	words := news()
	VPUNPCKLBW(bytes[1], bytes[0], words[0])
	VPUNPCKLBW(bytes[3], bytes[2], words[1])
	VPUNPCKHBW(bytes[1], bytes[0], words[2])
	VPUNPCKHBW(bytes[3], bytes[2], words[3])
	pairs := news()
	for i := 0; i < 4; i += 2 {
		VPUNPCKLWD(words[i+1], words[i], pairs[i])
		VPUNPCKHWD(words[i+1], words[i], pairs[i+1])
	}
	store := func(r reg.VecVirtual) {
		if o.past {
			VMOVNTDQ(r, dst)
		} else {
			VMOVDQU(r, dst)
		}
		dst = dst.Offset(int(r.Size()))
	}
	zero := register()
	if o.size == 4 {
		VPXOR(zero, zero, zero)
	}
	for _, p := range pairs {
		if o.size == 2 {
			store(p)
			continue
		}
		low, high := register(), register()
		VPUNPCKLWD(p, zero, low)
		VPUNPCKHWD(p, zero, high)
		store(low)
		store(high)
	}
}

// data is a constant in memory.
func data(name string, values ...Constant) Mem {
	m := GLOBL(name, attr.RODATA|attr.NOPTR)
	offset := 0
	for _, v := range values {
		DATA(offset, v)
		offset += v.Bytes()
	}
	return m
}

// param is where a parameter that is a number lies.
func param(name string) Mem {
	p, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return p.Addr
}

func dequantize8() {
	name := "dequantize8AVX2"
	TEXT(name, NOSPLIT, "func(dst []float32, codes []byte, absmax []float32, values *[256]float32, offset float32)")
	Doc(fmt.Sprintf("%s computes", name), "",
		"\tfor i := range dst {",
		"\t\tdst[i] = values[codes[i]]*absmax[i/256] + offset",
		"\t}", "",
		"where product and sum are rounded, and len(dst) is a multiple of 8.")
	Pragma("noescape")
	dst := Load(Param("dst").Base(), GP64())
	n := Load(Param("dst").Len(), GP64())
	codes := Load(Param("codes").Base(), GP64())
	absmax := Load(Param("absmax").Base(), GP64())
	values := Load(Param("values"), GP64())
	offset, m := YMM(), YMM()
	VBROADCASTSS(param("offset"), offset)
	i := GP64()
	XORQ(i, i)
	Label("dequantize8_loop")
	CMPQ(i, n)
	JAE(LabelRef("dequantize8_end"))
	TESTQ(U32(255), i)
	JNE(LabelRef("dequantize8_eight"))
	VBROADCASTSS(Mem{Base: absmax}, m)
	ADDQ(U8(4), absmax)
	Label("dequantize8_eight")
	x, upper, eight := YMM(), XMM(), GP64()
	MOVQ(Mem{Base: codes, Index: i, Scale: 1}, eight)
	for _, half := range []reg.Register{x.AsX(), upper} { // each code loaded for itself: VGATHERDPS is slower
		for lane := range 4 {
			code := GP64()
			MOVBQZX(eight.As8L(), code)
			SHRQ(U8(8), eight)
			value := Mem{Base: values, Index: code, Scale: 4}
			if lane == 0 {
				VMOVSS(value, half)
			} else {
				VINSERTPS(U8(lane<<4), value, half, half)
			}
		}
	}
	VINSERTF128(U8(1), upper, x, x)
	VMULPS(m, x, x)
	VADDPS(offset, x, x)
	VMOVUPS(x, Mem{Base: dst, Index: i, Scale: 4})
	ADDQ(U8(8), i)
	JMP(LabelRef("dequantize8_loop"))
	Label("dequantize8_end")
	VZEROUPPER()
	RET()
}
