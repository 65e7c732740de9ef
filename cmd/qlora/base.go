package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"qlora/accel"
	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/demo"
	"qlora/cmd/qlora/internal/runs"
	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// The values of math.
const (
	exactMath = "exact"
	fastMath  = "fast"
)

// openDevice makes the device of a name, which may hold limit bytes.
func openDevice(name, math string, limit config.Size) (op.Device, error) {
	if !accel.Known(name) {
		return nil, config.Usagef("device %q: want auto, ref, cpu, cuda or vulkan", name)
	}
	if math != exactMath && math != fastMath {
		return nil, config.Usagef("math %q: want %s or %s", math, exactMath, fastMath)
	}
	d, err := accel.Open(name, accel.Options{Cap: int64(limit), Fast: math == fastMath})
	if err != nil {
		return nil, fmt.Errorf("%w; `qlora devices` lists what there is", err)
	}
	if limit > 0 {
		debug.SetMemoryLimit(int64(limit) + besides)
	}
	return d, nil
}

// besides is what the program may hold besides the device's memory before it collects garbage: data, and a tensor that is loaded.
const besides = 256 << 20

// describe is a device's name, and what it computes with.
func describe(d op.Device) string {
	if c, ok := d.(interface{ Describe() string }); ok {
		return d.Name() + ": " + c.Describe()
	}
	return d.Name()
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

// openBase opens a model whose nested offsets are read in a type.
func openBase(name, offset string) (*base.Base, error) {
	t, err := parseOffset(offset)
	if err != nil {
		return nil, err
	}
	b, err := base.Open(name)
	if err != nil {
		return nil, err
	}
	b.Model.NestedOffset = t
	return b, nil
}

// inference is what generate, chat and eval share: a model, with or without an adapter.
type inference struct {
	Model   string      `name:"model" alias:"model_name_or_path" help:"demo, a folder in Hugging Face's layout, a .gguf file, or org/name from the Hugging Face cache"`
	Adapter string      `name:"adapter" help:"folder of a PEFT adapter; of a run of qlora train, with the run's quant_type and all that goes with it"`
	Bits    int         `name:"bits" help:"4 holds the model in quant_type, 16 in bfloat16, 32 in float32; 0 as quant_type and compute say"`
	Quant   string      `name:"quant_type" alias:"quant" help:"nf4, fp4, int4, e2m1, e3m0, or none"`
	Double  bool        `name:"double_quant" help:"quantize the scales, too"`
	Block   int         `name:"blocksize" help:"weights a scale"`
	Offset  string      `name:"nested_offset" help:"how a checkpoint in 4 bits is read: float32, or bfloat16 as loaders do whose default type that is"`
	Compute string      `name:"compute" alias:"compute_dtype" help:"bfloat16, float16 or float32"`
	EOS     string      `name:"eos_token" help:"one more token that ends an answer"`
	Device  string      `name:"device" help:"auto, cpu, ref"`
	Math    string      `name:"math" help:"exact has the reference's bits; fast is within bounds of them and needs AVX512-BF16"`
	Limit   config.Size `name:"memory_limit" help:"most memory that the device may hold; 0 is no limit"`
}

func defaultInference() inference {
	return inference{Model: demo.Name, Quant: "nf4", Double: true, Block: 64, Offset: "float32", Compute: "bfloat16", Device: "auto", Math: exactMath}
}

// parseInference is parseAll for options of which i is a part.
func parseInference(c console, name string, args []string, options any, i *inference) (shown bool, err error) {
	if shown, err := parseAll(c, name, args, options); shown || err != nil {
		return shown, err
	}
	given := config.Given(args, options)
	if err := i.asTrained(c.err, given); err != nil {
		return false, err
	}
	return false, i.resolve(given)
}

// trainedWith are options of a run without which its result is another model.
var trainedWith = []string{"quant_type", "double_quant", "blocksize", "nested_offset", "compute", "eos_token"}

// asTrained takes over what the run trained with that the adapter is from, or the model where there is no adapter, but for what was given. It
// says what it changes.
func (i *inference) asTrained(w io.Writer, given map[string]bool) error {
	name, text, err := runConfig(cmp.Or(i.Adapter, i.Model))
	if err != nil || name == "" {
		return err
	}
	var theirs strings.Builder
	for line := range strings.Lines(text) {
		if option, _, _ := strings.Cut(line, ":"); !slices.Contains(trainedWith, option) || given[option] {
			line = "\n"
		}
		theirs.WriteString(line)
	}
	before := *i
	if err := config.ParseYAML([]byte(theirs.String()), name, i); err != nil {
		return err
	}
	if given["bits"] && (i.Bits != 4 || i.Quant == "none") {
		i.Quant, i.Compute = before.Quant, before.Compute
	}
	var changes []string
	for _, d := range runs.Differences(runs.ParseSettings(config.YAML(&before)), runs.ParseSettings(config.YAML(i))) {
		changes = append(changes, d.Name+" "+d.Values[1])
	}
	if changes != nil {
		fmt.Fprintf(w, "as in %s: %s\n", name, strings.Join(changes, ", "))
	}
	return nil
}

// runConfig reads the configuration of the run whose result, or one of whose checkpoints, a folder is; name is "" where there is no such run.
func runConfig(folder string) (name, text string, err error) {
	if strings.HasPrefix(filepath.Base(folder), "checkpoint-") && !runs.Dir(folder).Begun() {
		folder = filepath.Dir(folder)
	}
	if folder == demo.Name || !runs.Dir(folder).Begun() {
		return "", "", nil
	}
	name = runs.Dir(folder).Path(runs.ConfigFile)
	b, err := os.ReadFile(name)
	if err != nil {
		return "", "", err
	}
	for _, option := range trainedWith {
		if !strings.Contains("\n"+string(b), "\n"+option+": ") {
			return "", "", nil // another program's
		}
	}
	return name, string(b), nil
}

// resolve makes explicit what bits says of other options.
func (i *inference) resolve(given map[string]bool) (err error) {
	said := func(name, value string) string {
		if !given[name] {
			return ""
		}
		return value
	}
	w := weightOptions{Bits: i.Bits}
	if err := w.contradicts(said("quant_type", i.Quant), said("compute", i.Compute)); err != nil {
		return err
	}
	i.Bits = 0
	i.Quant, i.Compute, err = w.held(i.Quant, i.Compute)
	return err
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
	if i.Adapter != "" {
		if options.Adapter, err = checkpoint.OpenAdapter(os.DirFS(i.Adapter)); err != nil {
			return fail(fmt.Errorf("adapter %s: %w", i.Adapter, err))
		}
		defer options.Adapter.Close()
	}
	d, err := openDevice(i.Device, i.Math, i.Limit)
	if err != nil {
		return fail(err)
	}
	b, err := openBase(i.Model, i.Offset)
	if err != nil {
		return fail(err)
	}
	defer b.Close()
	if i.EOS != "" {
		if b.Tokenizer.EOS, err = tokenOf(b, i.EOS); err != nil {
			return fail(err)
		}
		b.Ends = append(b.Ends, b.Tokenizer.EOS)
	}
	if i.Adapter != "" {
		if err := b.Config.CheckAdapter(options.Adapter); err != nil {
			return fail(fmt.Errorf("adapter %s on model %s: %w", i.Adapter, i.Model, err))
		}
	}
	m, err := b.Load(d, options)
	if err != nil {
		return fail(err)
	}
	return b, m, d, nil
}

// tokenOf finds the token that eos_token names.
func tokenOf(b *base.Base, eos string) (int32, error) {
	ids := b.Tokenizer.Encode(eos)
	if len(ids) != 1 {
		return 0, config.Usagef("eos_token %q is %d tokens of this model, not one", eos, len(ids))
	}
	return ids[0], nil
}
