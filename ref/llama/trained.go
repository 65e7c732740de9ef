package llama

import (
	"fmt"
	"slices"
	"strings"

	"qlora/ref/lora/peft"
	"qlora/ref/num"
	"qlora/ref/op"
)

// Parameter is a tensor that is trained: a matrix of an adapter, or one of the base's own tensors.
type Parameter struct {
	Name  string     // of the base's own Hugging Face's; of an adapter its module's, and .lora_A or .lora_B
	Shape []int      // in files
	Value *op.Tensor // float32: what an optimizer moves
	Use   *op.Tensor // what the model computes with: Value, rounded to the compute type; nil where that is Value itself, or is rounded at each use
	Grad  *op.Tensor // float32

	NoDecay bool // weight decay passes over norms and biases, as transformers' trainer does

	// Tied is the gradient of the head that an embedding is used for, too; nil for all others. One use after the other would add up in an
	// order that depends on how a batch is cut. So each has a sum of its own, and JoinGradients adds the two.
	Tied *op.Tensor
}

// ZeroGradients begins a batch.
func (p Parameter) ZeroGradients(d op.Device) {
	d.Zero(p.Grad)
	if p.Tied != nil {
		d.Zero(p.Tied)
	}
}

// JoinGradients ends a batch: Grad is complete then.
func (p Parameter) JoinGradients(d op.Device) {
	if p.Tied != nil {
		d.Add(p.at(), p.Grad, p.Grad, p.Tied)
	}
}

// Refresh gives the model the Value that has changed.
func (p Parameter) Refresh(d op.Device) {
	if p.Use != nil {
		d.Copy(p.at(), p.Use, p.Value)
	}
}

func (p Parameter) at() op.At { return outside("parameter." + p.Name) }

// Parameters lists all that is trained, in the order of their names.
func (m *Model) Parameters() []Parameter {
	all := m.Whole()
	for name, a := range m.Adapters() {
		for _, matrix := range []struct {
			part        string
			value, grad *op.Tensor
		}{{".lora_A", a.A, a.GradA}, {".lora_B", a.B, a.GradB}} {
			all = append(all, Parameter{Name: name + matrix.part, Shape: []int{matrix.value.Rows, matrix.value.Cols}, Value: matrix.value, Grad: matrix.grad})
		}
	}
	slices.SortFunc(all, func(a, b Parameter) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Whole lists the base's own tensors that are trained, in the order of Config.Tensors.
func (m *Model) Whole() []Parameter { return slices.Clone(m.whole) }

// gradientOf is where backward adds the gradient of a weight: nil for one that is frozen.
func (m *Model) gradientOf(w *op.Tensor) *op.Tensor {
	if p := m.parameterOf(w); p != nil {
		return p.Grad
	}
	return nil
}

// headGradient is gradientOf for the head's weight, which may be the embedding.
func (m *Model) headGradient() *op.Tensor {
	if p := m.parameterOf(m.head.Dense); p != nil && p.Tied != nil {
		return p.Tied
	}
	return m.gradientOf(m.head.Dense)
}

func (m *Model) parameterOf(w *op.Tensor) *Parameter {
	i, trained := m.trained[w]
	if !trained {
		return nil
	}
	return &m.whole[i]
}

// Trains says whether a tensor of the base is trained: it has a gradient then, and in 16 bits a master, and is never in 4 bits.
func (o Options) Trains(tensor string) bool {
	return o.Full || o.LoRA != nil && o.LoRA.Saves(moduleOf(tensor))
}

// train makes a parameter of a weight w, which holds x, rounded to its type.
func (b *builder) train(name string, shape []int, w *op.Tensor, x []float32) {
	p := Parameter{Name: name, Shape: shape, Value: w, NoDecay: len(shape) == 1}
	if w.DType != num.Float32 {
		p.Value, p.Use = b.d.New(op.Run, "masters/"+name, num.Float32, w.Rows, w.Cols), w
		b.d.Write(p.Value, x)
	}
	p.Grad = b.d.New(op.Run, "gradients/"+name, num.Float32, w.Rows, w.Cols)
	b.trained[w] = len(b.whole)
	b.whole = append(b.whole, p)
}

// tie gives the embedding the gradient of the head that is tied to it.
func (b *builder) tie(embedding *op.Tensor) {
	if i, trained := b.trained[embedding]; trained {
		b.whole[i].Tied = b.d.New(op.Run, "gradients/"+headWeight, num.Float32, embedding.Rows, embedding.Cols)
	}
}

// checkTrained says what of the options cannot be trained, if anything.
func (c Config) checkTrained(o Options) error {
	switch {
	case o.Full && o.LoRA != nil:
		return fmt.Errorf("full fine-tuning trains every weight: adapters have no place beside it")
	case o.Full && o.Quant != nil:
		return fmt.Errorf("full fine-tuning trains every weight, and none can be trained in 4 bits: keep the model in 16 or 32 bits")
	case o.LoRA != nil:
		return c.CheckModulesToSave(o.LoRA.ModulesToSave)
	}
	return nil
}

// CheckModulesToSave finds a name that is the end of no module's that has weights (peft.Patterns.Saves): a slip of the pen, over which PEFT passes.
func (c Config) CheckModulesToSave(names []string) error {
	for _, name := range names {
		one := peft.Patterns{ModulesToSave: []string{name}}
		named := func(t TensorShape) bool { return one.Saves(moduleOf(t.Name)) }
		if name == "" || !slices.ContainsFunc(c.Tensors(), named) && !one.Saves(moduleOf(headWeight)) {
			return fmt.Errorf("modules_to_save: %q is the name of no module of the model", name)
		}
	}
	return nil
}
