package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/demo"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/optim"
	"qlora/ref/train"
)

// trainOptions have the names of qlora.py and of Hugging Face's TrainingArguments.
type trainOptions struct {
	Config      string `name:"config" help:"YAML file of these names; flags win over it"`
	PrintConfig bool   `name:"print_config" help:"print what would be run, as YAML, and stop"`

	runOptions
	workOptions
}

// workOptions do not change what is computed.
type workOptions struct {
	Output       string      `name:"output_dir" alias:"output" help:"folder of the run; the next free runs/NAME-N if empty"`
	Resume       bool        `name:"resume" help:"go on from the last checkpoint in output_dir"`
	Device       string      `name:"device" help:"auto, cpu, ref"`
	MemoryLimit  config.Size `name:"memory_limit" help:"most memory that the device may hold; 0 is no limit"`
	SaveSteps    int         `name:"save_steps" help:"steps between checkpoints; 0 saves at the end alone"`
	LoggingSteps int         `name:"logging_steps" help:"steps between lines where there is no terminal"`
	Plot         string      `name:"plot" help:"SVG file for the loss curve"`
	Prompt       string      `name:"prompt" help:"text to continue before and after; none if empty"`
	Tokens       int         `name:"max_new_tokens" help:"length of those continuations"`
	Checkpoint   bool        `name:"gradient_checkpointing" help:"keep each block's input alone and compute the rest again"`
	MicroBatch   int         `name:"per_device_train_batch_size" alias:"batch_size" help:"sequences at a time"`
	Accumulate   int         `name:"gradient_accumulation_steps" help:"micro-batches an optimizer step"`
}

// runOptions fix every bit of the result, together with the data and the model.
type runOptions struct {
	Model       string   `name:"model" alias:"model_name_or_path" help:"demo, a folder in Hugging Face's layout, a .gguf file, or org/name from the Hugging Face cache"`
	Data        string   `name:"dataset" alias:"data" help:"demo, or a file of UTF-8 text"`
	HeldOut     string   `name:"eval_dataset" alias:"eval_data" help:"text to measure before and after; for demo its own"`
	Steps       int      `name:"max_steps" alias:"steps" help:"optimizer steps"`
	SeqLen      int      `name:"max_seq_length" alias:"seq_len" help:"tokens a sequence"`
	Seed        uint64   `name:"seed" help:"of the adapter, dropout, the data's order and samples"`
	LR          float64  `name:"learning_rate" alias:"lr" help:"the schedule's peak"`
	Schedule    string   `name:"lr_scheduler_type" help:"constant, constant_with_warmup, linear, cosine"`
	Warmup      int      `name:"warmup_steps" help:"steps in which the learning rate rises"`
	Optim       string   `name:"optim" help:"adamw_torch or adamw_8bit; paged_adamw_32bit and paged_adamw_8bit are the same here, where memory is one"`
	Beta1       float64  `name:"adam_beta1" help:"decay of the first moment"`
	Beta2       float64  `name:"adam_beta2" help:"decay of the second moment"`
	Eps         float64  `name:"adam_epsilon" help:"added to the root of the second moment"`
	WeightDecay float64  `name:"weight_decay" help:"of the adapter"`
	MaxGradNorm float64  `name:"max_grad_norm" help:"largest norm of all gradients; 0 does not clip"`
	R           int      `name:"lora_r" help:"rank of the adapter"`
	Alpha       float64  `name:"lora_alpha" help:"the adapter counts lora_alpha/lora_r"`
	Dropout     float64  `name:"lora_dropout" help:"share of the adapter's input that is dropped"`
	RSLoRA      bool     `name:"use_rslora" help:"lora_alpha/√lora_r instead"`
	Targets     []string `name:"target_modules" help:"such as q_proj, v_proj; a regular expression for whole names; or all-linear, the default"`
	Exclude     []string `name:"exclude_modules" help:"a list or a regular expression, too: modules that are left out" json:",omitempty"`
	Layers      []string `name:"layers_to_transform" help:"such as 0,1: layers in which target_modules are adapted; all if empty" json:",omitempty"`
	LayersName  []string `name:"layers_pattern" help:"what these layers' list is called in the model, such as layers" json:",omitempty"`
	Ranks       []string `name:"rank_pattern" alias:"lora_rank_pattern" help:"such as q_proj=16,layers.0.mlp.up_proj=4: ranks of modules whose names end so (regular expressions)" json:",omitempty"`
	Alphas      []string `name:"alpha_pattern" alias:"lora_alpha_pattern" help:"the same for lora_alpha" json:",omitempty"`
	Branch      string   `name:"adapter_compute" help:"float32 as PEFT without autocast; the compute type if empty"`
	Quant       string   `name:"quant_type" alias:"quant" help:"nf4, fp4, int4, e2m1, e3m0, or none"`
	Double      bool     `name:"double_quant" help:"quantize the scales, too"`
	Block       int      `name:"blocksize" help:"weights a scale"`
	Offset      string   `name:"nested_offset" help:"how a checkpoint in 4 bits is read: float32, or bfloat16 as loaders do whose default type that is"`
	Compute     string   `name:"compute" alias:"compute_dtype" help:"bfloat16 or float32"`
	Math        string   `name:"math" help:"exact has the reference's bits; fast is within bounds of them and needs AVX512-BF16" json:",omitempty"`
}

