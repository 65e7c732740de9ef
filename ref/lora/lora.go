// Package lora attaches low-rank adapters to frozen linear layers (Hu et al., 2021; QLoRA section 3):
//
//	y = x·Wᵀ + s·(dropout(x)·Aᵀ)·Bᵀ,   A [r, in], B [out, r], s = α/r
//
// Only A and B are trained, and what ModulesToSave names. Their masters are float32 and are cast where they are used. Each rounding of the forward and
// the backward pass is written in op.LoRAForward and op.LoRABackward.
package lora

import (
	"fmt"
	"math"

	"qlora/ref/lora/peft"
	"qlora/ref/num"
	"qlora/ref/op"
)

// Config says what adapters a model has; the fields are named as in PEFT's LoraConfig.
type Config struct {
	R       int
	Alpha   float64
	Dropout float32
	RSLoRA  bool // scale α/√r (Kalajdzievski, 2023) in place of α/r
	Float32 bool // PEFT's arithmetic: the branch in float32
	Seed    uint64

	// Modules are the linear layers with an adapter, by their full names, and the rank and α of each (see package peft);
	// nil is every linear layer but the head, with R and Alpha.
	Modules map[string]peft.Rank

	// ModulesToSave are modules that are trained whole beside the adapters: their own weights and biases, in float32. What a name
	// names, peft.Patterns.Saves says.
	ModulesToSave []string
}

// Saves says whether a module is one of ModulesToSave, or a part of one.
func (c Config) Saves(module string) bool {
	return peft.Patterns{ModulesToSave: c.ModulesToSave}.Saves(module)
}

// Of is c with the rank and α of a module; ok is false for one without an adapter.
func (c Config) Of(module string) (of Config, ok bool) {
	if c.Modules == nil {
		return c, true
	}
	own, ok := c.Modules[module]
	c.R, c.Alpha = own.R, own.Alpha
	return c, ok
}

// Check says what is wrong with c, if anything.
func (c Config) Check() error {
	switch {
	case c.R < 1:
		return fmt.Errorf("lora_r is %d: want at least 1", c.R)
	case !(c.Alpha >= 0 && c.Alpha <= math.MaxFloat32):
		return fmt.Errorf("lora_alpha is %v: want at least 0", c.Alpha)
	case c.Dropout < 0 || c.Dropout >= 1:
		return fmt.Errorf("lora_dropout is %v: want at least 0 and less than 1", c.Dropout)
	}
	return nil
}

// Scale is s: computed in float64, rounded once.
func (c Config) Scale() float32 {
	if c.RSLoRA {
		return float32(c.Alpha / math.Sqrt(float64(c.R)))
	}
	return float32(c.Alpha / float64(c.R))
}

// New makes the adapter of the linear layer at a place: A uniform in ±1/√in (PyTorch's Kaiming initialisation with a = √5,
// as PEFT has it), B zero, so that training starts from the base model.
func New(d op.Device, at op.At, out, in int, c Config, clock *op.Ints) *op.Adapter {
	tensor := func(part, matrix string, rows, cols int) *op.Tensor {
		return d.New(op.Run, fmt.Sprintf("%s/%v.%s", part, at, matrix), num.Float32, rows, cols)
	}
	a := &op.Adapter{
		A: tensor("adapter", "lora_A", c.R, in), B: tensor("adapter", "lora_B", out, c.R),
		GradA: tensor("gradients", "lora_A", c.R, in), GradB: tensor("gradients", "lora_B", out, c.R),
		Scale: c.Scale(), Float32: c.Float32,
		Dropout: op.Dropout{P: c.Dropout, Seed: c.Seed, Clock: clock},
	}
	op.Fill(d, a.A, func() []float32 { return InitA(at, c.R, in, c.Seed) })
	return a
}

// InitA is the initial A [r, in] of a place: (2u − 1)·round(1/√in), u uniform by element.
func InitA(at op.At, r, in int, seed uint64) []float32 {
	bound := float32(1 / math.Sqrt(float64(in)))
	counter := num.Counter{Purpose: num.Purpose("lora_A/" + at.Name), Layer: at.Layer}
	a := make([]float32, r*in)
	for i := range a {
		counter.Element = uint64(i)
		a[i] = float32((float32(2*num.Uniform(seed, counter)) - 1) * bound)
	}
	return a
}

// Merge adds the adapter to a dense W [out, in] in float32: W + s·(B·A), r ascending from +0.
func Merge(w, a, b []float32, out, in, r int, scale float32) {
	delta := make([]float32, in)
	for i := range out {
		op.MatMulInput(delta, b[i*r:(i+1)*r], a, 1, r, in)
		for j, v := range delta {
			w[i*in+j] += float32(scale * v)
		}
	}
}
