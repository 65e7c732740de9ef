package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func init() {
	groups["lines"] = func() {
		prefetch()
		for _, width := range []int{6, 12, 16, 32} {
			lines(width, false)
			lines(width, true)
		}
	}
}

func prefetch() {
	TEXT("prefetchAVX2", NOSPLIT, "func(x []uint16)")
	Doc("prefetchAVX2 asks for the cache lines of x, which changes nothing but when they come.")
	Pragma("noescape")
	at := Load(Param("x").Base(), GP64())
	end := Load(Param("x").Len(), GP64())
	LEAQ(Mem{Base: at, Index: end, Scale: 2}, end)
	Label("prefetch_loop")
	CMPQ(at, end)
	JAE(LabelRef("prefetch_end"))
	PREFETCHT0(Mem{Base: at})
	ADDQ(U8(64), at)
	JMP(LabelRef("prefetch_loop"))
	Label("prefetch_end")
	RET()
}

// lines cuts lines into panels of width lanes. For 6 lanes it moves 8 at a time: the two too many are overwritten by the next line of the
// panel, and its last line is moved in parts.
func lines(width int, half bool) {
	name, element, size := fmt.Sprintf("lines%dAVX2", width), "float32", 4
	if half {
		name, element, size = fmt.Sprintf("linesBFloat16x%dAVX2", width), "uint16", 2
	}
	TEXT(name, NOSPLIT, fmt.Sprintf("func(dst []float32, depth int, src []%s, stride, rows, panels int)", element))
	Doc(fmt.Sprintf("%s computes, from one row on,", name),
		"",
		"\tfor i := range panels {",
		"\t\tfor r := range rows {",
		"\t\t\tfor j := range WIDTH {",
		fmt.Sprintf("\t\t\t\tdst[(i*depth+r)*WIDTH+j] = %s", map[bool]string{true: "num.FromBFloat16(src[r*stride+i*WIDTH+j])", false: "src[r*stride+i*WIDTH+j]"}[half]),
		"\t\t\t}",
		"\t\t}",
		"\t}",
		"",
		fmt.Sprintf("with WIDTH = %d.", width))
	Pragma("noescape")
	dst := Load(Param("dst").Base(), GP64())
	depth := Load(Param("depth"), GP64())
	src := Load(Param("src").Base(), GP64())
	stride := Load(Param("stride"), GP64())
	rows := Load(Param("rows"), GP64())
	panels := Load(Param("panels"), GP64())
	IMUL3Q(U32(4*width), depth, depth)
	IMUL3Q(U32(size), stride, stride)

	panel, row, end := name+"_panel", name+"_row", name+"_end"
	to, from, left := GP64(), GP64(), GP64()
	Label(panel)
	SUBQ(U8(1), panels)
	JB(LabelRef(end))
	MOVQ(dst, to)
	MOVQ(src, from)
	MOVQ(rows, left)
	Label(row)
	if width == 6 {
		CMPQ(left, U8(1))
		JEQ(LabelRef(name + "_last"))
	}
	for j := 0; j < width; j += 8 {
		lanes := min(8, width-j)
		if width == 6 {
			lanes = 8
		}
		moveLanes(Mem{Base: from, Disp: size * j}, Mem{Base: to, Disp: 4 * j}, lanes, half)
	}
	ADDQ(stride, from)
	ADDQ(U32(4*width), to)
	SUBQ(U8(1), left)
	JNE(LabelRef(row))
	if width == 6 {
		Label(name + "_last")
		moveLanes(Mem{Base: from}, Mem{Base: to}, 4, half)
		moveLanes(Mem{Base: from, Disp: 4 * size}, Mem{Base: to, Disp: 16}, 2, half)
	}
	ADDQ(U32(size*width), src)
	ADDQ(depth, dst)
	JMP(LabelRef(panel))
	Label(end)
	VZEROUPPER()
	RET()
}

// moveLanes moves 8, 4 or 2 numbers.
func moveLanes(from, to Mem, lanes int, half bool) {
	v := reg.VecVirtual(XMM())
	if lanes == 8 {
		v = YMM()
	}
	switch {
	case half && lanes == 2:
		VMOVD(from, v)
		VPMOVZXWD(v, v)
	case half:
		VPMOVZXWD(from, v)
	case lanes == 2:
		VMOVQ(from, v)
	default:
		VMOVUPS(from, v)
	}
	if half {
		VPSLLD(U8(16), v, v)
	}
	if lanes == 2 {
		VMOVQ(v, to)
	} else {
		VMOVUPS(v, to)
	}
}
