package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func init() {
	groups["products"] = func() {
		for _, v := range []vectors{ymm, zmm} {
			tile(v, true)
			tile(v, false)
			row(v, true)
			row(v, false)
		}
	}
}

// vectors are the registers of an instruction set.
type vectors struct {
	name  string
	lanes int
	rows  int // of a tile; its columns are two registers
	row   int // registers of a row
	new   func() reg.VecVirtual
}

var (
	ymm = vectors{"AVX2", 8, 6, 8, YMM}
	zmm = vectors{"AVX512", 16, 12, 8, ZMM}
)

func (v vectors) bytes() int { return 4 * v.lanes }

// news are n registers of zeros or to be filled.
func (v vectors) news(n int) []reg.VecVirtual {
	r := make([]reg.VecVirtual, n)
	for i := range r {
		r[i] = v.new()
	}
	return r
}

// accumulate adds x·w to acc: in one rounding, or in two by way of scratch.
func accumulate(fused bool, acc, x, w reg.VecVirtual, scratch func() reg.VecVirtual) {
	if fused {
		VFMADD231PS(x, w, acc)
		return
	}
	product := scratch()
	VMULPS(x, w, product)
	VADDPS(product, acc, acc)
}

func suffix(fused bool) string {
	if fused {
		return "Fused"
	}
	return ""
}

func tile(v vectors, fused bool) {
	name := "tile" + suffix(fused) + v.name
	columns := 2 * v.lanes
	TEXT(name, NOSPLIT, "func(c []float32, stride int, a, b []float32)")
	Doc(fmt.Sprintf("%s computes, p ascending,", name),
		"",
		"\tfor i := range len(a)/k {",
		"\t\tfor p := range k {",
		"\t\t\tfor j := range NR {",
		"\t\t\t\tc[i*stride+j] += a[(i/MR*k+p)*MR+i%MR] * b[p*NR+j]",
		"\t\t\t}",
		"\t\t}",
		"\t}",
		"",
		fmt.Sprintf("with MR = %d, NR = %d, k = len(b)/NR > 0; %s.", v.rows, columns, roundings(fused)))
	Pragma("noescape")
	c := Load(Param("c").Base(), GP64())
	stride := Load(Param("stride"), GP64())
	a := Load(Param("a").Base(), GP64())
	last := Load(Param("a").Len(), GP64())
	begin := Load(Param("b").Base(), GP64())
	n := Load(Param("b").Len(), GP64())
	SHLQ(U8(2), stride)
	LEAQ(Mem{Base: begin, Index: n, Scale: 4}, n)   // where b ends
	LEAQ(Mem{Base: a, Index: last, Scale: 4}, last) // where a ends
	panel, done := name+"_panel", name+"_done"
	Label(panel)
	CMPQ(a, last)
	JAE(LabelRef(done))
	b := GP64()
	MOVQ(begin, b)

	Comment("The block of c is in registers while p runs.")
	acc := v.news(2 * v.rows)
	line := GP64()
	MOVQ(c, line)
	for i := range v.rows {
		VMOVUPS(Mem{Base: line}, acc[2*i])
		VMOVUPS(Mem{Base: line, Disp: v.bytes()}, acc[2*i+1])
		ADDQ(stride, line)
	}
	w0, w1, x := v.new(), v.new(), v.new()
	loop, end := name+"_loop", name+"_end"
	Label(loop)
	CMPQ(b, n)
	JAE(LabelRef(end))
	VMOVUPS(Mem{Base: b}, w0)
	VMOVUPS(Mem{Base: b, Disp: v.bytes()}, w1)
	for i := range v.rows {
		VBROADCASTSS(Mem{Base: a, Disp: 4 * i}, x)
		accumulate(fused, acc[2*i], x, w0, v.new)
		accumulate(fused, acc[2*i+1], x, w1, v.new)
	}
	ADDQ(U32(4*v.rows), a)
	ADDQ(U32(4*columns), b)
	JMP(LabelRef(loop))
	Label(end)
	for i := range v.rows {
		VMOVUPS(acc[2*i], Mem{Base: c})
		VMOVUPS(acc[2*i+1], Mem{Base: c, Disp: v.bytes()})
		ADDQ(stride, c)
	}
	JMP(LabelRef(panel))
	Label(done)
	VZEROUPPER()
	RET()
}

func row(v vectors, fused bool) {
	name := "row" + suffix(fused) + v.name
	width := v.row * v.lanes
	TEXT(name, NOSPLIT, "func(c, a, b []float32)")
	Doc(fmt.Sprintf("%s computes, p ascending,", name),
		"",
		"\tfor p := range a {",
		"\t\tfor j := range RowWidth {",
		"\t\t\tc[j] += a[p] * b[p*RowWidth+j]",
		"\t\t}",
		"\t}",
		"",
		fmt.Sprintf("with RowWidth = %d; %s.", width, roundings(fused)))
	Pragma("noescape")
	c := Load(Param("c").Base(), GP64())
	a := Load(Param("a").Base(), GP64())
	n := Load(Param("a").Len(), GP64())
	b := Load(Param("b").Base(), GP64())
	SHLQ(U8(2), n)
	ADDQ(a, n)
	acc := v.news(v.row)
	for i, r := range acc {
		VMOVUPS(Mem{Base: c, Disp: i * v.bytes()}, r)
	}
	x := v.new()
	loop, end := name+"_loop", name+"_end"
	Label(loop)
	CMPQ(a, n)
	JAE(LabelRef(end))
	VBROADCASTSS(Mem{Base: a}, x)
	for i, r := range acc {
		m := Mem{Base: b, Disp: i * v.bytes()}
		if fused {
			VFMADD231PS(m, x, r)
			continue
		}
		product := v.new()
		VMULPS(m, x, product)
		VADDPS(product, r, r)
	}
	ADDQ(U8(4), a)
	ADDQ(U32(4*width), b)
	JMP(LabelRef(loop))
	Label(end)
	for i, r := range acc {
		VMOVUPS(r, Mem{Base: c, Disp: i * v.bytes()})
	}
	VZEROUPPER()
	RET()
}

func roundings(fused bool) string {
	if fused {
		return "one rounding for each product and its sum"
	}
	return "each product is rounded, then each sum"
}
