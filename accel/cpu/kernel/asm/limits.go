package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

func init() {
	groups["limits"] = func() {
		for _, v := range []vectors{ymm, zmm} {
			peak(v)
			read(v)
		}
	}
}

// peakRegisters are chains of sums that do not wait for each other: more than the four or five cycles that a multiply-add takes, times
// the two units that begin one each cycle, on processors with AVX2.
const peakRegisters = 12

func peak(v vectors) {
	name := "peak" + v.name
	TEXT(name, NOSPLIT, "func(rounds int)")
	Doc(fmt.Sprintf("%s computes, of zeros in registers,", name),
		"",
		"\tfor range rounds {",
		fmt.Sprintf("\t\tfor i := range %d {", peakRegisters),
		fmt.Sprintf("\t\t\tfor j := range %d {", v.lanes),
		"\t\t\t\tacc[i][j] += x[j] * w[j]",
		"\t\t\t}",
		"\t\t}",
		"\t}",
		"",
		"with one rounding for each product and its sum.")
	n := Load(Param("rounds"), GP64())
	x, w, acc := v.new(), v.new(), v.news(peakRegisters)
	VXORPS(x, x, x)
	VXORPS(w, w, w)
	for _, r := range acc {
		VXORPS(r, r, r)
	}
	loop, end := name+"_loop", name+"_end"
	Label(loop)
	DECQ(n)
	JL(LabelRef(end))
	for _, r := range acc {
		VFMADD231PS(x, w, r)
	}
	JMP(LabelRef(loop))
	Label(end)
	VZEROUPPER()
	RET()
}

// readRegisters are loaded a round.
const readRegisters = 8

func read(v vectors) {
	name := "read" + v.name
	TEXT(name, NOSPLIT, "func(x []float32)")
	Doc(fmt.Sprintf("%s loads every x, %d at a time; len(x) is a multiple of that.", name, readRegisters*v.lanes))
	Pragma("noescape")
	x := Load(Param("x").Base(), GP64())
	n := Load(Param("x").Len(), GP64())
	SHLQ(U8(2), n)
	ADDQ(x, n)
	r := v.news(readRegisters)
	loop, end := name+"_loop", name+"_end"
	Label(loop)
	CMPQ(x, n)
	JAE(LabelRef(end))
	for i := range r {
		VMOVUPS(Mem{Base: x, Disp: i * v.bytes()}, r[i])
	}
	ADDQ(U32(readRegisters*v.bytes()), x)
	JMP(LabelRef(loop))
	Label(end)
	VZEROUPPER()
	RET()
}
