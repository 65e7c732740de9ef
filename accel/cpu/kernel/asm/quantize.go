package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func init() {
	groups["quantize"] = func() {
		absmax()
		codes4()
	}
}

func absmax() {
	TEXT("absmaxAVX2", NOSPLIT, "func(x []float32) (m float32)")
	Doc("absmaxAVX2 computes, of x that are not NaN,", "",
		"\tfor _, v := range x {",
		"\t\tm = max(m, float32(math.Abs(float64(v))))",
		"\t}", "",
		"in blocks of 32, of which len(x) is a multiple.")
	Pragma("noescape")
	x := Load(Param("x").Base(), GP64())
	n := Load(Param("x").Len(), GP64())
	end, magnitude := GP64(), ymm.everywhere(1<<31-1)
	LEAQ(Mem{Base: x, Index: n, Scale: 4}, end)
	m := ymm.news(4)
	for _, r := range m {
		VXORPS(r, r, r)
	}
	Label("absmax_loop")
	CMPQ(x, end)
	JAE(LabelRef("absmax_end"))
	for i, r := range m {
		v := YMM()
		VANDPS(Mem{Base: x, Disp: 32 * i}, magnitude, v)
		VMAXPS(v, r, r)
	}
	ADDQ(U32(128), x)
	JMP(LabelRef("absmax_loop"))
	Label("absmax_end")
	VMAXPS(m[1], m[0], m[0])
	VMAXPS(m[3], m[2], m[2])
	VMAXPS(m[2], m[0], m[0])
	VMOVSS(fold(m[0], VMAXPS), result(0))
	VZEROUPPER()
	RET()
}

// result is where a result lies.
func result(i int) Mem {
	r, err := ReturnIndex(i).Resolve()
	if err != nil {
		panic(err)
	}
	return r.Addr
}

// thresholds are what x is compared with, one after the other: the middle one of 15, the middle one of the 7 below or above it, and
// so on, from what the comparisons so far have left.
type thresholds struct {
	middle, below, above reg.VecVirtual // 7; 3 and 11
	four                 reg.VecVirtual // 1, 5, 9, 13, in both halves
	eight                reg.VecVirtual // 0, 2, …, 14
}

func loadThresholds(at reg.Register) (t thresholds) {
	m := func(i int) Mem { return Mem{Base: at, Disp: 4 * i} }
	t = thresholds{YMM(), YMM(), YMM(), YMM(), YMM()}
	VBROADCASTSS(m(7), t.middle)
	VBROADCASTSS(m(3), t.below)
	VBROADCASTSS(m(11), t.above)
	VMOVUPS(m(0), t.eight)
	upper, four := YMM(), t.four.AsX()
	VMOVUPS(m(7), upper)
	VSHUFPS(U8(0b11_01_10_00), upper, t.eight, t.eight) // 0, 2, 8, 10, 4, 6, 12, 14
	VPERMPD(U8(0b11_01_10_00), t.eight, t.eight)
	VMOVSS(m(1), four)
	for i := 1; i < 4; i++ {
		VINSERTPS(U8(i<<4), m(1+4*i), four, four)
	}
	VINSERTF128(U8(1), four, t.four, t.four)
	return t
}

// count gives the number of thresholds below x in each lane, NaN exceeding none.
func (t thresholds) count(x, two reg.VecVirtual) reg.VecVirtual {
	exceeds := func(threshold reg.VecVirtual) reg.VecVirtual {
		m := YMM()
		VCMPPS(U8(greater), threshold, x, m)
		return m // −1 if so
	}
	n, pick := YMM(), YMM()
	upper := exceeds(t.middle)
	VPAND(two, upper, n)
	VBLENDVPS(upper, t.above, t.below, pick)
	VPSUBD(exceeds(pick), n, n)
	VPERMILPS(n, t.four, pick)
	VPADDD(n, n, n)
	VPSUBD(exceeds(pick), n, n)
	VPERMPS(t.eight, n, pick)
	VPADDD(n, n, n)
	VPSUBD(exceeds(pick), n, n)
	return n
}

func codes4() {
	TEXT("codes4AVX2", NOSPLIT, "func(packed []byte, x []float32, r float32, thresholds *[15]float32, ascending *[16]uint8)")
	Doc("codes4AVX2 computes, of the thresholds t in ascending order,", "",
		"\tfor i := range packed {",
		"\t\thigh, low := x[2*i]*r, x[2*i+1]*r",
		"\t\tpacked[i] = ascending[how many t < high]<<4 | ascending[how many t < low]",
		"\t}", "",
		"in blocks of 16 bytes, of which len(packed) is a multiple.")
	Pragma("noescape")
	packed := Load(Param("packed").Base(), GP64())
	n := Load(Param("packed").Len(), GP64())
	x := Load(Param("x").Base(), GP64())
	t := loadThresholds(Load(Param("thresholds"), GP64()))
	r, ascending := YMM(), YMM()
	VBROADCASTSS(param("r"), r)
	VBROADCASTI128(Mem{Base: Load(Param("ascending"), GP64())}, ascending)
	two := ymm.everywhere(2)
	sixteenOne := ymm.everywhere(0x01100110)
	order := YMM()
	VMOVDQU(data("codes4_order", U64(4<<32), U64(5<<32|1), U64(6<<32|2), U64(7<<32|3)), order)
	i := GP64()
	XORQ(i, i)
	Label("codes4_loop")
	CMPQ(i, n)
	JAE(LabelRef("codes4_end"))
	var counts [4]reg.VecVirtual
	for j := range counts {
		v := YMM()
		VMULPS(Mem{Base: x, Index: i, Scale: 8, Disp: 32 * j}, r, v)
		counts[j] = t.count(v, two)
	}
	VPACKSSDW(counts[1], counts[0], counts[0])
	VPACKSSDW(counts[3], counts[2], counts[2])
	codes := YMM()
	VPACKSSWB(counts[2], counts[0], codes) // elements 0…3, 8…11, …, 4…7, 12…15, …
	VPERMD(codes, order, codes)
	VPSHUFB(codes, ascending, codes)
	VPMADDUBSW(sixteenOne, codes, codes) // 16·high + low
	VPACKUSWB(codes, codes, codes)
	VPERMQ(U8(0b11_01_10_00), codes, codes)
	VMOVDQU(codes.AsX(), Mem{Base: packed, Index: i, Scale: 1})
	ADDQ(U8(16), i)
	JMP(LabelRef("codes4_loop"))
	Label("codes4_end")
	VZEROUPPER()
	RET()
}
