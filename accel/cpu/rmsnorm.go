package cpu

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

// RMSNorm normalizes rows, or their parts, one by one (op.RMSNorm).
func (d *Device) RMSNorm(at op.At, y, r, x, w *op.Tensor, eps float32) {
	op.CheckRMSNorm(at, y, r, x, w)
	d.within(at, func() workspace { return ofNorm(w) }, func() error {
		k, n := d.kernel, w.Cols
		from, to, roots := of(x), of(y), of(r).full
		weight := of(w).at(k, d.shared.floats(slotX, n))
		d.rows(len(roots), n, func(s *scratch, i, j int) {
			square := s.floats(slotY, n)
			for ; i < j; i++ {
				xi := from.part(i*n, (i+1)*n).at(k, s.floats(slotX, n))
				k.Mul(square, xi, xi)
				roots[i] = num.Rsqrt(d.sum(square)/float32(n) + eps)
				yi := square
				k.Scale(yi, xi, roots[i])
				round(k, y.DType, yi)
				k.Mul(yi, weight, yi)
				to.part(i*n, (i+1)*n).put(k, yi)
			}
		})
		return nil
	})
}

func ofNorm(w *op.Tensor) workspace {
	need := ofRows(w.Cols)
	need.shared[slotX] = w.Cols
	return need
}

// RMSNormBackward adds, with n = x·r and g = dy·w (op.RMSNormBackward),
//
//	dx += r·(g − n·Sum(g·n)/d)
//	dw += dy·round(n), tokens ascending: threads take columns
func (d *Device) RMSNormBackward(at op.At, dx, dw, dy, x, w, r *op.Tensor) {
	op.CheckRMSNormBackward(at, dx, dw, dy, x, w, r)
	d.within(at, func() workspace { return ofNorm(w) }, func() error {
		if dx != nil {
			d.normBackwardOfInput(dx, dy, x, w, r)
		}
		if dw != nil {
			d.normBackwardOfWeight(of(dw).full, dy, x, r)
		}
		return nil
	})
}

func (d *Device) normBackwardOfInput(dx, dy, x, w, r *op.Tensor) {
	k, n, roots := d.kernel, w.Cols, of(r).full
	weight := of(w).at(k, d.shared.floats(slotX, n))
	d.rows(len(roots), n, func(s *scratch, i, j int) {
		g, normed, z := s.floats(slotZ, n), s.floats(slotU, n), s.floats(slotV, n)
		for ; i < j; i++ {
			from, to := i*n, (i+1)*n
			k.Scale(normed, of(x).part(from, to).at(k, z), roots[i])
			k.Mul(g, of(dy).part(from, to).at(k, z), weight)
			k.Mul(z, g, normed)
			mean := d.sum(z) / float32(n)
			k.Scale(normed, normed, -mean) // g − n·mean is g + n·(−mean)
			k.Add(z, g, normed)
			k.Scale(z, z, roots[i])
			of(dx).part(from, to).add(k, z, g)
		}
	})
}

func (d *Device) normBackwardOfWeight(dw []float32, dy, x, r *op.Tensor) {
	k, roots, n := d.kernel, of(r).full, len(dw)
	d.spread(n, 256, x.Len(), func(s *scratch, from, to int) {
		normed, z := s.floats(slotX, to-from), s.floats(slotY, to-from)
		for i, root := range roots {
			k.Scale(normed, of(x).part(i*n+from, i*n+to).at(k, z), root)
			round(k, x.DType, normed)
			k.Mul(normed, of(dy).part(i*n+from, i*n+to).at(k, z), normed)
			k.Add(dw[from:to], dw[from:to], normed)
		}
	})
}

// longestSum is what the kernels sum at once: a run of num.Sum.
const longestSum = 65536

// sum is num.Sum.
func (d *Device) sum(x []float32) float32 {
	if len(x) <= longestSum {
		return d.kernel.Sum(x)
	}
	var runs []float32
	for len(x) > 0 {
		n := min(longestSum, len(x))
		runs = append(runs, d.kernel.Sum(x[:n]))
		x = x[n:]
	}
	return d.sum(runs)
}
