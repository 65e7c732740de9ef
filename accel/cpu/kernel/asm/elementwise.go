package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func init() {
	groups["elementwise"] = func() {
		vectors := "func(y, a, b []float32)"
		scalar := "func(y, a []float32, s float32)"
		elements("addAVX2", vectors, "= a[i] + b[i]", func(e operands, x reg.VecVirtual) {
			VMOVUPS(e.a, x)
			VADDPS(e.b, x, x)
		})
		elements("mulAVX2", vectors, "= a[i] * b[i]", func(e operands, x reg.VecVirtual) {
			VMOVUPS(e.a, x)
			VMULPS(e.b, x, x)
		})
		elements("scaleAVX2", scalar, "= a[i] * s", func(e operands, x reg.VecVirtual) { VMULPS(e.a, e.s, x) })
		elements("shiftAVX2", scalar, "= a[i] + s", func(e operands, x reg.VecVirtual) { VADDPS(e.a, e.s, x) })
		elements("divideAVX2", scalar, "= a[i] / s", func(e operands, x reg.VecVirtual) {
			VMOVUPS(e.a, x)
			VDIVPS(e.s, x, x)
		})
		sum()
		largest()
		adamW()
	}
}

// operands are what a register's elements come from: memory, and a number that is the same for all.
type operands struct {
	y, a, b Mem
	s       reg.VecVirtual
}

// elements is a loop over y. body gives its elements in x.
func elements(name, signature, formula string, body func(e operands, x reg.VecVirtual)) {
	TEXT(name, NOSPLIT, signature)
	Doc(fmt.Sprintf("%s computes", name), "",
		"\tfor i := range y {",
		"\t\ty[i] "+formula,
		"\t}", "",
		"in blocks of 8, of which len(y) is a multiple.")
	Pragma("noescape")
	var base, a, b reg.Register
	base = Load(Param("y").Base(), GP64())
	n := Load(Param("y").Len(), GP64())
	a = Load(Param("a").Base(), GP64())
	e := operands{}
	if signature == "func(y, a, b []float32)" {
		b = Load(Param("b").Base(), GP64())
	} else {
		e.s = YMM()
		VBROADCASTSS(param("s"), e.s)
	}
	loops(name, n, []int{4, 1}, func(at func(reg.Register) Mem) {
		e.y, e.a, e.b = at(base), at(a), at(b)
		x := YMM()
		body(e, x)
		VMOVUPS(x, e.y)
	})
	VZEROUPPER()
	RET()
}

// loops goes through n elements in blocks of so many registers, and through what is left in blocks of fewer. It calls body for each
// register, with where its elements are in memory that begins at a base.
func loops(name string, n reg.Register, registers []int, body func(at func(base reg.Register) Mem)) {
	i, end := GP64(), GP64()
	XORQ(i, i)
	for _, r := range registers {
		loop, done := fmt.Sprintf("%s_by%d", name, r), fmt.Sprintf("%s_by%d_done", name, r)
		LEAQ(Mem{Base: i, Disp: 8 * r}, end)
		Label(loop)
		CMPQ(end, n)
		JA(LabelRef(done))
		for j := range r {
			body(func(base reg.Register) Mem { return Mem{Base: base, Index: i, Scale: 4, Disp: 32 * j} })
		}
		MOVQ(end, i)
		ADDQ(U8(8*r), end)
		JMP(LabelRef(loop))
		Label(done)
	}
}

// sum has lanes 8j to 8j+7 in register j. What is beyond the tail is loaded as +0, which changes no lane: none is −0.
func sum() {
	TEXT("sumAVX2", NOSPLIT, "func(x []float32) float32")
	Doc("sumAVX2 computes", "",
		"\tvar lane [32]float32",
		"\tfor i, v := range x {",
		"\t\tlane[i%32] += v",
		"\t}",
		"\tfor half := 16; half > 0; half /= 2 {",
		"\t\tfor l := range half {",
		"\t\t\tlane[l] += lane[l+half]",
		"\t\t}",
		"\t}",
		"\treturn lane[0]")
	Pragma("noescape")
	x := Load(Param("x").Base(), GP64())
	n := Load(Param("x").Len(), GP64())
	lane := ymm.news(4)
	for _, r := range lane {
		VXORPS(r, r, r)
	}
	Label("sum_loop")
	SUBQ(U8(32), n)
	JB(LabelRef("sum_tail"))
	for j, r := range lane {
		VADDPS(Mem{Base: x, Disp: 32 * j}, r, r)
	}
	ADDQ(U32(128), x)
	JMP(LabelRef("sum_loop"))
	Label("sum_tail")
	ADDQ(U8(32), n)
	JEQ(LabelRef("sum_fold"))
	left := YMM()
	VMOVD(n.(reg.GPVirtual).As32(), left.AsX())
	VPBROADCASTD(left.AsX(), left)
	index := data("sum_index", U64(1<<32), U64(3<<32|2), U64(5<<32|4), U64(7<<32|6))
	eight := ymm.everywhere(8)
	for j, r := range lane {
		mask, v := YMM(), YMM()
		VPCMPGTD(index, left, mask)
		VMASKMOVPS(Mem{Base: x, Disp: 32 * j}, mask, v)
		VADDPS(v, r, r)
		VPSUBD(eight, left, left)
	}
	Label("sum_fold")
	VADDPS(lane[2], lane[0], lane[0])
	VADDPS(lane[3], lane[1], lane[1])
	VADDPS(lane[1], lane[0], lane[0])
	VMOVSS(fold(lane[0], VADDPS), result(0))
	VZEROUPPER()
	RET()
}

