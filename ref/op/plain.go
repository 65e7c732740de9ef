package op

import (
	"fmt"

	"qlora/ref/num"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

// Plain is the reference device: every operation by the function of its name in this package, one goroutine, as soon as it
// is called. Values of 16-bit tensors are widened, computed on in float32 and rounded once when they are stored.
type Plain struct {
	arena Arena
	pages *Pages
	err   error
}

// NewPlain is a reference device that may hold cap bytes; 0 is no limit.
func NewPlain(cap int64) *Plain {
	p := &Plain{arena: Arena{Cap: cap}}
	p.pages = NewPages(&p.arena)
	return p
}

var _ Device = (*Plain)(nil)

// plainBuffer holds a tensor's values: float32, or the bits of a 16-bit type.
type plainBuffer struct {
	full []float32
	half []uint16
}

func (p *Plain) Name() string                          { return "ref" }
func (p *Plain) Arena() *Arena                         { return &p.arena }
func (p *Plain) Mark(life Lifetime) Mark               { return p.arena.Mark(life) }
func (p *Plain) Release(m Mark)                        { p.arena.Release(m) }
func (p *Plain) Sync() error                           { return p.err }
func (p *Plain) Record(key string, f func())           { f() }
func (p *Plain) PageTo(dir string) error               { return p.pages.To(dir) }
func (p *Plain) BringIn(t *Tensor)                     {} // it does one thing at a time
func (p *Plain) BringInState8(s *State8)               {}
func (p *Plain) Supports(op string, t num.DType) error { return nil }

// Close gives the file back to which pages go. It comes after the last call.
func (p *Plain) Close() error { return p.pages.Close() }

// New allocates zeros. Without memory the device's error sticks and the tensor is empty.
func (p *Plain) New(life Lifetime, name string, t num.DType, rows, cols int) *Tensor {
	x := &Tensor{Name: name, DType: t, Rows: rows, Cols: cols}
	if life == Paged {
		CheckPaged(name, t)
		x.Handle = p.page(name, rows*cols, false)
		return x
	}
	b := &plainBuffer{}
	if p.alloc(life, name, int64(rows*cols*t.Size())) {
		if t == num.Float32 {
			b.full = make([]float32, rows*cols)
		} else {
			b.half = make([]uint16, rows*cols)
		}
	}
	x.Handle = b
	return x
}

func (p *Plain) NewInts(life Lifetime, name string, n int) *Ints {
	x := &Ints{Name: name, Len: n}
	if p.alloc(life, name, int64(4*n)) {
		x.Handle = make([]int32, n)
	}
	return x
}

func (p *Plain) NewQuantized(name string, w *quant.Tensor) *Quantized {
	q := &Quantized{Name: name, Out: w.Shape[0], In: w.Shape[1]}
	if p.alloc(Run, name, int64(w.Bytes())) {
		q.Handle = w
	}
	return q
}

func (p *Plain) ReadQuantized(w *Quantized) (*quant.Tensor, error) {
	if p.err != nil {
		return nil, p.err
	}
	return w.Handle.(*quant.Tensor), nil
}

func (p *Plain) NewState8(life Lifetime, name string, n int) *State8 {
	s := &State8{Name: name, Len: n}
	if life == Paged {
		s.Handle = p.page(name, n, true)
	} else if p.alloc(life, name, State8Bytes(n)) {
		s.Handle = optim.NewState8(n)
	}
	return s
}

// page is nil where an error sticks.
func (p *Plain) page(name string, n int, eight bool) (g *Page) {
	if p.err == nil {
		g, p.err = p.pages.New(name, n, eight)
	}
	return g
}

func (p *Plain) WriteState8(s *State8, x *optim.State8) {
	if len(x.M) != s.Len {
		panic(fmt.Sprintf("op: 8-bit state of %d values written to %s, which has %d", len(x.M), s.Name, s.Len))
	}
	p.with(true, func() { copyState8(state8(s), x) }, s.Handle)
}

func (p *Plain) ReadState8(s *State8) (*optim.State8, error) {
	x := optim.NewState8(s.Len)
	p.with(false, func() { copyState8(x, state8(s)) }, s.Handle)
	return x, p.err
}

func copyState8(to, from *optim.State8) {
	copy(to.M, from.M)
	copy(to.V, from.V)
	copy(to.AbsmaxM, from.AbsmaxM)
	copy(to.AbsmaxV, from.AbsmaxV)
}

// with calls f, unless an error sticks, while those of the handles that are pages are in memory. changes says that f changes them.
func (p *Plain) with(changes bool, f func(), handles ...any) {
	if p.err == nil {
		p.err = p.pages.With(f, changes, PagesOf(handles...)...)
	}
}

func (p *Plain) alloc(life Lifetime, name string, bytes int64) bool {
	if p.err == nil {
		p.err = p.arena.Alloc(life, name, bytes)
	}
	return p.err == nil
}

func (p *Plain) Write(t *Tensor, x []float32) {
	CheckWrite(t, x)
	p.with(true, func() { store(t, x) }, t.Handle)
}

func (p *Plain) WriteInts(t *Ints, x []int32) {
	CheckWriteInts(t, x)
	if p.err == nil {
		copy(t.Handle.([]int32), x)
	}
}

func (p *Plain) Zero(t *Tensor) { p.Write(t, make([]float32, t.Len())) }

func (p *Plain) Read(t *Tensor) (x []float32, err error) {
	p.with(false, func() { x = append(x, load(t)...) }, t.Handle)
	return x, p.err
}

func (p *Plain) ReadInts(t *Ints) ([]int32, error) {
	if p.err != nil {
		return nil, p.err
	}
	return append([]int32(nil), ints(t)...), nil
}

// do runs an operation unless an earlier one failed, and keeps its error with its place.
func (p *Plain) do(at At, f func() error) {
	if p.err != nil {
		return
	}
	if err := f(); err != nil {
		p.err = fmt.Errorf("%v: %w", at, err)
	}
}

// load gives t's values in float32: the tensor's own memory if that is its type, else a widened copy. A nil tensor gives nil.
func load(t *Tensor) []float32 {
	if t == nil {
		return nil
	}
	from, to := t.FirstRow*t.Cols, (t.FirstRow+t.Rows)*t.Cols
	b := buffer(t)
	if t.DType == num.Float32 {
		return b.full[from:to]
	}
	x := make([]float32, to-from)
	switch half := b.half[from:to]; t.DType {
	case num.BFloat16:
		for i, h := range half {
			x[i] = num.FromBFloat16(h)
		}
	case num.Float16:
		for i, h := range half {
			x[i] = num.FromFloat16(h)
		}
	}
	return x
}

// store rounds x to t's type. Memory that load gave out needs no copy.
func store(t *Tensor, x []float32) {
	if t == nil {
		return
	}
	from, to := t.FirstRow*t.Cols, (t.FirstRow+t.Rows)*t.Cols
	b := buffer(t)
	if t.DType == num.Float32 {
		copy(b.full[from:to], x)
		return
	}
	switch half := b.half[from:to]; t.DType {
	case num.BFloat16:
		for i, v := range x {
			half[i] = num.ToBFloat16(v)
		}
	case num.Float16:
		for i, v := range x {
			half[i] = num.ToFloat16(v)
		}
	}
}

// buffer is where t's values lie; those of a page, while it is in memory.
func buffer(t *Tensor) *plainBuffer {
	if g, paged := t.Handle.(*Page); paged {
		return &plainBuffer{full: g.Full}
	}
	return t.Handle.(*plainBuffer)
}

func state8(s *State8) *optim.State8 {
	if g, paged := s.Handle.(*Page); paged {
		return &g.State8
	}
	return s.Handle.(*optim.State8)
}

func ints(t *Ints) []int32 { return t.Handle.([]int32) }

// weight gives W in float32 as products of compute type t see it: a dense one widened, a quantized one dequantized to t.
func (p *Plain) weight(w Weight, t num.DType) ([]float32, error) {
	if w.Quantized == nil {
		return rounded(load(w.Dense), t), nil
	}
	x := make([]float32, w.Out()*w.In())
	return x, w.Quantized.Handle.(*quant.Tensor).Dequantize(x, t)
}

// gradient is load of what is to be added to: scratch of n values where it is not asked for.
func gradient(t *Tensor, n int) []float32 {
	if t == nil {
		return make([]float32, n)
	}
	return load(t)
}
