package checkpoint

import (
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"qlora/ref/lora/peft"
	"qlora/ref/num"
	"qlora/ref/quant"
)

// Adapter is a LoRA adapter as PEFT saves it. Modules and tensors have the names that they have in the base model.
type Adapter struct {
	Config AdapterConfig
	A, B   map[string]Matrix    // of each module, [r, in] and [out, r]
	Ranks  map[string]peft.Rank // of each module, as Config gives it
	Saved  map[string]Saved     // tensors in place of the base's: modules_to_save
	file   *File                // that Saved lies in
}

// Matrix is row-major. DType is the type that it has in a file.
type Matrix struct {
	Rows, Cols int
	Values     []float32
	DType      num.DType
}

// Saved is a tensor that stays in its open file until it is needed: an embedding can be larger than all of the adapter besides.
type Saved struct {
	File *File
	Name string // in the file
}

// Shape is the tensor's.
func (s Saved) Shape() []int { return s.File.shape(s.Name) }

const (
	adapterConfigFile = "adapter_config.json"
	adapterModelFile  = "adapter_model.safetensors"
	adapterPrefix     = "base_model.model."
)

// WriteAdapter writes adapter_config.json and adapter_model.safetensors into a folder that exists. trained are modules_to_save that no
// file has yet: tensors in place of the base's, with its names.
func WriteAdapter(dir string, a Adapter, trained ...Tensor) error {
	var tensors []Tensor
	for _, t := range trained {
		t.Name = adapterPrefix + t.Name
		tensors = append(tensors, t)
	}
	for part, matrices := range map[string]map[string]Matrix{".lora_A.weight": a.A, ".lora_B.weight": a.B} {
		for module, m := range matrices {
			tensors = append(tensors, Narrow(adapterPrefix+module+part, []int{m.Rows, m.Cols}, m.Values, m.DType))
		}
	}
	for name, saved := range a.Saved {
		t, err := saved.File.Tensor(saved.Name)
		if err != nil {
			return err
		}
		t.Name = adapterPrefix + name
		tensors = append(tensors, t)
	}
	config, err := a.Config.text()
	if err != nil {
		return err
	}
	if err := Write(filepath.Join(dir, adapterModelFile), tensors, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	return WriteFile(filepath.Join(dir, adapterConfigFile), func(w io.Writer) error {
		_, err := w.Write(config)
		return err
	})
}

// OpenAdapter reads the adapter in a folder, but for what is in Saved. Close it after use.
func OpenAdapter(fsys fs.FS) (Adapter, error) {
	c, err := readAdapterConfig(fsys)
	if err != nil {
		return Adapter{}, fmt.Errorf("%s: %w", adapterConfigFile, err)
	}
	ranks, err := c.Ranks()
	if err != nil {
		return Adapter{}, fmt.Errorf("%s: %w", adapterConfigFile, err)
	}
	f, err := Open(fsys, adapterModelFile)
	if err != nil {
		return Adapter{}, err
	}
	a := Adapter{Config: c, A: map[string]Matrix{}, B: map[string]Matrix{}, Ranks: map[string]peft.Rank{}, Saved: map[string]Saved{}, file: f}
	if err := a.read(ranks); err != nil {
		f.Close()
		return Adapter{}, fmt.Errorf("%s: %w", adapterModelFile, err)
	}
	return a, nil
}

// Close closes the adapter's file.
func (a Adapter) Close() error {
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}

// Float32 reads a tensor that the adapter has in place of the base's, and that must have a shape; nil if it has none.
func (a Adapter) Float32(name string, shape []int) ([]float32, error) {
	s, ok := a.Saved[name]
	if !ok {
		return nil, nil
	}
	if !slices.Equal(s.Shape(), shape) {
		return nil, fmt.Errorf("tensor %s has shape %v, the model needs %v", name, s.Shape(), shape)
	}
	x, _, err := s.File.Float32(s.Name)
	return x, err
}

func (a Adapter) read(ranks func(module string) peft.Rank) error {
	for _, key := range a.file.Names() {
		name, ok := strings.CutPrefix(key, adapterPrefix)
		if !ok {
			return fmt.Errorf("tensor %s: want a name that begins with %s", key, adapterPrefix)
		}
		var err error
		if m := matrixName.FindStringSubmatch(name); m != nil {
			err = a.readMatrix(key, m[1], m[2], ranks(m[1]))
		} else {
			err = a.addSaved(key, name)
		}
		if err != nil {
			return fmt.Errorf("tensor %s: %w", key, err)
		}
	}
	return a.complete()
}

// matrixName is a module and A or B. PEFT drops the adapter's name when it saves, and takes default back when it loads.
var matrixName = regexp.MustCompile(`^(.+)\.lora_([AB])(?:\.default)?\.weight$`)

// readMatrix reads A, or B, of a module with a rank.
func (a Adapter) readMatrix(key, module, which string, rank peft.Rank) error {
	into, along := a.A, 0
	if which == "B" {
		into, along = a.B, 1
	}
	if _, twice := into[module]; twice {
		return fmt.Errorf("lora_%s of %s is there twice", which, module)
	}
	shape := a.file.shape(key)
	if len(shape) != 2 || shape[along] != rank.R {
		return fmt.Errorf("shape %v does not fit the rank of %s, which is %d by %s", shape, module, rank.R, adapterConfigFile)
	}
	x, _, err := a.file.Float32(key)
	if err != nil {
		return err
	}
	if err := quant.CheckFinite(x); err != nil {
		return err
	}
	into[module] = Matrix{shape[0], shape[1], x, DTypes[a.file.tensors[key].DType]}
	a.Ranks[module] = rank
	return nil
}

// savedInfix stands in the names of files that were not written by save_pretrained, but from the training's own state.
var savedInfix = regexp.MustCompile(`\.modules_to_save(?:\.default)?\.`)

// peftsOwn is in no name of the base's.
var peftsOwn = regexp.MustCompile(`\.lora_|\.base_layer\.|\.modules_to_save\.`)

func (a Adapter) addSaved(key, name string) error {
	name = savedInfix.ReplaceAllString(name, ".")
	weight := strings.HasSuffix(name, ".weight") || strings.HasSuffix(name, ".bias")
	if !weight || peftsOwn.MatchString(name) {
		return fmt.Errorf("this kind is unknown: want lora_A.weight or lora_B.weight of a linear layer, or weight or bias of one to save")
	}
	if _, twice := a.Saved[name]; twice {
		return fmt.Errorf("%s is there twice", name)
	}
	a.Saved[name] = Saved{a.file, key}
	return nil
}

// complete wants both matrices of every module.
func (a Adapter) complete() error {
	for module := range a.A {
		if _, ok := a.B[module]; !ok {
			return fmt.Errorf("%s has lora_A but no lora_B", module)
		}
	}
	for module := range a.B {
		if _, ok := a.A[module]; !ok {
			return fmt.Errorf("%s has lora_B but no lora_A", module)
		}
	}
	if len(a.A) == 0 {
		return fmt.Errorf("there is no lora_A in it")
	}
	return nil
}
