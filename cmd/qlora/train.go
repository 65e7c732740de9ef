package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/data"
	"qlora/cmd/qlora/internal/demo"
	"qlora/cmd/qlora/internal/plot"
	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/lora/peft"
	"qlora/ref/op"
	"qlora/ref/train"
)

func trainCommand(c console, args []string) error {
	for _, a := range args {
		if a == "--help" || a == "-h" {
			o := defaultTrain()
			fmt.Fprintf(c.out, "usage: qlora train [flags]\n\n%s", config.Help(&o))
			return nil
		}
	}
	o, err := readTrainOptions(args)
	if err != nil {
		return err
	}
	if o.PrintConfig {
		fmt.Fprint(c.out, o.yaml())
		return nil
	}
	r, err := newRun(c, o)
	if err != nil {
		return err
	}
	return r.run()
}

// yaml is the configuration that gives this run again, wherever its folder is.
func (o trainOptions) yaml() string {
	return config.YAML(&o.runOptions) + config.YAML(&o.workOptions)
}

// trainingRun is what qlora train works on.
type trainingRun struct {
	console
	trainOptions
	base     *base.Base
	device   op.Device
	model    *llama.Model
	patterns peft.Patterns // of the adapter
	trainer  *train.Trainer
	identity string
	dir      runDir
	data     train.Sequences
	heldOut  train.Sequences
	metrics  []metric
}

// newRun loads everything that can be wrong before it makes the run's folder.
func newRun(c console, o trainOptions) (*trainingRun, error) {
	r := &trainingRun{console: c, trainOptions: o}
	var err error
	if r.device, err = openDevice(o.Device, o.Math, o.MemoryLimit); err != nil {
		return nil, err
	}
	options, err := o.model()
	if err != nil {
		return nil, err
	}
	if r.base, err = openBase(o.Model, o.Offset); err != nil {
		return nil, err
	}
	defer r.base.Close()
	if limit := r.base.Config.MaxPositionEmbeddings; o.SeqLen > limit {
		return nil, config.Usagef("max_seq_length is %d: the context of %s has %d", o.SeqLen, o.Model, limit)
	}
	if err := r.readTexts(); err != nil {
		return nil, err
	}
	if r.patterns, options.LoRA.Modules, err = o.targets(r.base.Config); err != nil {
		return nil, usage(err)
	}
	if r.model, err = r.base.Load(r.device, options); err != nil {
		return nil, err
	}
	r.model.Checkpointing = o.Checkpoint
	r.trainer = train.New(r.device, r.model, o.step())
	if err := r.device.Sync(); err != nil {
		return nil, err
	}
	r.dir, err = newRunDir(o.Output, o.Model, o.Resume)
	return r, err
}

func (r *trainingRun) readTexts() error {
	text, err := readText(r.Data, demo.Text)
	if err != nil {
		return err
	}
	r.identity = r.trainOptions.identity(text)
	r.data = r.sequences(text)
	if r.HeldOut == "" && r.Data == demo.Name {
		r.HeldOut = demo.Name
	}
	if r.HeldOut == "" {
		return nil
	}
	held, err := readText(r.HeldOut, demo.HeldOut)
	if err != nil {
		return err
	}
	r.heldOut = r.sequences(held)
	return nil
}

