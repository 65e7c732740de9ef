package kernel

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"qlora/ref/num"
)

// drawPairs are n dwords of two bfloat16 each.
func drawPairs(kind string, n int, r *rand.Rand) []uint32 {
	half := make([]uint16, 2*n)
	narrowBFloat16(half, values(kind, len(half), r))
	pairs := make([]uint32, n)
	interleave(pairs, half[:n], half[n:])
	return pairs
}

func TestInterleave(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		for _, n := range lengths {
			a, b, got := make([]uint16, n), make([]uint16, n), newGuarded[uint32](n)
			for i := range n {
				a[i], b[i] = uint16(7*i+1), uint16(65535-3*i)
			}
			s.Interleave(got.x, a, b)
			for i, v := range got.x {
				if v != uint32(a[i])|uint32(b[i])<<16 {
					t.Fatalf("element %d of %d is %#x", i, n, v)
				}
			}
			got.check(t)
		}
	})
}

// The instruction has the bits of its definition. A processor that fails here adds in another order, say: that is no mistake of the kernel's
// as long as it keeps to what the device declares of fast products, which the conformance suite judges.
func TestTilePairs(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		if s.TilePairs == nil {
			t.Skipf("%s has no AVX512-BF16 here: TilePairs is not tested with it", s.Name)
		}
		for _, kind := range append(kinds, "edge") {
			for _, k := range []int{0, 1, 2, 5, 64, 131} {
				r := rand.New(rand.NewPCG(uint64(k), 5))
				draw := func(n int) []uint32 {
					if kind == "edge" {
						return drawEdge(n, r)
					}
					return drawPairs(kind, n, r)
				}
				stride := s.NR + 3
				a, b, c := guardedFrom(draw(k*s.MR)), guardedFrom(draw(k*s.NR)), guardedFrom(values("normal", s.MR*stride, r))
				if kind == "edge" {
					for i := range c.x {
						c.x[i] *= 0x1p-125
					}
				}
				want := append([]float32(nil), c.x...)
				for p := range k {
					for i := range s.MR {
						for j := range s.NR {
							want[i*stride+j] = DotPair(want[i*stride+j], a.x[p*s.MR+i], b.x[p*s.NR+j])
						}
					}
				}
				s.TilePairs(c.x, stride, a.x, b.x)
				same(t, fmt.Sprintf("%s, %d pairs", kind, k), c.x, want)
				c.check(t)
			}
		}
	})
}

// drawEdge are pairs whose products are around 2^-126, where results are flushed.
func drawEdge(n int, r *rand.Rand) []uint32 {
	pairs := make([]uint32, n)
	for i := range pairs {
		one := func() uint32 { return r.Uint32()&0x807f | uint32(63+r.IntN(3))<<7 }
		pairs[i] = one() | one()<<16
	}
	return pairs
}

// exactSum is c + x·y in one rounding, or the zero that it is flushed to.
func exactSum(x, y, c float32) float32 {
	of := func(v float32) *big.Float { return new(big.Float).SetPrec(2000).SetFloat64(float64(flushed(v))) }
	sum := of(x)
	sum.Mul(sum, of(y)).Add(sum, of(c))
	short := new(big.Float).SetPrec(24).SetMode(big.ToNearestEven).Set(sum) // as if exponents had no end
	if f, _ := short.Float64(); math.Abs(f) < 0x1p-126 {
		return float32(math.Copysign(0, f))
	}
	f, _ := short.Float32()
	return f
}

func TestDotPair(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 400000 {
		a, b := drawEdge(1, r)[0], drawEdge(1, r)[0]
		c := float32(r.NormFloat64() * math.Ldexp(1, -126-r.IntN(30)+r.IntN(30)))
		if i%2 == 0 {
			a, b = drawPairs("normal", 1, r)[0], drawPairs("normal", 1, r)[0]
			c = float32(r.NormFloat64() * math.Ldexp(1, r.IntN(60)-30))
		}
		high := exactSum(num.FromBFloat16(uint16(a>>16)), num.FromBFloat16(uint16(b>>16)), c)
		want := exactSum(num.FromBFloat16(uint16(a)), num.FromBFloat16(uint16(b)), high)
		if got := DotPair(c, a, b); got != want {
			t.Fatalf("%v + %#x·%#x = %v (%#x), want %v (%#x)", c, a, b, got, math.Float32bits(got), want, math.Float32bits(want))
		}
	}
}

func BenchmarkTilePairs(b *testing.B) {
	for _, s := range Sets() {
		if s.TilePairs == nil {
			continue
		}
		const k = 128
		x, w, c := make([]uint32, k*s.MR), make([]uint32, k*s.NR), make([]float32, s.MR*s.NR)
		b.Run(s.Name, func(b *testing.B) {
			for b.Loop() {
				s.TilePairs(c, s.NR, x, w)
			}
			b.ReportMetric(float64(4*k*s.MR*s.NR)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
		})
	}
}
