// Package second is another device: it has every operation of op.Device to the bit, and shares with the reference only the
// elementary functions, the roundings, the random numbers and the tables of the 8-bit and 4-bit types. The suite is proved on
// it, and it is an example of how a device is written from the operations' formulas and the documentation of op.Device.
//
// What it does unlike the reference:
//
//   - A tensor is its bytes, at an odd address, in memory that is used again as soon as it is given back (memory.go).
//   - A call puts its work into a queue, which is worked off when a result is asked for, or when it is long (queue.go).
//   - The work of an operation is spread over goroutines. Each element of a result is computed by one of them, in the order
//     that the specification gives its sum, so the number of goroutines has no influence on any bit. Which element comes when is
//     free: here the last come first, columns before rows, heads before tokens, and lanes one by one.
//
// The arena counts what New and its sisters allocate, as the reference's does, and not what an operation needs while it runs.
package second

import (
	"fmt"

	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
)

// Device is called by one goroutine and computes with as many as it was told.
type Device struct {
	threads int
	arena   op.Arena
	heaps   [op.Paged + 1]heap
	marks   map[op.Mark]place
	queue   []func() error
	err     error
}

var _ op.Device = (*Device)(nil)

// New is a device without a limit of memory.
func New(threads int) *Device { return &Device{threads: threads, marks: map[op.Mark]place{}} }

// SetThreads changes the number of goroutines, and gives the one before.
func (d *Device) SetThreads(n int) (before int) {
	before, d.threads = d.threads, n
	return before
}

func (d *Device) Name() string                                 { return "second" }
func (d *Device) Supports(operation string, t num.DType) error { return nil }
func (d *Device) Arena() *op.Arena                             { return &d.arena }
func (d *Device) Record(key string, f func())                  { f() }
func (d *Device) PageTo(dir string) error                      { return nil } // all memory is one, and unlimited
func (d *Device) BringIn(t *op.Tensor)                         {}
func (d *Device) BringInState8(s *op.State8)                   {}

func (d *Device) New(life op.Lifetime, name string, t num.DType, rows, cols int) *op.Tensor {
	return &op.Tensor{Name: name, DType: t, Rows: rows, Cols: cols, Handle: d.alloc(life, name, rows*cols*t.Size())}
}

func (d *Device) NewInts(life op.Lifetime, name string, n int) *op.Ints {
	return &op.Ints{Name: name, Len: n, Handle: d.alloc(life, name, 4*n)}
}

func (d *Device) NewState8(life op.Lifetime, name string, n int) *op.State8 {
	return &op.State8{Name: name, Len: n, Handle: d.alloc(life, name, 2*n+8*blocks(n, blocksize8))}
}

func (d *Device) WriteState8(s *op.State8, x *optim.State8) {
	want(len(x.M) == s.Len && len(x.V) == s.Len && len(x.AbsmaxM) == blocks(s.Len, blocksize8) && len(x.AbsmaxV) == len(x.AbsmaxM),
		"an 8-bit state of %d values written to %s, which has %d", len(x.M), s.Name, s.Len)
	d.write(s.Handle.([]byte), join(x.M, x.V, bytesOf(x.AbsmaxM), bytesOf(x.AbsmaxV)))
}

func (d *Device) ReadState8(s *op.State8) (*optim.State8, error) {
	if err := d.Sync(); err != nil {
		return nil, err
	}
	m, v := state8(s)
	x := optim.NewState8(s.Len)
	copy(x.M, m.codes)
	copy(x.V, v.codes)
	m.absmax.all(x.AbsmaxM)
	v.absmax.all(x.AbsmaxV)
	return x, nil
}

// Write rounds at once, so that the caller may change x.
func (d *Device) Write(t *op.Tensor, x []float32) {
	want(len(x) == t.Len(), "%d values written to %s, which is %d×%d", len(x), t.Name, t.Rows, t.Cols)
	staged := values{make([]byte, len(x)*t.DType.Size()), t.DType}
	d.elements(len(x), func(i int) { staged.put(i, x[i]) })
	if d.err == nil {
		d.write(of(t).b, staged.b)
	}
}

func (d *Device) WriteInts(t *op.Ints, x []int32) {
	want(len(x) == t.Len, "%d values written to %s, which has %d", len(x), t.Name, t.Len)
	staged := make([]byte, 4*len(x))
	for i, v := range x {
		putInt(staged, i, v)
	}
	d.write(t.Handle.([]byte), staged)
}

func (d *Device) Zero(t *op.Tensor) { d.Write(t, make([]float32, t.Len())) }

func (d *Device) Read(t *op.Tensor) ([]float32, error) {
	if err := d.Sync(); err != nil {
		return nil, err
	}
	return d.widen(t, num.Float32).v, nil
}

func (d *Device) ReadInts(t *op.Ints) ([]int32, error) {
	if err := d.Sync(); err != nil {
		return nil, err
	}
	return ints(t), nil
}

// want panics with what is wrong, unless ok.
func want(ok bool, format string, a ...any) {
	if !ok {
		panic(fmt.Sprintf("second: "+format, a...))
	}
}

// shaped panics unless those tensors that there are have rows×cols elements.
func shaped(at op.At, rows, cols int, tensors ...*op.Tensor) {
	for _, t := range tensors {
		if t != nil {
			want(t.Rows == rows && t.Cols == cols, "%v: %s is %d×%d, want %d×%d", at, t.Name, t.Rows, t.Cols, rows, cols)
		}
	}
}

// full panics unless those tensors that there are, which the interface has in float32 whatever the compute type, are so.
func full(at op.At, tensors ...*op.Tensor) {
	for _, t := range tensors {
		if t != nil {
			want(t.DType == num.Float32, "%v: %s is of type %v, want float32", at, t.Name, t.DType)
		}
	}
}
