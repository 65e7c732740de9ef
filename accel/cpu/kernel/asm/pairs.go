package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func init() {
	groups["pairs"] = func() {
		interleave()
		tilePairs(zmm)
	}
}

func interleave() {
	TEXT("interleaveAVX2", NOSPLIT, "func(dst []uint32, a, b []uint16)")
	Doc("interleaveAVX2 computes", "",
		"\tfor i := range dst {",
		"\t\tdst[i] = uint32(a[i]) | uint32(b[i])<<16",
		"\t}", "",
		"in blocks of 16, of which len(dst) is a multiple.")
	Pragma("noescape")
	dst := Load(Param("dst").Base(), GP64())
	n := Load(Param("dst").Len(), GP64())
	a := Load(Param("a").Base(), GP64())
	b := Load(Param("b").Base(), GP64())
	LEAQ(Mem{Base: dst, Index: n, Scale: 4}, n) // where dst ends
	Label("interleave_loop")
	CMPQ(dst, n)
	JAE(LabelRef("interleave_end"))
	for half := range 2 {
		low, high := YMM(), YMM()
		VPMOVZXWD(Mem{Base: a, Disp: 16 * half}, low)
		VPMOVZXWD(Mem{Base: b, Disp: 16 * half}, high)
		VPSLLD(U8(16), high, high)
		VPOR(low, high, high)
		VMOVDQU(high, Mem{Base: dst, Disp: 32 * half})
	}
	ADDQ(U8(32), a)
	ADDQ(U8(32), b)
	ADDQ(U8(64), dst)
	JMP(LabelRef("interleave_loop"))
	Label("interleave_end")
	VZEROUPPER()
	RET()
}

// tilePairs is tile with registers of its own choice, which the bytes of dotPairs name.
func tilePairs(v vectors) {
	columns := 2 * v.lanes
	TEXT("tilePairsAVX512", NOSPLIT, "func(c []float32, stride int, a, b []uint32)")
	Doc("tilePairsAVX512 computes, p ascending,",
		"",
		"\tfor p := range len(b)/NR {",
		"\t\tfor i := range MR {",
		"\t\t\tfor j := range NR {",
		"\t\t\t\tc[i*stride+j] = DotPair(c[i*stride+j], a[p*MR+i], b[p*NR+j])",
		"\t\t\t}",
		"\t\t}",
		"\t}",
		"",
		fmt.Sprintf("with MR = %d, NR = %d, by AVX512-BF16.", v.rows, columns))
	Pragma("noescape")
	c := Load(Param("c").Base(), GP64())
	stride := Load(Param("stride"), GP64())
	a := Load(Param("a").Base(), GP64())
	b := Load(Param("b").Base(), GP64())
	n := Load(Param("b").Len(), GP64())
	SHLQ(U8(2), stride)
	SHLQ(U8(2), n)
	ADDQ(b, n) // where b ends

	Comment("The block of c is in registers while p runs.")
	z := make([]reg.Physical, 2*v.rows+3)
	for i := range z {
		z[i] = reg.Vector.Lookup(reg.Index(i), reg.S512)
	}
	acc, w0, w1, x := z[:2*v.rows], z[2*v.rows], z[2*v.rows+1], z[2*v.rows+2]
	line := GP64()
	MOVQ(c, line)
	for i := range v.rows {
		VMOVUPS(Mem{Base: line}, acc[2*i])
		VMOVUPS(Mem{Base: line, Disp: v.bytes()}, acc[2*i+1])
		ADDQ(stride, line)
	}
	Label("pairs_loop")
	CMPQ(b, n)
	JAE(LabelRef("pairs_end"))
	VMOVUPS(Mem{Base: b}, w0)
	VMOVUPS(Mem{Base: b, Disp: v.bytes()}, w1)
	for i := range v.rows {
		VBROADCASTSS(Mem{Base: a, Disp: 4 * i}, x)
		dotPairs(x, w0, acc[2*i])
		dotPairs(x, w1, acc[2*i+1])
	}
	ADDQ(U32(4*v.rows), a)
	ADDQ(U32(4*columns), b)
	JMP(LabelRef("pairs_loop"))
	Label("pairs_end")
	for i := range v.rows {
		VMOVUPS(acc[2*i], Mem{Base: c})
		VMOVUPS(acc[2*i+1], Mem{Base: c, Disp: v.bytes()})
		ADDQ(stride, c)
	}
	VZEROUPPER()
	RET()
}

// dotPairs writes VDPBF16PS x, w, acc, which neither avo nor Go's assembler has: each lane of acc takes two products of x and w.
func dotPairs(x, w, acc reg.Physical) {
	e := encodeVDPBF16PS(acc.PhysicalIndex(), w.PhysicalIndex(), x.PhysicalIndex())
	Comment(fmt.Sprintf("VDPBF16PS %s, %s, %s", x.Asm(), w.Asm(), acc.Asm()))
	Instruction(&ir.Instruction{
		Opcode:   "LONG",
		Operands: []Op{U32(uint32(e[0]) | uint32(e[1])<<8 | uint32(e[2])<<16 | uint32(e[3])<<24)},
		Inputs:   []Op{x, w, acc}, Outputs: []Op{acc},
		ISA: []string{"AVX512BF16"},
	})
	Instruction(&ir.Instruction{Opcode: "WORD", Operands: []Op{U16(uint16(e[4]) | uint16(e[5])<<8)}})
}

// encodeVDPBF16PS encodes registers of 512 bits as EVEX.512.F3.0F38.W0 52 /r (Intel's manual, volume 2, section 2.7): dst is ModRM.reg,
// first EVEX.vvvv, second ModRM.rm. The bits of their numbers that have no room there are in the prefix, inverted:
//
//	62
//	dst 3 | second 4 | second 3 | dst 4 | 0 | 010: opcodes 0F38
//	W = 0 | first 3…0, inverted | 1 | 10: prefix F3
//	z = 0 | 10: 512 bits | b = 0: no broadcast | first 4 | 000: no mask
//	52
//	11: registers | dst 2…0 | second 2…0
func encodeVDPBF16PS(dst, first, second reg.Index) [6]byte {
	inverted := func(i reg.Index, bit, at int) byte { return (^byte(i) >> bit & 1) << at }
	return [6]byte{
		0x62,
		inverted(dst, 3, 7) | inverted(second, 4, 6) | inverted(second, 3, 5) | inverted(dst, 4, 4) | 0b010,
		^byte(first)&15<<3 | 1<<2 | 0b10,
		0b10<<5 | inverted(first, 4, 3),
		0x52,
		0b11<<6 | byte(dst)&7<<3 | byte(second)&7,
	}
}
