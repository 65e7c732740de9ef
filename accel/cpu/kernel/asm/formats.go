package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func init() {
	groups["formats"] = func() {
		convert("widenBFloat16AVX2", 4, 2, "num.FromBFloat16(src[i])", widenBFloat16)
		convert("narrowBFloat16AVX2", 2, 4, "num.ToBFloat16(src[i])", narrowBFloat16)
		convert("roundBFloat16AVX2", 4, 4, "num.BFloat16.Round(src[i])", roundBFloat16)
		convert("widenFloat16AVX2", 4, 2, "num.FromFloat16(src[i])", widenFloat16)
		convert("narrowFloat16AVX2", 2, 4, "num.ToFloat16(src[i])", narrowFloat16)
		convert("roundFloat16AVX2", 4, 4, "num.Float16.Round(src[i])", roundFloat16)
		magnitudes()
		transpose(8)
		transpose(4)
	}
}

// Predicates of VCMPPS that raise no exception.
const (
	unordered = 0x03
	greater   = 0x1e
)

// everywhere is a register with the same 32 bits in each lane.
func (v vectors) everywhere(bits uint32) reg.VecVirtual {
	scalar, r := GP32(), v.new()
	MOVL(U32(bits), scalar)
	VMOVD(scalar, r.AsX())
	VPBROADCASTD(r.AsX(), r)
	return r
}

// bfloat16 rounds to bfloat16 in integers, as num.ToBFloat16 does.
type bfloat16 struct {
	vectors
	bias, quiet reg.VecVirtual
}

func (v vectors) bfloat16() bfloat16 {
	return bfloat16{v, v.everywhere(0x7fff), v.everywhere(1 << 22)}
}

// round gives x rounded in the upper halves of the lanes. The lower halves mean nothing.
func (f bfloat16) round(x reg.VecVirtual) reg.VecVirtual {
	odd, sum := f.new(), f.new()
	VPSLLD(U8(15), x, odd)
	VPSRLD(U8(31), odd, odd) // the last bit that stays
	VPADDD(x, f.bias, sum)
	VPADDD(odd, sum, sum)
	if f.lanes == zmm.lanes {
		nan := K()
		VCMPPS(U8(unordered), x, x, nan)
		VPORD(f.quiet, x, nan, sum)
		return sum
	}
	nan, quieted := f.new(), f.new()
	VCMPPS(U8(unordered), x, x, nan)
	VPOR(f.quiet, x, quieted)
	VBLENDVPS(nan, quieted, sum, sum)
	return sum
}

// convert is a loop over blocks of 16 elements. body prepares constants, and gives the function that writes the loop's body, for
// the block's halves.
func convert(name string, to, from int, formula string, body func() func(dst, src [2]Mem)) {
	types := map[int]string{2: "[]uint16", 4: "[]float32"}
	TEXT(name, NOSPLIT, fmt.Sprintf("func(dst %s, src %s)", types[to], types[from]))
	Doc(fmt.Sprintf("%s computes", name), "",
		"\tfor i := range dst {",
		"\t\tdst[i] = "+formula,
		"\t}", "",
		"in blocks of 16, of which len(dst) is a multiple.")
	Pragma("noescape")
	dst := Load(Param("dst").Base(), GP64())
	n := Load(Param("dst").Len(), GP64())
	src := Load(Param("src").Base(), GP64())
	i := GP64()
	XORQ(i, i)
	halves := func(base reg.Register, size int) [2]Mem {
		m := Mem{Base: base, Index: i, Scale: uint8(size)}
		return [2]Mem{m, m.Offset(8 * size)}
	}
	write := body()
	loop, end := name+"_loop", name+"_end"
	Label(loop)
	CMPQ(i, n)
	JAE(LabelRef(end))
	write(halves(dst, to), halves(src, from))
	ADDQ(U8(16), i)
	JMP(LabelRef(loop))
	Label(end)
	VZEROUPPER()
	RET()
}

func widenBFloat16() func(dst, src [2]Mem) {
	return func(dst, src [2]Mem) {
		for half := range dst {
			x := YMM()
			VPMOVZXWD(src[half], x)
			VPSLLD(U8(16), x, x)
			VMOVDQU(x, dst[half])
		}
	}
}

