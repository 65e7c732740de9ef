package checkpoint

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"qlora/ref/quant"
)

// AdapterConfig is PEFT's adapter_config.json for LoRA. Fields of later versions that are not here are passed over when a
// file is read; those of which a value other than the usual changes the result are checked.
type AdapterConfig struct {
	AlphaPattern     map[string]float64 `json:"alpha_pattern"`
	BaseModel        string             `json:"base_model_name_or_path"`
	Bias             string             `json:"bias"`
	FanInFanOut      bool               `json:"fan_in_fan_out"`
	InferenceMode    bool               `json:"inference_mode"`
	InitLoRAWeights  any                `json:"init_lora_weights"`
	LoRAAlpha        float64            `json:"lora_alpha"`
	LoRABias         bool               `json:"lora_bias"`
	LoRADropout      float64            `json:"lora_dropout"`
	ModulesToSave    []string           `json:"modules_to_save"`
	PEFTType         string             `json:"peft_type"`
	R                int                `json:"r"`
	RankPattern      map[string]int     `json:"rank_pattern"`
	TargetModules    any                `json:"target_modules"` // a list, or a pattern
	TaskType         string             `json:"task_type"`
	UseDoRA          bool               `json:"use_dora"`
	UseRSLoRA        bool               `json:"use_rslora"`
	LayerReplication any                `json:"layer_replication"`
}

// Adapter is a LoRA adapter: A [r, in] and B [out, r] of each module, by the module's name in the base model.
type Adapter struct {
	Config AdapterConfig
	A, B   map[string]Matrix
}

// Matrix is row-major.
type Matrix struct {
	Rows, Cols int
	Values     []float32
}

const (
	adapterConfigFile = "adapter_config.json"
	adapterModelFile  = "adapter_model.safetensors"
	adapterPrefix     = "base_model.model."
)

// WriteAdapter writes adapter_config.json and adapter_model.safetensors into a folder that exists.
func WriteAdapter(dir string, a Adapter) error {
	var tensors []Tensor
	for part, matrices := range map[string]map[string]Matrix{".lora_A.weight": a.A, ".lora_B.weight": a.B} {
		for module, m := range matrices {
			tensors = append(tensors, quant.Float32Entry(adapterPrefix+module+part, m.Values, m.Rows, m.Cols))
		}
	}
	if err := Write(filepath.Join(dir, adapterModelFile), tensors, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	b, err := json.MarshalIndent(a.Config.withDefaults(), "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(filepath.Join(dir, adapterConfigFile), func(w io.Writer) error {
		_, err := w.Write(append(b, '\n'))
		return err
	})
}

// withDefaults sets what every adapter of ours has in common.
func (c AdapterConfig) withDefaults() AdapterConfig {
	c.PEFTType, c.TaskType, c.Bias, c.InferenceMode, c.InitLoRAWeights = "LORA", "CAUSAL_LM", "none", true, true
	c.AlphaPattern, c.RankPattern = map[string]float64{}, map[string]int{}
	return c
}

// ReadAdapter reads the adapter in a folder.
func ReadAdapter(fsys fs.FS) (Adapter, error) {
	a := Adapter{A: map[string]Matrix{}, B: map[string]Matrix{}}
	b, err := fs.ReadFile(fsys, adapterConfigFile)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(b, &a.Config); err != nil {
		return a, fmt.Errorf("%s: %w", adapterConfigFile, err)
	}
	if err := a.Config.check(); err != nil {
		return a, fmt.Errorf("%s: %w", adapterConfigFile, err)
	}
	f, err := Open(fsys, adapterModelFile)
	if err != nil {
		return a, err
	}
	defer f.Close()
	for _, name := range f.Names() {
		if err := a.read(f, name); err != nil {
			return a, fmt.Errorf("%s: tensor %s: %w", adapterModelFile, name, err)
		}
	}
	return a, a.complete()
}

// check refuses kinds of adapters that would be computed wrong in silence.
func (c AdapterConfig) check() error {
	switch {
	case c.PEFTType != "LORA":
		return fmt.Errorf("peft_type is %q: only LORA can be loaded", c.PEFTType)
	case c.R < 1:
		return fmt.Errorf("r is %d: want at least 1", c.R)
	case c.UseDoRA || c.LoRABias || c.Bias != "" && c.Bias != "none" || c.FanInFanOut || c.LayerReplication != nil:
		return fmt.Errorf("use_dora, lora_bias, bias, fan_in_fan_out and layer_replication cannot be loaded")
	case len(c.RankPattern) > 0 || len(c.AlphaPattern) > 0 || len(c.ModulesToSave) > 0:
		return fmt.Errorf("rank_pattern, alpha_pattern and modules_to_save cannot be loaded")
	}
	return nil
}

func (a Adapter) read(f *File, name string) error {
	into := a.A
	module, isA := strings.CutSuffix(name, ".lora_A.weight")
	if !isA {
		var isB bool
		if module, isB = strings.CutSuffix(name, ".lora_B.weight"); !isB {
			return fmt.Errorf("want a name that ends in lora_A.weight or lora_B.weight")
		}
		into = a.B
	}
	module, ok := strings.CutPrefix(module, adapterPrefix)
	if !ok {
		return fmt.Errorf("want a name that begins with %s", adapterPrefix)
	}
	x, shape, err := f.Float32(name)
	if err != nil {
		return err
	}
	if len(shape) != 2 || isA && shape[0] != a.Config.R || !isA && shape[1] != a.Config.R {
		return fmt.Errorf("shape %v does not fit r = %d", shape, a.Config.R)
	}
	into[module] = Matrix{shape[0], shape[1], x}
	return nil
}

// complete wants both matrices of every module.
func (a Adapter) complete() error {
	for module := range a.A {
		if _, ok := a.B[module]; !ok {
			return fmt.Errorf("%s: %s has lora_A but no lora_B", adapterModelFile, module)
		}
	}
	for module := range a.B {
		if _, ok := a.A[module]; !ok {
			return fmt.Errorf("%s: %s has lora_B but no lora_A", adapterModelFile, module)
		}
	}
	if len(a.A) == 0 {
		return fmt.Errorf("%s has no tensors", adapterModelFile)
	}
	return nil
}
