package cpu

import (
	"math"

	"qlora/accel/cpu/kernel"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

// GradNorm: the Sum of each tensor's squares, the Sum of those, the root (optim.Norm). Threads take runs of a tensor's Sum.
func (d *Device) GradNorm(at op.At, norm *op.Tensor, grads []*op.Tensor) {
	op.CheckGradNorm(at, norm)
	d.within(at, func() workspace { return ofSums(grads) }, func() error {
		squares := make([]float32, len(grads))
		for i, g := range grads {
			squares[i] = d.sumOfSquares(of(g))
		}
		of(norm).put(d.kernel, []float32{float32(math.Sqrt(float64(d.sum(squares))))})
		return nil
	})
}

func ofSums(tensors []*op.Tensor) (w workspace) {
	for _, t := range tensors {
		w.each[slotX] = max(w.each[slotX], min(longestSum, t.Len()))
	}
	return w
}

func (d *Device) sumOfSquares(x values) float32 {
	runs := make([]float32, ceil(x.len(), longestSum))
	d.spread(x.len(), longestSum, x.len(), func(w *scratch, from, to int) {
		square := w.floats(slotX, to-from)
		z := x.part(from, to).at(d.kernel, square)
		d.kernel.Mul(square, z, z)
		runs[from/longestSum] = d.kernel.Sum(square)
	})
	if len(runs) == 1 {
		return runs[0]
	}
	return d.sum(runs)
}

// AdamW goes once through the memory of p, m, v and g.
func (d *Device) AdamW(at op.At, p, m, v, g, scalars, norm *op.Tensor) {
	op.CheckAdamW(at, p, m, v, g)
	d.paged(at, func() {
		s := of(scalars).full
		clip := optim.Clip(s, of(norm).full[0])
		d.elements(p.Len(), func(_ *scratch, i, j int) {
			d.kernel.AdamW(of(p).full[i:j], of(m).full[i:j], of(v).full[i:j], of(g).full[i:j], s, clip)
		})
	}, m.Handle, v.Handle)
}

// AdamW8 dequantizes the moments block by block, moves them, and quantizes them again.
func (d *Device) AdamW8(at op.At, p *op.Tensor, s *op.State8, g, scalars, norm *op.Tensor) {
	op.CheckAdamW8(at, p, g)
	d.paged(at, func() {
		sc, x := of(scalars).full, state8(s)
		clip := optim.Clip(sc, of(norm).full[0])
		const blocks = piece / optim.Blocksize8
		d.spread(ceil(p.Len(), optim.Blocksize8), blocks, p.Len(), func(w *scratch, b0, b1 int) {
			i, j := b0*optim.Blocksize8, min(b1*optim.Blocksize8, p.Len())
			m, v := w.floats(slotX, j-i), w.floats(slotY, j-i)
			d.kernel.Dequantize8(m, x.M[i:j], x.AbsmaxM[b0:b1], (*[256]float32)(quant.DynamicSigned), 0)
			d.kernel.Dequantize8(v, x.V[i:j], x.AbsmaxV[b0:b1], (*[256]float32)(quant.DynamicUnsigned), 0)
			d.kernel.AdamW(of(p).full[i:j], m, v, of(g).full[i:j], sc, clip)
			requantize8(d.kernel, x.M[i:j], x.AbsmaxM[b0:b1], m, signed)
			requantize8(d.kernel, x.V[i:j], x.AbsmaxV[b0:b1], v, unsigned)
		})
	}, s.Handle)
}

// requantize8 quantizes blocks of 8-bit moments.
func requantize8(k *kernel.Set, codes []byte, absmax, x []float32, s *kernel.Search8) {
	for b := range absmax {
		from, to := b*optim.Blocksize8, min((b+1)*optim.Blocksize8, len(x))
		absmax[b] = quantize8(k, codes[from:to], x[from:to], s)
	}
}