func narrowBFloat16() func(dst, src [2]Mem) {
	f := ymm.bfloat16()
	return func(dst, src [2]Mem) {
		var rounded [2]reg.VecVirtual
		for half := range dst {
			x := YMM()
			VMOVUPS(src[half], x)
			rounded[half] = f.round(x)
			VPSRLD(U8(16), rounded[half], rounded[half])
		}
		packed := YMM()
		VPACKUSDW(rounded[1], rounded[0], packed) // of quarters: 0, 2, 1, 3
		VPERMQ(U8(0b11_01_10_00), packed, packed)
		VMOVDQU(packed, dst[0])
	}
}

func roundBFloat16() func(dst, src [2]Mem) {
	f, upper := ymm.bfloat16(), ymm.everywhere(0xffff<<16)
	return func(dst, src [2]Mem) {
		for half := range dst {
			x := YMM()
			VMOVUPS(src[half], x)
			rounded := f.round(x)
			VPAND(upper, rounded, rounded)
			VMOVDQU(rounded, dst[half])
		}
	}
}

// nearest is VCVTPS2PH's rounding to nearest, ties to even, whatever the processor's mode is.
const nearest = 0

func widenFloat16() func(dst, src [2]Mem) {
	return func(dst, src [2]Mem) {
		for half := range dst {
			x := YMM()
			VCVTPH2PS(src[half], x)
			VMOVUPS(x, dst[half])
		}
	}
}

func narrowFloat16() func(dst, src [2]Mem) {
	return func(dst, src [2]Mem) {
		for half := range dst {
			x := YMM()
			VMOVUPS(src[half], x)
			VCVTPS2PH(U8(nearest), x, dst[half])
		}
	}
}

func roundFloat16() func(dst, src [2]Mem) {
	return func(dst, src [2]Mem) {
		for half := range dst {
			x, rounded := YMM(), XMM()
			VMOVUPS(src[half], x)
			VCVTPS2PH(U8(nearest), x, rounded)
			VCVTPH2PS(rounded, x)
			VMOVUPS(x, dst[half])
		}
	}
}

// fold reduces the lanes of r to one by op.
func fold(r reg.VecVirtual, op func(...Op)) reg.Register {
	low, high := r.AsX(), XMM()
	VEXTRACTF128(U8(1), r, high)
	op(high, low, low)
	VPSHUFD(U8(0b11_10_11_10), low, high)
	op(high, low, low)
	VPSHUFD(U8(0b01_01_01_01), low, high)
	op(high, low, low)
	return low
}

func magnitudes() {
	TEXT("magnitudesAVX2", NOSPLIT, "func(x []float32) (least, greatest uint32)")
	Doc("magnitudesAVX2 computes", "",
		"\tfor _, v := range x {",
		"\t\tb := math.Float32bits(v) &^ (1 << 31)",
		"\t\tgreatest = max(greatest, b)",
		"\t\tif b != 0 {",
		"\t\t\tleast = min(least, b)",
		"\t\t}",
		"\t}", "",
		"in blocks of 16, of which len(x) is a multiple, from least = math.MaxUint32, greatest = 0.")
	Pragma("noescape")
	x := Load(Param("x").Base(), GP64())
	n := Load(Param("x").Len(), GP64())
	ones, magnitude := YMM(), YMM()
	VPCMPEQD(ones, ones, ones)
	VPSRLD(U8(1), ones, magnitude)

	Comment("1 is subtracted from what least is the minimum of, so that 0 is above all.")
	var least, greatest [2]reg.VecVirtual
	for half := range least {
		least[half], greatest[half] = YMM(), YMM()
		VMOVDQA(ones, least[half])
		VPXOR(greatest[half], greatest[half], greatest[half])
	}
	end := GP64()
	LEAQ(Mem{Base: x, Index: n, Scale: 4}, end)
	Label("magnitudes_loop")
	CMPQ(x, end)
	JAE(LabelRef("magnitudes_end"))
	for half := range least {
		b := YMM()
		VPAND(Mem{Base: x, Disp: 32 * half}, magnitude, b)
		VPMAXUD(b, greatest[half], greatest[half])
		VPADDD(ones, b, b)
		VPMINUD(b, least[half], least[half])
	}
	ADDQ(U8(64), x)
	JMP(LabelRef("magnitudes_loop"))
	Label("magnitudes_end")
	VPMINUD(least[1], least[0], least[0])
	VPMAXUD(greatest[1], greatest[0], greatest[0])
	first, last, above, none := GP32(), GP32(), GP32(), GP32()
	VMOVD(fold(least[0], VPMINUD), first)
	VMOVD(fold(greatest[0], VPMAXUD), last)
	MOVL(U32(1<<32-1), none)
	MOVL(first, above)
	INCL(above)
	CMOVLEQ(none, above) // there is none: 0 again
	Store(above, ReturnIndex(0))
	Store(last, ReturnIndex(1))
	VZEROUPPER()
	RET()
}

