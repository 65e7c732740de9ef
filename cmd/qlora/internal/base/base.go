// Package base finds the model that a command works on and brings it to a device.
package base

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"qlora/cmd/qlora/internal/machine"
	"qlora/cmd/qlora/internal/tokenizer"
	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/op"
)

// Base is a model's files: weights that are read when they are needed, its tokenizer.
type Base struct {
	Name      string // as given on the command line
	Config    llama.Config
	Tokenizer *tokenizer.Tokenizer
	Model     *checkpoint.Model
	Files     fs.FS // the model's folder
}

// Open finds a model (see Find), reads what is small and checks that every tensor is there with its shape. Close it after use.
func Open(name string) (*Base, error) {
	b, err := OpenWeights(name)
	if err != nil {
		return nil, err
	}
	if err := b.openTokenizer(); err != nil {
		return nil, fmt.Errorf("model %s: %w", name, errors.Join(err, b.Close()))
	}
	return b, nil
}

// OpenWeights is Open for those who need no tokenizer.
func OpenWeights(name string) (*Base, error) {
	fsys, err := Find(name)
	if err != nil {
		return nil, err
	}
	b := &Base{Name: name, Files: fsys}
	if err := b.openWeights(); err != nil {
		return nil, fmt.Errorf("model %s: %w", name, errors.Join(err, b.Close()))
	}
	return b, nil
}

func (b *Base) openWeights() (err error) {
	if b.Model, err = checkpoint.OpenModel(b.Files); err != nil {
		return err
	}
	if b.Config, err = llama.ConfigOf(b.Model.Config); err != nil {
		return fmt.Errorf("config.json: %w", err)
	}
	return checkTensors(b.Config, b.Model)
}

func (b *Base) openTokenizer() (err error) {
	if b.Tokenizer, err = tokenizer.Load(b.Files); err != nil {
		return err
	}
	if n := b.Tokenizer.Size(); n > b.Config.VocabSize {
		return fmt.Errorf("the tokenizer has ids up to %d, config.json a vocabulary of %d: they are of different models", n-1, b.Config.VocabSize)
	}
	return nil
}

// checkTensors wants every tensor that the configuration asks for, and none that would change what is computed.
func checkTensors(c llama.Config, m *checkpoint.Model) error {
	wanted := map[string]bool{"lm_head.weight": true} // which a tied model may have once more
	for _, t := range c.Tensors() {
		if err := m.Check(t.Name, t.Shape); err != nil {
			return err
		}
		wanted[t.Name] = true
	}
	for _, name := range m.Names() {
		weight, part := stateOf(name)
		if !wanted[name] && !(part && wanted[weight]) && !strings.HasSuffix(name, ".rotary_emb.inv_freq") {
			return fmt.Errorf("tensor %s has no place in a model of type %s with this config.json: the result would be wrong without it", name, m.Config.ModelType)
		}
	}
	return nil
}

// stateOf says whether a tensor is a part of the state of a weight in 4 bits.
func stateOf(name string) (weight string, part bool) {
	i := strings.LastIndex(name, ".weight.")
	if i < 0 {
		return "", false
	}
	return name[:i+len(".weight")], true
}

// Load brings the model to a device, if there is memory for it.
func (b *Base) Load(d op.Device, o llama.Options) (*llama.Model, error) {
	if b.Model.Config.Quantization != nil {
		o.Quant = nil // its layers come in the 4 bits, or the full precision, that its files chose
	}
	held, most := b.memory(o)
	if limit := d.Arena().Cap; limit > 0 && held > limit {
		return nil, fmt.Errorf("model %s: its weights need %s, the memory limit is %s", b.Name, op.Bytes(held), op.Bytes(limit))
	}
	if err := machine.CheckMemory("model "+b.Name, held+most); err != nil {
		return nil, err
	}
	m, err := llama.New(d, b.Config, o, b.Model)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", b.Name, err)
	}
	b.Model.Forget()
	return m, nil
}

// memory is what the weights take on the device, and what the largest takes besides while it is read.
func (b *Base) memory(o llama.Options) (held, most int64) {
	for _, t := range b.Config.Tensors() {
		n := int64(1)
		for _, d := range t.Shape {
			n *= int64(d)
		}
		most = max(most, 4*n)
		switch {
		case t.Linear && o.Quant != nil:
			held += o.Quant.Bytes(n)
		case t.Linear && b.Model.InFourBits(t.Name):
			held += n/2 + n/64
		default:
			held += n * int64(o.Compute.Size())
		}
	}
	return held, most
}

// Close closes the model's files.
func (b *Base) Close() error {
	if b.Model == nil {
		return nil
	}
	return b.Model.Close()
}
