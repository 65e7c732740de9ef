package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"qlora/accel"
	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/machine"
	"qlora/cmd/qlora/internal/plan"
	"qlora/cmd/qlora/internal/synthetic"
	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/op"
)

// planOptions are train's, of which those count that memory depends on.
type planOptions struct {
	JSON  bool `name:"json" help:"print JSON"`
	Paper bool `name:"paper" help:"figure 6 of the paper, by its formulas and by LLaMA's real shapes, and nothing else"`

	trainOptions
}

// planReport is what qlora plan finds.
type planReport struct {
	Model      string `json:"model"`
	Parameters int64  `json:"parameters"`
	Run        string `json:"run"`
	Limit      int64  `json:"memory_limit"` // bytes; where none is given, what the machine has; 0 where that is not known
	plan.Memory
	Least    int64         `json:"least"` // the smallest limit under which the run goes
	Fits     bool          `json:"fits"`
	Longest  int           `json:"longest_sequence,omitempty"` // that fits; 0 for none
	Changes  []plan.Change `json:"changes,omitempty"`
	Together []plan.Change `json:"changes_that_fit,omitempty"`

	given bool // the limit
}

// planCommand says what memory a training run will take, before it runs.
func planCommand(c console, args []string) error {
	o := planOptions{trainOptions: defaultTrain()}
	for _, a := range args {
		if a == "--help" || a == "-h" {
			fmt.Fprintf(c.out, "usage: qlora plan [flags]\n\n%s", config.Help(&o))
			return nil
		}
	}
	if err := readOptions("plan", args, &o, &o.trainOptions); err != nil {
		return err
	}
	if o.Paper {
		return figure6(c, o.JSON)
	}
	r, err := o.plan()
	if err != nil {
		return err
	}
	if o.JSON {
		e := json.NewEncoder(c.out)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		r.write(c.out)
	}
	if err == nil && !r.Fits {
		err = fmt.Errorf("the run does not fit into %s: it needs %s", op.Bytes(r.Limit), op.Bytes(r.Least))
	}
	return err
}

func (o trainOptions) plan() (*planReport, error) {
	shape, fourBit, err := planModel(o.Model)
	if err != nil {
		return nil, err
	}
	run, err := o.planRun(shape, fourBit)
	if err != nil {
		return nil, err
	}
	return o.report(run)
}

// planModel is the shape of a model, of which no weights are read: synthetic, config.json in a folder, or a GGUF file.
func planModel(name string) (c llama.Config, f *plan.FourBit, err error) {
	if strings.HasPrefix(name, synthetic.Prefix) {
		if c, err = synthetic.Config(name); err != nil {
			err = config.Usagef("%v", err)
		}
		return c, nil, err
	}
	folder, gguf, err := base.Find(name)
	if err != nil {
		return c, nil, fmt.Errorf("%w; to plan with a shape alone, %sllama-65b and the like", err, synthetic.Prefix)
	}
	read := func() (checkpoint.ModelConfig, error) { return readModelConfig(folder) }
	if gguf != "" {
		read = func() (checkpoint.ModelConfig, error) { return readGGUFConfig(folder, gguf) }
	}
	m, err := read()
	if err == nil {
		c, err = llama.ConfigOf(m)
	}
	if err != nil {
		return c, nil, fmt.Errorf("model %s: %w", name, err)
	}
	if q := m.Quantization; q != nil {
		f = &plan.FourBit{Blocksize: 64, DoubleQuant: q.DoubleQuant, Holds: func(weight string) bool { return linear(c, q, weight) }}
	}
	return c, f, nil
}

func readModelConfig(folder fs.FS) (checkpoint.ModelConfig, error) {
	const name = "config.json"
	b, err := fs.ReadFile(folder, name)
	if err != nil {
		return checkpoint.ModelConfig{}, err
	}
	m, err := checkpoint.ParseConfig(b)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return m, err
}

func readGGUFConfig(folder fs.FS, name string) (checkpoint.ModelConfig, error) {
	f, err := checkpoint.OpenGGUF(folder, name)
	if err != nil {
		return checkpoint.ModelConfig{}, err
	}
	defer f.Close()
	m, err := checkpoint.GGUFModel(f)
	if err != nil {
		return checkpoint.ModelConfig{}, err
	}
	return m.Config, nil
}

