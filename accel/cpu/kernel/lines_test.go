package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"qlora/ref/num"
)

func TestLines(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		for _, width := range []int{4, 6, 12, 16, 32} {
			for _, lanes := range []int{1, 4, 6, 12, 16, 31, 32, 36, 64, 100} {
				for _, rows := range []int{1, 2, 5} {
					r := rand.New(rand.NewPCG(uint64(width), uint64(lanes)))
					depth, stride := rows+2, lanes+3
					panels := (lanes + width - 1) / width
					src := values("normal", (rows-1)*stride+lanes, r)
					half := make([]uint16, len(src))
					num.BFloat16.RoundAll(src)
					narrowBFloat16(half, src)
					want := make([]float32, panels*depth*width)
					for i := range want {
						want[i] = 5
					}
					got, gotHalf := guardedFrom(want), guardedFrom(want)
					for i := range lanes {
						for row := range rows {
							want[(i/width*depth+row)*width+i%width] = src[row*stride+i]
						}
					}
					s.Lines(got.x, width, depth, src, stride, rows, lanes)
					s.LinesBFloat16(gotHalf.x, width, depth, half, stride, rows, lanes)
					what := fmt.Sprintf("width %d, %d lanes, %d rows", width, lanes, rows)
					same(t, what, got.x, want)
					same(t, what+", bfloat16", gotHalf.x, want)
					got.check(t)
					gotHalf.check(t)
				}
			}
		}
	})
}
