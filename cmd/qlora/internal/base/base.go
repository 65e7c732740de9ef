// Package base finds the model that a command works on and brings it to a device.
package base

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"strings"

	"qlora/cmd/qlora/internal/machine"
	"qlora/cmd/qlora/internal/tokenizer"
	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
)

// Base is a model's files: weights that are read when they are needed, its tokenizer.
type Base struct {
	Name      string // as given on the command line
	Config    llama.Config
	Tokenizer *tokenizer.Tokenizer
	Ends      []int32 // the tokens that end a text
	Model     *checkpoint.Model
	Files     fs.FS // the model's folder

	gguf *checkpoint.GGUF // the file in it that the model is, or nil
}

// Open finds a model (see Find), reads what is small and checks that every tensor is there with its shape. Close it after use.
func Open(name string) (*Base, error) {
	b, err := open(name)
	if err != nil {
		return nil, err
	}
	if err := b.openTokenizer(); err != nil {
		return nil, fmt.Errorf("model %s: %w", name, errors.Join(err, b.Close()))
	}
	return b, nil
}

// OpenWeights is Open for those who write a model's folder again: it reads no tokenizer, and refuses a GGUF file.
func OpenWeights(name string) (*Base, error) {
	b, err := open(name)
	if err != nil {
		return nil, err
	}
	if err := b.CheckFolder(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// CheckFolder is an error for a model that has no folder which could be written again.
func (b *Base) CheckFolder() error {
	if b.gguf == nil {
		return nil
	}
	return fmt.Errorf("model %s is a GGUF file: this command writes a folder again, so give it the Hugging Face folder that the file was made from", b.Name)
}

func open(name string) (*Base, error) {
	folder, file, err := Find(name)
	if err != nil {
		return nil, err
	}
	b := &Base{Name: name, Files: folder}
	if file != "" {
		b.gguf, err = checkpoint.OpenGGUF(folder, file)
	}
	if err == nil {
		err = b.openWeights()
	}
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", name, errors.Join(err, b.Close()))
	}
	return b, nil
}

func (b *Base) openWeights() (err error) {
	if b.gguf != nil {
		b.Model, err = checkpoint.GGUFModel(b.gguf)
	} else {
		b.Model, err = checkpoint.OpenModel(b.Files)
	}
	if err != nil {
		return b.advise(err)
	}
	if b.Config, err = llama.ConfigOf(b.Model.Config); err != nil {
		return fmt.Errorf("%s: %w", b.Model.ConfigName, err)
	}
	return checkTensors(b.Config, b.Model)
}

// advise says what a folder is that lacks a file of a model.
func (b *Base) advise(err error) error {
	if b.gguf != nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, kind := range []struct{ files, advice string }{
		{"adapter_config.json", "the folder has %s: it is an adapter, for --adapter"},
		{"*.gguf", "the folder has %s, whose path can be given instead"},
		{"*.bin", "the folder has %s, a pickle, which is not read: load it with transformers and save it with save_pretrained, as safetensors"},
		{"*.pth", "the folder has %s, Meta's own layout, which is not read: fetch the model in Hugging Face's layout"},
	} {
		if files, _ := fs.Glob(b.Files, kind.files); len(files) > 0 {
			return fmt.Errorf("%w; "+kind.advice, err, files[0])
		}
	}
	return fmt.Errorf("%w; want a folder with config.json and model.safetensors", err)
}

func (b *Base) openTokenizer() (err error) {
	if b.Tokenizer, err = readTokenizer(b.Files, b.gguf); err != nil {
		return err
	}
	if n := b.Tokenizer.Size(); n > b.Config.VocabSize {
		return fmt.Errorf("the tokenizer has ids up to %d, %s a vocabulary of %d: they are of different models", n-1, b.Model.ConfigName, b.Config.VocabSize)
	}
	b.Ends, err = b.ends()
	return err
}

func readTokenizer(folder fs.FS, gguf *checkpoint.GGUF) (*tokenizer.Tokenizer, error) {
	if gguf == nil {
		return tokenizer.Load(folder)
	}
	t, err := tokenizer.FromGGUF(gguf.Metadata)
	if err != nil {
		err = fmt.Errorf("%s: %w", gguf.Name, err)
	}
	return t, err
}

// generationFile may name more tokens that end a text than config.json: those of a chat's turns.
const generationFile = "generation_config.json"

func (b *Base) ends() ([]int32, error) {
	var g struct {
		EOS checkpoint.TokenIDs `json:"eos_token_id"`
	}
	if b.gguf == nil {
		file, err := fs.ReadFile(b.Files, generationFile)
		if err == nil {
			err = json.Unmarshal(file, &g)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w", generationFile, err)
		}
	}
	switch {
	case len(g.EOS) > 0:
		return g.EOS, nil
	case len(b.Model.Config.EOSTokenID) > 0:
		return b.Model.Config.EOSTokenID, nil
	}
	return []int32{b.Tokenizer.EOS}, nil
}

// Tokenizer reads the tokenizer of a model (see Find).
func Tokenizer(name string) (*tokenizer.Tokenizer, error) {
	folder, file, err := Find(name)
	if err != nil {
		return nil, err
	}
	var gguf *checkpoint.GGUF
	if file != "" {
		if gguf, err = checkpoint.OpenGGUF(folder, file); err != nil {
			return nil, fmt.Errorf("model %s: %w", name, err)
		}
		defer gguf.Close()
	}
	t, err := readTokenizer(folder, gguf)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", name, err)
	}
	return t, nil
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
			return fmt.Errorf("tensor %s has no place in a model of type %s with this %s: the result would be wrong without it",
				m.OwnName(name), m.Config.ModelType, m.ConfigName)
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

// largeModel is the size, in bytes, from which on memory is dearer than the time to collect what lies about in it.
const largeModel = 64 << 20

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
	if held > largeModel {
		debug.SetGCPercent(20) // garbage may otherwise grow as large as what is alive
	}
	m, err := llama.New(d, b.Config, o, b.Model)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", b.Name, err)
	}
	b.Model.Forget()
	return m, nil
}

// memory is what the weights take on the device, with what it takes to train them, and what the largest takes besides while it is read.
func (b *Base) memory(o llama.Options) (held, most int64) {
	for _, t := range b.Config.Tensors() {
		n := int64(1)
		for _, d := range t.Shape {
			n *= int64(d)
		}
		most = max(most, 4*n)
		switch {
		case o.Trains(t.Name):
			held += 8 * n // the values and the gradient
			if o.Compute != num.Float32 {
				held += 2 * n
			}
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
	switch {
	case b.Model != nil:
		return b.Model.Close()
	case b.gguf != nil:
		return b.gguf.Close()
	}
	return nil
}
