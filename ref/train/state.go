package train

import (
	"fmt"
	"slices"
	"strconv"

	"qlora/ref/checkpoint"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

// A run's state is the number of steps taken, every parameter that is trained, and the optimizer's moments of each. Nothing else
// carries over from step to step: the order of the data, dropout and sampling are functions of the seed and the step.

// The parts of a parameter in the state's file, after its name.
const (
	partM, partV               = ".exp_avg", ".exp_avg_sq" // torch's names
	partM8, partV8             = ".exp_avg.codes", ".exp_avg_sq.codes"
	partAbsmaxM8, partAbsmaxV8 = ".exp_avg.absmax", ".exp_avg_sq.absmax"
)

// Save writes the state to a safetensors file, a tensor at a time. run describes what the run computes; Load refuses another.
func (t *Trainer) Save(path, run string) error {
	var tensors []checkpoint.Lazy
	for _, p := range t.params {
		for _, x := range p.matrices() {
			tensors = append(tensors, t.lazy(x.name, x.Tensor))
		}
		if p.state8 != nil {
			tensors = append(tensors, t.lazyState8(p)...)
		}
	}
	return checkpoint.WriteLazy(path, tensors, map[string]string{"step": strconv.Itoa(t.step), "run": run})
}

// matrix is a tensor that has a name in the state's file.
type matrix struct {
	name string
	*op.Tensor
}

// matrices are the parameter and those of its moments that are float32.
func (p param) matrices() []matrix {
	all := []matrix{{p.Name, p.Value}}
	for _, moment := range []matrix{{partM, p.m}, {partV, p.v}} {
		if moment.Tensor != nil {
			all = append(all, matrix{p.Name + moment.name, moment.Tensor})
		}
	}
	return all
}

func (t *Trainer) lazy(name string, x *op.Tensor) checkpoint.Lazy {
	return checkpoint.Lazy{Name: name, DType: "F32", Shape: []int{x.Rows, x.Cols}, Make: func() ([]byte, error) {
		values, err := t.device.Read(x)
		return quant.Float32Entry(name, values).Bytes, err
	}}
}

func (t *Trainer) lazyState8(p param) (tensors []checkpoint.Lazy) {
	n := p.state8.Len
	scales := (n + optim.Blocksize8 - 1) / optim.Blocksize8
	for _, part := range []struct {
		name, dtype string
		n           int
		bytes       func(s *optim.State8) []byte
	}{
		{partM8, "U8", n, func(s *optim.State8) []byte { return s.M }},
		{partV8, "U8", n, func(s *optim.State8) []byte { return s.V }},
		{partAbsmaxM8, "F32", scales, func(s *optim.State8) []byte { return quant.Float32Entry("", s.AbsmaxM).Bytes }},
		{partAbsmaxV8, "F32", scales, func(s *optim.State8) []byte { return quant.Float32Entry("", s.AbsmaxV).Bytes }},
	} {
		tensors = append(tensors, checkpoint.Lazy{Name: p.Name + part.name, DType: part.dtype, Shape: []int{part.n}, Make: func() ([]byte, error) {
			s, err := t.device.ReadState8(p.state8)
			if err != nil {
				return nil, err
			}
			return part.bytes(s), nil
		}})
	}
	return tensors
}

// Load reads the state that Save wrote for the same run, a tensor at a time. All is read before, so that nothing changes unless that can be done.
func (t *Trainer) Load(f *checkpoint.File, run string) error {
	if got := f.Metadata["run"]; got != run {
		return fmt.Errorf("%s belongs to another run:\n  it has  %s\n  this is %s", f.Name, got, run)
	}
	step, err := strconv.Atoi(f.Metadata["step"])
	if err != nil || step < 0 {
		return fmt.Errorf("%s: metadata step is %q, want a number", f.Name, f.Metadata["step"])
	}
	for _, keep := range []bool{false, true} {
		for _, p := range t.params {
			if err := t.load(f, p, keep); err != nil {
				return err
			}
		}
	}
	for _, p := range t.params {
		p.Refresh(t.device)
	}
	t.step = step
	return t.device.Sync()
}

// load reads a parameter and its state, and, if they are to be kept, brings them to the device.
func (t *Trainer) load(f *checkpoint.File, p param, keep bool) error {
	for _, into := range p.matrices() {
		x, shape, err := f.Float32(into.name)
		if err != nil {
			return err
		}
		if want := []int{into.Rows, into.Cols}; !slices.Equal(shape, want) {
			return fmt.Errorf("%s: tensor %s has shape %v, want %v", f.Name, into.name, shape, want)
		}
		if keep {
			t.device.Write(into.Tensor, x)
		}
	}
	if p.state8 == nil {
		return nil
	}
	s, err := loadState8(f, p.Name, p.state8.Len)
	if err == nil && keep {
		t.device.WriteState8(p.state8, s)
	}
	return err
}

func loadState8(f *checkpoint.File, name string, n int) (*optim.State8, error) {
	s := optim.NewState8(n)
	for _, codes := range []struct {
		part string
		into []byte
	}{{partM8, s.M}, {partV8, s.V}} {
		t, err := f.Tensor(name + codes.part)
		if err != nil {
			return nil, err
		}
		if t.DType != "U8" || len(t.Bytes) != len(codes.into) {
			return nil, fmt.Errorf("%s: tensor %s is %s of shape %v, want U8 of [%d]", f.Name, t.Name, t.DType, t.Shape, len(codes.into))
		}
		copy(codes.into, t.Bytes)
	}
	for _, absmax := range []struct {
		part string
		into []float32
	}{{partAbsmaxM8, s.AbsmaxM}, {partAbsmaxV8, s.AbsmaxV}} {
		x, shape, err := f.Float32(name + absmax.part)
		if err != nil {
			return nil, err
		}
		if len(x) != len(absmax.into) {
			return nil, fmt.Errorf("%s: tensor %s has shape %v, want [%d]", f.Name, name+absmax.part, shape, len(absmax.into))
		}
		copy(absmax.into, x)
	}
	return s, nil
}
