package conformance

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"qlora/ref/num"
	"qlora/ref/op"
)

// OnDevice judges an op.Device, which open makes. A device keeps its first error, so another one is made after each input that
// had to be rejected.
func OnDevice(open func() (op.Device, error)) (*Implementation, error) {
	d, err := open()
	if err != nil {
		return nil, err
	}
	i := &Implementation{Name: d.Name()}
	if a, ok := d.(interface{ Arithmetic() op.Arithmetic }); ok {
		i.Arithmetic = a.Arithmetic()
	}
	if v, ok := d.(interface{ Driver() string }); ok {
		i.Driver = v.Driver()
	}
	i.Do = func(o *Operation, t DType) (Func, error) {
		if o.Device == nil {
			return nil, fmt.Errorf("op.Device has no such operation")
		}
		for _, need := range strings.Fields(o.Needs) {
			if err := d.Supports(need, floats[t].num); err != nil {
				return nil, err
			}
		}
		return func(c *Case, in Tensors) (out Tensors, err error) {
			defer func() { // after a panic, too
				if d.Sync() == nil {
					return
				}
				if fresh, openErr := open(); openErr == nil {
					d = fresh
				} else {
					out, err = nil, &broken{fmt.Sprintf("after an error it does not open again: %v", openErr)}
				}
			}()
			return onDevice(d, o, c, in)
		}, nil
	}
	return i, nil
}

func onDevice(d op.Device, o *Operation, c *Case, in Tensors) (Tensors, error) {
	b := &Bench{Device: d, Case: c, inputs: map[*op.Tensor][]float32{}, ints: map[*op.Ints][]int32{}}
	for _, life := range []op.Lifetime{op.Run, op.Step, op.Block} {
		defer d.Release(d.Mark(life))
	}
	out := o.Device(b, in)
	if b.err == nil {
		b.err = b.unharmed()
	}
	return out, b.err
}

// Bench brings a case's tensors to a device and back. Each is a view of a larger tensor with guard rows before and behind it: it begins
// where the row before it ends, at an address that the device did not choose, and what is written outside is seen. So is what is
// written over inputs. Results hold NaN before the call. The first error stays.
type Bench struct {
	Device op.Device
	Case   *Case
	guards []*op.Tensor
	inputs map[*op.Tensor][]float32 // what tensors hold that must not change
	ints   map[*op.Ints][]int32     // likewise
	err    error
}

// guard is what guard rows hold; every type has it exactly.
const guard = -0x1.8p-9

// Place is where the case's operation stands: random numbers depend on it.
var Place = op.At{Layer: 3, Name: "conformance"}

// Tensor brings a floating-point tensor to the device, which the operation must leave as it is.
func (b *Bench) Tensor(name string, t Tensor) *op.Tensor {
	x := b.State(name, t)
	b.inputs[x] = t.F
	return x
}

// State is Tensor for what the operation changes: adds to, or steps.
func (b *Bench) State(name string, t Tensor) *op.Tensor {
	x := b.guarded(name, t.DType, t.Rows(), t.Cols())
	b.Device.Write(x, t.F)
	return x
}

// Optional is Tensor for an input that a case may lack: nil then.
func (b *Bench) Optional(name string, in Tensors) *op.Tensor {
	t, ok := in[name]
	if !ok {
		return nil
	}
	return b.Tensor(name, t)
}

// Result is a tensor for the device to write to.
func (b *Bench) Result(name string, t DType, rows, cols int) *op.Tensor {
	x := b.guarded(name, t, rows, cols)
	poison := make([]float32, rows*cols)
	for i := range poison {
		poison[i] = float32(math.NaN())
	}
	b.Device.Write(x, poison)
	return x
}

// guarded makes rows×cols between two guard rows.
func (b *Bench) guarded(name string, t DType, rows, cols int) *op.Tensor {
	whole := b.Device.New(op.Step, "conformance/"+name, floats[t].num, rows+2, cols)
	for _, g := range []*op.Tensor{whole.View(0, 1), whole.View(rows+1, rows+2)} {
		values := make([]float32, cols)
		for i := range values {
			values[i] = guard
		}
		b.Device.Write(g, values)
		b.guards = append(b.guards, g)
	}
	return whole.View(1, rows+1)
}

// Ints brings integers to the device.
func (b *Bench) Ints(name string, t Tensor) *op.Ints {
	x := b.Device.NewInts(op.Step, "conformance/"+name, t.Len())
	b.Device.WriteInts(x, t.I)
	b.ints[x] = t.I
	return x
}

// Clock is the device's clock at the case's step and first token.
func (b *Bench) Clock(step, firstToken int) *op.Ints {
	return b.Ints("clock", Ints([]int32{op.ClockStep: int32(step), op.ClockFirstToken: int32(firstToken)}))
}

// Read gives a tensor of the device, of a shape.
func (b *Bench) Read(x *op.Tensor, shape ...int) Tensor {
	values, err := b.Device.Read(x)
	if err != nil {
		b.fail(err)
		values = make([]float32, x.Len())
	}
	return shaped(Tensor{DType: dtypes[x.DType], Shape: shape, F: values}, len(values))
}

// ReadInts gives integers of the device.
func (b *Bench) ReadInts(x *op.Ints) Tensor {
	delete(b.ints, x) // it is a result
	values, err := b.Device.ReadInts(x)
	if err != nil {
		b.fail(err)
		values = make([]int32, x.Len)
	}
	return Ints(values)
}

var dtypes = map[num.DType]DType{num.Float32: F32, num.BFloat16: BF16, num.Float16: F16}

func (b *Bench) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// unharmed says which guard, or which input, was written over.
func (b *Bench) unharmed() error {
	for x, given := range b.inputs {
		values, err := b.Device.Read(x)
		if err != nil {
			return err
		}
		if n, first := differFloats(given, values); n > 0 {
			return &broken{fmt.Sprintf("it changed its input %s: %d of %d values, the first at %d", x.Name, n, len(given), first)}
		}
	}
	for x, given := range b.ints {
		values, err := b.Device.ReadInts(x)
		if err != nil {
			return err
		}
		if !slices.Equal(given, values) {
			return &broken{fmt.Sprintf("it changed its input %s: %v, given was %v", x.Name, values, given)}
		}
	}
	for _, g := range b.guards {
		values, err := b.Device.Read(g)
		if err != nil {
			return err
		}
		for i, v := range values {
			if v != guard {
				return &broken{fmt.Sprintf("it wrote outside of %s: column %d of row %d of the guard holds %v", g.Name, i, g.FirstRow, v)}
			}
		}
	}
	return nil
}
