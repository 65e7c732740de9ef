package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/runs"
	"qlora/ref/checkpoint"
	"qlora/ref/op"
)

// stateFile is a checkpoint's state of the trainer, beside the adapter. The data's order, dropout and samples are functions of the seed and
// the step; the state has the step, and the run's identity.
const stateFile = "trainer_state.safetensors"

// resume loads the last checkpoint that can be read, if that is wanted and there is one.
func (r *trainingRun) resume() error {
	if !r.Resume {
		return nil
	}
	if err := r.dir.Clean(); err != nil {
		return err
	}
	steps, err := r.dir.Checkpoints()
	if err != nil {
		return err
	}
	if len(steps) == 0 {
		fmt.Fprintf(r.err, "%s has no checkpoint: starting from the beginning\n", r.dir)
		return nil
	}
	for _, step := range slices.Backward(steps) {
		err := r.load(step)
		var other *config.UsageError
		if errors.As(err, &other) {
			return err
		}
		if err == nil {
			return r.setAside(step)
		}
		fmt.Fprintf(r.err, "%s cannot be used: %v\n", r.dir.Checkpoint(step), err)
	}
	return fmt.Errorf("%s: no checkpoint can be used; train again, with another --output", r.dir)
}

// setAside takes the checkpoints after a step, which could not be used, out of the count.
func (r *trainingRun) setAside(step int) error {
	names, err := r.dir.SetAside(step)
	for _, name := range names {
		fmt.Fprintf(r.err, "left as %s\n", name)
	}
	return err
}

func (r *trainingRun) load(step int) error {
	name := r.dir.Checkpoint(step)
	f, err := checkpoint.Open(os.DirFS(name), stateFile)
	if err != nil {
		return err
	}
	defer f.Close()
	run := f.Metadata["run"]
	if d := differences(run, r.identity); d != "" {
		return config.Usagef("%s is of a run with other options:%s\ngive the old ones, or another --output; %s has them",
			name, d, r.dir.Path(runs.ConfigFile))
	}
	if err := r.trainer.Load(f, run); err != nil {
		return err
	}
	fmt.Fprintf(r.err, "going on from %s\n", name)
	r.saved = step
	return nil
}

// differences lists in what two identities differ. An option that the old one does not name yet had its default.
func differences(old, now string) string {
	usual := defaultTrain()
	was := append(runs.ParseSettings(old), runs.ParseSettings(config.YAML(&usual.runOptions))...)
	var b strings.Builder
	for _, d := range runs.Differences(was, runs.ParseSettings(now)) {
		fmt.Fprintf(&b, "\n  %s was %s, is %s", d.Name, d.Values[0], d.Values[1])
	}
	return b.String()
}

func (r *trainingRun) saveDue() bool {
	step, every := r.trainer.Steps(), r.saveEvery()
	return step != r.saved && (step >= r.Steps || step > 0 && every > 0 && step%every == 0)
}

// saveBest sees to it that the step with the lowest held-out loss so far has a checkpoint, and that the best is known to be that.
func (r *trainingRun) saveBest() error {
	step := r.trainer.Steps()
	switch {
	case r.LoadBest && step != r.saved && step == r.best(afterTheFirst):
		return r.save()
	case step == r.saved:
		return r.keep()
	}
	return nil
}

// afterTheFirst leaves out what was before any step: nothing was trained there.
func afterTheFirst(step int) bool { return step > 0 }

// best is the step with the lowest held-out loss among those that count, −1 if there is none.
func (r *trainingRun) best(counts func(step int) bool) int {
	return runs.Best(r.records.metrics.All, counts)
}

// save writes a checkpoint. What was measured until then is on the disk before it.
func (r *trainingRun) save() error {
	step := r.trainer.Steps()
	err := r.records.sync()
	if err == nil {
		err = r.dir.WriteCheckpoint(step, r.fill)
	}
	if err != nil {
		return fmt.Errorf("step %d could not be saved: %w\n%s", step, err, r.safe())
	}
	r.saved = step
	return errors.Join(r.keep(), r.writeInfo())
}

// fill writes a checkpoint's files into a folder.
func (r *trainingRun) fill(dir string) error {
	if err := r.writeTrained(dir); err != nil {
		return err
	}
	return r.trainer.Save(filepath.Join(dir, stateFile), r.identity)
}

// recorded adds to the error of a file that grows with the run what is left.
func (r *trainingRun) recorded(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w\n%s", err, r.safe())
}

// safe says what is left when something could not be written.
func (r *trainingRun) safe() string {
	if r.saved < 0 {
		return "no checkpoint was saved before"
	}
	return fmt.Sprintf("%s is whole; when the disk is in order, go on with: %s", r.dir.Checkpoint(r.saved), r.goOn())
}

func (r *trainingRun) goOn() string { return fmt.Sprintf("qlora train --output %s --resume", r.dir) }

// keep removes old checkpoints but the best, and notes which that is.
func (r *trainingRun) keep() error {
	best, err := r.bestCheckpoint()
	if err != nil {
		return err
	}
	if best >= 0 {
		if err := r.dir.WriteText(runs.BestFile, filepath.Base(r.dir.Checkpoint(best))+"\n"); err != nil {
			return err
		}
	}
	return r.dir.Prune(r.SaveLimit, best)
}

func (r *trainingRun) bestCheckpoint() (int, error) {
	steps, err := r.dir.Checkpoints()
	return r.best(func(s int) bool { return afterTheFirst(s) && slices.Contains(steps, s) }), err
}

func (r *trainingRun) interrupted() error {
	if r.trainer.Steps() != r.saved {
		if err := r.save(); err != nil {
			return err
		}
	}
	return fmt.Errorf("stopped after step %d of %d; go on with: %s", r.trainer.Steps(), r.Steps, r.goOn())
}

// writeResult writes what was trained into the run's folder: the last step's, or with load_best_model_at_end that of the best checkpoint.
func (r *trainingRun) writeResult() error {
	if !r.LoadBest {
		return r.writeTrained(string(r.dir))
	}
	best, err := r.bestCheckpoint()
	if err != nil {
		return err
	}
	from := os.DirFS(r.dir.Checkpoint(best))
	entries, err := fs.ReadDir(from, ".")
	for _, e := range entries {
		if e.Name() != stateFile {
			err = errors.Join(err, r.dir.Copy(from, e.Name()))
		}
	}
	r.info.Result = filepath.Base(r.dir.Checkpoint(best))
	return err
}

// writeTrained writes what is trained: the whole model, or the adapter.
func (r *trainingRun) writeTrained(dir string) error {
	if r.FullFinetune {
		return writeModel(dir, r.device, r.model, r.base.Files)
	}
	return r.writeAdapter(dir)
}

// writeAdapter writes the adapter, and the modules that are trained beside it, as PEFT does.
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
	whole, err := savedModules(r.device, r.model)
	if err != nil {
		return err
	}
	return checkpoint.WriteAdapter(dir, a, whole...)
}

func readMatrix(d op.Device, t *op.Tensor) (checkpoint.Matrix, error) {
	x, err := d.Read(t)
	return checkpoint.Matrix{Rows: t.Rows, Cols: t.Cols, Values: x}, err
}
