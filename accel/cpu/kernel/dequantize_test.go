package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"qlora/ref/num"
	"qlora/ref/quant"
)

// scales are absmax of all kinds: ordinary ones; of all exponents, each other one a tie of bfloat16, as its multiples by powers of two
// are; and those that overflow or are lost in products, or that no quantization gives, among them NaN whose payload a rounding by
// addition would carry over.
func scales(kind string, n int, r *rand.Rand) []float32 {
	x := values(kind, n, r)
	for i, v := range x {
		b := math.Float32bits(v)
		switch {
		case kind == "normal":
			x[i] = v * v / 16
		case kind == "wide" && i%2 == 0:
			x[i] = math.Float32frombits(b&^0xffff | 0x8000)
		case v != v && i%2 == 0:
			x[i] = math.Float32frombits(r.Uint32() | 0x7fffff00)
		}
	}
	return x
}

func TestDequantize4(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		for _, c := range quant.Codebooks {
			for blocksize := 32; blocksize <= 4096; blocksize *= 2 {
				each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
					for _, n := range []int{n &^ 1, n*blocksize/64&^1 + 2*r.IntN(blocksize/2)} {
						if n <= 20000 {
							checkDequantize4(t, s, c, blocksize, n, kind, r)
						}
					}
				})
			}
		}
	})
}

func checkDequantize4(t *testing.T, s *Set, c *quant.Codebook, blocksize, n int, kind string, r *rand.Rand) {
	t.Helper()
	packed := newGuarded[byte](n / 2)
	for i := range packed.x {
		packed.x[i] = byte(r.Uint32())
	}
	absmax := guardedFrom(scales(kind, (n+blocksize-1)/blocksize, r))
	ref := func(to num.DType) []float32 {
		x := make([]float32, n)
		quant.Spec.Dequantize4(x, 0, packed.x, absmax.x, c, blocksize, to)
		return x
	}
	what := fmt.Sprintf("%s, blocks of %d, absmax %s", c.Name, blocksize, kind)
	dst := newGuarded[float32](n)
	s.Dequantize4(dst.x, packed.x, absmax.x, &c.Values, blocksize)
	same(t, what+", float32", dst.x, ref(num.Float32))
	dst.check(t)

	want := ref(num.BFloat16)
	s.Dequantize4Rounded(dst.x, packed.x, absmax.x, &c.Values, blocksize)
	same(t, what+", rounded", dst.x, want)
	dst.check(t)

	short := newGuarded[uint16](n)
	s.Dequantize4BFloat16(short.x, packed.x, absmax.x, &c.Values, blocksize)
	widenBFloat16(dst.x, short.x)
	same(t, what+", bfloat16", dst.x, want)
	short.check(t)

	for _, skip := range []int{0, 1, 8} { // bfloat16 after an address that is aligned
		all := newGuarded[uint16](n + 32)
		first := -int(uintptr(unsafe.Pointer(&all.x[0]))) / 2 & 15
		x := all.x[first+skip:][:n]
		s.Dequantize4BFloat16Past(x, packed.x, absmax.x, &c.Values, blocksize)
		widenBFloat16(dst.x, x)
		same(t, fmt.Sprintf("%s, past, after %d", what, skip), dst.x, want)
		for i, v := range all.x {
			if v != 77 && (i < first+skip || i >= first+skip+n) {
				t.Fatalf("%s, past: element %d of %d was written", what, i-first-skip, n)
			}
		}
		all.check(t)
	}
}

func TestDequantize8(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
			for _, m := range []*quant.Map8{quant.DynamicSigned, quant.DynamicUnsigned} {
				for _, offset := range append(values("special", 10, r), values(kind, 3, r)...) {
					codes := newGuarded[byte](n)
					for i := range codes.x {
						codes.x[i] = byte(r.Uint32())
					}
					nested := quant.Nested{Codes: codes.x, Absmax: scales(kind, (n+255)/256, r), Map: m, Offset: offset}
					dst := newGuarded[float32](n)
					s.Dequantize8(dst.x, codes.x, nested.Absmax, (*[256]float32)(m), offset)
					same(t, fmt.Sprintf("absmax %s, offset %v", kind, offset), dst.x, nested.Dequantize())
					dst.check(t)
				}
			}
		})
	})
}

func BenchmarkDequantize(b *testing.B) {
	for _, n := range []int{1 << 17, 1 << 24} {
		packed, absmax := make([]byte, n/2), scales("normal", n/32, rand.New(rand.NewPCG(1, 2)))
		for i := range packed {
			packed[i] = byte(i * 77 >> 3)
		}
		x, h := make([]float32, n), make([]uint16, n)
		for _, blocksize := range []int{64, 256} {
			name := func(kernel string) string { return fmt.Sprintf("%s/%d/block%d", kernel, n, blocksize) }
			bytes := n/2 + n/blocksize*4
			perSet(b, name("4"), bytes+4*n, func(s *Set) { s.Dequantize4(x, packed, absmax, &quant.NF4.Values, blocksize) })
			perSet(b, name("4Rounded"), bytes+4*n, func(s *Set) { s.Dequantize4Rounded(x, packed, absmax, &quant.NF4.Values, blocksize) })
			perSet(b, name("4BFloat16Past"), bytes+2*n, func(s *Set) { s.Dequantize4BFloat16Past(h, packed, absmax, &quant.NF4.Values, blocksize) })
			perSet(b, name("4BFloat16"), bytes+2*n, func(s *Set) { s.Dequantize4BFloat16(h, packed, absmax, &quant.NF4.Values, blocksize) })
		}
	}
	const n = 8192
	x, codes, absmax := make([]float32, n), make([]byte, n), make([]float32, n/256)
	for i := range codes {
		codes[i] = byte(i * 77)
	}
	perSet(b, "8", 5*n, func(s *Set) { s.Dequantize8(x, codes, absmax, (*[256]float32)(quant.DynamicSigned), 0.1) })
}
