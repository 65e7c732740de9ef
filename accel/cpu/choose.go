package cpu

import (
	"errors"
	"math"

	"qlora/ref/num"
	"qlora/ref/op"
)

// Penalize is the reference's, straight into y.
func (d *Device) Penalize(at op.At, y, logits *op.Tensor, seen, banned *op.Ints, penalty float32) {
	op.CheckPenalize(at, y, logits)
	d.within(at, func() workspace { return forRow(logits) }, func() error {
		if err := errors.Join(op.CheckIndices(seen.Name, ints(seen), logits.Cols, "token id", true),
			op.CheckIndices(banned.Name, ints(banned), logits.Cols, "token id", true)); err != nil {
			return err
		}
		op.Penalize(of(y).full, d.row(logits), ints(seen), ints(banned), penalty)
		return nil
	})
}

// row is one row of logits, widened where they are not float32.
func (d *Device) row(logits *op.Tensor) []float32 {
	return of(logits).at(d.kernel, d.shared.floats(slotX, forRow(logits).shared[slotX]))
}

func forRow(logits *op.Tensor) (need workspace) {
	if logits.DType != num.Float32 {
		need.shared[slotX] = logits.Cols
	}
	return need
}

// Choose picks as the reference does among candidates whose order it finds by sorting integers, digit by digit: comparing the 50,000 tokens
// of a vocabulary takes milliseconds.
func (d *Device) Choose(at op.At, token *op.Ints, logits *op.Tensor, c op.Choice, clock *op.Ints) {
	op.CheckChoose(at, logits)
	d.within(at, func() workspace { return forRow(logits) }, func() error {
		z := d.row(logits)
		if err := op.CheckLogits(z); err != nil {
			return err
		}
		ints(token)[0] = int32(op.Pick(z, largest(z, c.Candidates(len(z))), c, int(ints(clock)[op.ClockStep])))
		return nil
	})
}

// largest gives the indices of the n largest, from the largest down; of equals, the lower index first.
func largest(z []float32, n int) []int {
	var keys []uint64
	if n == 1 {
		first := uint64(math.MaxUint64)
		for i, v := range z {
			first = min(first, descending(v, i))
		}
		keys = []uint64{first}
	} else {
		keys = make([]uint64, len(z))
		for i, v := range z {
			keys[i] = descending(v, i)
		}
		keys = sorted(keys)
	}
	order := make([]int, n)
	for i := range order {
		order[i] = int(uint32(keys[i]))
	}
	return order
}

// sorted sorts by the upper halves of keys, eight bits a pass; equals stay in their order.
func sorted(keys []uint64) []uint64 {
	other := make([]uint64, len(keys))
	for shift := 32; shift < 64; shift += 8 {
		var next [256]int
		for _, k := range keys {
			next[byte(k>>shift)]++
		}
		before := 0
		for i, n := range next {
			next[i], before = before, before+n
		}
		for _, k := range keys {
			b := byte(k >> shift)
			other[next[b]] = k
			next[b]++
		}
		keys, other = other, keys
	}
	return keys
}

// descending is an integer that is smaller for larger v, and for equal ones for smaller i. Zeros of both signs are equal.
func descending(v float32, i int) uint64 {
	bits := math.Float32bits(v + 0) // −0 + 0 is +0
	if bits>>31 == 0 {
		bits = ^bits &^ (1 << 31)
	}
	return uint64(bits)<<32 | uint64(uint32(i))
}
