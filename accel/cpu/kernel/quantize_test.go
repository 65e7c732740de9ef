package kernel

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"qlora/ref/num"
	"qlora/ref/quant"
)

// searched is a 4-bit type as kernels take it.
type searched struct {
	*quant.Codebook
	thresholds [15]float32
	ascending  [16]uint8
}

// searchedTypes are all of them. Those with a sign bit come last, ordinary of them.
func searchedTypes() (list []*searched, ordinary int) {
	for _, c := range []*quant.Codebook{quant.NF4, quant.Int4, quant.FP4, quant.E2M1, quant.E3M0} {
		s := &searched{Codebook: c}
		for i := range s.thresholds {
			s.thresholds[i] = float32(math.Inf(1))
		}
		thresholds, nibbles, ok := c.Ascending()
		if copy(s.thresholds[:], thresholds); ok {
			copy(s.ascending[:], nibbles)
			ordinary++
		} else { // a negative number has the code of its magnitude, with bit 3: −t itself goes to the code of less magnitude, −0 to 0's
			for i, nibble := range nibbles {
				s.ascending[8+i], s.ascending[7-i] = nibble, 8+nibble
			}
			for i, t := range thresholds {
				s.thresholds[8+i], s.thresholds[6-i] = t, -math.Float32frombits(math.Float32bits(t)+1)
			}
			s.thresholds[7] = -math.SmallestNonzeroFloat32
		}
		list = append(list, s)
	}
	return list, ordinary
}

// check quantizes x, finite and whole blocks, in either type, and holds the outcome against quant.Quantize4.
func (c *searched) check(t *testing.T, what string, x []float32, blocksize int, kernels map[string]func(packed []byte, absmax []float32) int) {
	t.Helper()
	packed, absmax, err := quant.Quantize4(x, c.Codebook, blocksize, quant.Spec)
	if err != nil {
		t.Fatal(err)
	}
	for name, kernel := range kernels {
		what := fmt.Sprintf("%s, %s, %s, blocks of %d", name, c.Name, what, blocksize)
		got, m := newGuarded[byte](len(packed)), newGuarded[float32](len(absmax))
		if b := kernel(got.x, m.x); b != -1 {
			t.Fatalf("%s: stopped at block %d of %d", what, b, len(absmax))
		}
		same(t, what+", absmax", m.x, absmax)
		if !bytes.Equal(got.x, packed) {
			for i, v := range x {
				if code, want := got.x[i/2]>>(4-i%2*4)&15, packed[i/2]>>(4-i%2*4)&15; code != want {
					t.Fatalf("%s: %v (%#x) has code %d, want %d; absmax is %v", what, v, math.Float32bits(v), code, want, absmax[i/blocksize])
				}
			}
		}
		got.check(t)
		m.check(t)
	}
}

// checkFloat32 is check of QuantizeFloat32.
func (c *searched) checkFloat32(t *testing.T, s *Set, what string, x []float32, blocksize int) {
	t.Helper()
	full := guardedFrom(x)
	c.check(t, what, x, blocksize, map[string]func(packed []byte, absmax []float32) int{
		"float32": func(packed []byte, absmax []float32) int {
			return s.QuantizeFloat32(packed, absmax, full.x, blocksize, &c.thresholds, &c.ascending)
		},
	})
}

// checkBFloat16 is check of QuantizeBFloat16.
func (c *searched) checkBFloat16(t *testing.T, s *Set, what string, x []uint16, blocksize int) {
	t.Helper()
	half, full := guardedFrom(x), make([]float32, len(x))
	widenBFloat16(full, x)
	c.check(t, what, full, blocksize, map[string]func(packed []byte, absmax []float32) int{
		"bfloat16": func(packed []byte, absmax []float32) int {
			return s.QuantizeBFloat16(packed, absmax, half.x, blocksize, &c.thresholds, &c.ascending)
		},
	})
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

// TestQuantize tries all blocksizes with values of all kinds, each block scaled by a power of two of its own, so that some are of zeros or
// have a reciprocal that overflows or is subnormal.
func TestQuantize(t *testing.T) {
	types, ordinary := searchedTypes()
	all(t, func(t *testing.T, s *Set) {
		for i, c := range types {
			for blocksize := 32; blocksize <= 4096; blocksize *= 2 {
				for blocks := range 12 {
					for k, kind := range kinds {
						r := rand.New(rand.NewPCG(uint64(blocks), uint64(k)))
						x := values(kind, blocks*blocksize, r)
						for b := range blocks {
							by := float32(math.Ldexp(1, r.IntN(300)-150))
							for j := range blocksize {
								v := &x[b*blocksize+j]
								if *v *= by; *v-*v != 0 {
									*v = -3
								}
							}
						}
						c.checkFloat32(t, s, kind, x, blocksize)
						if i < ordinary {
							half := make([]uint16, len(x))
							for i, v := range x {
								half[i] = uint16(math.Float32bits(v) >> 16)
							}
							c.checkBFloat16(t, s, kind, half, blocksize)
						}
					}
				}
			}
		}
	})
}

// TestQuantizeFloat32Thresholds tries, for absmax of all exponents and those whose reciprocals just overflow or do not, the numbers around those whose products are the thresholds.
func TestQuantizeFloat32Thresholds(t *testing.T) {
	types, _ := searchedTypes()
	all(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(1, 2))
		for _, c := range types {
			var x []float32
			for i := range uint32(5000) {
				m := math.Float32frombits(1 + r.Uint32N(0x7f7fffff))
				if i < 8 {
					m = math.Float32frombits(math.Float32bits(0x1p-128) + i - 4)
				}
				block := []float32{m}
				for _, threshold := range c.thresholds {
					at := math.Float32bits(float32(threshold * m))
					for d := range uint32(8) {
						if v := math.Float32frombits(at + d - 4); float32(math.Abs(float64(v))) <= m { // no NaN either
							block = append(block, v)
						}
					}
				}
				for len(block) < 128 {
					block = append(block, -0x1p-140)
				}
				r.Shuffle(128, func(i, j int) { block[i], block[j] = block[j], block[i] })
				x = append(x, block...)
			}
			c.checkFloat32(t, s, "about thresholds", x, 128)
		}
	})
}

