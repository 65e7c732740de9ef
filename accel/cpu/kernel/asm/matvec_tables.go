package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// matvecTables is matvec4 of bfloat16 weights for AVX2, whose lookups by lanes are slow. The 16 rounded weights of a block of a row are made
// once, and looked up as bytes: a register holds the tables of two rows, i and i+4, one a lane. The 16-bit weights are then turned
// until a register holds one k of eight rows, and widened.
func matvecTables() {
	const name, rows = "matVec4RoundedAVX2", 8 * tableGroups
	matvecText(name, rows, true)
	m := tables{}
	m.load()
	loop, end := name+"_loop", name+"_end"
	Label(loop)
	CMPQ(m.x, m.end)
	JAE(LabelRef(end))
	for g := range tableGroups {
		for i := range 4 {
			m.build(g, i)
		}
	}
	ADDQ(U32(4*rows), m.absmax)
	left := GP64()
	MOVQ(m.blocksize, left)
	inner := name + "_chunk"
	Label(inner)
	m.chunk()
	ADDQ(U8(chunk/2), m.packed)
	ADDQ(U32(4*chunk), m.x)
	SUBQ(U8(chunk), left)
	JNE(LabelRef(inner))
	JMP(LabelRef(loop))
	Label(end)
	for g, acc := range m.acc {
		VMOVUPS(acc, Mem{Base: m.c, Disp: 32 * g})
	}
	VZEROUPPER()
	RET()
}

// tableGroups is how many groups of eight rows there are, a multiple of two.
const tableGroups = 4

// localBytes is room for all that is kept on the stack, and for where it begins.
const localBytes = 6*32 + tableGroups*24*32 + 64

type tables struct {
	locals reg.Register
	used   int

	c, x, end, packed, stride, stride3, absmax, blocksize reg.Register

	values          [2]Mem // codes 0…3 and 8…11, 4…7 and 12…15: packing makes 0…15 of them
	zero            reg.VecVirtual
	half, one       Mem // 0x7fff and 1 of 32 bits, to round
	byteMask, codes Mem // 0x00ff of 16 bits, 0x0f of 8
	table, words    Mem // of 4 pairs of rows of each group: tables of low bytes and of high, and weights of a chunk
	acc             [tableGroups]reg.VecVirtual
}

func (m *tables) load() {
	m.c = Load(Param("c").Base(), GP64())
	m.x = Load(Param("x").Base(), GP64())
	m.end = Load(Param("x").Len(), GP64())
	m.packed = Load(Param("packed").Base(), GP64())
	m.stride = Load(Param("stride"), GP64())
	m.absmax = Load(Param("absmax").Base(), GP64())
	values := Load(Param("values"), GP64())
	m.blocksize = Load(Param("blocksize"), GP64())
	m.stride3, m.locals = GP64(), GP64()
	LEAQ(AllocLocal(localBytes), m.locals)
	ADDQ(U8(63), m.locals)
	ANDQ(I8(-64), m.locals)
	LEAQ(Mem{Base: m.stride, Index: m.stride, Scale: 2}, m.stride3)
	LEAQ(Mem{Base: m.x, Index: m.end, Scale: 4}, m.end)
	for i := range m.values {
		both := YMM()
		VBROADCASTF128(Mem{Base: values, Disp: 16 * i}, both)
		VINSERTF128(U8(1), Mem{Base: values, Disp: 32 + 16*i}, both, both)
		m.values[i] = m.local(32)
		VMOVUPS(both, m.values[i])
	}
	m.half, m.one, m.byteMask, m.codes = m.constant(0x7fff), m.constant(1), m.constant(0x00ff00ff), m.constant(0x0f0f0f0f)
	m.table, m.words = m.local(tableGroups*8*32), m.local(tableGroups*16*32)
	m.zero = YMM()
	VPXOR(m.zero, m.zero, m.zero)
	for g := range m.acc {
		m.acc[g] = YMM()
		VMOVUPS(Mem{Base: m.c, Disp: 32 * g}, m.acc[g])
	}
}

// local is n bytes on the stack. They begin where a cache line does, which the stack does not: what crosses lines takes twice the time.
func (m *tables) local(n int) Mem {
	at := Mem{Base: m.locals, Disp: m.used}
	m.used += n
	return at
}

// constant is a register's worth of 32 bits, on the stack.
func (m *tables) constant(bits uint32) Mem {
	r, x, all, at := GP32(), XMM(), YMM(), m.local(32)
	MOVL(U32(bits), r)
	VMOVD(r, x)
	VPBROADCASTD(x, all)
	VMOVDQU(all, at)
	return at
}

func (m *tables) tableAt(g, i, part int) Mem { return m.table.Offset(32 * (8*g + 2*i + part)) }