// linear says whether a weight is one that bitsandbytes quantizes: of a linear layer that is not left out.
func linear(c llama.Config, q *checkpoint.Quantization, weight string) bool {
	for _, skip := range q.SkipModules {
		if strings.Contains(weight, skip) {
			return false
		}
	}
	for _, t := range c.Tensors() {
		if t.Name == weight {
			return t.Linear
		}
	}
	return false
}

// planRun is the run that train would make of the options.
func (o trainOptions) planRun(shape llama.Config, fourBit *plan.FourBit) (plan.Run, error) {
	options, err := o.model()
	if err != nil {
		return plan.Run{}, err
	}
	if options.LoRA != nil {
		if _, options.LoRA.Modules, err = o.targets(shape); err != nil {
			return plan.Run{}, usage(err)
		}
	}
	if fourBit != nil {
		options.Quant = nil
	}
	r := plan.Run{
		Device: o.Device, Fast: o.Math == fastMath, Config: shape, Options: options, FourBit: fourBit, Step: o.step(),
		Checkpointing: o.Checkpoint, Noise: o.noise(o.Seed), Seq: o.longest(shape.MaxPositionEmbeddings), Batch: o.MicroBatch, Accumulate: o.Accumulate,
	}
	if err := r.Check(); err != nil {
		return r, usage(err)
	}
	return r, nil
}

// report plans a run: what it takes under the limit, or under what the machine has where none is given.
func (o trainOptions) report(run plan.Run) (*planReport, error) {
	r := &planReport{Model: o.Model, Run: o.describeRun(run.Seq), Limit: int64(o.MemoryLimit), given: o.MemoryLimit > 0}
	for _, t := range run.Config.Tensors() {
		n := int64(1)
		for _, d := range t.Shape {
			n *= int64(d)
		}
		r.Parameters += n
	}
	if !r.given {
		r.Limit, _ = machine.AvailableMemory()
	}
	var err error
	if r.Least, err = run.Least(); err != nil {
		return nil, err
	}
	r.Fits = r.Limit == 0 || r.Least <= r.Limit
	if r.Memory, err = run.Memory(0); err != nil || r.Limit == 0 {
		return r, err
	}
	r.Longest = run.Longest(r.Limit)
	if !r.Fits {
		r.Changes, r.Together, err = run.Advice(r.Limit)
	}
	return r, err
}

// describeRun is what of the options memory depends on, for sequences of a length.
func (o trainOptions) describeRun(seq int) string {
	parts := []string{"device " + o.Device, o.Compute, o.trains()}
	if o.Double && o.Quant != "none" {
		parts = append(parts, "double quantization")
	}
	parts = append(parts, o.Optim, fmt.Sprintf("%d × %d tokens at a time", o.MicroBatch, seq))
	if o.Checkpoint {
		return strings.Join(append(parts, "gradient checkpointing"), ", ")
	}
	return strings.Join(append(parts, "no gradient checkpointing"), ", ")
}

func (r *planReport) write(w io.Writer) {
	fmt.Fprintf(w, "model          %s, %s parameters\nrun            %s\n\n", r.Model, inWords(r.Parameters), r.Run)
	r.writeParts(w)
	switch {
	case r.Limit == 0:
		return
	case r.given:
		fmt.Fprintf(w, "\nmemory limit   %s: ", op.Bytes(r.Limit))
	default:
		fmt.Fprintf(w, "\navailable      %s, for no --memory-limit is given: ", op.Bytes(r.Limit))
	}
	if r.Fits {
		fmt.Fprintf(w, "it fits, with sequences of up to %d tokens\n", r.Longest)
		return
	}
	fmt.Fprintf(w, "it does not fit, %s\n", lengths(r.Longest))
	writeChanges(w, "what would save memory, each by itself:", r.Changes)
	if r.Together == nil {
		fmt.Fprintf(w, "\nall of it together is not enough\n")
		return
	}
	writeChanges(w, "what is enough, one after the other:", r.Together)
}