// largest takes the maximum as VMAXPS has it, and beside it what that gets wrong: whether any element is NaN, of which two at once are
// looked at, and whether all have a sign, without which a zero is +0.
func largest() {
	TEXT("largestAVX2", NOSPLIT, "func(x []float32) float32")
	Doc("largestAVX2 computes", "",
		"\tm := x[0]",
		"\tfor _, v := range x {",
		"\t\tm = max(m, v)",
		"\t}",
		"\treturn m", "",
		"in blocks of 32, of which len(x) is a multiple.")
	Pragma("noescape")
	x := Load(Param("x").Base(), GP64())
	n := Load(Param("x").Len(), GP64())
	end := GP64()
	LEAQ(Mem{Base: x, Index: n, Scale: 4}, end)
	m, signs, nan := ymm.news(4), ymm.news(2), ymm.news(2)
	for j, r := range m {
		VMOVUPS(Mem{Base: x, Disp: 32 * j}, r)
	}
	for j := range nan {
		VPCMPEQD(signs[j], signs[j], signs[j])
		VXORPS(nan[j], nan[j], nan[j])
	}
	Label("largest_loop")
	for j := 0; j < 4; j += 2 {
		v, w := YMM(), YMM()
		VMOVUPS(Mem{Base: x, Disp: 32 * j}, v)
		VMOVUPS(Mem{Base: x, Disp: 32*j + 32}, w)
		VMAXPS(v, m[j], m[j])
		VMAXPS(w, m[j+1], m[j+1])
		VANDPS(v, signs[j/2], signs[j/2])
		VANDPS(w, signs[j/2], signs[j/2])
		VCMPPS(U8(unordered), v, w, v)
		VORPS(v, nan[j/2], nan[j/2])
	}
	ADDQ(U32(128), x)
	CMPQ(x, end)
	JB(LabelRef("largest_loop"))

	VMAXPS(m[1], m[0], m[0])
	VMAXPS(m[3], m[2], m[2])
	VMAXPS(m[2], m[0], m[0])
	VANDPS(signs[1], signs[0], signs[0])
	VORPS(nan[1], nan[0], nan[0])
	greatest, all, any := fold(m[0], VMAXPS), fold(signs[0], VANDPS), fold(nan[0], VORPS)
	zero, with := XMM(), XMM()
	VXORPS(zero, zero, zero)
	VANDPS(all, greatest, with)
	VCMPSS(U8(equal), zero, greatest, zero)
	VBLENDVPS(zero, with, greatest, with)
	VORPS(any, with, with) // of all bits: NaN
	VMOVSS(with, result(0))
	VZEROUPPER()
	RET()
}

// equal is a predicate of VCMPPS that raises no exception.
const equal = 0x00

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
	scalars
)

func adamW() {
	TEXT("adamWAVX2", NOSPLIT, "func(p, m, v, g, s []float32, clip float32)")
	Doc("adamWAVX2 computes, every product rounded,", "",
		"\tfor i := range p {",
		"\t\tgi := g[i] * clip",
		"\t\tm[i] = m[i]*s[beta1] + gi*s[oneMinusBeta1]",
		"\t\tv[i] = v[i]*s[beta2] + gi*s[oneMinusBeta2]*gi",
		"\t\tp[i] = p[i]*s[decay] + m[i]*s[stepSize]/(sqrt(v[i])/s[rootBias2]+s[eps])",
		"\t}", "",
		"in blocks of 8, of which len(p) is a multiple.")
	Pragma("noescape")
	p := Load(Param("p").Base(), GP64())
	n := Load(Param("p").Len(), GP64())
	m := Load(Param("m").Base(), GP64())
	v := Load(Param("v").Base(), GP64())
	g := Load(Param("g").Base(), GP64())
	from := Load(Param("s").Base(), GP64())
	s := ymm.news(scalars)
	for i, r := range s {
		VBROADCASTSS(Mem{Base: from, Disp: 4 * i}, r)
	}
	clip := YMM()
	VBROADCASTSS(param("clip"), clip)
	loops("adamW", n, []int{1}, func(at func(reg.Register) Mem) {
		gi, mi, vi, pi, x := YMM(), YMM(), YMM(), YMM(), YMM()
		VMULPS(at(g), clip, gi)
		VMULPS(at(m), s[beta1], mi)
		VMULPS(s[oneMinusBeta1], gi, x)
		VADDPS(x, mi, mi)
		VMOVUPS(mi, at(m))
		VMULPS(at(v), s[beta2], vi)
		VMULPS(s[oneMinusBeta2], gi, x)
		VMULPS(gi, x, x)
		VADDPS(x, vi, vi)
		VMOVUPS(vi, at(v))
		VSQRTPS(vi, vi)
		VDIVPS(s[rootBias2], vi, vi)
		VADDPS(s[eps], vi, vi)
		VMULPS(s[stepSize], mi, mi)
		VDIVPS(vi, mi, mi)
		VMULPS(at(p), s[decay], pi)
		VADDPS(mi, pi, pi)
		VMOVUPS(pi, at(p))
	})
	VZEROUPPER()
	RET()
}
