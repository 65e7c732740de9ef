package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"qlora/ref/num"
)

// format is a 16-bit format: ref's functions, and a set's.
type format struct {
	t      num.DType
	from   func(uint16) float32
	to     func(float32) uint16
	widen  func(dst []float32, src []uint16)
	narrow func(dst []uint16, src []float32)
	round  func(x []float32)
}

func (s *Set) formats() []format {
	return []format{
		{num.BFloat16, num.FromBFloat16, num.ToBFloat16, s.WidenBFloat16, s.NarrowBFloat16, s.RoundBFloat16},
		{num.Float16, num.FromFloat16, num.ToFloat16, s.WidenFloat16, s.NarrowFloat16, s.RoundFloat16},
	}
}

// widened are 16-bit values as float32, which tells them apart but for the payloads of NaN.
func (f format) widened(x []uint16) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = f.from(v)
	}
	return y
}

func (f format) check(t *testing.T, what string, x []float32) {
	t.Helper()
	what = fmt.Sprintf("%v, %s", f.t, what)
	narrow, want := newGuarded[uint16](len(x)), make([]uint16, len(x))
	for i, v := range x {
		want[i] = f.to(v)
	}
	f.narrow(narrow.x, x)
	same(t, what+", narrowed", f.widened(narrow.x), f.widened(want))
	narrow.check(t)

	wide := newGuarded[float32](len(x))
	f.widen(wide.x, want)
	same(t, what+", widened", wide.x, f.widened(want))
	wide.check(t)

	round := guardedFrom(x)
	f.round(round.x)
	same(t, what+", rounded", round.x, f.widened(want))
	round.check(t)
}

func TestFormats(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		for _, f := range s.formats() {
			each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
				f.check(t, fmt.Sprintf("%s of %d", kind, n), values(kind, n, r))
			})
		}
	})
}

// TestFormatsAll tries all 16-bit numbers, and about each of bfloat16 the float32 that round to it or to a neighbour: the exact one,
// the ties, the neighbours of both, and a random one. For float16, whose numbers lie on coarser or finer steps, the ties are made by
// adding half a step in float64.
func TestFormatsAll(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	near := func(x float32) []float32 {
		b := math.Float32bits(x)
		return []float32{x, math.Float32frombits(b - 1), math.Float32frombits(b + 1)}
	}
	var x []float32
	for i := range 1 << 16 {
		upper := uint32(i) << 16
		x = append(x, math.Float32frombits(upper|r.Uint32()>>16))
		x = append(x, near(math.Float32frombits(upper))...)
		x = append(x, near(math.Float32frombits(upper|0x8000))...)
		h, next := num.FromFloat16(uint16(i)), num.FromFloat16(uint16(i+1))
		x = append(x, near(h)...)
		x = append(x, near(float32((float64(h)+float64(next))/2))...)
	}
	x = append(x, near(65520)...) // the least that float16 rounds to infinity
	x = append(x, near(-65520)...)
	all(t, func(t *testing.T, s *Set) {
		for _, f := range s.formats() {
			f.check(t, "all", x)
			codes, got := make([]uint16, 1<<16), make([]float32, 1<<16)
			for i := range codes {
				codes[i] = uint16(i)
			}
			f.widen(got, codes)
			same(t, fmt.Sprintf("%v, all widened", f.t), got, f.widened(codes))
		}
	})
}

func TestMagnitudes(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		check := func(what string, x []float32) {
			t.Helper()
			least, greatest := uint32(math.MaxUint32), uint32(0)
			for _, v := range x {
				if b := math.Float32bits(v) &^ (1 << 31); b != 0 {
					least, greatest = min(least, b), max(greatest, b)
				}
			}
			if l, g := s.Magnitudes(x); l != least || g != greatest {
				t.Fatalf("%s: %#x, %#x, want %#x, %#x", what, l, g, least, greatest)
			}
		}
		each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
			check(fmt.Sprintf("%s of %d", kind, n), values(kind, n, r))
		})
		for _, n := range lengths {
			x := make([]float32, n)
			check("zeros", x)
			for i := range x { // each lane counts
				x[i] = -math.SmallestNonzeroFloat32
				check("one subnormal", x)
				x[i] = float32(math.Inf(-1))
				check("one infinity", x)
				x[i] = 0
			}
		}
	})
}

