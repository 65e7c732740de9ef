package second

import (
	"math"
	"slices"

	"qlora/ref/num"
	"qlora/ref/op"
)

func (d *Device) GradNorm(at op.At, norm *op.Tensor, grads []*op.Tensor) {
	shaped(at, 1, 1, norm)
	full(at, norm)
	full(at, grads...)
	grads = slices.Clone(grads)
	d.do(at, func() error {
		sums := make([]float32, len(grads))
		for i, g := range grads {
			squares := d.widen(g, num.Float32)
			d.apply(squares, func(_ int, x float32) float32 { return float32(x * x) })
			sums[i] = sum(squares.v)
		}
		of(norm).put(0, root(sum(sums)))
		return nil
	})
}

// root is the float32 nearest to √x: float64 has more than twice its bits.
func root(x float32) float32 { return float32(math.Sqrt(float64(x))) }
