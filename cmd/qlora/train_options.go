package main

import (
	"fmt"
	"math"
	"reflect"

	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/demo"
	"qlora/cmd/qlora/internal/runs"
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
	SaveStrategy string      `name:"save_strategy" help:"steps, or no: checkpoints when the run is stopped and at the end alone"`
	SaveSteps    int         `name:"save_steps" help:"steps between checkpoints; 0 is as save_strategy no"`
	SaveLimit    int         `name:"save_total_limit" help:"checkpoints that are kept, the last ones; the one with the lowest held-out loss stays, too; 0 keeps all"`
	EvalStrategy string      `name:"eval_strategy" alias:"evaluation_strategy" help:"steps or no; nothing is as eval_steps says"`
	EvalSteps    int         `name:"eval_steps" help:"steps between measurements of the held-out loss and continuations of prompt; 0 does them before and after alone"`
	LoadBest     bool        `name:"load_best_model_at_end" help:"save when the held-out loss is lower than ever, and end with the adapter of that step"`
	ReportTo     string      `name:"report_to" help:"tensorboard writes event files into output_dir; none does not"`
	Numerics     bool        `name:"check_numerics" help:"stop at the first operation that makes a NaN or an infinity, and say which; slow"`
	LoggingSteps int         `name:"logging_steps" help:"steps between lines where there is no terminal"`
	Plot         string      `name:"plot" help:"SVG file for the loss curve"`
	Prompt       string      `name:"prompt" help:"text to continue when the held-out loss is measured; none if empty"`
	Tokens       int         `name:"max_new_tokens" help:"length of those continuations"`
	Checkpoint   bool        `name:"gradient_checkpointing" help:"keep each block's input alone and compute the rest again"`
	MicroBatch   int         `name:"per_device_train_batch_size" alias:"batch_size batch" help:"sequences at a time"`
	Accumulate   int         `name:"gradient_accumulation_steps" help:"micro-batches an optimizer step"`
}

// runOptions fix every bit of the result, together with the data and the model.
type runOptions struct {
	Model string `name:"model" alias:"model_name_or_path" help:"demo, a folder in Hugging Face's layout, a .gguf file, or org/name from the Hugging Face cache"`
	dataOptions
	weightOptions
	Steps       int      `name:"max_steps" alias:"steps" help:"optimizer steps; -1 is as num_train_epochs says, or 1000"`
	Epochs      float64  `name:"num_train_epochs" alias:"epochs" help:"how often to go through dataset, instead of max_steps"`
	Seed        uint64   `name:"seed" help:"of the adapter, dropout, the data's order and samples"`
	DataSeed    uint64   `name:"data_seed" help:"of the data's order and of what is held out; 0 is seed's"`
	LR          float64  `name:"learning_rate" alias:"lr" help:"the schedule's peak"`
	Schedule    string   `name:"lr_scheduler_type" help:"constant (which knows no warm-up), constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, inverse_sqrt"`
	Warmup      int      `name:"warmup_steps" help:"steps in which the learning rate rises"`
	WarmupRatio float64  `name:"warmup_ratio" help:"the share of all steps that these are, instead of warmup_steps"`
	Optim       string   `name:"optim" help:"adamw_torch, adamw_8bit, lion_32bit, or paged_adamw_32bit, paged_adamw_8bit, paged_lion_32bit, whose state goes to a file in output_dir where memory_limit has no room for it"`
	Beta1       float64  `name:"adam_beta1" help:"decay of the first moment"`
	Beta2       float64  `name:"adam_beta2" help:"decay of the second moment; 0 is 0.999, and 0.99 for Lion"`
	Eps         float64  `name:"adam_epsilon" help:"added to the root of the second moment"`
	WeightDecay float64  `name:"weight_decay" help:"of the adapter"`
	MaxGradNorm float64  `name:"max_grad_norm" help:"largest norm of all gradients; 0 does not clip"`
	R           int      `name:"lora_r" help:"rank of the adapter"`
	Alpha       float64  `name:"lora_alpha" help:"the adapter counts lora_alpha/lora_r"`
	Dropout     float64  `name:"lora_dropout" help:"share of the adapter's input that is dropped"`
	RSLoRA      bool     `name:"use_rslora" help:"lora_alpha/√lora_r instead"`
	Targets     []string `name:"target_modules" help:"such as q_proj, v_proj; a regular expression for whole names; or all-linear, the default"`
	Exclude     []string `name:"exclude_modules" help:"a list or a regular expression, too: modules that are left out"`
	Layers      []string `name:"layers_to_transform" help:"such as 0,1: layers in which target_modules are adapted; all if empty"`
	LayersName  []string `name:"layers_pattern" help:"what these layers' list is called in the model, such as layers"`
	Ranks       []string `name:"rank_pattern" alias:"lora_rank_pattern" help:"such as q_proj=16,layers.0.mlp.up_proj=4: ranks of modules whose names end so (regular expressions)"`
	Alphas      []string `name:"alpha_pattern" alias:"lora_alpha_pattern" help:"the same for lora_alpha"`
	Branch      string   `name:"adapter_compute" help:"float32 as PEFT without autocast; the compute type if empty"`
	Quant       string   `name:"quant_type" alias:"quant" help:"nf4, fp4, int4, e2m1, e3m0, or none"`
	Double      bool     `name:"double_quant" help:"quantize the scales, too"`
	Block       int      `name:"blocksize" help:"weights a scale"`
	Offset      string   `name:"nested_offset" help:"how a checkpoint in 4 bits is read: float32, or bfloat16 as loaders do whose default type that is"`
	Compute     string   `name:"compute" alias:"compute_dtype" help:"bfloat16 or float32"`
	BF16        bool     `name:"bf16" help:"the same as --compute bfloat16"`
	Math        string   `name:"math" help:"exact has the reference's bits; fast is within bounds of them and needs AVX512-BF16"`
}

