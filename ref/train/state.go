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

// A run's state is the number of steps taken, every parameter that is trained, and AdamW's moments of each. Nothing else
// carries over from step to step: the order of the data, dropout and sampling are functions of the seed and the step.

// The parts of a parameter in the state's file, after its name.
const (
	partM, partV               = ".exp_avg", ".exp_avg_sq" // torch's names
	partM8, partV8             = ".exp_avg.codes", ".exp_avg_sq.codes"
	partAbsmaxM8, partAbsmaxV8 = ".exp_avg.absmax", ".exp_avg_sq.absmax"
)

// Save writes the state to a safetensors file. run describes what the run computes; Load refuses another.
func (t *Trainer) Save(path, run string) error {
	var tensors []checkpoint.Tensor
	for _, p := range t.params {
		parts, err := t.save(p)
		if err != nil {
			return err
		}
		tensors = append(tensors, parts...)
	}
	return checkpoint.Write(path, tensors, map[string]string{"step": strconv.Itoa(t.step), "run": run})
}

func (t *Trainer) save(p param) ([]checkpoint.Tensor, error) {
	values, err := t.device.Read(p.p)
	if err != nil {
		return nil, err
	}
	tensors := []checkpoint.Tensor{quant.Float32Entry(p.name, values, p.p.Rows, p.p.Cols)}
	if p.state8 != nil {
		s, err := t.device.ReadState8(p.state8)
		if err != nil {
			return nil, err
		}
		return append(tensors,
			checkpoint.Tensor{Name: p.name + partM8, DType: "U8", Shape: []int{len(s.M)}, Bytes: s.M},
			checkpoint.Tensor{Name: p.name + partV8, DType: "U8", Shape: []int{len(s.V)}, Bytes: s.V},
			quant.Float32Entry(p.name+partAbsmaxM8, s.AbsmaxM),
			quant.Float32Entry(p.name+partAbsmaxV8, s.AbsmaxV)), nil
	}
	for _, moment := range []struct {
		part string
		t    *op.Tensor
	}{{partM, p.m}, {partV, p.v}} {
		values, err := t.device.Read(moment.t)
		if err != nil {
			return nil, err
		}
		tensors = append(tensors, quant.Float32Entry(p.name+moment.part, values, p.p.Rows, p.p.Cols))
	}
	return tensors, nil
}

// Load reads the state that Save wrote for the same run. Nothing changes unless all of it can be read.
func (t *Trainer) Load(f *checkpoint.File, run string) error {
	if got := f.Metadata["run"]; got != run {
		return fmt.Errorf("%s belongs to another run:\n  it has  %s\n  this is %s", f.Name, got, run)
	}
	step, err := strconv.Atoi(f.Metadata["step"])
	if err != nil || step < 0 {
		return fmt.Errorf("%s: metadata step is %q, want a number", f.Name, f.Metadata["step"])
	}
	var writes []func()
	for _, p := range t.params {
		w, err := t.load(f, p)
		if err != nil {
			return err
		}
		writes = append(writes, w...)
	}
	for _, write := range writes {
		write()
	}
	t.step = step
	return t.device.Sync()
}

// load reads a parameter and returns what will bring it to the device.
func (t *Trainer) load(f *checkpoint.File, p param) (writes []func(), err error) {
	tensors := map[string]*op.Tensor{p.name: p.p}
	if p.state8 == nil {
		tensors[p.name+partM], tensors[p.name+partV] = p.m, p.v
	}
	for name, into := range tensors {
		x, shape, err := f.Float32(name)
		if err != nil {
			return nil, err
		}
		if want := []int{into.Rows, into.Cols}; !slices.Equal(shape, want) {
			return nil, fmt.Errorf("%s: tensor %s has shape %v, want %v", f.Name, name, shape, want)
		}
		writes = append(writes, func() { t.device.Write(into, x) })
	}
	if p.state8 != nil {
		s, err := loadState8(f, p.name, p.state8.Len)
		if err != nil {
			return nil, err
		}
		writes = append(writes, func() { t.device.WriteState8(p.state8, s) })
	}
	return writes, nil
}

func loadState8(f *checkpoint.File, name string, n int) (*optim.State8, error) {
	s := optim.NewState8(n)
	for part, into := range map[string][]byte{partM8: s.M, partV8: s.V} {
		t, err := f.Tensor(name + part)
		if err != nil {
			return nil, err
		}
		if len(t.Bytes) != len(into) {
			return nil, fmt.Errorf("%s: tensor %s has %d bytes, want %d", f.Name, t.Name, len(t.Bytes), len(into))
		}
		copy(into, t.Bytes)
	}
	for part, into := range map[string][]float32{partAbsmaxM8: s.AbsmaxM, partAbsmaxV8: s.AbsmaxV} {
		x, shape, err := f.Float32(name + part)
		if err != nil {
			return nil, err
		}
		if len(x) != len(into) {
			return nil, fmt.Errorf("%s: tensor %s has shape %v, want [%d]", f.Name, name+part, shape, len(into))
		}
		copy(into, x)
	}
	return s, nil
}
