package second

import (
	"bytes"
	"encoding/binary"
	"math"

	"qlora/ref/num"
	"qlora/ref/op"
)

// heap is the memory of one lifetime: a stack over slabs, for a lifetime's allocations are given back from the last on.
type heap struct {
	slabs [][]byte
	top   top
}

// top is where the stack ends: a slab, and how much of it is used.
type top struct{ slab, used int }

// place is where a heap stood at a mark. The mark itself does not tell.
type place struct {
	heap *heap
	top  top
}

const slabSize = 1 << 20

// alloc gives n bytes that begin at an odd address. They hold what was there before.
func (h *heap) alloc(n int) []byte {
	for ; h.top.slab < len(h.slabs); h.top = (top{h.top.slab + 1, 0}) {
		slab, from := h.slabs[h.top.slab], h.top.used|1
		if to := from + n; to <= len(slab) {
			h.top.used = to
			return slab[from:to:to]
		}
	}
	h.slabs = append(h.slabs, make([]byte, max(slabSize, n+1)))
	return h.alloc(n)
}

func (d *Device) Mark(life op.Lifetime) op.Mark {
	m := d.arena.Mark(life)
	d.marks[m] = place{&d.heaps[life], d.heaps[life].top}
	return m
}

// Release gives memory back at once, though the queue may still use it: what is allocated there next is written in its turn.
func (d *Device) Release(m op.Mark) {
	p, ok := d.marks[m]
	want(ok, "memory is released to a mark that was not made here")
	p.heap.top = p.top
	d.arena.Release(m)
}

// alloc gives zeros, or nil and an error that sticks.
func (d *Device) alloc(life op.Lifetime, name string, n int) []byte {
	if d.err != nil {
		return nil
	}
	if err := d.arena.Alloc(life, name, int64(n)); err != nil {
		if d.drain(); d.err == nil { // an operation that was called before may have failed first
			d.err = err
		}
		return nil
	}
	b := d.heaps[life].alloc(n)
	d.enqueue(func() error {
		clear(b)
		return nil
	})
	return b
}

// values are numbers of a type where they lie.
type values struct {
	b []byte
	t num.DType
}

// of gives a tensor's values; of nil, none.
func of(t *op.Tensor) values {
	if t == nil {
		return values{}
	}
	row := t.Cols * t.DType.Size()
	return values{t.Handle.([]byte)[t.FirstRow*row : (t.FirstRow+t.Rows)*row], t.DType}
}

func (v values) at(i int) float32 {
	switch v.t {
	case num.BFloat16:
		return num.FromBFloat16(binary.LittleEndian.Uint16(v.b[2*i:]))
	case num.Float16:
		return num.FromFloat16(binary.LittleEndian.Uint16(v.b[2*i:]))
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(v.b[4*i:]))
}

func (v values) put(i int, x float32) {
	switch v.t {
	case num.BFloat16:
		binary.LittleEndian.PutUint16(v.b[2*i:], num.ToBFloat16(x))
	case num.Float16:
		binary.LittleEndian.PutUint16(v.b[2*i:], num.ToFloat16(x))
	default:
		binary.LittleEndian.PutUint32(v.b[4*i:], math.Float32bits(x))
	}
}

// add is what backward does to a gradient: round(value + round(x)).
func (v values) add(i int, x float32) { v.put(i, v.at(i)+v.t.Round(x)) }

// all widens them.
func (v values) all(into []float32) {
	for i := range into {
		into[i] = v.at(i)
	}
}

func intAt(b []byte, i int) int32     { return int32(binary.LittleEndian.Uint32(b[4*i:])) }
func putInt(b []byte, i int, v int32) { binary.LittleEndian.PutUint32(b[4*i:], uint32(v)) }

func ints(x *op.Ints) []int32 {
	v := make([]int32, x.Len)
	for i := range v {
		v[i] = intAt(x.Handle.([]byte), i)
	}
	return v
}

// bytesOf are x as a tensor of float32 has them.
func bytesOf(x []float32) []byte {
	v := values{b: make([]byte, 4*len(x))}
	for i := range x {
		v.put(i, x[i])
	}
	return v.b
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
