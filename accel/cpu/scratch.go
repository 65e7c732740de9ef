package cpu

import (
	"unsafe"

	"qlora/ref/num"
	"qlora/ref/op"
)

// scratch is what operations compute in. Each slot grows to what its largest user needs and stays, for the next call needs it again.
type scratch struct {
	d     *Device
	slots [slots][]float32

	limits []limits
}

// The slots. Operations that do not call each other may use one for different things.
const (
	slotA      = iota // packed left operand
	slotB             // packed right operand
	slotC             // accumulators
	slotLines         // lines of an operand on their way into a pack
	slotBlocks        // whole blocks of a 4-bit matrix
	slotScales        // their absmax
	slotX             // free for operations
	slotY
	slotZ
	slotU
	slotV
	slotW
	slots
)

// floats gives n elements of a slot, whatever they hold. The arena counts them as workspace; above its cap they are given all the same,
// for the operation runs already, and the error sticks when it is done.
func (s *scratch) floats(slot, n int) []float32 {
	if len(s.slots[slot]) < n {
		size := roundUp(n, piece)
		s.d.grow(4 * (size - len(s.slots[slot])))
		b := aligned(4 * size)
		s.slots[slot] = unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), size)
	}
	return s.slots[slot][:n:n]
}

// values are n elements of a type in a slot, whatever they hold.
func (s *scratch) values(slot int, t num.DType, n int) values {
	if t == num.Float32 {
		return values{t: t, full: s.floats(slot, n)}
	}
	f := s.floats(slot, ceil(n, 2))
	return values{t: t, half: unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(f))), n)}
}

// limitsOf is memory for n limits that lasts until the next call.
func (s *scratch) limitsOf(n int) []limits {
	if cap(s.limits) < n {
		s.limits = make([]limits, n)
	}
	return s.limits[:n]
}

// grow accounts for more workspace, from any thread.
func (d *Device) grow(bytes int) {
	d.growing.Lock()
	defer d.growing.Unlock()
	if err := d.arena.Alloc(op.Run, "workspace/scratch", int64(bytes)); err != nil && d.overflow == nil {
		d.overflow = err
	}
}
