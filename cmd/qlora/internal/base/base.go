// Package base finds the model that a command works on and brings it to a device.
package base

import (
	"fmt"
	"io/fs"
	"os"

	"qlora/cmd/qlora/internal/demo"
	"qlora/cmd/qlora/internal/tokenizer"
	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/op"
)

// Base is a model's folder: weights that are read when they are needed, its tokenizer.
type Base struct {
	Name      string // as given on the command line
	Config    llama.Config
	Tokenizer *tokenizer.Tokenizer
	model     *checkpoint.Model
}

// Open finds the model "demo" or a folder in Hugging Face's layout. Close it after use.
func Open(name string) (*Base, error) {
	fsys, err := Find(name)
	if err != nil {
		return nil, err
	}
	b, err := open(fsys)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", name, err)
	}
	b.Name = name
	return b, nil
}

// Find gives the folder of a model.
func Find(name string) (fs.FS, error) {
	if name == demo.Name {
		return demo.Model(), nil
	}
	if stat, err := os.Stat(name); err != nil || !stat.IsDir() {
		return nil, fmt.Errorf("model %s: want %q or a folder with config.json, model.safetensors and tokenizer.model", name, demo.Name)
	}
	return os.DirFS(name), nil
}

func open(fsys fs.FS) (*Base, error) {
	m, err := checkpoint.OpenModel(fsys)
	if err != nil {
		return nil, err
	}
	t, err := tokenizer.Load(fsys)
	if err != nil {
		return nil, err
	}
	c, err := shape(m.Config)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	if t.Size() > c.VocabSize {
		return nil, fmt.Errorf("%s has %d pieces, config.json a vocabulary of %d", tokenizer.File, t.Size(), c.VocabSize)
	}
	return &Base{Config: c, Tokenizer: t, model: m}, nil
}

// shape translates config.json.
func shape(c checkpoint.ModelConfig) (llama.Config, error) {
	act, err := op.ParseActivation(c.HiddenAct)
	if err != nil {
		return llama.Config{}, err
	}
	s := llama.Config{
		HiddenSize: c.HiddenSize, IntermediateSize: c.IntermediateSize, NumHiddenLayers: c.NumHiddenLayers,
		NumAttentionHeads: c.NumAttentionHeads, NumKeyValueHeads: c.NumKeyValueHeads, HeadDim: c.HeadDim,
		VocabSize: c.VocabSize, MaxPositionEmbeddings: c.MaxPositionEmbeddings,
		RMSNormEps: float32(c.RMSNormEps), RoPETheta: c.RoPETheta, HiddenAct: act, TieWordEmbeddings: c.TieWordEmbeddings,
	}
	return s, s.Check()
}

// Load brings the model to a device.
func (b *Base) Load(d op.Device, o llama.Options) (*llama.Model, error) {
	m, err := llama.New(d, b.Config, o, b.model.Float32)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", b.Name, err)
	}
	return m, nil
}

// Close closes the model's files.
func (b *Base) Close() error { return b.model.File.Close() }
