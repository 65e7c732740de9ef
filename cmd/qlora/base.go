package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/config"
	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// openDevice makes the device of a name, which may hold limit bytes.
func openDevice(name string, limit config.Size) (op.Device, error) {
	switch name {
	case "auto", "ref":
		return op.NewPlain(int64(limit)), nil
	case "cpu", "cuda", "vulkan":
		return nil, fmt.Errorf("device %s: this program has no %s yet; use --device ref (`qlora devices` lists what there is)", name, name)
	}
	return nil, config.Usagef("device %q: want auto, ref, cpu, cuda or vulkan", name)
}

// parseCompute knows the types in which models compute.
func parseCompute(name string) (num.DType, error) {
	t, err := num.ParseDType(name)
	if err != nil {
		return t, config.Usagef("compute %q: want bfloat16, float16 or float32", name)
	}
	return t, nil
}

// quantOptions are nil for "none".
func quantOptions(name string, blocksize int, double bool, compute num.DType) (*quant.Options, error) {
	if name == "none" {
		return nil, nil
	}
	c, err := quant.ParseCodebook(name)
	if err != nil {
		return nil, config.Usagef("quant_type: %v, or none", err)
	}
	if err := quant.CheckBlocksize(blocksize); err != nil {
		return nil, config.Usagef("%v", err)
	}
	return &quant.Options{Type: c, Blocksize: blocksize, DoubleQuant: double, DType: compute}, nil
}

// inference is what generate and eval share: a model, with or without an adapter.
type inference struct {
	Model   string      `name:"model" help:"demo, or a folder in Hugging Face's layout"`
	Adapter string      `name:"adapter" help:"folder of a PEFT adapter"`
	Quant   string      `name:"quant" alias:"quant_type" help:"nf4, fp4, int4, e2m1, e3m0, or none"`
	Double  bool        `name:"double_quant" help:"quantize the scales, too"`
	Block   int         `name:"blocksize" help:"weights a scale"`
	Compute string      `name:"compute" alias:"compute_dtype" help:"bfloat16, float16 or float32"`
	Device  string      `name:"device" help:"auto, ref"`
	Limit   config.Size `name:"memory_limit" help:"most memory that the device may hold; 0 is no limit"`
}

func defaultInference() inference {
	return inference{Model: "demo", Quant: "nf4", Double: true, Block: 64, Compute: "bfloat16", Device: "auto"}
}

// load brings the model and its adapter to a device.
func (i inference) load() (*base.Base, *llama.Model, op.Device, error) {
	fail := func(err error) (*base.Base, *llama.Model, op.Device, error) { return nil, nil, nil, err }
	compute, err := parseCompute(i.Compute)
	if err != nil {
		return fail(err)
	}
	options := llama.Options{Compute: compute}
	if options.Quant, err = quantOptions(i.Quant, i.Block, i.Double, compute); err != nil {
		return fail(err)
	}
	var adapter checkpoint.Adapter
	if i.Adapter != "" {
		if adapter, err = checkpoint.ReadAdapter(os.DirFS(i.Adapter)); err != nil {
			return fail(fmt.Errorf("adapter %s: %w", i.Adapter, err))
		}
		options.LoRA = loraConfig(adapter)
	}
	d, err := openDevice(i.Device, i.Limit)
	if err != nil {
		return fail(err)
	}
	b, err := base.Open(i.Model)
	if err != nil {
		return fail(err)
	}
	defer b.Close()
	m, err := b.Load(d, options)
	if err != nil {
		return fail(err)
	}
	if i.Adapter != "" {
		if err := putAdapter(d, m, adapter); err != nil {
			return fail(fmt.Errorf("adapter %s on model %s: %w", i.Adapter, i.Model, err))
		}
	}
	return b, m, d, nil
}

// loraConfig makes room for an adapter on the modules that it has.
func loraConfig(a checkpoint.Adapter) *lora.Config {
	c := &lora.Config{R: a.Config.R, Alpha: a.Config.LoRAAlpha, RSLoRA: a.Config.UseRSLoRA}
	for module := range a.A {
		if last := module[strings.LastIndexByte(module, '.')+1:]; !slices.Contains(c.TargetModules, last) {
			c.TargetModules = append(c.TargetModules, last)
		}
	}
	return c
}

// putAdapter writes an adapter's matrices into a model's.
func putAdapter(d op.Device, m *llama.Model, a checkpoint.Adapter) error {
	adapters := m.Adapters()
	for module := range a.A {
		if adapters[module] == nil {
			return fmt.Errorf("the model has no module %s", module)
		}
	}
	for module, into := range adapters {
		matrices, ok := a.A[module]
		if !ok {
			return fmt.Errorf("it has nothing for %s: all layers must be adapted alike", module)
		}
		if err := put(d, into.A, matrices, module+".lora_A"); err != nil {
			return err
		}
		if err := put(d, into.B, a.B[module], module+".lora_B"); err != nil {
			return err
		}
	}
	return d.Sync()
}

func put(d op.Device, into *op.Tensor, m checkpoint.Matrix, name string) error {
	if m.Rows != into.Rows || m.Cols != into.Cols {
		return fmt.Errorf("%s is %d×%d, the model needs %d×%d", name, m.Rows, m.Cols, into.Rows, into.Cols)
	}
	d.Write(into, m.Values)
	return nil
}
