package conformance

import (
	"math"
	"slices"
	"testing"
)

// Differences are counted and found wherever they are, at and around the ends of what is compared at once; NaN equals NaN.
func TestDifferFloats(t *testing.T) {
	r := newRandom("differ")
	for _, n := range []int{0, 1, 2, alike - 1, alike, alike + 1, 3*alike + 7} {
		a := r.bits(n)
		for i := range a {
			if r.below(50) == 0 {
				a[i] = float32(math.NaN())
			}
		}
		b := slices.Clone(a)
		for i := range b {
			if b[i] != b[i] {
				b[i] = math.Float32frombits(0xffc00001) // another NaN
			}
		}
		if d, first := differFloats(a, b); d != 0 || first != -1 {
			t.Errorf("%d: %d differ, the first at %d", n, d, first)
		}
		var at []int
		for _, i := range []int{0, alike - 1, alike, 2*alike + 1, n - 1} {
			if 0 <= i && i < n && !slices.Contains(at, i) {
				at = append(at, i)
				b[i] = math.Float32frombits(math.Float32bits(a[i]) ^ 1<<31)
				if a[i] != a[i] {
					b[i] = 1
				}
			}
		}
		d, first := differFloats(a, b)
		if d != len(at) || n > 0 && first != slices.Min(at) {
			t.Errorf("%d: %d differ, the first at %d; want those at %v", n, d, first, at)
		}
	}
}
