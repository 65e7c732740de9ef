package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func init() {
	groups["matvec"] = func() {
		matvec4(ymm, false)
		matvec4(zmm, false)
		matvec4(zmm, true)
		matvecTables()
	}
}

// chunk is how many codes of a row are turned at a time: no more than the smallest block has.
const chunk = 32

// matvec4 multiplies 32 rows of 4-bit codes with a vector. A register holds an element of each of lanes rows, so that k ascends in every
// lane. Codes lie row by row: chunk of them, of all rows, go turned into a buffer of lines of bytes, a line for two k. Then each byte is
// widened to a lane, its nibbles are looked up in the codebook (held in registers), scaled by the rows' absmax, and, for bfloat16, rounded.
func matvec4(v vectors, rounded bool) {
	name := "matVec4" + map[bool]string{true: "Rounded"}[rounded] + v.name
	const rows = 32
	matvecText(name, rows, rounded)
	m := matvec{v: v, rounded: rounded, rows: rows}
	m.load()
	m.loop(name)
	for g, acc := range m.acc {
		VMOVUPS(acc, Mem{Base: m.c, Disp: g * v.bytes()})
	}
	VZEROUPPER()
	RET()
}

func matvecText(name string, rows int, rounded bool) {
	TEXT(name, 0, "func(c, x []float32, packed []byte, stride int, absmax []float32, values *[16]float32, blocksize int)")
	weight := "values[code(i, k)] * absmax[k/blocksize*ROWS+i]"
	if rounded {
		weight = "round(" + weight + ")"
	}
	Doc(fmt.Sprintf("%s computes, k ascending,", name),
		"",
		"\tfor k := range x {",
		"\t\tfor i := range ROWS {",
		"\t\t\tc[i] += x[k] * "+weight,
		"\t\t}",
		"\t}",
		"",
		fmt.Sprintf("with ROWS = %d; code 2k of row i is the high nibble of packed[i*stride+k]. len(x) is a multiple of blocksize, that of %d;", rows, chunk),
		roundings(rounded)+".")
	Pragma("noescape")
}

// matvec is the registers of a kernel.
type matvec struct {
	v       vectors
	rounded bool
	rows    int

	c, x, end, packed, stride, stride3, absmax, blocksize, left reg.Register

	buffer    Mem
	scales    reg.Register // absmax of the block at hand
	acc       []reg.VecVirtual
	low, high reg.VecVirtual // the codebook: values of codes 0…7 and 8…15, or all in low
	half, one reg.VecVirtual // 0x7fff and 1, to round
	mask      reg.VecVirtual // 0xffff0000
}

func (m *matvec) load() {
	m.c = Load(Param("c").Base(), GP64())
	m.x = Load(Param("x").Base(), GP64())
	m.end = Load(Param("x").Len(), GP64())
	m.packed = Load(Param("packed").Base(), GP64())
	m.stride = Load(Param("stride"), GP64())
	m.absmax = Load(Param("absmax").Base(), GP64())
	values := Load(Param("values"), GP64())
	m.blocksize = Load(Param("blocksize"), GP64())
	m.stride3, m.left = GP64(), GP64()
	LEAQ(Mem{Base: m.stride, Index: m.stride, Scale: 2}, m.stride3)
	LEAQ(Mem{Base: m.x, Index: m.end, Scale: 4}, m.end)
	m.buffer = AllocLocal(m.rows * chunk / 2)
	m.low = m.v.new()
	VMOVUPS(Mem{Base: values}, m.low)
	if m.v.lanes == 8 {
		m.high = m.v.new()
		VMOVUPS(Mem{Base: values, Disp: 32}, m.high)
	}
	if m.rounded {
		m.half, m.one, m.mask = m.constant(0x7fff), m.constant(1), m.constant(0xffff0000)
	}
	m.acc, m.scales = m.v.news(m.rows/m.v.lanes), GP64()
	for g, acc := range m.acc {
		VMOVUPS(Mem{Base: m.c, Disp: g * m.v.bytes()}, acc)
	}
}

func (m *matvec) constant(bits uint32) reg.VecVirtual {
	r, x, all := GP32(), XMM(), m.v.new()
	MOVL(U32(bits), r)
	VMOVD(r, x)
	VPBROADCASTD(x, all)
	return all
}

