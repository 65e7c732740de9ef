package cpu

import (
	"cmp"
	"unsafe"

	"qlora/ref/num"
)

// scratch is what operations compute in. Each slot grows to what its largest user needs and stays, for the next call needs it again.
type scratch struct {
	d     *Device
	sizes [slots]int // elements that the arena counts
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

// floats gives n elements of a slot, whatever they hold. An operation that did not reserve them has them all the same, for it runs already;
// above the arena's cap the error sticks when it is done.
func (s *scratch) floats(slot, n int) []float32 {
	if len(s.slots[slot]) < n {
		s.d.late(s, slot, n)
		b := aligned(4 * s.sizes[slot])
		s.slots[slot] = unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), s.sizes[slot])
	}
	return s.slots[slot][:n:n]
}

// values are n elements of a type in a slot, whatever they hold.
func (s *scratch) values(slot int, t num.DType, n int) values {
	if t == num.Float32 {
		return values{t: t, full: s.floats(slot, n)}
	}
	f := s.floats(slot, inFloats(t, n))
	return values{t: t, half: unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(f))), n)}
}

// limitsOf is memory for n limits that lasts until the next call.
func (s *scratch) limitsOf(n int) []limits {
	if cap(s.limits) < n {
		s.limits = make([]limits, n)
	}
	return s.limits[:n]
}

// inFloats is how many elements of a slot hold n values of a type.
func inFloats(t num.DType, n int) int {
	if t == num.Float32 {
		return n
	}
	return ceil(n, 2)
}

// account counts a slot of at least n elements as workspace.
func (s *scratch) account(slot, n int) error {
	more := roundUp(n, piece) - s.sizes[slot]
	if more <= 0 {
		return nil
	}
	s.sizes[slot] += more
	s.d.wait()
	return s.d.arena.Keep("workspace/scratch", int64(4*more))
}

// late accounts from any thread.
func (d *Device) late(s *scratch, slot, n int) {
	d.growing.Lock()
	defer d.growing.Unlock()
	if err := s.account(slot, n); err != nil && d.overflow == nil {
		d.overflow = err
	}
}

// workspace is how many elements of each slot an operation takes at most: of the scratch that threads share, and of each thread's own.
type workspace struct{ shared, each [slots]int }

// and is enough for either of two.
func (w workspace) and(v workspace) workspace {
	for i := range slots {
		w.shared[i], w.each[i] = max(w.shared[i], v.shared[i]), max(w.each[i], v.each[i])
	}
	return w
}

// ofRows is what operations take that go by rows of so many elements, or by pieces.
func ofRows(cols int) (w workspace) {
	for _, slot := range []int{slotX, slotY, slotZ, slotU, slotV, slotW} {
		w.each[slot] = max(cols, piece)
	}
	return w
}

// reserve counts workspace before an operation runs, on every thread. So what training takes does not depend on which thread does what, is
// known without computing anything (Options.AccountOnly), and is refused before an operation begins if it is above the cap.
func (d *Device) reserve(w workspace) error {
	for slot := range slots {
		err := d.shared.account(slot, w.shared[slot])
		for _, own := range d.workers[:d.threads] {
			err = cmp.Or(err, own.account(slot, w.each[slot]))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