// defaultTrain is qlora.py's defaults, where they make sense without its data.
func defaultTrain() trainOptions {
	return trainOptions{
		runOptions: runOptions{
			Model: demo.Name, Data: demo.Name, Steps: 1000, SeqLen: 512,
			LR: 2e-4, Schedule: "constant", Optim: "paged_adamw_32bit", Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxGradNorm: 0.3,
			R: 64, Alpha: 16, Quant: "nf4", Double: true, Block: 64, Offset: "float32", Compute: "bfloat16", Math: exactMath,
		},
		workOptions: workOptions{Device: "auto", SaveSteps: 250, LoggingSteps: 10, Tokens: 80, MicroBatch: 1, Accumulate: 16},
	}
}

// readTrainOptions reads the command line. The demo has a configuration of its own, under what the user says.
func readTrainOptions(args []string) (o trainOptions, err error) {
	var named trainOptions
	rest, err := config.ParseFlags(args, &named)
	if err != nil {
		return o, err
	}
	if len(rest) > 0 {
		return o, config.Usagef("train: %q is no flag", rest[0])
	}
	o = defaultTrain()
	switch {
	case named.Config != "":
		err = config.ParseFile(named.Config, &o)
	case named.Model == "" || named.Model == demo.Name:
		err = config.ParseYAML(demo.Config, "demo.yaml", &o)
	}
	if err == nil {
		_, err = config.ParseFlags(args, &o)
	}
	if err == nil {
		err = o.check()
	}
	return o, err
}

// check finds contradictions before anything is loaded.
func (o trainOptions) check() error {
	positive := func(name string, v int) error {
		if v < 1 {
			return config.Usagef("%s is %d: want at least 1", name, v)
		}
		return nil
	}
	for _, err := range []error{
		positive("max_steps", o.Steps), positive("max_seq_length", o.SeqLen), positive("per_device_train_batch_size", o.MicroBatch),
		positive("gradient_accumulation_steps", o.Accumulate), positive("logging_steps", o.LoggingSteps), o.ranges(),
		o.lora().Check(), o.schedule().Check(), o.checkPatterns(),
	} {
		if err != nil {
			return usage(err)
		}
	}
	if o.Resume && o.Output == "" {
		return config.Usagef("--resume needs --output, the folder of the run to go on with")
	}
	return nil
}

