// Package watch finds the first operation that makes a NaN or an infinity. A run that has diverged says so at the end of a step, when
// every number is NaN; what went wrong is the first of them.
package watch

import (
	"fmt"
	"math"
	"strings"

	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
)

// Device is a device of which every operation's results are read, and looked at, before the next one. The first number that is not
// finite sticks as the device's error; later calls do nothing. Results keep their bits.
type Device struct {
	op.Device
	err error
}

// New watches d.
func New(d op.Device) *Device { return &Device{Device: d} }

// Describe is the device's own, if it has one.
func (d *Device) Describe() string {
	what := "its numbers are checked"
	if c, ok := d.Device.(interface{ Describe() string }); ok {
		what = c.Describe() + ", " + what
	}
	return what
}

// values are what an operation reads or writes, under its name in the operation's definition.
type values struct {
	role, name     string
	firstRow, cols int
	read           func() ([]float32, error)
}

func (d *Device) tensor(role string, t *op.Tensor) values {
	if t == nil {
		return values{}
	}
	return values{role, t.Name, t.FirstRow, t.Cols, func() ([]float32, error) { return d.Device.Read(t) }}
}

func (d *Device) weight(w op.Weight) values {
	if w.Quantized == nil {
		return d.tensor("w", w.Dense)
	}
	return values{"w", w.Quantized.Name, 0, w.Quantized.In, func() ([]float32, error) {
		q, err := d.Device.ReadQuantized(w.Quantized)
		if err != nil {
			return nil, err
		}
		x := make([]float32, w.Out()*w.In())
		return x, q.Dequantize(x, num.Float32)
	}}
}

// scales are those of 8-bit moments, the first's in a row and the second's in the next; they are as finite as what they are of.
func (d *Device) scales(s *op.State8) values {
	return values{"scales of moments", s.Name, 0, (s.Len + optim.Blocksize8 - 1) / optim.Blocksize8, func() ([]float32, error) {
		x, err := d.Device.ReadState8(s)
		if err != nil {
			return nil, err
		}
		return append(x.AbsmaxM, x.AbsmaxV...), nil
	}}
}

// see makes a call, unless something was found before, and looks at its results.
func (d *Device) see(at op.At, operation string, call func(), results []values, inputs ...values) {
	d.look(fmt.Sprintf("%v: %s", at, operation), call, results, inputs)
}

func (d *Device) look(what string, call func(), results, inputs []values) {
	if d.err != nil {
		return
	}
	call()
	for _, r := range results {
		if r.read == nil {
			continue
		}
		x, err := r.read()
		if err != nil {
			return // the device's own error, which Sync tells
		}
		if i := firstOf(x); i >= 0 {
			d.err = fmt.Errorf("%s made %s in %s (%s), row %d, column %d: the first of %s%s",
				what, number(x[i]), r.role, r.name, r.firstRow+i/r.cols, i%r.cols, bad(x), ranges(inputs))
			return
		}
	}
}

// firstOf is the index of the first value that is not finite, or −1.
func firstOf(x []float32) int {
	for i, v := range x {
		if v-v != 0 {
			return i
		}
	}
	return -1
}

func number(x float32) string { return fmt.Sprintf("%.6g", x) }

// bad counts what is not finite.
func bad(x []float32) string {
	nan, inf := 0, 0
	for _, v := range x {
		switch {
		case v != v:
			nan++
		case v-v != 0:
			inf++
		}
	}
	return fmt.Sprintf("%d NaN and %d infinities among %d numbers", nan, inf, len(x))
}

// ranges has a line for each input: the least and the greatest of what is finite.
func ranges(inputs []values) string {
	var b strings.Builder
	for _, in := range inputs {
		if in.read == nil {
			continue
		}
		x, err := in.read()
		if err != nil {
			continue
		}
		least, greatest := float32(math.Inf(1)), float32(math.Inf(-1))
		for _, v := range x {
			if v-v == 0 {
				least, greatest = min(least, v), max(greatest, v)
			}
		}
		fmt.Fprintf(&b, "\n  %s (%s): from %s to %s", in.role, in.name, number(least), number(greatest))
		if firstOf(x) >= 0 {
			fmt.Fprintf(&b, ", and %s", bad(x))
		}
	}
	return b.String()
}

// Record calls f, for what is replayed cannot be looked at.
func (d *Device) Record(key string, f func()) { f() }

func (d *Device) Sync() error {
	if d.err != nil {
		return d.err
	}
	return d.Device.Sync()
}

func (d *Device) Read(t *op.Tensor) ([]float32, error) {
	if d.err != nil {
		return nil, d.err
	}
	return d.Device.Read(t)
}

func (d *Device) ReadInts(t *op.Ints) ([]int32, error) {
	if d.err != nil {
		return nil, d.err
	}
	return d.Device.ReadInts(t)
}

func (d *Device) ReadState8(s *op.State8) (*optim.State8, error) {
	if d.err != nil {
		return nil, d.err
	}
	return d.Device.ReadState8(s)
}

// Write looks at what has been written: a finite number can be too large for the tensor's type.
func (d *Device) Write(t *op.Tensor, x []float32) {
	given := values{"given", "on the host", 0, t.Cols, func() ([]float32, error) { return x, nil }}
	d.look("writing to the device", func() { d.Device.Write(t, x) }, d.tensors("it", t), []values{given})
}

// tensors are results, of which the roles are separated by spaces.
func (d *Device) tensors(roles string, t ...*op.Tensor) []values {
	all := make([]values, len(t))
	for i, role := range strings.Fields(roles) {
		all[i] = d.tensor(role, t[i])
	}
	return all
}
