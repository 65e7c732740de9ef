package second

import "qlora/ref/op"

func (d *Device) RoPE(at op.At, y, x, cos, sin *op.Tensor, positions *op.Ints) {
	d.turn(at, y, x, cos, sin, positions, 1, values.put)
}

func (d *Device) RoPEBackward(at op.At, dx, dy, cos, sin *op.Tensor, positions *op.Ints) {
	d.turn(at, dx, dy, cos, sin, positions, -1, values.add)
}

// turn turns each pair of x by the angle or, of sign −1, against it, and gives it to y, which may be x. A goroutine has one pair
// of one head, over all tokens.
func (d *Device) turn(at op.At, y, x, cos, sin *op.Tensor, positions *op.Ints, sign float32, give func(y values, i int, x float32)) {
	half := cos.Cols
	shaped(at, positions.Len, x.Cols, x, y)
	shaped(at, cos.Rows, half, sin)
	want(half > 0 && x.Cols%(2*half) == 0, "%v: %s has %d columns: no heads of %d", at, x.Name, x.Cols, 2*half)
	d.do(at, func() error {
		if err := within(positions, cos.Rows, "position"); err != nil || y == nil {
			return err
		}
		to, from, coses, sines := of(y), of(x), of(cos), of(sin)
		d.each(x.Cols/2, func(pair int) {
			column := pair/half*2*half + pair%half
			for token, position := range ints(positions) {
				i, angle := token*x.Cols+column, int(position)*half+pair%half
				c, s := coses.at(angle), float32(sign*sines.at(angle))
				a, b := from.at(i), from.at(i+half)
				give(to, i, float32(a*c)-float32(b*s))
				give(to, i+half, float32(b*c)+float32(a*s))
			}
		})
		return nil
	})
}
