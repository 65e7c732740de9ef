package main

import (
	"fmt"
	"io"
	"time"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/batch"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/runs"
	"qlora/cmd/qlora/internal/watch"
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
	defer r.close()
	return r.run()
}

// yaml is the configuration that gives this run again, wherever its folder is, from the beginning.
func (o trainOptions) yaml() string {
	o.Resume = false
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
	data     *loaded
	batches  *batch.Batches
	dir      runs.Dir
	lock     io.Closer // of dir
	pages    io.Closer // of the device, which has a file for them; nil for a device without
	info     runs.Info
	records  *records
	progress *progress
	saved    int // the step of the checkpoint that was written or loaded last, −1 if there is none
}

func (r *trainingRun) close() {
	if r.pages != nil {
		r.pages.Close()
	}
	r.lock.Close()
}

// newRun loads everything that can be wrong before it makes the run's folder.
func newRun(c console, o trainOptions) (*trainingRun, error) {
	r := &trainingRun{console: c, trainOptions: o, saved: -1}
	var err error
	if r.device, err = openDevice(o.Device, o.Math, o.MemoryLimit); err != nil {
		return nil, err
	}
	r.pages, _ = r.device.(io.Closer)
	if o.Numerics {
		r.device = watch.New(r.device)
	}
	options, err := o.model()
	if err != nil {
		return nil, err
	}
	if r.base, err = openBase(o.Model, o.Offset); err != nil {
		return nil, err
	}
	defer r.base.Close()
	if err := o.fits(r.base); err != nil {
		return nil, err
	}
	if err := r.readData(); err != nil {
		return nil, err
	}
	if options.LoRA != nil {
		if r.patterns, options.LoRA.Modules, err = o.targets(r.base.Config); err != nil {
			return nil, usage(err)
		}
	}
	if err := o.checkPlan(c.err, r.base, r.batches.Longest()); err != nil {
		return nil, err
	}
	if r.model, err = r.base.Load(r.device, options); err != nil {
		return nil, err
	}
	r.model.Checkpointing, r.model.Noise = o.Checkpoint, o.noise(o.Seed)
	r.trainer = train.New(r.device, r.model, r.step())
	if err := r.device.Sync(); err != nil {
		return nil, err
	}
	if r.dir, err = runs.New(o.Output, o.Model, o.Resume); err != nil {
		return nil, err
	}
	if r.lock, err = r.dir.Lock(); err != nil {
		return nil, err
	}
	return r, r.device.PageTo(string(r.dir))
}

// readData reads and tokenizes the data, and finds how many steps there are.
func (r *trainingRun) readData() (err error) {
	if r.data, err = r.dataOptions.load(r.base, r.dataSeed()); err != nil {
		return err
	}
	r.data.report(r.err)
	if r.LoadBest && len(r.data.heldOut) == 0 {
		return config.Usagef("load_best_model_at_end needs eval_dataset or eval_dataset_size")
	}
	r.batches, err = batch.New(r.data.sequences(), batch.Options{
		Mode: r.mode(), Seed: r.dataSeed(), Max: r.longest(r.base.Config.MaxPositionEmbeddings), Micro: r.MicroBatch, Accumulate: r.Accumulate,
	})
	if err != nil {
		return err
	}
	r.lasts(r.batches.Steps)
	r.identity = r.trainOptions.identity(r.data.digest(), r.data.heldOutDigest())
	return nil
}

// run trains from where the folder stands to the end.
func (r *trainingRun) run() error {
	if err := r.resume(); err != nil {
		return err
	}
	if err := r.begin(); err != nil {
		return err
	}
	defer r.records.close()
	if err := r.steps(); err != nil {
		return err
	}
	return r.finish()
}

// steps trains. What is due after a step is done before the next one, also by a run that resumes there: a checkpoint, and then what takes
// long and can be done again.
func (r *trainingRun) steps() error {
	r.progress = newProgress(r.err, r.Steps, r.LoggingSteps)
	defer r.progress.end()
	for {
		if r.saveDue() {
			if err := r.save(); err != nil {
				return err
			}
		}
		if err := r.observe(); err != nil {
			return err
		}
		if r.ctx.Err() != nil {
			return r.interrupted()
		}
		if err := r.saveBest(); err != nil {
			return err
		}
		if r.trainer.Steps() >= r.Steps {
			return nil
		}
		begun := time.Now()
		report, err := r.trainer.Step(r.batches.Batch(r.trainer.Steps()))
		if err != nil {
			return err
		}
		peak := r.device.Arena().Peak()
		if err := r.recorded(r.records.step(report, begun, peak)); err != nil {
			return err
		}
		r.progress.step(report, begun, peak)
	}
}
