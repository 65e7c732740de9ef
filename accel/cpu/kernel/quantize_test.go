package kernel

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"testing"

	"qlora/ref/quant"
)

// ascendingType is a 4-bit type without a sign bit as Codes4 takes it.
type ascendingType struct {
	*quant.Codebook
	ascending  [16]uint8
	thresholds [15]float32
}

// ascendingTypes are NF4 and Int4, whose code 8 is not used and whose last threshold therefore nothing exceeds.
func ascendingTypes() (list []*ascendingType) {
	for _, c := range []*quant.Codebook{quant.NF4, quant.Int4} {
		a := &ascendingType{Codebook: c}
		var codes []uint8
		for i := range uint8(16) {
			if c != quant.Int4 || i != 8 {
				codes = append(codes, i)
			}
		}
		sort.Slice(codes, func(i, j int) bool { return c.Values[codes[i]] < c.Values[codes[j]] })
		copy(a.ascending[:], codes)
		for i := range a.thresholds {
			a.thresholds[i] = float32(math.Inf(1))
			if i+1 < len(codes) {
				a.thresholds[i] = (c.Values[codes[i]] + c.Values[codes[i+1]]) / 2
			}
		}
		list = append(list, a)
	}
	return list
}

func TestAbsmax(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
			x := guardedFrom(values(kind, n, r))
			want := float32(0)
			for i, v := range x.x {
				if v != v {
					x.x[i] = -1
				}
				want = max(want, float32(math.Abs(float64(x.x[i]))))
			}
			same(t, fmt.Sprintf("%s of %d", kind, n), []float32{s.Absmax(x.x)}, []float32{want})
		})
		x := make([]float32, 100)
		for i := range x {
			x[i] = -math.SmallestNonzeroFloat32
			same(t, "one subnormal", []float32{s.Absmax(x)}, []float32{math.SmallestNonzeroFloat32})
			x[i] = float32(math.Copysign(0, -1))
			same(t, "zeros", []float32{s.Absmax(x)}, []float32{0})
		}
	})
}

// TestQuantize4 quantizes by Absmax and Codes4 as quant.Quantize4 does.
func TestQuantize4(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		for _, a := range ascendingTypes() {
			for blocksize := 32; blocksize <= 4096; blocksize *= 2 {
				each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
					x := values(kind, n&^1+2*r.IntN(blocksize), r)
					for i, v := range x {
						if v-v != 0 {
							x[i] = -3
						}
					}
					packed, absmax, err := quant.Quantize4(x, a.Codebook, blocksize, quant.Spec)
					if err != nil {
						t.Fatal(err)
					}
					for b, want := range absmax {
						block := x[b*blocksize : min((b+1)*blocksize, len(x))]
						m := s.Absmax(block)
						if 1/m > math.MaxFloat32 {
							continue // a block of zeros, which is no matter of kernels
						}
						same(t, "absmax", []float32{m}, []float32{want})
						got := newGuarded[byte](len(block) / 2)
						s.Codes4(got.x, block, 1/m, &a.thresholds, &a.ascending)
						if want := packed[b*blocksize/2 : b*blocksize/2+len(got.x)]; !bytes.Equal(got.x, want) {
							t.Fatalf("%s, %s, blocks of %d: %x, want %x", a.Name, kind, blocksize, got.x, want)
						}
						got.check(t)
					}
				})
			}
		}
	})
}

// TestCodes4 tries the thresholds themselves and their neighbours, and what no quantization has: NaN, infinities, any r.
func TestCodes4(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		check := func(a *ascendingType, x []float32, r float32) {
			t.Helper()
			got, want := newGuarded[byte](len(x)/2), make([]byte, len(x)/2)
			for i, v := range x {
				n := 0
				for _, threshold := range a.thresholds {
					if float32(v*r) > threshold {
						n++
					}
				}
				want[i/2] |= a.ascending[n] << (4 - i%2*4)
			}
			s.Codes4(got.x, x, r, &a.thresholds, &a.ascending)
			if !bytes.Equal(got.x, want) {
				t.Fatalf("%s, r = %v: %x, want %x", a.Name, r, got.x, want)
			}
			got.check(t)
		}
		for _, a := range ascendingTypes() {
			var x []float32
			for _, threshold := range a.thresholds {
				b := math.Float32bits(threshold)
				x = append(x, threshold, math.Float32frombits(b-1), math.Float32frombits(b+1))
			}
			x = append(x, x[:len(x)&^1]...)
			for shift := range 32 { // through all lanes
				check(a, x[shift:shift+(len(x)-shift)&^1], 1)
			}
			each(t, func(t *testing.T, kind string, n int, r *rand.Rand) {
				for _, by := range append(values("special", 4, r), 1, 0.3) {
					check(a, values(kind, n&^1, r), by)
				}
			})
		}
	})
}

func BenchmarkQuantize(b *testing.B) {
	const n, blocksize = 4096, 64
	x, packed := values("normal", n, rand.New(rand.NewPCG(1, 2))), make([]byte, n/2)
	a := ascendingTypes()[0]
	perSet(b, "Absmax", 4*n, func(s *Set) { s.Absmax(x) })
	perSet(b, "Codes4", 4*n, func(s *Set) { s.Codes4(packed, x, 0.3, &a.thresholds, &a.ascending) })
	perSet(b, "Blocks", 4*n, func(s *Set) {
		for i := 0; i < n; i += blocksize {
			block := x[i : i+blocksize]
			s.Codes4(packed[i/2:(i+blocksize)/2], block, 1/s.Absmax(block), &a.thresholds, &a.ascending)
		}
	})
}
