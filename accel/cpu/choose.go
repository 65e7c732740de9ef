package cpu

import "qlora/ref/op"

// Choose is the reference's, on one row.
func (d *Device) Choose(at op.At, token *op.Ints, logits *op.Tensor, c op.Choice, clock *op.Ints) {
	op.CheckChoose(at, logits)
	d.do(at, func() error {
		z := of(logits).at(d.kernel, d.shared.floats(slotX, logits.Cols))
		if err := op.CheckLogits(z); err != nil {
			return err
		}
		ints(token)[0] = int32(op.Choose(z, c, int(ints(clock)[op.ClockStep])))
		return nil
	})
}