// defaultTrain is qlora.py's defaults, where they make sense without its data.
func defaultTrain() trainOptions {
	return trainOptions{
		runOptions: runOptions{
			Model: demo.Name, dataOptions: defaultData(), Steps: unset,
			LR: 2e-4, Schedule: "constant", Optim: "paged_adamw_32bit", Beta1: 0.9, Eps: 1e-8, MaxGradNorm: 0.3,
			R: 64, Alpha: 16, Quant: "nf4", Double: true, Block: 64, Offset: "float32", Compute: "bfloat16", Math: exactMath,
		},
		workOptions: workOptions{
			Device: "auto", SaveStrategy: atSteps, SaveSteps: 250, SaveLimit: 40, ReportTo: toTensorBoard,
			LoggingSteps: 10, Tokens: 80, Checkpoint: true, MicroBatch: 1, Accumulate: 16,
		},
	}
}

// readTrainOptions reads the command line. A run that is resumed and the demo have a configuration of their own, under what the user says.
func readTrainOptions(args []string) (o trainOptions, err error) {
	return o, readOptions("train", args, &o, &o)
}

// readOptions is readTrainOptions for a command whose options are a struct of which o is a part.
func readOptions(command string, args []string, into any, o *trainOptions) error {
	*o = trainOptions{} // for the flags alone
	rest, err := config.ParseFlags(args, into)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return config.Usagef("%s: %q is no flag", command, rest[0])
	}
	named := *o
	*o = defaultTrain()
	switch {
	case named.Config != "":
		err = config.ParseFile(named.Config, o)
	case named.Resume && named.Output != "" && runs.Dir(named.Output).Begun():
		err = config.ParseFile(runs.Dir(named.Output).Path(runs.ConfigFile), o)
	case named.Model == "" || named.Model == demo.Name:
		err = config.ParseYAML(demo.Config, "demo.yaml", o)
	}
	if err == nil {
		_, err = config.ParseFlags(args, into)
	}
	switch {
	case err != nil:
		return err
	case named.Resume && named.Output != "" && !runs.Dir(named.Output).Begun() && named.Config == "" && reflect.DeepEqual(named.runOptions, runOptions{}):
		return config.Usagef("%s holds no run to go on with: it has no %s; to begin one there, say with --model what is trained", named.Output, runs.ConfigFile)
	}
	if err := o.checkGiven(named.runOptions); err != nil {
		return err
	}
	o.yield(named)
	if err := o.resolve(); err != nil {
		return err
	}
	return o.check()
}

// yield takes out of what a file or the defaults say what contradicts a flag.
func (o *trainOptions) yield(named trainOptions) {
	switch {
	case named.Steps > 0 && named.Epochs == 0:
		o.Epochs = 0
	case named.Epochs > 0 && named.Steps <= 0:
		o.Steps = unset
	}
	switch {
	case named.Warmup > 0 && named.WarmupRatio == 0:
		o.WarmupRatio = 0
	case named.WarmupRatio > 0 && named.Warmup == 0:
		o.Warmup = 0
	}
}

