package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/machine"
	"qlora/ref/checkpoint"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// quantizeModel writes a model's folder again with its linear layers, but not the head, in 4 bits: what transformers makes with
// a BitsAndBytesConfig.
func (o quantizeOptions) quantizeModel(c console, options quant.Options) error {
	b, err := base.OpenWeights(o.Model)
	if err != nil {
		return err
	}
	defer b.Close()
	if b.Model.Config.Quantization != nil {
		return fmt.Errorf("model %s is in 4 bits already: dequantize it first", o.Model)
	}
	var parts []checkpoint.Part
	for _, t := range b.Config.Tensors() {
		size := b.Model.Size(t.Name)
		if t.Linear {
			size = options.Bytes(elements(t.Shape))
		}
		parts = append(parts, checkpoint.Part{Bytes: size, Make: func() ([]checkpoint.Tensor, error) {
			plain, err := b.Model.Tensor(t.Name)
			if err != nil || !t.Linear {
				return []checkpoint.Tensor{plain}, err
			}
			return o.quantizeTensor(plain, options)
		}})
	}
	return writeFolder(c, o.Output, b, parts, quantizationConfig{
		LoadIn4bit: true, LoadIn4bitToo: true, ComputeDType: "bfloat16", Storage: o.Storage, QuantType: o.Type, DoubleQuant: o.Double,
		Threshold: "6.0", Method: "bitsandbytes",
	})
}

func elements(shape []int) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= int64(d)
	}
	return n
}

// quantizationConfig is what BitsAndBytesConfig writes into config.json.
type quantizationConfig struct {
	LoadIn4bit    bool        `json:"_load_in_4bit"`
	LoadIn8bit    bool        `json:"_load_in_8bit"`
	ComputeDType  string      `json:"bnb_4bit_compute_dtype"`
	Storage       string      `json:"bnb_4bit_quant_storage"`
	QuantType     string      `json:"bnb_4bit_quant_type"`
	DoubleQuant   bool        `json:"bnb_4bit_use_double_quant"`
	CPUOffload    bool        `json:"llm_int8_enable_fp32_cpu_offload"`
	FP16Weight    bool        `json:"llm_int8_has_fp16_weight"`
	SkipModules   []string    `json:"llm_int8_skip_modules"`
	Threshold     json.Number `json:"llm_int8_threshold"`
	LoadIn4bitToo bool        `json:"load_in_4bit"`
	LoadIn8bitToo bool        `json:"load_in_8bit"`
	Method        string      `json:"quant_method"`
}

// shardSize is the most that goes into one file of a model, and into memory while it is made.
const shardSize = 2 << 30

// writeFolder writes a model whole or not at all: into a folder beside the output, which then gets its name.
func writeFolder(c console, output string, b *base.Base, parts []checkpoint.Part, quantization any) (err error) {
	var total int64
	for _, p := range parts {
		total += p.Bytes
	}
	parent := filepath.Dir(filepath.Clean(output))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	if err := machine.CheckDisk(parent, total); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(parent, "."+filepath.Base(output)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	count := newCounter(c.err, output, "tensors", len(parts))
	total, err = checkpoint.WriteModel(dir, parts, shardSize, func(done int) error {
		count.step(done)
		return c.ctx.Err()
	})
	if err != nil {
		return err
	}
	if err := checkpoint.CopyConfig(dir, b.Files, quantization); err != nil {
		return err
	}
	if err := checkpoint.CopyBesides(dir, b.Files); err != nil {
		return err
	}
	if err := os.Rename(dir, output); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: %d tensors, %s\n", output, len(parts), op.Bytes(total))
	return nil
}

type dequantizeOptions struct {
	Model  string `name:"model" help:"folder with a bitsandbytes 4-bit checkpoint, or org/name from the cache"`
	Output string `name:"output" help:"folder to write"`
	DType  string `name:"dtype" help:"bfloat16, float16 or float32; what each weight had before if empty"`
	Offset string `name:"nested_offset" help:"float32, or bfloat16 as loaders do whose default type that is"`
}

// dequantize writes a 4-bit model's folder again with plain weights.
func dequantize(c console, args []string) error {
	o := dequantizeOptions{Offset: "float32"}
	if shown, err := parseAll(c, "dequantize", args, &o); shown || err != nil {
		return err
	}
	if o.Model == "" || o.Output == "" {
		return config.Usagef("dequantize needs --model FOLDER and --output FOLDER")
	}
	if err := absent(o.Output); err != nil {
		return err
	}
	b, err := base.OpenWeights(o.Model)
	if err != nil {
		return err
	}
	defer b.Close()
	if b.Model.Config.Quantization == nil {
		return fmt.Errorf("model %s is not in 4 bits: its config.json has no quantization_config", o.Model)
	}
	if b.Model.NestedOffset, err = parseOffset(o.Offset); err != nil {
		return err
	}
	if _, err := num.ParseDType(o.DType); o.DType != "" && err != nil {
		return config.Usagef("dtype: %v", err)
	}
	var parts []checkpoint.Part
	for _, t := range b.Config.Tensors() {
		parts = append(parts, checkpoint.Part{Bytes: 4 * elements(t.Shape), Make: func() ([]checkpoint.Tensor, error) {
			return o.plain(b.Model, t.Name, t.Shape)
		}})
	}
	return writeFolder(c, o.Output, b, parts, nil)
}

// parseOffset knows the types in which a loader may hold the offset of double quantization.
func parseOffset(name string) (num.DType, error) {
	if name != "float32" && name != "bfloat16" {
		return 0, config.Usagef("nested_offset %q: want float32 or bfloat16", name)
	}
	return num.ParseDType(name)
}

// plain is a tensor in the type that is wanted.
func (o dequantizeOptions) plain(m *checkpoint.Model, name string, shape []int) ([]checkpoint.Tensor, error) {
	q, err := m.Quantized(name, shape)
	if err != nil {
		return nil, err
	}
	if q == nil && o.DType == "" {
		t, err := m.Tensor(name)
		return []checkpoint.Tensor{t}, err
	}
	if o.DType == "" {
		o.DType = q.DType.String()
	}
	dtype, err := num.ParseDType(o.DType)
	if err != nil {
		return nil, config.Usagef("dtype: %v", err)
	}
	var x []float32
	if q == nil {
		x, err = m.Float32(name, shape)
	} else {
		x = make([]float32, elements(shape))
		err = q.Dequantize(x, dtype)
	}
	return []checkpoint.Tensor{checkpoint.Narrow(name, shape, x, dtype)}, err
}
