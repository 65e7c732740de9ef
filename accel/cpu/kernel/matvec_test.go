package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"qlora/ref/num"
	"qlora/ref/quant"
)

// TestMatVec4 holds both kernels against sums written out, the rounded one over values whose products are exact.
func TestMatVec4(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		for _, blocksize := range []int{32, 64, 256} {
			for _, blocks := range []int{0, 1, 3} {
				for _, c := range []*quant.Codebook{quant.NF4, quant.FP4, quant.Int4} {
					for _, dtype := range []num.DType{num.Float32, num.BFloat16} {
						matVec4As(t, s, blocksize, blocks, c, dtype)
					}
				}
			}
		}
	})
}

func matVec4As(t *testing.T, s *Set, blocksize, blocks int, codebook *quant.Codebook, dtype num.DType) {
	r := rand.New(rand.NewPCG(uint64(blocksize), uint64(blocks)))
	k := blocksize * blocks
	stride := k/2 + 3
	x, absmax, packed := values("normal", k, r), values("normal", blocks*s.MatVecRows, r), make([]byte, s.MatVecRows*stride)
	dtype.RoundAll(x)
	for i := range packed {
		packed[i] = byte(r.Uint32())
	}
	c := guardedFrom(values("normal", s.MatVecRows, r))
	want := append([]float32(nil), c.x...)
	for i := range want {
		for at := range k {
			code := packed[i*stride+at/2] >> 4
			if at%2 == 1 {
				code = packed[i*stride+at/2] & 15
			}
			w := dtype.Round(float32(codebook.Values[code] * absmax[at/blocksize*s.MatVecRows+i]))
			want[i] += float32(x[at] * w)
		}
	}
	kernel := s.MatVec4
	if dtype == num.BFloat16 {
		kernel = s.MatVec4Rounded
	}
	kernel(c.x, x, packed, stride, absmax, &codebook.Values, blocksize)
	same(t, fmt.Sprintf("%s, %d blocks of %d, %v", codebook.Name, blocks, blocksize, dtype), c.x, want)
	c.check(t)
}

func BenchmarkMatVec4(b *testing.B) {
	const k, blocksize = 4096, 64
	for _, s := range Sets() {
		x, absmax, packed := make([]float32, k), make([]float32, k/blocksize*s.MatVecRows), make([]byte, s.MatVecRows*k/2)
		c := make([]float32, s.MatVecRows)
		for name, kernel := range map[string]func(c, x []float32, packed []byte, stride int, absmax []float32, values *[16]float32, blocksize int){
			"Float32": s.MatVec4, "Rounded": s.MatVec4Rounded} {
			b.Run(s.Name+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(packed)))
				for b.Loop() {
					kernel(c, x, packed, k/2, absmax, &quant.NF4.Values, blocksize)
				}
			})
		}
	}
}
