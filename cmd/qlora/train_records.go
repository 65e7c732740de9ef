package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"qlora/cmd/qlora/internal/plot"
	"qlora/cmd/qlora/internal/runs"
	"qlora/cmd/qlora/internal/tensorboard"
	"qlora/ref/checkpoint"
	"qlora/ref/op"
	"qlora/ref/train"
)

// records are the files that grow with a run.
type records struct {
	metrics *runs.Lines[runs.Metric]
	samples *runs.Lines[runs.Sample]
	speed   *runs.Lines[runs.Speed]
	events  *tensorboard.Writer // nil where they are not wanted
}

// openRecords opens them without what they have of steps after upTo.
func openRecords(d runs.Dir, upTo int, events bool) (*records, error) {
	r := &records{}
	var err error
	if r.metrics, err = runs.OpenLines[runs.Metric](d.Path(runs.MetricsFile), upTo); err != nil {
		return nil, err
	}
	if r.samples, err = runs.OpenLines[runs.Sample](d.Path(runs.SamplesFile), upTo); err != nil {
		return nil, err
	}
	if r.speed, err = runs.OpenLines[runs.Speed](d.Path(runs.SpeedFile), upTo); err != nil {
		return nil, err
	}
	if events {
		r.events, err = tensorboard.Create(string(d), upTo+1, time.Now())
	}
	return r, err
}

// step records a step that began at a time.
func (r *records) step(s train.Report, begun time.Time, memory int64) error {
	now := time.Now()
	if err := r.metrics.Append(runs.Metric{Step: s.Step, Loss: &s.Loss, LR: &s.LR, GradNorm: &s.GradNorm}); err != nil {
		return err
	}
	if err := r.speed.Append(runs.Speed{Step: s.Step, Time: now.UTC(), Seconds: now.Sub(begun).Seconds(), Tokens: s.Tokens, Memory: memory}); err != nil {
		return err
	}
	return r.curves(s.Step, tensorboard.Scalar{Tag: "train/loss", Value: s.Loss},
		tensorboard.Scalar{Tag: "train/learning_rate", Value: float32(s.LR)}, tensorboard.Scalar{Tag: "train/grad_norm", Value: s.GradNorm})
}

// heldOut records a measurement.
func (r *records) heldOut(step int, loss float32) error {
	if err := r.metrics.Append(runs.Metric{Step: step, HeldOut: &loss}); err != nil {
		return err
	}
	return r.curves(step, tensorboard.Scalar{Tag: "eval/loss", Value: loss})
}

func (r *records) curves(step int, values ...tensorboard.Scalar) error {
	if r.events == nil {
		return nil
	}
	return r.events.Scalars(step, time.Now(), values...)
}

func (r *records) sample(s runs.Sample) error { return r.samples.Append(s) }

func (r *records) sampled(step int) bool {
	return slices.ContainsFunc(r.samples.All, func(s runs.Sample) bool { return s.Step == step })
}

// sync brings to the disk what a resumed run needs.
func (r *records) sync() error {
	return errors.Join(r.metrics.Sync(), r.samples.Sync(), r.speed.Sync())
}

func (r *records) close() error {
	err := errors.Join(r.metrics.Close(), r.samples.Close(), r.speed.Close())
	if r.events != nil {
		err = errors.Join(err, r.events.Close())
	}
	return err
}

// begin writes what the run is, and opens its records.
func (r *trainingRun) begin() (err error) {
	if err := r.dir.WriteText(runs.ConfigFile, r.yaml()); err != nil {
		return err
	}
	c := r.base.Config
	r.info = runs.Info{
		Program: built(), Device: describe(r.device), Steps: r.Steps, Sequences: len(r.data.examples), HeldOut: len(r.data.heldOut), Started: time.Now().UTC(),
		Model: fmt.Sprintf("%d layers, hidden size %d, %d attention heads, vocabulary of %d, context of %d",
			c.NumHiddenLayers, c.HiddenSize, c.NumAttentionHeads, c.VocabSize, c.MaxPositionEmbeddings),
	}
	for _, p := range r.model.Parameters() {
		r.info.Trained += int64(p.Value.Len())
	}
	if err := r.writeInfo(); err != nil {
		return err
	}
	if r.records, err = openRecords(r.dir, r.saved, r.ReportTo == toTensorBoard); err != nil {
		return err
	}
	return r.keep() // a kill may have come between the last checkpoint and this
}

// writeInfo writes what the run is, with its memory until now.
func (r *trainingRun) writeInfo() error {
	arena := r.device.Arena()
	r.info.Peak, r.info.Memory = arena.Peak(), nil
	for _, p := range arena.Parts() {
		r.info.Memory = append(r.info.Memory, runs.Part{Name: p.Name, Peak: p.Peak})
	}
	return r.dir.WriteInfo(r.info)
}

// finish writes what the run has come to.
func (r *trainingRun) finish() error {
	if err := r.recorded(r.writeResult()); err != nil {
		return err
	}
	if err := r.plot(); err != nil {
		return err
	}
	r.info.Finished = time.Now().UTC()
	if err := r.writeInfo(); err != nil {
		return err
	}
	r.report()
	return nil
}

func (r *trainingRun) plot() error {
	if r.Plot == "" {
		return nil
	}
	loss, held := plot.Series{Name: "training"}, plot.Series{Name: "held-out", Mark: true}
	for _, m := range r.records.metrics.All {
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
	title := fmt.Sprintf("%s, %s: loss", filepath.Base(r.Model), r.trains())
	return checkpoint.WriteFile(r.Plot, func(w io.Writer) error {
		return plot.Lines(w, title, "optimizer step", "cross-entropy, nats a token", series)
	})
}

// report shows what the run has come to.
func (r *trainingRun) report() {
	if held := r.heldOutLosses(); len(held) > 0 {
		fmt.Fprintf(r.out, "held-out loss  %.4f before, %.4f after\n", held[0], held[len(held)-1])
	}
	if all := r.records.samples.All; len(all) > 0 {
		fmt.Fprintf(r.out, "\nbefore:\n%s\n\nafter:\n%s\n", indent(all[0].Text), indent(all[len(all)-1].Text))
	}
	what := "adapter"
	if r.FullFinetune {
		what = "model"
	}
	fmt.Fprintf(r.out, "\n%-15s%s", what, r.dir)
	if r.info.Result != "" {
		fmt.Fprintf(r.out, ", that of %s, whose held-out loss is the lowest", r.info.Result)
	}
	fmt.Fprintf(r.out, "\ndevice         %s\n", describe(r.device))
	arena := r.device.Arena()
	fmt.Fprintf(r.out, "memory         %s at most, by part\n%s", op.Bytes(arena.Peak()), arena.Table())
}

func (r *trainingRun) heldOutLosses() (losses []float32) {
	for _, m := range r.records.metrics.All {
		if m.HeldOut != nil {
			losses = append(losses, *m.HeldOut)
		}
	}
	return losses
}

func indent(text string) string { return "    " + strings.ReplaceAll(text, "\n", "\n    ") }