// transpose writes a kernel for 4 or 8 rows, whose lines fill a register.
func transpose(rows int) {
	name, line := fmt.Sprintf("transpose%dAVX2", rows), YMM
	if rows == 4 {
		line = XMM
	}
	TEXT(name, NOSPLIT, "func(dst []float32, width int, src []float32, stride, rows, quads int)")
	Doc(fmt.Sprintf("%s computes, j ascending,", name), "",
		"\tfor j := range 4*quads {",
		fmt.Sprintf("\t\tfor i := range %d {", rows),
		"\t\t\tdst[j*width+i] = src[i*stride+j]",
		"\t\t}",
		"\t}", "",
		fmt.Sprintf("where rows > %d, and those from rows on are row 0 again.", rows-4))
	Pragma("noescape")
	dst := Load(Param("dst").Base(), GP64())
	width := Load(Param("width"), GP64())
	src := Load(Param("src").Base(), GP64())
	offset := offsets(rows)
	quads := Load(Param("quads"), GP64())
	SHLQ(U8(2), width)
	loop, end := name+"_loop", name+"_end"
	Label(loop)
	SUBQ(U8(1), quads)
	JLT(LabelRef(end))
	var quad [4]reg.VecVirtual
	for i := range quad {
		quad[i] = line()
		VMOVUPS(Mem{Base: src, Index: offset[i], Scale: 1}, quad[i].AsX())
		if rows == 8 {
			VINSERTF128(U8(1), Mem{Base: src, Index: offset[i+4], Scale: 1}, quad[i], quad[i])
		}
	}
	for _, v := range square(quad, line) {
		VMOVUPS(v, Mem{Base: dst})
		ADDQ(width, dst)
	}
	ADDQ(U8(16), src)
	JMP(LabelRef(loop))
	Label(end)
	VZEROUPPER()
	RET()
}

// offsets are those of n rows in bytes. Of the last three there are those below the parameter rows; the others have row 0's offset, for
// there may be no memory where they would be.
func offsets(n int) (offset []reg.GPVirtual) {
	stride := Load(Param("stride"), GP64())
	rows := Load(Param("rows"), GP64())
	SHLQ(U8(2), stride)
	zero := GP64()
	XORQ(zero, zero)
	for i := range n {
		offset = append(offset, GP64())
		if i == 0 {
			MOVQ(zero, offset[i])
		} else {
			LEAQ(Mem{Base: stride, Index: offset[i-1], Scale: 1}, offset[i])
		}
	}
	for i := n - 3; i < n; i++ {
		CMPQ(rows, U8(i))
		CMOVQLE(zero, offset[i])
	}
	return offset
}

// square transposes the 4×4 elements of each 128 bits.
func square(r [4]reg.VecVirtual, line func() reg.VecVirtual) [4]reg.VecVirtual {
	low0, high0, low2, high2 := line(), line(), line(), line()
	VUNPCKLPS(r[1], r[0], low0) // columns 0 and 1 of rows 0 and 1
	VUNPCKHPS(r[1], r[0], high0)
	VUNPCKLPS(r[3], r[2], low2)
	VUNPCKHPS(r[3], r[2], high2)
	lines := [4]reg.VecVirtual{line(), line(), line(), line()}
	VUNPCKLPD(low2, low0, lines[0])
	VUNPCKHPD(low2, low0, lines[1])
	VUNPCKLPD(high2, high0, lines[2])
	VUNPCKHPD(high2, high0, lines[3])
	return lines
}
