package main

import (
	"fmt"
	"io/fs"
	"slices"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/runs"
	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// weightOptions say how the base is held, and which of its weights are trained. They are a part of train's options.
type weightOptions struct {
	Bits          int      `name:"bits" help:"4 holds the base in quant_type, 16 in bfloat16, 32 in float32; 0 as quant_type and compute say"`
	FullFinetune  bool     `name:"full_finetune" help:"train every weight of the model and no adapter; needs bits 16 or 32"`
	ModulesToSave []string `name:"modules_to_save" help:"such as embed_tokens,lm_head: modules that are trained whole, beside the adapter"`
	NoiseAlpha    float64  `name:"neftune_noise_alpha" help:"noise on the embeddings in training (NEFTune), usually 5 to 15; 0 is none"`
}

// check finds contradictions; quantType is none for a base that is not quantized.
func (o weightOptions) check(quantType string) error {
	switch {
	case o.FullFinetune && quantType != "none":
		return config.Usagef("full_finetune trains every weight, and none can be trained in 4 bits: add --bits 16 or --bits 32")
	case o.FullFinetune && len(o.ModulesToSave) > 0:
		return config.Usagef("full_finetune trains every module whole: modules_to_save belongs to adapters")
	case !(o.NoiseAlpha >= 0 && o.NoiseAlpha <= 1e6):
		return config.Usagef("neftune_noise_alpha is %v: want 0 or more", o.NoiseAlpha)
	}
	return nil
}

// contradicts finds values that were given beside bits and say otherwise. What was not given is "".
func (o weightOptions) contradicts(quantType, compute string) error {
	switch {
	case o.Bits >= 16 && quantType != "" && quantType != "none":
		return config.Usagef("bits is %d and quant_type %s: give one of them", o.Bits, quantType)
	case o.Bits == 32 && compute != "" && compute != "float32":
		return config.Usagef("bits is 32, which computes in float32, and compute %s: give one of them, or bits 16", compute)
	}
	return nil
}

// ofAdapters are options without a meaning where every weight is trained.
var ofAdapters = []string{"lora_r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform",
	"layers_pattern", "rank_pattern", "alpha_pattern", "adapter_compute"}

// checkGiven finds flags that contradict each other or that nothing would come of. given has the flags alone.
func (o runOptions) checkGiven(given runOptions) error {
	if given.BF16 {
		if given.Compute != "" && given.Compute != "bfloat16" {
			return config.Usagef("bf16 and compute %s: give one of them", given.Compute)
		}
		given.Compute = "bfloat16"
	}
	if err := o.contradicts(given.Quant, given.Compute); err != nil || !o.FullFinetune {
		return err
	}
	usual := defaultTrain()
	values := func(o *runOptions) []runs.Setting { return runs.ParseSettings(config.YAML(o)) }
	for _, d := range runs.Differences(values(&given), values(&runOptions{}), values(&usual.runOptions)) {
		if slices.Contains(ofAdapters, d.Name) && d.Values[0] != d.Values[1] && d.Values[0] != d.Values[2] {
			return config.Usagef("full_finetune trains every weight and no adapter: %s %s has no meaning there", d.Name, d.Values[0])
		}
	}
	return nil
}

// fits finds what of the options a model cannot have.
func (o weightOptions) fits(b *base.Base) error {
	if o.FullFinetune {
		return b.CheckFolder()
	}
	if err := b.Config.CheckModulesToSave(o.ModulesToSave); err != nil {
		return config.Usagef("%v", err)
	}
	return nil
}

// held is how the base is held and computed in, by qlora.py's bits: quant_type and compute.
func (o weightOptions) held(quantType, compute string) (string, string, error) {
	switch o.Bits {
	case 0:
		return quantType, compute, nil
	case 4:
		if quantType == "none" {
			return "", "", config.Usagef("bits is 4 and quant_type none: give one of them")
		}
		return quantType, compute, nil
	case 8:
		return "", "", config.Usagef("bits is 8: LLM.int8() is not computed here, which keeps outlier columns in 16 bits; use 4, or 16")
	case 16:
		if compute != "bfloat16" {
			return "", "", config.Usagef("bits is 16 and compute %s: a base in 16 bits is computed with in bfloat16; use bits 32 for float32", compute)
		}
		return "none", compute, nil
	case 32:
		return "none", "float32", nil
	}
	return "", "", config.Usagef("bits is %d: want 4, 16 or 32", o.Bits)
}

// trained says in options what is trained.
func (o weightOptions) trained(options llama.Options) llama.Options {
	if o.FullFinetune {
		options.Full, options.LoRA = true, nil
		return options
	}
	options.LoRA.ModulesToSave = o.ModulesToSave
	return options
}

// noise is what a model adds to embeddings.
func (o weightOptions) noise(seed uint64) op.Noise {
	return op.Noise{Alpha: float32(o.NoiseAlpha), Seed: seed}
}

// trains is what is trained, in words.
func (o runOptions) trains() string {
	if o.FullFinetune {
		return "every weight"
	}
	if o.Quant == "none" {
		return fmt.Sprintf("%s base, r = %d", o.Compute, o.R)
	}
	return fmt.Sprintf("%s, r = %d", o.Quant, o.R)
}

// writeModel writes a model of which every weight is trained as a folder that Hugging Face's libraries and this program load: its
// float32 values, and from the base's folder the configuration and all that belongs to it.
func writeModel(dir string, d op.Device, m *llama.Model, from fs.FS) error {
	values := map[string]*op.Tensor{}
	for _, p := range m.Whole() {
		values[p.Name] = p.Value
	}
	var parts []checkpoint.Part
	for _, t := range m.Tensors() {
		value := values[t.Name]
		if value == nil {
			return fmt.Errorf("tensor %s is not trained: only a model of which all are can be written", t.Name)
		}
		parts = append(parts, checkpoint.Part{Bytes: 4 * int64(value.Len()), Make: func() ([]checkpoint.Tensor, error) {
			x, err := d.Read(value)
			return []checkpoint.Tensor{quant.Float32Entry(t.Name, x, t.Shape...)}, err
		}})
	}
	if _, err := checkpoint.WriteModel(dir, parts, shardSize, func(int) error { return nil }); err != nil {
		return err
	}
	if err := checkpoint.CopyConfigOf(dir, from, num.Float32); err != nil {
		return err
	}
	return checkpoint.CopyBesides(dir, from)
}

// savedModules are the tensors that are trained whole beside adapters, for checkpoint.WriteAdapter.
func savedModules(d op.Device, m *llama.Model) (tensors []checkpoint.Tensor, err error) {
	for _, p := range m.Whole() {
		x, err := d.Read(p.Value)
		if err != nil {
			return nil, err
		}
		tensors = append(tensors, quant.Float32Entry(p.Name, x, p.Shape...))
	}
	return tensors, nil
}
