// Package llama is the LLaMA decoder (Touvron et al., 2023), written once against op.Device: forward and backward by hand,
// no tape. Read config.go for the shape, model.go for what a model holds, block.go for the arithmetic, loss.go for
// training and generate.go for generation.
package llama

import (
	"fmt"
	"slices"
	"strings"

	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// Model is a frozen base, with or without adapters, on a device.
type Model struct {
	Config
	Compute num.DType // the type of activations and of weights where they are used
	Clock   *op.Ints  // what dropout and sampling read: see op.ClockStep

	// Checkpointing keeps only each block's input for backward, which computes the block again.
	Checkpointing bool

	device    op.Device
	embedding *op.Tensor
	blocks    []block
	norm      *op.Tensor
	head      op.Weight
	cos, sin  *op.Tensor
}

// Options say how a base is held and what is trained.
type Options struct {
	Compute num.DType
	Quant   *quant.Options // nil keeps the linear layers dense, in Compute
	LoRA    *lora.Config   // nil trains nothing
}

type block struct {
	layer                      uint16
	inputNorm, postNorm        *op.Tensor
	q, k, v, o, gate, up, down projection
}

// projection is one linear layer with its place and its adapter, which may be nil.
type projection struct {
	at      op.At
	w       op.Weight
	adapter *op.Adapter
}

// New brings a model to a device. weights gives each tensor by its Hugging Face name and its shape, row-major in float32, so
// that one tensor at a time is in memory; linear layers are quantized as they come. The embedding, the norms and the head stay
// unquantized, as in the paper.
func New(d op.Device, c Config, o Options, weights func(name string, shape []int) ([]float32, error)) (*Model, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	m := &Model{Config: c, Compute: o.Compute, device: d, Clock: d.NewInts(op.Run, "batch/clock", op.ClockLen)}
	b := builder{d: d, options: o, weights: weights, clock: m.Clock}
	m.embedding = b.dense("model.embed_tokens.weight", o.Compute, c.VocabSize, c.HiddenSize)
	for layer := range c.NumHiddenLayers {
		m.blocks = append(m.blocks, b.block(layer, c))
	}
	m.norm = b.vector("model.norm.weight", c.HiddenSize)
	m.head = op.Weight{Dense: m.embedding}
	if !c.TieWordEmbeddings {
		m.head = op.Weight{Dense: b.dense("lm_head.weight", o.Compute, c.VocabSize, c.HiddenSize)}
	}
	m.cos, m.sin = ropeTables(d, c)
	if b.err != nil {
		return nil, b.err
	}
	return m, d.Sync()
}

// builder keeps the first error, so that the model reads as a list of its parts.
type builder struct {
	d       op.Device
	options Options
	weights func(string, []int) ([]float32, error)
	clock   *op.Ints
	err     error
}

func (b *builder) block(layer int, c Config) block {
	prefix := fmt.Sprintf("model.layers.%d.", layer)
	bl := block{
		layer:     uint16(layer),
		inputNorm: b.vector(prefix+"input_layernorm.weight", c.HiddenSize),
		postNorm:  b.vector(prefix+"post_attention_layernorm.weight", c.HiddenSize),
	}
	for i, s := range c.projections() {
		*bl.projections()[i] = b.projection(prefix, op.At{Layer: uint16(layer), Name: s.name}, s.out, s.in)
	}
	return bl
}

// projections are in the order of Config.projections.
func (bl *block) projections() []*projection {
	return []*projection{&bl.q, &bl.k, &bl.v, &bl.o, &bl.gate, &bl.up, &bl.down}
}

func (b *builder) projection(prefix string, at op.At, out, in int) projection {
	p := projection{at: at}
	name := prefix + at.Name + ".weight"
	if b.options.Quant == nil {
		p.w.Dense = b.dense(name, b.options.Compute, out, in)
	} else {
		p.w.Quantized = b.quantized(name, out, in)
	}
	if l := b.options.LoRA; l != nil && targeted(l.TargetModules, at.Name) {
		p.adapter = lora.New(b.d, at, out, in, *l, b.clock)
	}
	return p
}

// targeted: a module's last component is on the list, or there is no list.
func targeted(modules []string, name string) bool {
	return len(modules) == 0 || slices.Contains(modules, name[strings.LastIndexByte(name, '.')+1:])
}

func (b *builder) values(name string, shape ...int) []float32 {
	if b.err != nil {
		return nil
	}
	x, err := b.weights(name, shape)
	if err == nil {
		if bad := quant.CheckFinite(x); bad != nil {
			err = fmt.Errorf("tensor %s: %w", name, bad)
		}
	}
	b.err = err
	return x
}

func (b *builder) dense(name string, t num.DType, rows, cols int) *op.Tensor {
	return b.upload(name, t, rows, cols, b.values(name, rows, cols))
}

// vector is dense for a norm's weight, which a file holds with one dimension.
func (b *builder) vector(name string, n int) *op.Tensor {
	return b.upload(name, num.Float32, 1, n, b.values(name, n))
}

func (b *builder) upload(name string, t num.DType, rows, cols int, x []float32) *op.Tensor {
	if b.err != nil {
		return nil
	}
	w := b.d.New(op.Run, "weights/"+name, t, rows, cols)
	b.d.Write(w, x)
	return w
}

func (b *builder) quantized(name string, out, in int) *op.Quantized {
	x := b.values(name, out, in)
	if b.err != nil {
		return nil
	}
	q, err := quant.Quantize(x, []int{out, in}, *b.options.Quant)
	if err != nil {
		b.err = fmt.Errorf("tensor %s: %w", name, err)
		return nil
	}
	return b.d.NewQuantized("weights/"+name, q)
}

// ropeTables are cosine and sine of every position's angles, [positions, head_dim/2], from the host.
func ropeTables(d op.Device, c Config) (cos, sin *op.Tensor) {
	half := c.HeadDim / 2
	invFreq := num.RoPEInvFreq(c.RoPETheta, c.HeadDim)
	cosines, sines := make([]float32, c.MaxPositionEmbeddings*half), make([]float32, c.MaxPositionEmbeddings*half)
	for p := range c.MaxPositionEmbeddings {
		for i, f := range invFreq {
			sines[p*half+i], cosines[p*half+i] = num.SinCos(num.RoPEAngle(p, f))
		}
	}
	cos = d.New(op.Run, "tables/cos", num.Float32, c.MaxPositionEmbeddings, half)
	sin = d.New(op.Run, "tables/sin", num.Float32, c.MaxPositionEmbeddings, half)
	d.Write(cos, cosines)
	d.Write(sin, sines)
	return cos, sin
}

// Adapters gives every adapter by its module's name, such as model.layers.0.self_attn.q_proj.
func (m *Model) Adapters() map[string]*op.Adapter {
	all := map[string]*op.Adapter{}
	for i := range m.blocks {
		for _, p := range m.blocks[i].projections() {
			if p.adapter != nil {
				all[fmt.Sprintf("model.layers.%d.%s", p.at.Layer, p.at.Name)] = p.adapter
			}
		}
	}
	return all
}
