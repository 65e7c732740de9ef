package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func init() {
	groups["quantize"] = func() {
		absmax()
		quantizeFloat32()
		quantizeBFloat16()
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

// quantizer is the loop over blocks that the functions for both formats share.
type quantizer struct {
	name                          string
	size                          int          // of an element in bytes
	packed, absmax, x, thresholds reg.Register // all but thresholds move on
	first, last                   reg.Register // where absmax begins and ends
	blocksize, end                reg.Register // of a block of x, in bytes
	ascending                     reg.VecVirtual
	m, r                          reg.VecVirtual // the block's absmax and its reciprocal, in all lanes
}

func newQuantizer(name, from, widened string, size int) *quantizer {
	TEXT(name, NOSPLIT, fmt.Sprintf("func(packed []byte, absmax []float32, x []%s, blocksize int, thresholds *[16]float32, ascending *[16]uint8) (done int)", from))
	Doc(name+" computes, of the 15 thresholds t in ascending order,", "",
		"\tfor b := range absmax {",
		"\t\tblock := "+widened,
		"\t\tm := the largest magnitude in block",
		"\t\tr := 1 / m",
		"\t\tif m or r is NaN or infinite {",
		"\t\t\treturn b",
		"\t\t}",
		"\t\tabsmax[b] = m",
		"\t\tfor i := 0; i < blocksize; i += 2 {",
		"\t\t\thigh, low := block[i]*r, block[i+1]*r",
		"\t\t\tpacked[(b*blocksize+i)/2] = ascending[how many t < high]<<4 | ascending[how many t < low]",
		"\t\t}",
		"\t}",
		"\treturn len(absmax)", "",
		"Thresholds come in the order t[0], t[2], t[4], t[6]; t[1], t[5], t[9], t[13]; t[8], t[10], t[12], t[14]; t[3], t[7], t[11].")
	Pragma("noescape")
	q := &quantizer{
		name:       name,
		size:       size,
		packed:     Load(Param("packed").Base(), GP64()),
		absmax:     Load(Param("absmax").Base(), GP64()),
		x:          Load(Param("x").Base(), GP64()),
		thresholds: Load(Param("thresholds"), GP64()),
		first:      GP64(),
		last:       GP64(),
		blocksize:  Load(Param("blocksize"), GP64()),
		end:        GP64(),
		ascending:  YMM(),
		m:          YMM(),
		r:          YMM(),
	}
	n := Load(Param("absmax").Len(), GP64())
	MOVQ(q.absmax, q.first)
	LEAQ(Mem{Base: q.absmax, Index: n, Scale: 4}, q.last)
	IMUL3Q(U8(size), q.blocksize, q.blocksize)
	VBROADCASTI128(Mem{Base: Load(Param("ascending"), GP64())}, q.ascending)
	return q
}

// threshold is where one lies.
func (q *quantizer) threshold(i int) Mem { return Mem{Base: q.thresholds, Disp: 4 * i} }

// step is how many elements are taken at a time.
const step = 32

// element is a register of them, of those that are taken at a time.
func (q *quantizer) element(register int) Mem { return Mem{Base: q.x, Disp: 32 * register} }

// format is what differs between formats.
type format struct {
	larger  func(at Mem)          // makes lanes of q.m, which begin as zeros, the larger of themselves and of magnitudes in memory
	fold    func()                // makes all lanes of q.m the largest, as float32
	prepare func() reg.VecVirtual // gives what codes need of q.m and q.r
	restore func(at Mem)          // has it again, from memory
	codes   func()                // writes the bytes of a step of q.x to q.packed
}

// ahead is how far before its use memory is asked for, in bytes: a page, which the processor's own prefetching does not cross.
const ahead = 4096

// together is how many blocks are prepared before their codes are made: until one is prepared takes longer than its codes take.
const together = 8

// blocks writes the loop over blocks.
func (q *quantizer) blocks(f format) {
	label := func(name string) string { return q.name + "_" + name }
	room := AllocLocal(32 * together)
	limit, at, entry, entries := GP64(), GP64(), GP64(), GP64()
	Label(label("batch"))
	CMPQ(q.absmax, q.last)
	JAE(LabelRef(label("end")))
	LEAQ(Mem{Base: q.absmax, Disp: 4 * together}, limit)
	CMPQ(limit, q.last)
	CMOVQHI(q.last, limit)
	MOVQ(q.x, at)
	LEAQ(room, entries)
	Label(label("block"))
	LEAQ(Mem{Base: at, Index: q.blocksize, Scale: 1}, q.end)
	VPXOR(q.m, q.m, q.m)
	Label(label("scan"))
	for i := range step * q.size / 32 {
		f.larger(Mem{Base: at, Disp: 32 * i})
	}
	PREFETCHT0(Mem{Base: at, Disp: ahead})
	ADDQ(U32(step*q.size), at)
	CMPQ(at, q.end)
	JB(LabelRef(label("scan")))
	f.fold()

	Comment("What is not finite, it or its reciprocal, ends the loop.")
	bits := GP32()
	VMOVD(q.m.AsX(), bits)
	SUBL(U32(leastAbsmax), bits)
	CMPL(bits, U32(infinity-leastAbsmax))
	JB(LabelRef(label("finite")))
	MOVQ(q.absmax, q.last)
	JMP(LabelRef(label("codes")))
	Label(label("finite"))
	VMOVSS(q.m.AsX(), Mem{Base: q.absmax})
	VMOVSS(data(q.name+"_one", U32(0x3f800000)), q.r.AsX())
	VDIVSS(q.m.AsX(), q.r.AsX(), q.r.AsX())
	VBROADCASTSS(q.r.AsX(), q.r)
	VMOVDQU(f.prepare(), Mem{Base: entries})
	ADDQ(U8(32), entries)
	ADDQ(U8(4), q.absmax)
	CMPQ(q.absmax, limit)
	JB(LabelRef(label("block")))

	Label(label("codes"))
	LEAQ(room, entry)
	JMP(LabelRef(label("more")))
	Label(label("entry"))
	f.restore(Mem{Base: entry})
	ADDQ(U8(32), entry)
	LEAQ(Mem{Base: q.x, Index: q.blocksize, Scale: 1}, q.end)
	Label(label("step"))
	f.codes()
	ADDQ(U8(step/2), q.packed)
	ADDQ(U32(step*q.size), q.x)
	CMPQ(q.x, q.end)
	JB(LabelRef(label("step")))
	Label(label("more"))
	CMPQ(entry, entries)
	JB(LabelRef(label("entry")))
	JMP(LabelRef(label("batch")))
	Label(label("end"))
	SUBQ(q.first, q.absmax)
	SHRQ(U8(2), q.absmax)
	Store(q.absmax, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// Bits of float32.
const (
	leastAbsmax = 0x200001 // above 2^-128: the least whose reciprocal is finite
	infinity    = 0x7f800000
)

// repeated is a constant in memory that fills a register.
func repeated(name string, bits uint32) Mem {
	b := U32(bits)
	return data(name, b, b, b, b, b, b, b, b)
}

// quantizeFloat32 compares each product with the middle one of 15 thresholds, with the middle one of the 7 below or above it, and so on:
// the comparisons so far, as an index, find the next threshold in a table.
func quantizeFloat32() {
	q := newQuantizer("quantizeFloat32AVX2", "float32", "x[b*blocksize:(b+1)*blocksize]", 4)
	magnitude, two := ymm.everywhere(1<<31-1), ymm.everywhere(2)
	sixteenOne, order := repeated(q.name+"_pairs", 0x01100110), YMM()
	VMOVDQU(data(q.name+"_order", U64(4<<32), U64(5<<32|1), U64(6<<32|2), U64(7<<32|3)), order)
	below, middle, above, four, eight := YMM(), YMM(), YMM(), YMM(), YMM()
	for i, r := range []reg.VecVirtual{below, middle, above} {
		VBROADCASTSS(q.threshold(12+i), r)
	}
	VBROADCASTF128(q.threshold(4), four)
	VMOVUPS(q.threshold(0), eight.AsX())
	VINSERTF128(U8(1), q.threshold(8), eight, eight)
	q.blocks(format{larger: func(at Mem) {
		v := YMM()
		VPAND(at, magnitude, v)
		VPMAXUD(v, q.m, q.m) // of integers, among which NaN is the largest
	}, fold: func() {
		VBROADCASTSS(fold(q.m, VPMAXUD), q.m)
	}, prepare: func() reg.VecVirtual {
		return q.r
	}, restore: func(at Mem) {
		VMOVUPS(at, q.r)
	}, codes: func() {
		var counts [4]reg.VecVirtual
		for j := range counts {
			x, n, pick := YMM(), YMM(), YMM()
			exceeds := func(threshold reg.VecVirtual) reg.VecVirtual {
				m := YMM()
				VCMPPS(U8(greater), threshold, x, m)
				return m // −1 if so
			}
			VMULPS(q.element(j), q.r, x)
			upper := exceeds(middle)
			VPAND(two, upper, n)
			VBLENDVPS(upper, above, below, pick)
			VPSUBD(exceeds(pick), n, n)
			VPERMILPS(n, four, pick)
			VPADDD(n, n, n)
			VPSUBD(exceeds(pick), n, n)
			VPERMPS(eight, n, pick)
			VPADDD(n, n, n)
			VPSUBD(exceeds(pick), n, n)
			counts[j] = n
		}
		VPACKSSDW(counts[1], counts[0], counts[0])
		VPACKSSDW(counts[3], counts[2], counts[2])
		codes := YMM()
		VPACKSSWB(counts[2], counts[0], codes) // elements 0…3, 8…11, …, 4…7, 12…15, …
		VPERMD(codes, order, codes)
		VPSHUFB(codes, q.ascending, codes)
		VPMADDUBSW(sixteenOne, codes, codes) // 16·high + low
		VPACKUSWB(codes, codes, codes)
		VPERMQ(U8(0b11_01_10_00), codes, codes)
		VMOVDQU(codes.AsX(), Mem{Base: q.packed})
	}})
}

// quantizeBFloat16 searches as quantizeFloat32 does, but among integers of 16 bits, in two's complement, which are in the order of their
// bfloat16: round(v·r) > t exactly where v > c, the largest bfloat16 for which round(c·r) ≤ t, for rounding keeps the order.
//
// c is the bfloat16 that is nearest to t·m, or the one before it. Were nothing rounded, the products would pass t at v = t·m. Three things
// are: r, to 21 bits or more (it may be subnormal); v·r, to 24 bits, for it is about t and so not subnormal; and t·m, to 24 bits, or where it
// is subnormal to a multiple of 2^-149, while bfloat16 are multiples of 2^-133. Together they move the place by less than 2^-20 of itself, or
// 2^-16 of the distance between bfloat16, whichever is more. The neighbours of the nearest one are at least 2^-10 of it, or half a distance,
// away from t·m; so they lie on their sides of the place, and the product of the nearest one itself decides.
func quantizeBFloat16() {
	q := newQuantizer("quantizeBFloat16AVX2", "uint16", "x[b*blocksize:(b+1)*blocksize], widened to float32", 2)
	magnitude := ymm.everywhere(0x7fff7fff)
	first := ymm.everywhere(0x04000400) // where a table of four has lower and upper bytes
	high := ymm.everywhere(0xff00ff00)
	below, middle, above, four, eight := YMM(), YMM(), YMM(), YMM(), YMM()
	half, upper := repeated(q.name+"_half", 1<<15), repeated(q.name+"_upper", 0xffff<<16)
	halves := func(name string, bytes ...Constant) Mem { return data(q.name+"_"+name, append(bytes, bytes...)...) }
	fourOf := halves("four", U64(0x07050301_06040200), U64(0))
	eightOf := halves("eight", U64(0x0e0c0a08_06040200), U64(0x0f0d0b09_07050301))
	var everywhere [3]Mem
	for i := range everywhere {
		everywhere[i] = repeated(fmt.Sprintf("%s_word%d", q.name, 4+i), 0x09080908+0x02020202*uint32(i))
	}
	sixteenOne, order := repeated(q.name+"_pairs", 1<<16|16), halves("order", U64(0x0d090501_0c080400), U64(0))
	// signed makes an integer in two's complement of a bfloat16; 0 and −0 are one.
	signed := func(x Op) reg.VecVirtual {
		v := YMM()
		VPAND(x, magnitude, v)
		VPSIGNW(x, v, v)
		return v
	}
	q.blocks(format{larger: func(at Mem) {
		v := YMM()
		VPAND(at, magnitude, v)
		VPMAXUW(v, q.m, q.m)
	}, fold: func() {
		other := XMM()
		VEXTRACTI128(U8(1), q.m, other)
		VPMAXUW(other, q.m.AsX(), q.m.AsX())
		VPXOR(magnitude.AsX(), q.m.AsX(), q.m.AsX())
		VPHMINPOSUW(q.m.AsX(), q.m.AsX())
		VPXOR(magnitude.AsX(), q.m.AsX(), q.m.AsX())
		VPSLLD(U8(16), q.m.AsX(), q.m.AsX())
		VBROADCASTSS(q.m.AsX(), q.m)
	}, prepare: func() reg.VecVirtual {
		var nearest, exceeds [2]reg.VecVirtual
		for i := range nearest {
			t, c, product := q.threshold(8*i), YMM(), YMM()
			VMULPS(t, q.m, c)
			VPADDD(half, c, c)
			VPAND(upper, c, c)
			VMULPS(c, q.r, product)
			VCMPPS(U8(greater), t, product, product)
			VPSRAD(U8(16), c, c)
			nearest[i], exceeds[i] = c, product
		}
		cuts := YMM()
		VPACKSSDW(nearest[1], nearest[0], cuts)
		VPACKSSDW(exceeds[1], exceeds[0], exceeds[0])
		VPADDW(exceeds[0], signed(cuts), cuts) // 0, 2, …, 14, then 1, 5, 9, 13, 3, 7, 11
		return cuts
	}, restore: func(at Mem) {
		odd, even := YMM(), YMM()
		VBROADCASTI128(at.Offset(16), odd)
		VBROADCASTI128(at, even)
		VPSHUFB(eightOf, even, eight)
		VPSHUFB(fourOf, odd, four)
		for i, r := range []reg.VecVirtual{below, middle, above} {
			VPSHUFB(everywhere[i], odd, r)
		}
	}, codes: func() {
		var n, last [2]reg.VecVirtual
		for i := range n {
			x := signed(q.element(i))
			index, pick := YMM(), YMM()
			exceeds := func(cut reg.VecVirtual) reg.VecVirtual {
				m := YMM()
				VPCMPGTW(cut, x, m)
				return m // −1 if so, in both bytes
			}
			VPSUBB(exceeds(middle), first, index)
			VPSUBB(exceeds(below), index, index)
			VPSUBB(exceeds(above), index, index)
			VPSHUFB(index, four, pick)
			VPADDB(index, index, index)
			VPSUBB(exceeds(pick), index, index)
			VPSHUFB(index, eight, pick)
			n[i], last[i] = index, exceeds(pick)
		}
		for _, r := range [][2]reg.VecVirtual{n, last} {
			VPBLENDVB(high, r[1], r[0], r[0])
		}
		codes, upper := n[0], XMM()
		VPADDB(codes, codes, codes)
		VPSUBB(last[0], codes, codes) // elements 0, 16, 1, 17, …
		VPSHUFB(codes, q.ascending, codes)
		VPMADDWD(sixteenOne, codes, codes) // 16·even + odd of 0 and 1, of 16 and 17
		VPSHUFB(order, codes, codes)
		VEXTRACTI128(U8(1), codes, upper)
		VPUNPCKLDQ(upper, codes.AsX(), codes.AsX())
		VMOVDQU(codes.AsX(), Mem{Base: q.packed})
	}})
}