func (o trainOptions) ranges() error {
	switch {
	case o.SaveSteps < 0 || o.Warmup < 0:
		return fmt.Errorf("save_steps and warmup_steps must not be negative")
	case !(o.LR >= 0) || !(o.WeightDecay >= 0) || !(o.MaxGradNorm >= 0) || !(o.Eps > 0):
		return fmt.Errorf("learning_rate, weight_decay and max_grad_norm must not be negative, and adam_epsilon must be more than 0")
	case !(o.Beta1 >= 0 && o.Beta1 < 1) || !(o.Beta2 >= 0 && o.Beta2 < 1):
		return fmt.Errorf("adam_beta1 and adam_beta2 must be at least 0 and less than 1")
	case o.Branch != "" && o.Branch != "float32":
		return fmt.Errorf("adapter_compute %q: want float32 or nothing", o.Branch)
	case o.Prompt != "" && o.Tokens < 1:
		return fmt.Errorf("max_new_tokens is %d: want at least 1", o.Tokens)
	}
	_, err := o.eightBit()
	return err
}

func usage(err error) error {
	if _, ok := err.(*config.UsageError); ok {
		return err
	}
	return config.Usagef("%v", err)
}

func (o runOptions) eightBit() (bool, error) {
	switch o.Optim {
	case "adamw_torch", "paged_adamw_32bit":
		return false, nil
	case "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit":
		return true, nil
	}
	return false, fmt.Errorf("optim %q: want adamw_torch, adamw_8bit, paged_adamw_32bit or paged_adamw_8bit", o.Optim)
}

func (o runOptions) lora() *lora.Config {
	return &lora.Config{R: o.R, Alpha: o.Alpha, Dropout: float32(o.Dropout), RSLoRA: o.RSLoRA, Float32: o.Branch == "float32", Seed: o.Seed}
}

func (o runOptions) schedule() optim.Schedule {
	return optim.Schedule{Kind: o.Schedule, Warmup: o.Warmup, Steps: o.Steps}
}

// model says how the base is held.
func (o runOptions) model() (llama.Options, error) {
	compute, err := parseCompute(o.Compute)
	if err != nil {
		return llama.Options{}, err
	}
	if compute == num.Float16 {
		return llama.Options{}, config.Usagef("compute float16: its gradients would need loss scaling; use bfloat16 or float32")
	}
	q, err := quantOptions(o.Quant, o.Block, o.Double, compute)
	return llama.Options{Compute: compute, Quant: q, LoRA: o.lora()}, err
}

// step says how a step is taken.
func (o runOptions) step() train.Config {
	eight, _ := o.eightBit() // checked
	return train.Config{
		AdamW:    optim.AdamWConfig{LR: o.LR, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, WeightDecay: o.WeightDecay},
		Schedule: o.schedule(), MaxGradNorm: float32(o.MaxGradNorm), EightBit: eight,
	}
}

// batchSize is the number of sequences an optimizer step.
func (o workOptions) batchSize() int { return o.MicroBatch * o.Accumulate }

// identity describes what a run computes: two runs of the same identity have the same bytes at every step that both reach.
// How a batch is cut into micro-batches is no part of it, unless math is fast: sums over tokens are then of pairs. Nor is how many steps
// there are where the schedule does not ask.
func (o trainOptions) identity(text string) string {
	fixed := o.runOptions
	if o.Schedule == "constant" || o.Schedule == "constant_with_warmup" {
		fixed.Steps = 0
	}
	micro := 0
	if o.Math == exactMath {
		fixed.Math = "" // as before there was another
	} else {
		micro = o.MicroBatch
	}
	b, err := json.Marshal(struct {
		Options   runOptions
		Sequences int
		Micro     int `json:",omitempty"`
		Text      string
	}{fixed, o.batchSize(), micro, fmt.Sprintf("sha256 %x", sha256.Sum256([]byte(text)))})
	if err != nil {
		panic(err) // strings and finite numbers
	}
	return string(b)
}
