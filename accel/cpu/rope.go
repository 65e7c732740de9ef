package cpu

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

func (d *Device) RoPE(at op.At, y, x, cos, sin *op.Tensor, positions *op.Ints) {
	op.CheckRoPE(at, y, x, positions)
	d.turn(at, x, cos, sin, positions, 1, func(w *scratch, from int, z []float32) {
		of(y).part(from, from+len(z)).put(d.kernel, z)
	})
}

func (d *Device) RoPEBackward(at op.At, dx, dy, cos, sin *op.Tensor, positions *op.Ints) {
	op.CheckRoPE(at, dx, dy, positions)
	if dx == nil {
		return
	}
	d.turn(at, dy, cos, sin, positions, -1, func(w *scratch, from int, z []float32) {
		of(dx).part(from, from+len(z)).add(d.kernel, z, w.floats(slotZ, len(z)))
	})
}

// turn hands the rows of x, each head turned by its angles or back by them, to store.
func (d *Device) turn(at op.At, x, cos, sin *op.Tensor, positions *op.Ints, sign float32, store func(w *scratch, from int, z []float32)) {
	d.within(at, func() workspace { return ofTurn(x, cos) }, func() error {
		if err := op.CheckIndices(positions.Name, ints(positions), cos.Rows, "position", false); err != nil {
			return err
		}
		from, half := of(x), cos.Cols
		c, s := d.table(slotX, cos), d.table(slotY, sin)
		d.rows(positions.Len, x.Cols, func(w *scratch, i, j int) {
			y := w.floats(slotX, (j-i)*x.Cols)
			z := from.part(i*x.Cols, j*x.Cols).at(d.kernel, w.floats(slotY, len(y)))
			for row, p := range ints(positions)[i:j] {
				angles := int(p) * half
				for h := row * x.Cols; h < (row+1)*x.Cols; h += 2 * half {
					turnHead(y[h:h+2*half], z[h:h+2*half], c[angles:angles+half], s[angles:angles+half], sign)
				}
			}
			store(w, i*x.Cols, y)
		})
		return nil
	})
}

func ofTurn(x, cos *op.Tensor) workspace {
	need := ofRows(x.Cols)
	if cos.DType != num.Float32 {
		need.shared[slotX], need.shared[slotY] = cos.Len(), cos.Len()
	}
	return need
}

// table is a table in float32: itself, or widened into a slot.
func (d *Device) table(slot int, t *op.Tensor) []float32 {
	if t.DType == num.Float32 {
		return of(t).full
	}
	return of(t).at(d.kernel, d.shared.floats(slot, t.Len()))
}

// turnHead: y[i] = x[i]·c[i] − x[i+half]·s[i],  y[i+half] = x[i+half]·c[i] + x[i]·s[i], with s of a sign.
func turnHead(y, x, c, s []float32, sign float32) {
	half := len(c)
	s, lo, hi, ylo, yhi := s[:half], x[:half], x[half:][:half], y[:half], y[half:][:half]
	for i, ci := range c {
		si := float32(s[i] * sign)
		ylo[i] = float32(lo[i]*ci) - float32(hi[i]*si)
		yhi[i] = float32(hi[i]*ci) + float32(lo[i]*si)
	}
}