func (m *matvec) loop(name string) {
	loop, same, end := name+"_loop", name+"_same", name+"_end"
	XORQ(m.left, m.left)
	Label(loop)
	CMPQ(m.x, m.end)
	JAE(LabelRef(end))
	Comment("A new block has new absmax.")
	TESTQ(m.left, m.left)
	JNE(LabelRef(same))
	MOVQ(m.blocksize, m.left)
	MOVQ(m.absmax, m.scales)
	ADDQ(U32(4*m.rows), m.absmax)
	Label(same)
	m.turn()
	columns := GP64()
	XORQ(columns, columns)
	inner := name + "_columns"
	Label(inner)
	for range 2 {
		m.column(columns)
		ADDQ(U8(uint8(m.rows)), columns)
	}
	CMPQ(columns, U32(m.rows*chunk/2))
	JB(LabelRef(inner))
	ADDQ(U8(chunk/2), m.packed)
	SUBQ(U8(chunk), m.left)
	JMP(LabelRef(loop))
	Label(end)
}

// turn writes chunk/2 bytes of each row to the buffer as lines of bytes, one of every row: 8 rows by 8 bytes at a time.
func (m *matvec) turn() {
	for g := 0; g < m.rows; g += 8 {
		first := GP64()
		MOVQ(m.packed, first)
		for at := 0; at < g; at += 8 {
			LEAQ(Mem{Base: first, Index: m.stride, Scale: 8}, first)
		}
		fifth := GP64()
		LEAQ(Mem{Base: first, Index: m.stride, Scale: 4}, fifth)
		for part := 0; part < chunk/2; part += 8 {
			m.turn8(first, fifth, part, g)
		}
	}
}

// turn8 turns 8 rows of 8 bytes: bytes of pairs of rows are interleaved, then pairs of those, then these.
func (m *matvec) turn8(first, fifth reg.Register, part, g int) {
	var twos [4]reg.VecVirtual
	for i := range twos {
		base := Mem{Base: []reg.Register{first, fifth}[i/2], Disp: part}
		upper, lower := base, base.Idx(m.stride, 1)
		if i%2 == 1 {
			upper, lower = base.Idx(m.stride, 2), base.Idx(m.stride3, 1)
		}
		next := XMM()
		twos[i] = XMM()
		VMOVQ(upper, twos[i])
		VMOVQ(lower, next)
		VPUNPCKLBW(next, twos[i], twos[i])
	}
	for half := range 2 {
		var fours [2]reg.VecVirtual
		for i := range fours {
			fours[i] = XMM()
			if half == 0 {
				VPUNPCKLWD(twos[2*i+1], twos[2*i], fours[i])
			} else {
				VPUNPCKHWD(twos[2*i+1], twos[2*i], fours[i])
			}
		}
		for quarter := range 2 {
			eights := XMM()
			if quarter == 0 {
				VPUNPCKLDQ(fours[1], fours[0], eights)
			} else {
				VPUNPCKHDQ(fours[1], fours[0], eights)
			}
			column := part + 4*half + 2*quarter
			VMOVQ(eights, m.buffer.Offset(column*m.rows+g))
			VPEXTRQ(U8(1), eights, m.buffer.Offset((column+1)*m.rows+g))
		}
	}
}

// column takes two k: a line of the buffer.
func (m *matvec) column(at reg.Register) {
	x0, x1 := m.v.new(), m.v.new()
	VBROADCASTSS(Mem{Base: m.x}, x0)
	VBROADCASTSS(Mem{Base: m.x, Disp: 4}, x1)
	ADDQ(U8(8), m.x)
	for g, acc := range m.acc {
		b := m.v.new()
		VPMOVZXBD(m.buffer.Idx(at, 1).Offset(g*m.v.lanes), b)
		high := m.v.new()
		VPSRLD(U8(4), b, high)
		accumulate(m.rounded, acc, x0, m.weight(high, b, 24, g), m.v.new)
		accumulate(m.rounded, acc, x1, m.weight(b, b, 28, g), m.v.new)
	}
}

// weight looks up the codes in the low bits of index. With two tables, bit 3 chooses: shift brings it to the sign of b.
func (m *matvec) weight(index, b reg.VecVirtual, shift, g int) reg.VecVirtual {
	w := m.v.new()
	VPERMPS(m.low, index, w)
	if m.high != nil {
		upper, sign := m.v.new(), m.v.new()
		VPERMPS(m.high, index, upper)
		VPSLLD(U8(shift), b, sign)
		VBLENDVPS(sign, upper, w, w)
	}
	VMULPS(Mem{Base: m.scales, Disp: g * m.v.bytes()}, w, w)
	if !m.rounded {
		return w
	}
	lsb := m.v.new()
	VPSRLD(U8(16), w, lsb)
	and(m.v, m.one, lsb, lsb)
	VPADDD(m.half, w, w)
	VPADDD(lsb, w, w)
	and(m.v, m.mask, w, w)
	return w
}

// and is the conjunction of bits, which has another name in AVX-512.
func and(v vectors, a, b, to reg.VecVirtual) {
	if v.lanes == 8 {
		VPAND(a, b, to)
	} else {
		VPANDD(a, b, to)
	}
}