func inWords(n int64) string {
	if n < 1e9 {
		return fmt.Sprintf("%.2f million", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f billion", float64(n)/1e9)
}

func lengths(longest int) string {
	if longest == 0 {
		return "and no sequence is short enough"
	}
	return fmt.Sprintf("but sequences of up to %d tokens would", longest)
}

func (r *planReport) writeParts(w io.Writer) {
	for _, p := range r.Parts {
		fmt.Fprintf(w, "  %-24s %10s  %5.1f %%\n", p.Name, op.Bytes(p.Bytes), 100*float64(p.Bytes)/float64(r.Peak))
	}
	fmt.Fprintf(w, "  %-24s %10s\n", "at the peak", op.Bytes(r.Peak))
	if r.Least < r.Peak {
		fmt.Fprintf(w, "  %-24s %10s  where all optimizer state that is not at work has left memory\n", "at least", op.Bytes(r.Least))
	}
}

func writeChanges(w io.Writer, title string, changes []plan.Change) {
	fmt.Fprintf(w, "\n%s\n", title)
	for _, c := range changes {
		fmt.Fprintf(w, "  %-72s saves %10s, needs %10s\n", c.Flags, op.Bytes(c.Saves), op.Bytes(c.Needs))
	}
}

// checkPlan says what training of a base will take, before its weights are loaded, and is an error if that is more than the limit, or than there
// is. longest is the tokens of the longest slot of a batch. It says nothing where the device cannot.
func (o trainOptions) checkPlan(w io.Writer, b *base.Base, longest int) error {
	fourBit, err := fourBitOf(b)
	if err != nil {
		return err
	}
	run, err := o.planRun(b.Config, fourBit)
	if err != nil {
		return err
	}
	m, err := run.Memory(0)
	if errors.Is(err, accel.ErrNoAccount) {
		return nil
	}
	limit := int64(o.MemoryLimit)
	available, known := machine.AvailableMemory()
	switch {
	case err != nil:
		return err
	case limit > 0 && m.Peak > limit && run.Fits(limit):
		fmt.Fprintf(w, "memory: %s; above %s optimizer state leaves it\n", inLine(m), op.Bytes(limit))
		return nil
	case limit > 0 && m.Peak <= limit, limit == 0 && (!known || m.Peak <= available):
		fmt.Fprintln(w, "memory: "+inLine(m))
		return nil
	}
	r, err := o.report(run)
	switch {
	case err != nil:
		return err
	case r.Fits:
		return fmt.Errorf("the run takes %s, %s are available: with --memory-limit %s optimizer state leaves memory", op.Bytes(r.Peak), op.Bytes(available),
			config.Size(available))
	}
	var advice strings.Builder
	r.write(&advice)
	return fmt.Errorf("the run does not fit into memory\n\n%s", advice.String())
}

// fourBitOf is how a base's files hold weights in 4 bits: as they hold the first.
func fourBitOf(b *base.Base) (*plan.FourBit, error) {
	for _, t := range b.Config.Tensors() {
		if !b.Model.InFourBits(t.Name) {
			continue
		}
		q, err := b.Model.Quantized(t.Name, t.Shape)
		if err != nil {
			return nil, fmt.Errorf("model %s: %w", b.Name, err)
		}
		return &plan.FourBit{Holds: b.Model.InFourBits, Blocksize: q.Blocksize, DoubleQuant: q.Nested != nil}, nil
	}
	return nil, nil
}

// inLine is a run's memory in one line.
func inLine(m plan.Memory) string {
	var parts []string
	for _, p := range m.Parts {
		parts = append(parts, p.Name+" "+op.Bytes(p.Bytes))
	}
	return fmt.Sprintf("%s at the peak: %s", op.Bytes(m.Peak), strings.Join(parts, ", "))
}

// figure6 shows the paper's figure, what its numbers come from, and what LLaMA's shapes make of them.
func figure6(c console, asJSON bool) error {
	figures, err := plan.Figures()
	if err != nil {
		return err
	}
	if asJSON {
		e := json.NewEncoder(c.out)
		e.SetIndent("", "  ")
		return e.Encode(figures)
	}
	fmt.Fprint(c.out, plan.Describe(figures))
	return nil
}
