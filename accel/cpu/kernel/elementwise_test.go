package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"qlora/ref/num"
	"qlora/ref/optim"
)

// TestElementwise holds the kernels of two vectors and of a vector and a number against Go's operators, also in place.
func TestElementwise(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
			a, b, y := values(kind, n, r), values(kind, n, r), values(kind, n, r)
			number := values(kind, 1, r)[0]
			check := func(name string, f func(y, a, b []float32), want func(y, a, b float32) float32) {
				w := make([]float32, n)
				for i := range w {
					w[i] = want(y[i], a[i], b[i])
				}
				what := fmt.Sprintf("%s, %s of %d", name, kind, n)
				to := guardedFrom(y)
				f(to.x, a, b)
				same(t, what, to.x, w)
				to.check(t)

				for i := range w {
					w[i] = want(a[i], a[i], b[i])
				}
				to = guardedFrom(a)
				f(to.x, to.x, b)
				same(t, what+", in place", to.x, w)
				to.check(t)
			}
			with := func(f func(y, a []float32, s float32)) func(y, a, b []float32) {
				return func(y, a, _ []float32) { f(y, a, number) }
			}
			check("Add", s.Add, func(_, a, b float32) float32 { return a + b })
			check("Mul", s.Mul, func(_, a, b float32) float32 { return float32(a * b) })
			check("Scale", with(s.Scale), func(_, a, _ float32) float32 { return float32(a * number) })
			check("Shift", with(s.Shift), func(_, a, _ float32) float32 { return a + number })
			check("Divide", with(s.Divide), func(_, a, _ float32) float32 { return a / number })
		})
	})
}

func TestSum(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		check := func(kind string, x []float32) {
			same(t, fmt.Sprintf("%s of %d", kind, len(x)), []float32{s.Sum(x)}, []float32{num.Sum(x)})
		}
		each(t, func(t *testing.T, kind string, n int, r *rand.Rand) { check(kind, guardedFrom(values(kind, n, r)).x) })
		r := rand.New(rand.NewPCG(1, 2))
		for n := range 100 {
			check("normal", values("normal", n, r))
			negative := values("normal", n, r)
			for i := range negative {
				negative[i] = float32(math.Copysign(0, -1))
			}
			check("-0", negative)
		}
		check("normal", values("normal", 65535, r))
		check("normal", values("normal", 65536, r))
	})
}

// TestMax has NaN and zeros of both signs at every place.
func TestMax(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		check := func(what string, x []float32) {
			t.Helper()
			want := x[0]
			for _, v := range x {
				want = max(want, v)
			}
			same(t, fmt.Sprintf("%s, %d", what, len(x)), []float32{s.Max(x)}, []float32{want})
		}
		each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
			if n > 0 {
				check(kind, guardedFrom(values(kind, n, r)).x)
			}
		})
		minus0 := float32(math.Copysign(0, -1))
		for _, n := range []int{1, 8, 31, 32, 33, 64, 100} {
			for _, others := range []float32{0, minus0, -1, float32(math.Inf(-1)), float32(math.Inf(1))} {
				for _, one := range []float32{0, minus0, 1, -1, float32(math.NaN()), -float32(math.NaN()), float32(math.Inf(-1)), 0x1p-149} {
					for at := range n {
						x := make([]float32, n)
						for i := range x {
							x[i] = others
						}
						x[at] = one
						check(fmt.Sprintf("%v, but %v at %d", others, one, at), x)
					}
				}
			}
		}
	})
}

func TestAdamW(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		c := optim.AdamWConfig{LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01}
		each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
			p, m, v, g := values(kind, n, r), values(kind, n, r), values(kind, n, r), values(kind, n, r)
			for i := range v {
				if r.IntN(8) > 0 {
					v[i] = float32(math.Abs(float64(v[i])))
				}
			}
			scalars := optim.NewScalars(c, 0.5, 1+n)
			const norm = 0.75
			gp, gm, gv := guardedFrom(p), guardedFrom(m), guardedFrom(v)
			s.AdamW(gp.x, gm.x, gv.x, g, scalars, optim.Clip(scalars, norm))
			optim.AdamW(p, m, v, g, scalars, norm)
			for name, x := range map[string]struct {
				got  guarded[float32]
				want []float32
			}{"p": {gp, p}, "m": {gm, m}, "v": {gv, v}} {
				same(t, fmt.Sprintf("%s, %s of %d", name, kind, n), x.got.x, x.want)
				x.got.check(t)
			}
		})
	})
}

func TestLion(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
			p, m, g := values(kind, n, r), values(kind, n, r), values(kind, n, r)
			for i := range m {
				if r.IntN(8) == 0 {
					m[i], g[i] = 0, float32(math.Copysign(0, float64(g[i])))
				}
			}
			scalars := optim.NewLionScalars(optim.AdamWConfig{LR: 1e-3, Beta1: 0.9, Beta2: 0.99, WeightDecay: 0.01}, 0.5)
			const norm = 0.75
			gp, gm := guardedFrom(p), guardedFrom(m)
			s.Lion(gp.x, gm.x, g, scalars, optim.Clip(scalars, norm))
			optim.Lion(p, m, g, scalars, norm)
			same(t, fmt.Sprintf("p, %s of %d", kind, n), gp.x, p)
			same(t, fmt.Sprintf("m, %s of %d", kind, n), gm.x, m)
			gp.check(t)
			gm.check(t)
		})
	})
}

// BenchmarkElementwise is of vectors in the first cache.
func BenchmarkElementwise(b *testing.B) {
	const n = 2048
	r := rand.New(rand.NewPCG(1, 2))
	x, y, z := values("normal", n, r), values("normal", n, r), make([]float32, n)
	perSet(b, "Add", 12*n, func(s *Set) { s.Add(z, x, y) })
	perSet(b, "Mul", 12*n, func(s *Set) { s.Mul(z, x, y) })
	perSet(b, "Scale", 8*n, func(s *Set) { s.Scale(z, x, 3) })
	perSet(b, "Shift", 8*n, func(s *Set) { s.Shift(z, x, 3) })
	perSet(b, "Divide", 8*n, func(s *Set) { s.Divide(z, x, 3) })
	perSet(b, "Sum", 4*n, func(s *Set) { s.Sum(x) })
	perSet(b, "Max", 4*n, func(s *Set) { s.Max(x) })
}

// BenchmarkAdamW is of vectors in no cache: 16 bytes are read for each parameter, and 12 written; by Lion 12 and 8.
func BenchmarkAdamW(b *testing.B) {
	const n = 1 << 22
	r := rand.New(rand.NewPCG(1, 2))
	p, m, v, g := values("normal", n, r), make([]float32, n), make([]float32, n), values("normal", n, r)
	scalars := optim.NewScalars(optim.AdamWConfig{LR: 1e-5, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, 0, 1)
	perSet(b, "AdamW", 28*n, func(s *Set) { s.AdamW(p, m, v, g, scalars, 1) })
	scalars = optim.NewLionScalars(optim.AdamWConfig{LR: 1e-5, Beta1: 0.9, Beta2: 0.99}, 0)
	perSet(b, "Lion", 20*n, func(s *Set) { s.Lion(p, m, g, scalars, 1) })
}
