package cpu

import (
	"math"
	"slices"

	"qlora/ref/op"
)

// Choose picks as the reference does among candidates whose order it finds by sorting integers.
func (d *Device) Choose(at op.At, token *op.Ints, logits *op.Tensor, c op.Choice, clock *op.Ints) {
	op.CheckChoose(at, logits)
	d.do(at, func() error {
		z := of(logits).at(d.kernel, d.shared.floats(slotX, logits.Cols))
		if err := op.CheckLogits(z); err != nil {
			return err
		}
		ints(token)[0] = int32(op.Pick(z, largest(z, c.Candidates(len(z))), c, int(ints(clock)[op.ClockStep])))
		return nil
	})
}

// largest gives the indices of the n largest, from the largest down; of equals, the lower index first.
func largest(z []float32, n int) []int {
	keys := make([]uint64, 0, n)
	if n == 1 {
		keys = append(keys, math.MaxUint64)
		for i, v := range z {
			keys[0] = min(keys[0], descending(v, i))
		}
	} else {
		for i, v := range z {
			keys = append(keys, descending(v, i))
		}
		slices.Sort(keys)
	}
	order := make([]int, n)
	for i := range order {
		order[i] = int(uint32(keys[i]))
	}
	return order
}

// descending is an integer that is smaller for larger v, and for equal ones for smaller i. Zeros of both signs are equal.
func descending(v float32, i int) uint64 {
	bits := math.Float32bits(v + 0) // −0 + 0 is +0
	if bits>>31 == 0 {
		bits = ^bits &^ (1 << 31)
	}
	return uint64(bits)<<32 | uint64(uint32(i))
}