// TestTranspose looks at what the contract lets a kernel write: nothing before dst, of dst what is beyond rows, and 8 elements.
func TestTranspose(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		for _, width := range []int{1, 3, 4, 6, 8, 12, 14, 16, 32, 64, 128} {
			for rows := range width + 1 {
				for _, cols := range []int{0, 1, 3, 4, 5, 8, 11, 64, 70} {
					for _, spare := range []int{0, 1, 7, 8, 100} {
						checkTranspose(t, s, width, rows, cols, spare)
					}
				}
			}
		}
	})
}

func checkTranspose(t *testing.T, s *Set, width, rows, cols, spare int) {
	t.Helper()
	stride := cols + 3
	src := make([]float32, max(0, (rows-1)*stride+cols))
	for i := range src {
		src[i] = float32(i)
	}
	set := max(0, (cols-1)*width+rows) // up to the last that is set
	dst := newGuarded[float32](set + spare)
	s.Transpose(dst.x, width, src[:len(src):len(src)], stride, rows, cols)
	dst.check(t)
	for i := range rows {
		for j := range cols {
			if got, want := dst.x[j*width+i], src[i*stride+j]; got != want {
				t.Fatalf("%d×%d, width %d, %d spare: row %d, column %d: %v, want %v", rows, cols, width, spare, i, j, got, want)
			}
		}
	}
	for i, v := range dst.x[min(set+8, len(dst.x)):] {
		if v != 77 {
			t.Fatalf("%d×%d, width %d, %d spare: element %d beyond was written", rows, cols, width, spare, 8+i)
		}
	}
}

// perSet runs a benchmark for each set.
func perSet(b *testing.B, name string, bytes int, f func(s *Set)) {
	for _, s := range Sets() {
		b.Run(name+"/"+s.Name, func(b *testing.B) {
			b.SetBytes(int64(bytes))
			for b.Loop() {
				f(s)
			}
		})
	}
}

func BenchmarkFormats(b *testing.B) {
	const n = 8192
	x, h := values("normal", n, rand.New(rand.NewPCG(1, 2))), make([]uint16, n)
	for i := range h {
		h[i] = num.ToFloat16(x[i])
	}
	y, g := make([]float32, n), make([]uint16, n)
	perSet(b, "WidenBFloat16", 6*n, func(s *Set) { s.WidenBFloat16(y, h) })
	perSet(b, "NarrowBFloat16", 6*n, func(s *Set) { s.NarrowBFloat16(g, x) })
	perSet(b, "RoundBFloat16", 8*n, func(s *Set) { s.RoundBFloat16(y) })
	perSet(b, "WidenFloat16", 6*n, func(s *Set) { s.WidenFloat16(y, h) })
	perSet(b, "NarrowFloat16", 6*n, func(s *Set) { s.NarrowFloat16(g, x) })
	perSet(b, "RoundFloat16", 8*n, func(s *Set) { s.RoundFloat16(y) })
	perSet(b, "Magnitudes", 4*n, func(s *Set) { s.Magnitudes(x) })
}

func BenchmarkTranspose(b *testing.B) {
	for _, width := range []int{6, 12, 16, 32, 64, 128} {
		const cols, stride = 256, 4096
		src, dst := make([]float32, width*stride), make([]float32, cols*width+8)
		perSet(b, fmt.Sprint(width), 8*width*cols, func(s *Set) { s.Transpose(dst, width, src, stride, width, cols) })
	}
}
