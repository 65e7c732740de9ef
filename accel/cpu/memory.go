package cpu

import (
	"unsafe"

	"qlora/accel/cpu/kernel"
	"qlora/ref/num"
	"qlora/ref/op"
)

// heap is the memory of one lifetime: a stack over slabs, for what was allocated last is given back first. Memory that was given back is
// used again at once, so a training step takes no more from the system than its peak.
type heap struct {
	slabs [][]byte
	top   top
}

// top is where a stack ends: a slab, and how much of it is used.
type top struct{ slab, used int }

const (
	slabSize  = 4 << 20
	alignment = 64 // of every tensor: a cache line, and the widest register
)

// trim gives slabs back in which nothing lies.
func (h *heap) trim() {
	keep := h.top.slab
	if h.top.used > 0 {
		keep++
	}
	if keep < len(h.slabs) {
		clear(h.slabs[keep:])
		h.slabs = h.slabs[:keep]
	}
}

// alloc gives n bytes. fresh says that they are zeros; others hold what was there before.
func (h *heap) alloc(n int) (b []byte, fresh bool) {
	n = max(roundUp(n, alignment), alignment)
	for ; h.top.slab < len(h.slabs); h.top = (top{h.top.slab + 1, 0}) {
		slab, from := h.slabs[h.top.slab], h.top.used
		if to := from + n; to <= len(slab) {
			h.top.used = to
			return slab[from:to:to], false
		}
	}
	h.slabs = append(h.slabs, aligned(max(slabSize, n)))
	h.top.used = n
	return h.slabs[h.top.slab][:n:n], true
}

func aligned(n int) []byte {
	b := make([]byte, n+alignment)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (alignment - 1)
	return b[skip : skip+n : skip+n]
}

func (d *Device) Mark(life op.Lifetime) op.Mark {
	m := d.arena.Mark(life)
	d.marks[m] = d.heaps[life].top
	return m
}

func (d *Device) Release(m op.Mark) {
	life := m.Lifetime()
	if life != op.Run {
		d.heaps[life].top = d.marks[m]
	}
	d.arena.Release(m)
}

// account says whether there is room for n bytes; the first time there is not, the error sticks.
func (d *Device) account(life op.Lifetime, name string, n int) bool {
	d.land()
	if d.err == nil {
		d.err = d.arena.Alloc(life, name, int64(n))
	}
	return d.err == nil
}

// alloc gives zeros, or nil without room, and where that is only accounted for. What lives as long as the run has memory of its own: it is
// not given back in order.
func (d *Device) alloc(life op.Lifetime, name string, n int) []byte {
	switch {
	case !d.account(life, name, n) || d.accountOnly:
		return nil
	case life == op.Run:
		return aligned(n)
	}
	b, fresh := d.heaps[life].alloc(n)
	if !fresh {
		const step = 64 << 10
		d.spread(len(b), step, len(b)/4, func(_ *scratch, from, to int) { clear(b[from:to]) })
	}
	return b
}

func (d *Device) New(life op.Lifetime, name string, t num.DType, rows, cols int) *op.Tensor {
	x := &op.Tensor{Name: name, DType: t, Rows: rows, Cols: cols}
	if life == op.Paged {
		op.CheckPaged(name, t)
		x.Handle = d.page(name, rows*cols, false)
		return x
	}
	n := rows * cols
	v := values{t: t}
	if b := d.alloc(life, name, n*t.Size()); b == nil {
		n = 0
	} else if t == num.Float32 {
		v.full = unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), n)
	} else {
		v.half = unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(b))), n)
	}
	x.Handle = v
	return x
}

func (d *Device) NewInts(life op.Lifetime, name string, n int) *op.Ints {
	x := &op.Ints{Name: name, Len: n}
	if b := d.alloc(life, name, 4*n); b != nil {
		x.Handle = unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(b))), n)
	} else if d.err == nil {
		x.Handle = make([]int32, n) // to know how long sequences are, and how many tokens have labels
	}
	return x
}

func ints(x *op.Ints) []int32 { return x.Handle.([]int32) }

// values are numbers of a type where they lie: float32, or the bits of a 16-bit type.
type values struct {
	t    num.DType
	full []float32
	half []uint16
}

// of gives a tensor's values; of nil, none.
func of(t *op.Tensor) values {
	if t == nil {
		return values{}
	}
	v, ok := t.Handle.(values)
	if !ok {
		v = values{t: num.Float32, full: t.Handle.(*op.Page).Full}
	}
	return v.part(t.FirstRow*t.Cols, (t.FirstRow+t.Rows)*t.Cols)
}

func (v values) part(from, to int) values {
	if v.t == num.Float32 {
		v.full = v.full[from:to]
	} else {
		v.half = v.half[from:to]
	}
	return v
}

func (v values) len() int { return len(v.full) + len(v.half) }

// get widens all of them into x.
func (v values) get(k *kernel.Set, x []float32) {
	switch v.t {
	case num.BFloat16:
		k.WidenBFloat16(x, v.half)
	case num.Float16:
		k.WidenFloat16(x, v.half)
	default:
		copy(x, v.full)
	}
}

// at gives all of them in float32: themselves if that is their type, else widened into buffer.
func (v values) at(k *kernel.Set, buffer []float32) []float32 {
	if v.t == num.Float32 {
		return v.full
	}
	buffer = buffer[:len(v.half)]
	v.get(k, buffer)
	return buffer
}

// put rounds x into them.
func (v values) put(k *kernel.Set, x []float32) {
	switch v.t {
	case num.BFloat16:
		k.NarrowBFloat16(v.half, x)
	case num.Float16:
		k.NarrowFloat16(v.half, x)
	default:
		copy(v.full, x)
	}
}

// add is what backward does to a gradient: v = round(v + round(x)). x is changed.
func (v values) add(k *kernel.Set, x, buffer []float32) {
	round(k, v.t, x)
	before := v.at(k, buffer)
	k.Add(x, before, x)
	v.put(k, x)
}

func (v values) zero() {
	clear(v.full)
	clear(v.half)
}

// round rounds x to t in place.
func round(k *kernel.Set, t num.DType, x []float32) {
	switch t {
	case num.BFloat16:
		k.RoundBFloat16(x)
	case num.Float16:
		k.RoundFloat16(x)
	}
}
