// Package llama is the LLaMA decoder (Touvron et al., 2023) and its relatives, written once against op.Device: forward and
// backward by hand, no tape. Read config.go for the shape, model.go for what a model holds, block.go for the arithmetic, loss.go
// and trained.go for training and generate.go for generation.
//
// # Another architecture
//
// A decoder that differs from LLaMA by switches of Config is one file, such as qwen3.go: a function that sets them from
// config.json and refuses what it cannot compute; and a row of the table in architecture.go. Its tensors must have LLaMA's
// names. What no switch says yet is added to Config, to Tensors and builder.block (what is loaded), and to block.forward and
// block.backward (what is computed); the gradients of TestArchitectures then cover it, and conformance/oracle/architectures.py
// makes a small random model of it whose logits and gradients transformers computed.
package llama

import (
	"fmt"

	"qlora/ref/checkpoint"
	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// Model is a base on a device: frozen, with or without adapters, or trained itself, whole or in parts.
type Model struct {
	Config
	Compute num.DType // the type of activations and of weights where they are used
	Clock   *op.Ints  // what dropout and sampling read: see op.ClockStep

	// Checkpointing keeps only each block's input for backward, which computes the block again.
	Checkpointing bool

	// Noise is added to the embeddings in training. Its clock is the model's.
	Noise op.Noise

	device    op.Device
	embedding *op.Tensor
	blocks    []block
	norm      *op.Tensor
	head      op.Weight
	tables    tables

	whole   []Parameter        // the base's own tensors that are trained
	trained map[*op.Tensor]int // where in whole the parameter of a weight stands
}

// Options say how a base is held and what is trained.
type Options struct {
	Compute num.DType
	Quant   *quant.Options // nil keeps the linear layers as they come: dense in Compute, or in the 4 bits of their files
	LoRA    *lora.Config   // the adapters; nil for none
	Full    bool           // train every tensor of the base: full fine-tuning
	Context int            // the longest sequence that will be asked for; 0 is max_position_embeddings

	// Adapter is one to compute with, if it has modules; LoRA is not asked then.
	Adapter checkpoint.Adapter
}

// Weights gives a base's tensors by their Hugging Face names and the shapes that they must have.
type Weights interface {
	// Float32 gives a tensor row-major. Its values are good until the next call, so that one tensor at a time is in memory. A device that
	// only accounts for memory needs none of them: nil will do.
	Float32(name string, shape []int) ([]float32, error)
	// Quantized gives a linear layer's weight that is in 4 bits already; nil for one that is not.
	Quantized(name string, shape []int) (*quant.Tensor, error)
}

type block struct {
	layer                      uint16
	window                     int
	inputNorm, postNorm        *op.Tensor
	qNorm, kNorm               *op.Tensor // nil in most architectures
	q, k, v, o, gate, up, down projection
}

// projection is one linear layer with its place, and its bias and adapter, which may be nil.
type projection struct {
	at      op.At
	w       op.Weight
	bias    *op.Tensor
	adapter *op.Adapter
}

// WeightsFunc is Weights that are in no file.
type WeightsFunc func(name string, shape []int) ([]float32, error)

func (f WeightsFunc) Float32(name string, shape []int) ([]float32, error)       { return f(name, shape) }
func (f WeightsFunc) Quantized(name string, shape []int) (*quant.Tensor, error) { return nil, nil }

// New brings a model to a device. Linear layers are quantized there as they come. The embedding, the norms, biases and the head stay
// unquantized, as in the paper.
func New(d op.Device, c Config, o Options, weights Weights) (*Model, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if o.Adapter.A != nil {
		if err := c.CheckAdapter(o.Adapter); err != nil {
			return nil, err
		}
		o.LoRA = loraOf(o.Adapter)
	}
	if err := c.checkTrained(o); err != nil {
		return nil, err
	}
	m := &Model{Config: c, Compute: o.Compute, device: d, Clock: d.NewInts(op.Run, "batch/clock", op.ClockLen)}
	b := builder{d: d, options: o, weights: weights, clock: m.Clock, trained: map[*op.Tensor]int{}}
	m.embedding = b.dense(embeddingWeight, o.Compute, c.VocabSize, c.HiddenSize)
	for layer := range c.NumHiddenLayers {
		m.blocks = append(m.blocks, b.block(layer, c))
		if b.err != nil {
			return nil, b.err
		}
	}
	m.norm = b.vector("model.norm.weight", num.Float32, c.HiddenSize)
	m.head = b.loadHead(c, m.embedding)
	if b.err != nil {
		return nil, b.err
	}
	m.whole, m.trained = b.whole, b.trained
	context := c.MaxPositionEmbeddings
	if o.Context > 0 {
		context = min(context, o.Context)
	}
	m.tables = newTables(d, op.Run, c, context)
	return m, d.Sync()
}

// builder keeps the first error, so that the model reads as a list of its parts.
type builder struct {
	d       op.Device
	options Options
	weights Weights
	clock   *op.Ints
	whole   []Parameter
	trained map[*op.Tensor]int
	err     error
}

func (b *builder) block(layer int, c Config) block {
	prefix := layerPrefix(layer)
	bl := block{
		layer:     uint16(layer),
		inputNorm: b.vector(prefix+"input_layernorm.weight", num.Float32, c.HiddenSize),
		postNorm:  b.vector(prefix+"post_attention_layernorm.weight", num.Float32, c.HiddenSize),
	}
	if c.SlidingWindow != nil {
		bl.window = c.SlidingWindow[layer]
	}
	if c.QKNorm {
		bl.qNorm = b.vector(prefix+"self_attn.q_norm.weight", num.Float32, c.HeadDim)
		bl.kNorm = b.vector(prefix+"self_attn.k_norm.weight", num.Float32, c.HeadDim)
	}
	for i, s := range c.projections() {
		*bl.projections()[i] = b.projection(prefix, op.At{Layer: uint16(layer), Name: s.name}, s)
	}
	return bl
}

// projections are in the order of Config.projections.
func (bl *block) projections() []*projection {
	return []*projection{&bl.q, &bl.k, &bl.v, &bl.o, &bl.gate, &bl.up, &bl.down}
}

func (b *builder) projection(prefix string, at op.At, s projectionShape) projection {
	p := projection{at: at, w: b.linear(at, prefix+s.name+".weight", s.out, s.in)}
	if s.bias {
		p.bias = b.vector(prefix+s.name+".bias", b.options.Compute, s.out)
	}
	if l := b.options.LoRA; l != nil && b.err == nil {
		if l, ok := l.Of(prefix + at.Name); ok {
			if b.options.Trains(prefix + at.Name + ".weight") {
				b.err = fmt.Errorf("module %s: modules_to_save and target_modules both choose it", prefix+at.Name)
				return p
			}
			p.adapter = lora.New(b.d, at, s.out, s.in, l, b.clock)
			b.load(prefix+at.Name, p.adapter)
		}
	}
	return p
}

// linear is a layer's weight: in the 4 bits that its file has, quantized now, or dense, as one that the adapter saves or that is trained.
func (b *builder) linear(at op.At, name string, out, in int) op.Weight {
	if b.err != nil {
		return op.Weight{}
	}
	if _, saved := b.options.Adapter.Saved[name]; saved || b.options.Trains(name) {
		return op.Weight{Dense: b.dense(name, b.options.Compute, out, in)}
	}
	q, err := b.weights.Quantized(name, []int{out, in})
	if err != nil {
		b.err = err
		return op.Weight{}
	}
	switch {
	case q != nil:
		return op.Weight{Quantized: b.d.NewQuantized("weights/"+name, q)}
	case b.options.Quant != nil:
		return op.Weight{Quantized: b.quantized(at, name, out, in)}
	}
	return op.Weight{Dense: b.dense(name, b.options.Compute, out, in)}
}

// values are the adapter's, if it saves the tensor, or the base's.
func (b *builder) values(name string, shape ...int) []float32 {
	if b.err != nil {
		return nil
	}
	x, err := b.options.Adapter.Float32(name, shape)
	if x == nil && err == nil {
		return b.baseValues(name, shape...)
	}
	return b.finite(name, x, err)
}

func (b *builder) baseValues(name string, shape ...int) []float32 {
	if b.err != nil {
		return nil
	}
	x, err := b.weights.Float32(name, shape)
	return b.finite(name, x, err)
}

func (b *builder) finite(name string, x []float32, err error) []float32 {
	if err == nil {
		if bad := quant.CheckFinite(x); bad != nil {
			err = fmt.Errorf("tensor %s: %w", name, bad)
		}
	}
	b.err = err
	return x
}

func (b *builder) dense(name string, t num.DType, rows, cols int) *op.Tensor {
	return b.own(name, t, []int{rows, cols}, b.values(name, rows, cols))
}

// vector is dense for a norm's weight or a bias, which a file holds with one dimension.
func (b *builder) vector(name string, t num.DType, n int) *op.Tensor {
	return b.own(name, t, []int{n}, b.values(name, n))
}

// own is a tensor of the base with its values, which is trained if that is wanted.
func (b *builder) own(name string, t num.DType, shape []int, x []float32) *op.Tensor {
	rows, cols := 1, shape[len(shape)-1]
	if len(shape) == 2 {
		rows = shape[0]
	}
	w := b.upload(name, t, rows, cols, x)
	if b.err == nil && b.options.Trains(name) {
		b.train(name, shape, w, x)
	}
	return w
}

func (b *builder) upload(name string, t num.DType, rows, cols int, x []float32) *op.Tensor {
	if b.err != nil {
		return nil
	}
	w := b.d.New(op.Run, "weights/"+name, t, rows, cols)
	b.d.Write(w, x)
	return w
}

// quantized has the values on the device, in float32, until they are quantized there.
func (b *builder) quantized(at op.At, name string, out, in int) *op.Quantized {
	x := b.values(name, out, in)
	if b.err != nil {
		return nil
	}
	mark := b.d.Mark(op.Step)
	defer b.d.Release(mark)
	v := b.d.New(op.Step, "loading/"+name, num.Float32, out, in)
	b.d.Write(v, x)
	q := b.d.Quantize(at, "weights/"+name, v, *b.options.Quant)
	b.err = b.d.Sync()
	return q
}

// Adapters gives every adapter by its module's name, such as model.layers.0.self_attn.q_proj.
func (m *Model) Adapters() map[string]*op.Adapter {
	all := map[string]*op.Adapter{}
	for i := range m.blocks {
		for _, p := range m.blocks[i].projections() {
			if p.adapter != nil {
				all[layerPrefix(int(p.at.Layer))+p.at.Name] = p.adapter
			}
		}
	}
	return all
}