// TestQuantizeBFloat16Thresholds tries every absmax with the numbers around those whose products are the thresholds.
func TestQuantizeBFloat16Thresholds(t *testing.T) {
	types, ordinary := searchedTypes()
	all(t, func(t *testing.T, s *Set) {
		for _, c := range types[:ordinary] {
			r := rand.New(rand.NewPCG(1, 2))
			var x []uint16
			for m := uint16(1); m < 0x7f80; m++ {
				block := []uint16{m | uint16(r.IntN(2))<<15}
				for _, threshold := range c.thresholds {
					at := num.ToBFloat16(float32(threshold * num.FromBFloat16(m)))
					for d := range uint16(7) {
						if v := at + d - 3; v&0x7fff <= m {
							block = append(block, v)
						}
					}
				}
				for len(block) < 128 {
					block = append(block, uint16(r.IntN(int(m)+1)|r.IntN(2)<<15))
				}
				r.Shuffle(128, func(i, j int) { block[i], block[j] = block[j], block[i] })
				x = append(x, block...)
			}
			c.checkBFloat16(t, s, "about thresholds", x, 128)
		}
	})
}

// TestQuantizeBFloat16Values tries all numbers with absmax of all exponents.
func TestQuantizeBFloat16Values(t *testing.T) {
	const blocksize = 4096
	types, ordinary := searchedTypes()
	all(t, func(t *testing.T, s *Set) {
		for i, c := range types[:ordinary] {
			for m := uint16(0x7f7f); m < 0x8000; m -= 0x7b + uint16(i) {
				var x []uint16
				for v := range uint16(m) {
					if len(x)%blocksize == 0 {
						x = append(x, m)
					}
					x = append(x, v, v|1<<15)
				}
				x = append(x, make([]uint16, -len(x)&(blocksize-1))...)
				c.checkBFloat16(t, s, "all values", x, blocksize)
			}
		}
	})
}

// TestQuantizeNotFinite puts what is not finite at every place of four blocks: the first block that has such is given, and those before it
// are done.
func TestQuantizeNotFinite(t *testing.T) {
	const blocks = 4
	types, _ := searchedTypes()
	c := types[0]
	all(t, func(t *testing.T, s *Set) {
		for _, blocksize := range []int{32, 64, 128} {
			r := rand.New(rand.NewPCG(1, 2))
			x := values("normal", blocks*blocksize, r)
			clear(x[:blocksize]) // a block of zeros does not stop it
			num.BFloat16.RoundAll(x)
			packed, absmax, _ := quant.Quantize4(x, c.Codebook, blocksize, quant.Spec)
			for i := range x {
				bad := append([]float32(nil), x...)
				special := []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}
				bad[i] = special[i%3]
				bad[max(i, r.IntN(len(x)))] = special[r.IntN(3)]
				half := make([]uint16, len(x))
				narrowBFloat16(half, bad)
				check := func(kernel func(packed []byte, absmax []float32) int) {
					t.Helper()
					got, m := make([]byte, len(packed)), make([]float32, blocks)
					b := kernel(got, m)
					if b != i/blocksize {
						t.Fatalf("element %d of blocks of %d: block %d", i, blocksize, b)
					}
					same(t, "absmax", m[:b], absmax[:b])
					if n := b * blocksize / 2; !bytes.Equal(got[:n], packed[:n]) {
						t.Fatalf("element %d of blocks of %d: %x, want %x", i, blocksize, got[:n], packed[:n])
					}
				}
				check(func(packed []byte, absmax []float32) int {
					return s.QuantizeFloat32(packed, absmax, bad, blocksize, &c.thresholds, &c.ascending)
				})
				check(func(packed []byte, absmax []float32) int {
					return s.QuantizeBFloat16(packed, absmax, half, blocksize, &c.thresholds, &c.ascending)
				})
			}
		}
	})
}

func BenchmarkQuantize(b *testing.B) {
	types, _ := searchedTypes()
	c := types[0]
	for _, n := range []int{4096, 65536} {
		x, packed, half := values("normal", n, rand.New(rand.NewPCG(1, 2))), make([]byte, n/2), make([]uint16, n)
		narrowBFloat16(half, x)
		perSet(b, fmt.Sprintf("Absmax/%d", n), 4*n, func(s *Set) { s.Absmax(x) })
		for _, blocksize := range []int{32, 64, 256} {
			absmax := make([]float32, n/blocksize)
			name := fmt.Sprintf("%d/block%d", n, blocksize)
			perSet(b, "Float32/"+name, 4*n, func(s *Set) { s.QuantizeFloat32(packed, absmax, x, blocksize, &c.thresholds, &c.ascending) })
			perSet(b, "BFloat16/"+name, 2*n, func(s *Set) { s.QuantizeBFloat16(packed, absmax, half, blocksize, &c.thresholds, &c.ascending) })
		}
	}
}