// resolve makes explicit what an option says of others.
func (o *runOptions) resolve() (err error) {
	o.dataOptions.resolve()
	if o.BF16 {
		o.Compute, o.BF16 = "bfloat16", false
	}
	if o.Quant, o.Compute, err = o.held(o.Quant, o.Compute); err != nil {
		return err
	}
	if o.Steps == unset && o.Epochs == 0 {
		o.Steps = 1000
	}
	return nil
}

// unset is a number of steps that nobody has said.
const unset = -1

// dataSeed is what the data's order depends on.
func (o runOptions) dataSeed() uint64 {
	if o.DataSeed != 0 {
		return o.DataSeed
	}
	return o.Seed
}

// beta2 is the second moment's decay, or what Lion has in its place.
func (o runOptions) beta2() float64 {
	kind, _ := parseOptimizer(o.Optim) // checked
	switch {
	case o.Beta2 != 0:
		return o.Beta2
	case kind.lion:
		return lionBeta2
	}
	return 0.999
}

// lasts sets what depends on how many steps an epoch has: the number of steps, and of those of the warm-up.
func (o *runOptions) lasts(stepsOf func(epochs float64) int) {
	if o.Epochs > 0 {
		o.Steps, o.Epochs = stepsOf(o.Epochs), 0
	}
	if o.WarmupRatio > 0 {
		o.Warmup, o.WarmupRatio = int(math.Ceil(o.WarmupRatio*float64(o.Steps))), 0
	}
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
		o.length(), o.dataOptions.check(), o.weightOptions.check(o.Quant), positive("per_device_train_batch_size", o.MicroBatch),
		positive("gradient_accumulation_steps", o.Accumulate), positive("logging_steps", o.LoggingSteps), o.ranges(),
		o.lora().Check(), o.schedule().Check(), o.checkPatterns(), o.workOptions.check(),
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

// length checks how long the run is.
func (o trainOptions) length() error {
	switch {
	case o.Steps == unset && o.Epochs > 0 && o.Epochs < 1e6:
		return nil
	case o.Epochs != 0 && o.Steps == unset:
		return fmt.Errorf("num_train_epochs is %v: want more than 0", o.Epochs)
	case o.Epochs != 0:
		return fmt.Errorf("max_steps and num_train_epochs are both given: want one of them")
	case o.Steps < 1:
		return fmt.Errorf("max_steps is %d: want at least 1", o.Steps)
	}
	return nil
}

func (o trainOptions) ranges() error {
	switch {
	case o.Warmup < 0:
		return fmt.Errorf("warmup_steps is %d: must not be negative", o.Warmup)
	case !(o.WarmupRatio >= 0 && o.WarmupRatio <= 1):
		return fmt.Errorf("warmup_ratio is %v: want 0 to 1", o.WarmupRatio)
	case o.WarmupRatio > 0 && o.Warmup > 0:
		return fmt.Errorf("warmup_steps and warmup_ratio are both given: want one of them")
	case !(o.LR >= 0) || !(o.WeightDecay >= 0) || !(o.MaxGradNorm >= 0) || !(o.Eps > 0):
		return fmt.Errorf("learning_rate, weight_decay and max_grad_norm must not be negative, and adam_epsilon must be more than 0")
	case !(o.Beta1 >= 0 && o.Beta1 < 1) || !(o.Beta2 >= 0 && o.Beta2 < 1):
		return fmt.Errorf("adam_beta1 and adam_beta2 must be at least 0 and less than 1")
	case o.Branch != "" && o.Branch != "float32":
		return fmt.Errorf("adapter_compute %q: want float32 or nothing", o.Branch)
	case o.Prompt != "" && o.Tokens < 1:
		return fmt.Errorf("max_new_tokens is %d: want at least 1", o.Tokens)
	}
	_, err := parseOptimizer(o.Optim)
	return err
}

// The values of save_strategy and eval_strategy, and of report_to.
const (
	atSteps       = "steps"
	never         = "no"
	toTensorBoard = "tensorboard"
)

func (o workOptions) check() error {
	switch {
	case o.SaveStrategy != atSteps && o.SaveStrategy != never:
		return fmt.Errorf("save_strategy %q: want %s or %s", o.SaveStrategy, atSteps, never)
	case o.EvalStrategy != "" && o.EvalStrategy != atSteps && o.EvalStrategy != never:
		return fmt.Errorf("eval_strategy %q: want %s or %s", o.EvalStrategy, atSteps, never)
	case o.SaveSteps < 0 || o.SaveLimit < 0 || o.EvalSteps < 0:
		return fmt.Errorf("save_steps, save_total_limit and eval_steps must not be negative")
	case o.EvalStrategy == never && o.EvalSteps > 0:
		return fmt.Errorf("eval_strategy is %s and eval_steps %d: want one or the other", never, o.EvalSteps)
	case (o.EvalStrategy == atSteps || o.LoadBest) && o.EvalSteps == 0:
		return fmt.Errorf("eval_strategy %s and load_best_model_at_end need eval_steps", atSteps)
	case o.ReportTo != toTensorBoard && o.ReportTo != "none":
		return fmt.Errorf("report_to %q: want %s or none; `qlora runs report` makes a page of any run", o.ReportTo, toTensorBoard)
	}
	return nil
}

// saveEvery is the number of steps between checkpoints, 0 for none.
func (o workOptions) saveEvery() int {
	if o.SaveStrategy == never {
		return 0
	}
	return o.SaveSteps
}

func usage(err error) error {
	if _, ok := err.(*config.UsageError); ok {
		return err
	}
	return config.Usagef("%v", err)
}

func (o runOptions) lora() *lora.Config {
	return &lora.Config{R: o.R, Alpha: o.Alpha, Dropout: float32(o.Dropout), RSLoRA: o.RSLoRA, Float32: o.Branch == "float32", Seed: o.Seed}
}

func (o runOptions) schedule() optim.Schedule {
	return optim.Schedule{Kind: o.Schedule, Warmup: o.Warmup, Steps: o.Steps}
}

// model says how the base is held, for sequences of max_seq_length and for samples, of which a token takes a byte of the prompt at least.
func (o trainOptions) model() (llama.Options, error) {
	compute, err := parseCompute(o.Compute)
	if err != nil {
		return llama.Options{}, err
	}
	if compute == num.Float16 {
		return llama.Options{}, config.Usagef("compute float16: its gradients would need loss scaling; use bfloat16 or float32")
	}
	q, err := quantOptions(o.Quant, o.Block, o.Double, compute)
	longest := o.SeqLen
	if o.Prompt != "" {
		longest = max(longest, len(o.Prompt)+mostSpecial+o.Tokens)
	}
	return o.trained(llama.Options{Compute: compute, Quant: q, LoRA: o.lora(), Context: longest}), err
}

// mostSpecial is more than what tokenizers put around a text.
const mostSpecial = 8

// step says how a step is taken.
func (o runOptions) step() train.Config {
	kind, _ := parseOptimizer(o.Optim) // checked
	return train.Config{
		AdamW:    optim.AdamWConfig{LR: o.LR, Beta1: o.Beta1, Beta2: o.beta2(), Eps: o.Eps, WeightDecay: o.WeightDecay},
		Schedule: o.schedule(), MaxGradNorm: float32(o.MaxGradNorm), EightBit: kind.eight, Lion: kind.lion, Paged: kind.paged,
	}
}

// batchSize is the number of slots an optimizer step: of sequences, or of packed ones.
func (o workOptions) batchSize() int { return o.MicroBatch * o.Accumulate }

// identity describes what a run computes, as lines of names and values: two runs of the same identity have the same bytes at every step that
// both reach. How a batch is cut into micro-batches is no part of it, unless math is fast: sums over tokens are then of pairs. Nor is how many
// steps there are where the schedule does not ask, nor whether the optimizer's state is paged. What is measured with is a part, for losses on other data are no one curve; each digest is that of data.
func (o trainOptions) identity(digest, heldOut string) string {
	fixed := o.runOptions
	fixed.DataSeed, fixed.Beta2 = o.dataSeed(), o.beta2()
	if o.Schedule == "constant" || o.Schedule == "constant_with_warmup" {
		fixed.Steps = 0
	}
	kind, _ := parseOptimizer(o.Optim) // checked
	fixed.Optim = kind.name()
	text := config.YAML(&fixed) + fmt.Sprintf("sequences_a_step: %d\n", o.batchSize())
	if o.Math != exactMath {
		text += fmt.Sprintf("per_device_train_batch_size: %d\n", o.MicroBatch)
	}
	return text + fmt.Sprintf("data: %s\nheld_out: %s\n", digest, heldOut)
}