// readText reads a file, or the demo's.
func readText(name, ofDemo string) (string, error) {
	if name == demo.Name {
		return data.ReadText(demo.Data(), ofDemo)
	}
	text, err := data.ReadText(os.DirFS(filepath.Dir(name)), filepath.Base(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("data %s: there is no such file", name)
	}
	return text, err
}

func (r *trainingRun) sequences(text string) train.Sequences {
	return data.Sequences(r.base.Tokenizer.Encode(text), r.base.Tokenizer.Start(), r.SeqLen)
}

// run trains from where the folder stands to the end.
func (r *trainingRun) run() error {
	if err := r.resume(); err != nil {
		return err
	}
	if err := r.dir.writeText(configFile, r.yaml()); err != nil {
		return err
	}
	var before string
	if r.trainer.Steps() == 0 {
		before = r.sample()
		if err := r.measure(); err != nil {
			return err
		}
	}
	if err := r.steps(); err != nil {
		return err
	}
	if err := r.measure(); err != nil {
		return err
	}
	if err := r.save(); err != nil {
		return err
	}
	if err := r.writeAdapter(string(r.dir)); err != nil {
		return err
	}
	if err := r.plot(); err != nil {
		return err
	}
	r.report(before, r.sample())
	return nil
}

// resume loads the last checkpoint, if that is wanted and there is one.
func (r *trainingRun) resume() error {
	if !r.Resume {
		return nil
	}
	last, err := r.dir.lastCheckpoint()
	if err != nil {
		return err
	}
	if last == "" {
		fmt.Fprintf(r.err, "%s has no checkpoint: starting from the beginning\n", r.dir)
		return nil
	}
	f, err := checkpoint.Open(os.DirFS(last), stateFile)
	if err != nil {
		return fmt.Errorf("%s: %w", last, err)
	}
	defer f.Close()
	if err := r.trainer.Load(f, r.identity); err != nil {
		return fmt.Errorf("%s: %w", last, err)
	}
	fmt.Fprintf(r.err, "going on from %s\n", last)
	r.metrics, err = r.dir.readMetrics(r.trainer.Steps())
	return err
}

func (r *trainingRun) steps() error {
	order := data.Order{Seed: r.Seed, Count: len(r.data)}
	p := newProgress(r.err, r.Steps, r.LoggingSteps)
	defer p.end()
	for r.trainer.Steps() < r.Steps {
		if r.ctx.Err() != nil {
			return r.interrupted()
		}
		report, err := r.trainer.Step(r.batch(order))
		if err != nil {
			return err
		}
		r.metrics = append(r.metrics, metric{Step: report.Step, Loss: &report.Loss, LR: &report.LR, GradNorm: &report.GradNorm})
		p.step(report, r.device.Arena().Peak())
		if r.SaveSteps > 0 && report.Step%r.SaveSteps == 0 && report.Step < r.Steps {
			if err := r.save(); err != nil {
				return err
			}
		}
	}
	return nil
}

// batch is the next step's, cut into micro-batches.
func (r *trainingRun) batch(order data.Order) (micro []train.Sequences) {
	n := r.batchSize()
	for i, index := range order.Batch(r.trainer.Steps()*n, n) {
		if i%r.MicroBatch == 0 {
			micro = append(micro, nil)
		}
		micro[len(micro)-1] = append(micro[len(micro)-1], r.data[index])
	}
	return micro
}

func (r *trainingRun) interrupted() error {
	if err := r.save(); err != nil {
		return err
	}
	return fmt.Errorf("stopped after step %d of %d; go on with: qlora train --config %s --output %s --resume",
		r.trainer.Steps(), r.Steps, r.dir.path(configFile), r.dir)
}

// save writes a checkpoint, and the metrics up to it.
func (r *trainingRun) save() error {
	if err := r.dir.writeMetrics(r.metrics); err != nil {
		return err
	}
	return r.dir.writeCheckpoint(r.trainer.Steps(), func(dir string) error {
		if err := r.writeAdapter(dir); err != nil {
			return err
		}
		return r.trainer.Save(filepath.Join(dir, stateFile), r.identity)
	})
}

// writeAdapter writes the adapter as PEFT does.
func (r *trainingRun) writeAdapter(dir string) error {
	a := checkpoint.Adapter{Config: checkpoint.NewAdapterConfig(), A: map[string]checkpoint.Matrix{}, B: map[string]checkpoint.Matrix{}}
	a.Config.Patterns, a.Config.BaseModel, a.Config.LoRADropout, a.Config.UseRSLoRA = r.patterns, r.Model, r.Dropout, r.RSLoRA
	for module, adapter := range r.model.Adapters() {
		var err error
		if a.A[module], err = readMatrix(r.device, adapter.A); err != nil {
			return err
		}
		if a.B[module], err = readMatrix(r.device, adapter.B); err != nil {
			return err
		}
	}
	return checkpoint.WriteAdapter(dir, a)
}

func readMatrix(d op.Device, t *op.Tensor) (checkpoint.Matrix, error) {
	x, err := d.Read(t)
	return checkpoint.Matrix{Rows: t.Rows, Cols: t.Cols, Values: x}, err
}

// measure appends the held-out loss, if there is held-out text and this step's is not known from before a resume.
func (r *trainingRun) measure() error {
	known := slices.ContainsFunc(r.metrics, func(m metric) bool { return m.HeldOut != nil && m.Step == r.trainer.Steps() })
	if r.heldOut == nil || known {
		return nil
	}
	var micro []train.Sequences
	for _, s := range r.heldOut {
		micro = append(micro, train.Sequences{s})
	}
	loss, _, err := train.Evaluate(r.device, r.model, micro)
	r.metrics = append(r.metrics, metric{Step: r.trainer.Steps(), HeldOut: &loss})
	return err
}

// sample continues the prompt.
func (r *trainingRun) sample() string {
	if r.Prompt == "" {
		return ""
	}
	var b strings.Builder
	s := sampling{Prompt: r.Prompt, Tokens: r.Tokens, Temperature: 0.8, TopP: 0.95, Seed: r.Seed}
	if err := s.write(r.console, &b, r.model, r.base); err != nil {
		return fmt.Sprintf("(no sample: %v)", err)
	}
	return strings.TrimRight(b.String(), "\n")
}

func (r *trainingRun) plot() error {
	if r.Plot == "" {
		return nil
	}
	loss, held := plot.Series{Name: "training"}, plot.Series{Name: "held-out", Mark: true}
	for _, m := range r.metrics {
		if m.Loss != nil {
			loss.X, loss.Y = append(loss.X, float64(m.Step)), append(loss.Y, float64(*m.Loss))
		}
		if m.HeldOut != nil {
			held.X, held.Y = append(held.X, float64(m.Step)), append(held.Y, float64(*m.HeldOut))
		}
	}
	series := []plot.Series{loss}
	if held.X != nil {
		series = append(series, held)
	}
	title := fmt.Sprintf("%s, %s, r = %d: loss", filepath.Base(r.Model), r.Quant, r.R)
	return checkpoint.WriteFile(r.Plot, func(w io.Writer) error {
		return plot.Lines(w, title, "optimizer step", "cross-entropy, nats a token", series)
	})
}

// report shows what the run has come to.
func (r *trainingRun) report(before, after string) {
	if held := r.heldOutLosses(); len(held) > 0 {
		fmt.Fprintf(r.out, "held-out loss  %.4f before, %.4f after\n", held[0], held[len(held)-1])
	}
	for _, text := range []struct{ when, text string }{{"before", before}, {"after", after}} {
		if text.text != "" {
			fmt.Fprintf(r.out, "\n%s:\n%s\n", text.when, indent(text.text))
		}
	}
	fmt.Fprintf(r.out, "\nadapter        %s\n", r.dir)
	fmt.Fprintf(r.out, "device         %s\n", describe(r.device))
	arena := r.device.Arena()
	fmt.Fprintf(r.out, "memory         %s at most, by part\n%s", op.Bytes(arena.Peak()), arena.Table())
}

func (r *trainingRun) heldOutLosses() (losses []float32) {
	for _, m := range r.metrics {
		if m.HeldOut != nil {
			losses = append(losses, *m.HeldOut)
		}
	}
	return losses
}

func indent(text string) string { return "    " + strings.ReplaceAll(text, "\n", "\n    ") }