// build makes the tables of rows i and i+4 of group g.
func (m *tables) build(g, i int) {
	var rows [2]reg.VecVirtual // 16 weights of 16 bits of each row: codes 0…7, then 8…15
	for r := range rows {
		absmax := YMM()
		VBROADCASTSS(Mem{Base: m.absmax, Disp: 4 * (8*g + i + 4*r)}, absmax)
		var w [2]reg.VecVirtual
		for part, values := range m.values {
			w[part] = YMM()
			lsb := YMM()
			VMULPS(values, absmax, w[part])
			VPSRLD(U8(16), w[part], lsb)
			VPAND(m.one, lsb, lsb)
			VPADDD(m.half, w[part], w[part])
			VPADDD(lsb, w[part], w[part])
			VPSRLD(U8(16), w[part], w[part])
		}
		rows[r] = YMM()
		VPACKUSDW(w[1], w[0], rows[r])
	}
	lower, upper := YMM(), YMM()
	VPERM2I128(U8(0x20), rows[1], rows[0], lower)
	VPERM2I128(U8(0x31), rows[1], rows[0], upper)
	high, low := YMM(), YMM()
	VPSRLW(U8(8), lower, low)
	VPSRLW(U8(8), upper, high)
	VPACKUSWB(high, low, low)
	VMOVDQU(low, m.tableAt(g, i, 1))
	VPAND(m.byteMask, lower, lower)
	VPAND(m.byteMask, upper, upper)
	VPACKUSWB(upper, lower, lower)
	VMOVDQU(lower, m.tableAt(g, i, 0))
}

// wordsAt is where the weights of rows i and i+4 of group g are: part 0 and 1 the even k of the first and second half of a chunk, 2 and 3
// the odd.
func (m *tables) wordsAt(g, i, part int) Mem { return m.words.Offset(32 * (16*g + 4*i + part)) }

// chunk takes a chunk of k: eight at a time of two groups, then of two others, whose sums do not wait for these.
func (m *tables) chunk() {
	first := GP64()
	MOVQ(m.packed, first)
	for g := range tableGroups {
		fifth := GP64()
		LEAQ(Mem{Base: first, Index: m.stride, Scale: 4}, fifth)
		for i := range 4 {
			m.lookup(g, i, rowOf(first, m, i), rowOf(fifth, m, i))
		}
		LEAQ(Mem{Base: fifth, Index: m.stride, Scale: 4}, first)
	}
	for part := range 2 {
		for half := range 2 {
			for g := 0; g < tableGroups; g += 2 {
				m.eight(g, part, half)
			}
		}
	}
}

// eight takes eight k of groups g and g+1.
func (m *tables) eight(g, part, half int) {
	var even, odd [2][2]reg.VecVirtual
	for i := range 2 {
		even[i], odd[i] = m.turned(g+i, part, half), m.turned(g+i, 2+part, half)
	}
	for j := range 2 {
		k := 16*part + 8*half + 4*j
		m.add(g, k, even[0][j], even[1][j], false)
		m.add(g, k+1, odd[0][j], odd[1][j], false)
		m.add(g, k+2, even[0][j], even[1][j], true)
		m.add(g, k+3, odd[0][j], odd[1][j], true)
	}
}

func rowOf(base reg.Register, m *tables, i int) Mem {
	at := Mem{Base: base}
	switch i {
	case 1:
		return at.Idx(m.stride, 1)
	case 2:
		return at.Idx(m.stride, 2)
	case 3:
		return at.Idx(m.stride3, 1)
	}
	return at
}

// lookup makes weights of a chunk of codes of two rows: high nibbles are the even k.
func (m *tables) lookup(g, i int, row, other Mem) {
	odd, even, low, high := YMM(), YMM(), YMM(), YMM()
	VBROADCASTI128(row, odd)
	VINSERTI128(U8(1), other, odd, odd)
	VPSRLW(U8(4), odd, even)
	VPAND(m.codes, odd, odd)
	VPAND(m.codes, even, even)
	VMOVDQU(m.tableAt(g, i, 0), low)
	VMOVDQU(m.tableAt(g, i, 1), high)
	for part, codes := range []reg.VecVirtual{even, odd} {
		l, h, words := YMM(), YMM(), YMM()
		VPSHUFB(codes, low, l)
		VPSHUFB(codes, high, h)
		VPUNPCKLBW(h, l, words)
		VMOVDQU(words, m.wordsAt(g, i, 2*part))
		VPUNPCKHBW(h, l, l)
		VMOVDQU(l, m.wordsAt(g, i, 2*part+1))
	}
}

// turned has, in each of two registers, two k of rows 0…3 in the first lane and of rows 4…7 in the second: the words of pairs of rows are
// interleaved, the first or second half of them, and then these pairs.
func (m *tables) turned(g, part, half int) [2]reg.VecVirtual {
	var twos [2]reg.VecVirtual
	for i := range twos {
		twos[i] = YMM()
		VMOVDQU(m.wordsAt(g, 2*i, part), twos[i])
		if half == 0 {
			VPUNPCKLWD(m.wordsAt(g, 2*i+1, part), twos[i], twos[i])
		} else {
			VPUNPCKHWD(m.wordsAt(g, 2*i+1, part), twos[i], twos[i])
		}
	}
	first := YMM()
	VPUNPCKLDQ(twos[1], twos[0], first)
	VPUNPCKHDQ(twos[1], twos[0], twos[0])
	return [2]reg.VecVirtual{first, twos[0]}
}

// add takes one k of groups g and g+1: the lower or upper words of each lane, as the upper halves of float32.
func (m *tables) add(g, k int, words, others reg.VecVirtual, upper bool) {
	x := YMM()
	VBROADCASTSS(Mem{Base: m.x, Disp: 4 * k}, x)
	for i, v := range []reg.VecVirtual{words, others} {
		w := YMM()
		if upper {
			VPUNPCKHWD(v, m.zero, w)
		} else {
			VPUNPCKLWD(v, m.zero, w)
		}
		VFMADD231PS(w, x, m.acc[g+i])
	}
}
