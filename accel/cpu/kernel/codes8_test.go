package kernel

import (
	"math"
	"math/rand/v2"
	"testing"

	"qlora/ref/quant"
)

// TestCodes8 tries every upper half, every threshold and its neighbours, against the count written out.
func TestCodes8(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, m := range []*quant.Map8{quant.DynamicSigned, quant.DynamicUnsigned} {
		thresholds := m.Thresholds()
		var x []float32
		for _, v := range thresholds {
			x = append(x, v, math.Nextafter32(v, -2), math.Nextafter32(v, 2))
		}
		for upper := range uint32(1 << 16) {
			for _, lower := range []uint32{0, 0xffff, uint32(r.IntN(1 << 16))} {
				if v := math.Float32frombits(upper<<16 | lower); v == v && !math.IsInf(float64(v), 0) {
					x = append(x, v)
				}
			}
		}
		all(t, func(t *testing.T, s *Set) {
			codes := newGuarded[byte](len(x))
			s.Codes8(codes.x, x, 1, NewSearch8(thresholds))
			codes.check(t)
			for i, v := range x {
				want := 0
				for _, b := range thresholds {
					if v > b {
						want++
					}
				}
				if int(codes.x[i]) != want {
					t.Fatalf("%v: code %d, want %d", v, codes.x[i], want)
				}
			}
		})
	}
}
