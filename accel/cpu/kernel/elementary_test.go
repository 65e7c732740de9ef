package kernel

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"qlora/ref/num"
)

// elementaries are the elementary functions of a set, and those of num.
func (s *Set) elementaries() []elementaryFunction {
	return []elementaryFunction{
		{"exp", func(y, x []float32) { s.ExpMinus(y, x, 0) }, num.Exp},
		{"tanh", s.Tanh, num.Tanh},
		{"silu", func(y, x []float32) { s.SiLU(y, nil, x) }, func(x float32) float32 { return float32(x * num.Sigmoid(x)) }},
	}
}

type elementaryFunction struct {
	name string
	f    func(y, x []float32)
	want func(float32) float32
}

// wrong is an error that names the first result whose bits are not num's.
func (f elementaryFunction) wrong(y, x []float32) error {
	f.f(y, x)
	for i, v := range x {
		if want := f.want(v); math.Float32bits(y[i]) != math.Float32bits(want) && (want == want || y[i] == y[i]) {
			return fmt.Errorf("%s of %x, %d of %d, is %x, want %x", f.name, v, i, len(x), y[i], want)
		}
	}
	return nil
}

func (f elementaryFunction) check(t *testing.T, what string, x []float32) {
	t.Helper()
	y := newGuarded[float32](len(x))
	if err := f.wrong(y.x, x); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	y.check(t)
}

func TestElementary(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		for _, f := range s.elementaries() {
			each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
				x := values(kind, n, r)
				f.check(t, kind, x)
				for i := range x {
					x[i] *= 10
				}
				f.check(t, kind+", times 10", x)
			})
			halves := make([]float32, 1<<17)
			for i := range 1 << 16 {
				halves[2*i], halves[2*i+1] = num.FromBFloat16(uint16(i)), num.FromFloat16(uint16(i))
			}
			f.check(t, "16 bits", halves)
			f.check(t, "hard", hardElementary())
		}
	})
}

// hardElementary are inputs with results nearest to a midpoint of two float32, and the neighbours of those with exact results or where
// results become 0, 1 or infinite: at each place of a block, the others being ordinary.
func hardElementary() (list []float32) {
	var hard []float32
	for _, x := range []float32{0x1.d2259ap+03, 0x1p-23, 0x1.ep-20, 0x1.fcp-17, 0x1.66p-16, 0x1.437902p-05, 0x1p-24, 0x1.fep-17, 0x1.1bp-16,
		0x1.250c02p-10, 0x1.2082ep-03, 0, 1, 2, 4, 0.25, 0.5, 1.0 / 32, 20, 22, 88, 89, 88.72283, 87.33654, 87.33655, 87.34, 9.010913, 17.32868,
		0x1p-126, 0x1p-149, 0x1p-25, math.MaxFloat32} {
		for _, y := range []float32{x, -x} {
			hard = append(hard, y, math.Nextafter32(y, float32(math.Inf(1))), math.Nextafter32(y, float32(math.Inf(-1))))
		}
	}
	for i, x := range hard {
		for j := range 16 {
			list = append(list, float32(j-8)*0.37)
			if j == i%16 {
				list[len(list)-1] = x
			}
		}
	}
	return append(list, hard...)
}

// TestElementaryInPlace has x and y the same, with blocks in doubt among others.
func TestElementaryInPlace(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		for _, f := range s.elementaries() {
			f.f, f.name = inPlace(f.f), f.name+" in place"
			f.check(t, "hard", hardElementary())
		}
	})
}

func inPlace(f func(y, x []float32)) func(y, x []float32) {
	return func(y, x []float32) {
		copy(y, x)
		f(y, y)
	}
}

func TestExpMinus(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
			for _, m := range append(values(kind, 3, r), float32(math.Inf(-1)), 0x1p-24) {
				f := elementaryFunction{"exp", func(y, x []float32) { s.ExpMinus(y, x, m) }, func(x float32) float32 { return num.Exp(x - m) }}
				f.check(t, fmt.Sprintf("%s minus %v", kind, m), values(kind, n, r))
			}
		})
	})
}

func TestSiLUSlope(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		check := func(what string, x []float32) {
			t.Helper()
			y, slope := newGuarded[float32](len(x)), newGuarded[float32](len(x))
			want, wantSlope := make([]float32, len(x)), make([]float32, len(x))
			silu(want, wantSlope, x)
			s.SiLU(y.x, slope.x, x)
			same(t, what, y.x, want)
			same(t, what+", slope", slope.x, wantSlope)
			y.check(t)
			slope.check(t)
		}
		each(t, func(t *testing.T, kind string, n int, r *rand.Rand) { check(kind, values(kind, n, r)) })
		check("hard", hardElementary())
		for from := 0; from < 1<<16; from += 1000 {
			var x []float32
			for i := from; i < min(from+1000, 1<<16); i++ {
				x = append(x, num.FromBFloat16(uint16(i)))
			}
			check("bfloat16", x)
		}
	})
}

var exhaustive = flag.Bool("exhaustive", false, "try all 2^32 inputs of every elementary function (ten minutes on two cores)")

// TestElementaryExhaustive tries every float32, with -exhaustive, else every 4099th.
func TestElementaryExhaustive(t *testing.T) {
	stride := uint64(4099)
	if *exhaustive {
		stride = 1
	}
	for _, s := range Sets()[1:] {
		for _, f := range s.elementaries() {
			t.Run(s.Name+"/"+f.name, func(t *testing.T) {
				var next, tried atomic.Uint64
				var wait sync.WaitGroup
				for range runtime.GOMAXPROCS(0) {
					wait.Go(func() {
						const run = 1 << 12
						y := make([]float32, run)
						for from := next.Add(run) - run; from*stride < 1<<32 && !t.Failed(); from = next.Add(run) - run {
							var x []float32
							for i := from; i < from+run && i*stride < 1<<32; i++ {
								x = append(x, math.Float32frombits(uint32(i*stride)))
							}
							if err := f.wrong(y[:len(x)], x); err != nil {
								t.Error(err)
							}
							tried.Add(uint64(len(x)))
						}
					})
				}
				wait.Wait()
				t.Logf("%d inputs", tried.Load())
			})
		}
	}
}

// BenchmarkElementary is of ordinary values in the first cache, and of a row of attention's with masked scores. A byte is an element, so that
// MB/s are millions of elements.
func BenchmarkElementary(b *testing.B) {
	const n = 1024
	r := rand.New(rand.NewPCG(1, 2))
	x, y, slope, masked := values("normal", n, r), make([]float32, n), make([]float32, n), values("normal", n, r)
	for i := range masked {
		masked[i] *= 100
		if i%3 == 0 {
			masked[i] = float32(math.Inf(-1))
		}
	}
	perSet(b, "ExpMinus", n, func(s *Set) { s.ExpMinus(y, x, 3.1) })
	perSet(b, "ExpMinus100", n, func(s *Set) { s.ExpMinus(y[:100], x[:100], 3.1) })
	perSet(b, "ExpMinusMasked", n, func(s *Set) { s.ExpMinus(y, masked, 3.1) })
	perSet(b, "Tanh", n, func(s *Set) { s.Tanh(y, x) })
	perSet(b, "SiLU", n, func(s *Set) { s.SiLU(y, nil, x) })
	perSet(b, "SiLUSlope", n, func(s *Set) { s.SiLU(y, slope, x) })
}
