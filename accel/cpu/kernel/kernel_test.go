package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"qlora/ref/num"
)

// all runs a test for every set of this processor. Which those are is printed, for a set that is not there is not tested.
func all(t *testing.T, f func(t *testing.T, s *Set)) {
	for _, s := range Sets() {
		t.Run(s.Name, func(t *testing.T) { f(t, s) })
	}
}

// A machine that should have a set says so by QLORA_NEED=avx2,avx512,avx512bf16: then its absence fails.
func TestSets(t *testing.T) {
	have := map[string]bool{}
	for _, s := range Sets() {
		have[s.Name] = true
		have["avx512bf16"] = have["avx512bf16"] || s.TilePairs != nil
	}
	t.Logf("this processor runs %v", have)
	for _, name := range strings.Split(os.Getenv("QLORA_NEED"), ",") {
		if name != "" && !have[name] {
			t.Errorf("this processor does not run %s", name)
		}
	}
}

// What AVX2 has not, registers 16 to 31 and those of 512 bits, is in none of its kernels: the generator takes them when it runs out.
func TestRegistersOfAVX2(t *testing.T) {
	files, err := filepath.Glob("*_amd64.s")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	beyond := regexp.MustCompile(`\b([XY](1[6-9]|2\d|3[01])|Z\d+|K\d)\b`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var function string
		for i, line := range strings.Split(string(text), "\n") {
			if name, ok := strings.CutPrefix(line, "TEXT ·"); ok {
				function, _, _ = strings.Cut(name, "(")
			}
			if !strings.Contains(function, "AVX512") && beyond.MatchString(line) {
				t.Errorf("%s:%d: %s: %s", file, i+1, function, line)
			}
		}
	}
}

const guard = 64

// guarded is memory of n elements between two runs of a pattern; its address is odd in elements. Check fails if the pattern was written to.
type guarded[T float32 | uint32 | uint16 | byte] struct {
	all, x []T
}

func newGuarded[T float32 | uint32 | uint16 | byte](n int) guarded[T] {
	all := make([]T, guard+1+n+guard)
	for i := range all {
		all[i] = 77
	}
	return guarded[T]{all, all[guard+1 : guard+1+n : guard+1+n]}
}

func (g guarded[T]) check(t *testing.T) {
	t.Helper()
	for i, v := range g.all {
		if at := i - guard - 1; v != 77 && (at < 0 || at >= len(g.x)) {
			t.Fatalf("element %d of %d was written", at, len(g.x))
		}
	}
}

// guardedFrom is guarded memory with the values of x.
func guardedFrom[T float32 | uint32 | uint16 | byte](x []T) guarded[T] {
	g := newGuarded[T](len(x))
	copy(g.x, x)
	return g
}

// same fails at the first element whose bits differ, all NaN being one.
func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i, v := range want {
		if math.Float32bits(got[i]) != math.Float32bits(v) && (got[i] == got[i] || v == v) {
			t.Fatalf("%s: element %d of %d is %v (%#x), want %v (%#x)", what, i, len(want), got[i], math.Float32bits(got[i]), v, math.Float32bits(v))
		}
	}
}

// lengths are around the multiples of registers.
var lengths = []int{0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 255, 256, 1000}

// kinds of values: ordinary, of all exponents, with special ones.
var kinds = []string{"normal", "wide", "special"}

func values(kind string, n int, r *rand.Rand) []float32 {
	special := []float32{0, float32(math.Copysign(0, -1)), 1, -1, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()),
		math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, 0x1p-126, -0x1p-130, 0x1.fffffep-127}
	x := make([]float32, n)
	for i := range x {
		switch {
		case kind == "normal" || kind == "special" && r.IntN(2) == 0:
			x[i] = float32(r.NormFloat64())
		case kind == "wide":
			x[i] = float32(math.Ldexp(r.NormFloat64(), r.IntN(256)-128))
		default:
			x[i] = special[r.IntN(len(special))]
		}
	}
	return x
}

// each calls f for every kind and length.
func each(t *testing.T, f func(t *testing.T, kind string, n int, r *rand.Rand)) {
	for k, kind := range kinds {
		for _, n := range lengths {
			f(t, kind, n, rand.New(rand.NewPCG(uint64(k), uint64(n))))
		}
	}
}

// TestProducts holds tiles and rows against sums written out, over values of which no product is exact, and the fused ones over
// values of 16 bits, of which every product is.
func TestProducts(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		for _, k := range []int{1, 2, 5, 64, 131} {
			for _, fused := range []bool{false, true} {
				r := rand.New(rand.NewPCG(uint64(k), 9))
				draw := func(n int) []float32 {
					x := values("normal", n, r)
					if fused {
						num.BFloat16.RoundAll(x)
					}
					return x
				}
				check := func(what string, kernel func(c, a, b []float32), panel, rows, cols, stride int) {
					a, b, c := guardedFrom(draw(k*rows)), guardedFrom(draw(k*cols)), guardedFrom(draw((rows-1)*stride+cols))
					want := append([]float32(nil), c.x...)
					for p := range k {
						for i := range rows {
							for j := range cols {
								want[i*stride+j] += float32(a.x[(i/panel*k+p)*panel+i%panel] * b.x[p*cols+j])
							}
						}
					}
					kernel(c.x, a.x, b.x)
					same(t, fmt.Sprintf("%s of %d, fused %v", what, k, fused), c.x, want)
					c.check(t)
				}
				tile, row := s.Tile, s.Row
				if fused {
					tile, row = s.TileFused, s.RowFused
				}
				stride := s.NR + 3
				for _, panels := range []int{1, 3} {
					check("tile", func(c, a, b []float32) { tile(c, stride, a, b) }, s.MR, panels*s.MR, s.NR, stride)
				}
				check("row", row, 1, 1, s.RowWidth, s.RowWidth)
			}
		}
	})
}

func BenchmarkProducts(b *testing.B) {
	for _, s := range Sets() {
		const k = 256
		x, w, c := make([]float32, k*s.MR), make([]float32, k*max(s.NR, s.RowWidth)), make([]float32, max(s.MR*s.NR, s.RowWidth))
		run := func(name string, flops int, f func()) {
			b.Run(s.Name+"/"+name, func(b *testing.B) {
				for b.Loop() {
					f()
				}
				b.ReportMetric(float64(flops)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
			})
		}
		tile, row := 2*k*s.MR*s.NR, 2*k*s.RowWidth
		run("Tile", tile, func() { s.Tile(c, s.NR, x, w[:k*s.NR]) })
		run("TileFused", tile, func() { s.TileFused(c, s.NR, x, w[:k*s.NR]) })
		run("Row", row, func() { s.Row(c, x[:k], w) })
		run("RowFused", row, func() { s.RowFused(c, x[:k], w) })
	}
}
