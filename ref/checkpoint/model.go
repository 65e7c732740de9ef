package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"qlora/ref/num"
	"qlora/ref/quant"
)

const (
	modelFile = "model.safetensors"
	indexFile = modelFile + ".index.json"
)

// Model is a model's files: its configuration and its tensors by their Hugging Face names, read when they are asked for.
type Model struct {
	Config     ModelConfig
	ConfigName string // where it stands: config.json, or a GGUF file's metadata

	// NestedOffset is how the offset of double quantization is read. bitsandbytes writes it with all its digits, but makes a
	// tensor of it in torch's default type: a loader that sets this to bfloat16 rounds the offset, one that does not keeps float32.
	NestedOffset num.DType

	files     []source
	where     map[string]source
	quantized map[string]*File // of weights in 4 bits
	buffer    []float32        // what Float32 gave out last
}

// source is a file that holds tensors.
type source interface {
	fileName() string
	// ownName is the file's name for a tensor.
	ownName(name string) string
	// shape is that of a tensor it has.
	shape(name string) []int
	// float32s reads a tensor that is not quantized into dst, which has its length.
	float32s(dst []float32, name string) error
	Close() error
}

// OpenModel reads config.json and opens model.safetensors, or all files that model.safetensors.index.json names. Only headers
// are read. Close the model after use.
func OpenModel(fsys fs.FS) (*Model, error) {
	c, err := readConfig(fsys)
	if err != nil {
		return nil, err
	}
	m := &Model{Config: c, ConfigName: configFile, where: map[string]source{}, quantized: map[string]*File{}}
	if err := m.open(fsys); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Model) open(fsys fs.FS) error {
	index, err := fs.ReadFile(fsys, indexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return m.openFile(fsys, modelFile)
	}
	if err != nil {
		return err
	}
	shards, err := ParseIndex(index)
	if err != nil {
		return fmt.Errorf("%s: %w", indexFile, err)
	}
	for _, name := range slices.Sorted(maps.Keys(shards)) {
		if err := m.openFile(fsys, name); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%s names %s for %s and %d other tensors, but the folder has no such file: fetch it again",
					indexFile, name, shards[name][0], len(shards[name])-1)
			}
			return err
		}
		for _, tensor := range shards[name] {
			if s := m.where[tensor]; s == nil || s.fileName() != name {
				return fmt.Errorf("%s says that tensor %s is in %s, which has none of that name", indexFile, tensor, name)
			}
		}
	}
	return nil
}

func (m *Model) openFile(fsys fs.FS, name string) error {
	f, err := Open(fsys, name)
	if err != nil {
		return err
	}
	m.files = append(m.files, f)
	for _, tensor := range f.Names() {
		if other, twice := m.where[tensor]; twice {
			return fmt.Errorf("tensor %s is in %s and in %s", tensor, other.fileName(), name)
		}
		m.where[tensor] = f
		if weight, ok := quant.IsState(tensor); ok {
			m.quantized[weight] = f
		}
	}
	return nil
}

// ParseIndex reads model.safetensors.index.json: the tensors of each file, in alphabetical order.
func ParseIndex(b []byte) (map[string][]string, error) {
	if key, err := duplicateKey(b); err != nil || key != "" {
		return nil, errors.Join(err, duplicateError(key))
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, err
	}
	if len(index.WeightMap) == 0 {
		return nil, fmt.Errorf("weight_map is missing or empty")
	}
	shards := map[string][]string{}
	for _, tensor := range slices.Sorted(maps.Keys(index.WeightMap)) {
		file := index.WeightMap[tensor]
		if !fs.ValidPath(file) || strings.ContainsAny(file, `/\:`) || file == "." {
			return nil, fmt.Errorf("tensor %s is said to be in %q: want the name of a file in the same folder", tensor, file)
		}
		shards[file] = append(shards[file], tensor)
	}
	return shards, nil
}

// Close closes all files.
func (m *Model) Close() error {
	var errs []error
	for _, f := range m.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Forget gives back the memory of the tensor that Float32 read last.
func (m *Model) Forget() { m.buffer = nil }

// InFourBits says whether a weight lies in 4 bits.
func (m *Model) InFourBits(name string) bool { return m.quantized[name] != nil }

// OwnName is the name that the file with a tensor has for it: another one only in GGUF.
func (m *Model) OwnName(name string) string { return m.where[name].ownName(name) }

// Names lists the tensors in alphabetical order; the parts of a 4-bit weight's state are tensors of their own.
func (m *Model) Names() []string { return slices.Sorted(maps.Keys(m.where)) }

// Tensor reads a tensor of a safetensors file as it lies there.
func (m *Model) Tensor(name string) (Tensor, error) {
	f, ok := m.where[name].(*File)
	if !ok {
		return Tensor{}, m.missing(name)
	}
	return f.Tensor(name)
}

// Size is the number of bytes that a tensor of a safetensors file takes there.
func (m *Model) Size(name string) int64 {
	f, ok := m.where[name].(*File)
	if !ok {
		return 0
	}
	t := f.tensors[name]
	return t.Offsets[1] - t.Offsets[0]
}

func (m *Model) missing(name string) error {
	if len(m.files) == 1 {
		return fmt.Errorf("%s: no tensor %s", m.files[0].fileName(), m.files[0].ownName(name))
	}
	return fmt.Errorf("none of the model's files has a tensor %s", name)
}

// Check says whether a tensor of a name and a shape is there, plain or in 4 bits, without reading it.
func (m *Model) Check(name string, shape []int) error {
	s, ok := m.where[name]
	if !ok {
		return m.missing(name)
	}
	found := s.shape(name)
	if f := m.quantized[name]; f != nil {
		q, err := quant.ReadState(name, f.Tensor)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		found = q.Shape
	}
	if !slices.Equal(found, shape) {
		return fmt.Errorf("%s: tensor %s has shape %v, %s asks for %v", s.fileName(), s.ownName(name), found, m.ConfigName, shape)
	}
	return nil
}

// Float32 reads a tensor that must have a shape; one in 4 bits is dequantized to the type that its state records. The values
// are good until the next call, so that no more than one tensor is in memory.
func (m *Model) Float32(name string, shape []int) ([]float32, error) {
	if err := m.Check(name, shape); err != nil {
		return nil, err
	}
	n := 1
	for _, d := range shape {
		n *= d
	}
	if cap(m.buffer) < n {
		m.buffer = nil // so that the old one can go before the new one is there
		m.buffer = make([]float32, n)
	}
	x := m.buffer[:n]
	q, err := m.Quantized(name, shape)
	switch {
	case err != nil:
		return nil, err
	case q != nil:
		return x, q.Dequantize(x, q.DType)
	}
	return x, m.where[name].float32s(x, name)
}

// Quantized reads a weight that the files hold in 4 bits; it is nil for one that they hold plain.
func (m *Model) Quantized(name string, shape []int) (*quant.Tensor, error) {
	f := m.quantized[name]
	if f == nil {
		return nil, nil
	}
	if err := m.Check(name, shape); err != nil {
		return nil, err
	}
	q, err := quant.FromEntries(name, m.Tensor)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	if q.Nested != nil {
		q.Nested.Offset = m.NestedOffset.Round(q.Nested.Offset)
	}
	return q, nil
}
