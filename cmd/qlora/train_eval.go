package main

import (
	"errors"
	"fmt"
	"strings"

	"qlora/cmd/qlora/internal/runs"
	"qlora/ref/train"
)

// observe samples and measures after the steps taken so far, if that is due and not known from before a resume. Before the first step and
// after the last it is always due.
func (r *trainingRun) observe() error {
	step := r.trainer.Steps()
	due := step == 0 || step >= r.Steps || r.EvalSteps > 0 && step%r.EvalSteps == 0
	if !due || r.ctx.Err() != nil {
		return nil
	}
	if err := r.sample(step); err != nil {
		return err
	}
	return r.measure(step)
}

// sample continues the prompt. A sample that an interrupt cut short is left to the run that resumes.
func (r *trainingRun) sample(step int) error {
	if r.Prompt == "" || r.records.sampled(step) {
		return nil
	}
	var b strings.Builder
	s := defaultSampling()
	s.Prompt, s.Tokens, s.Temperature, s.TopP, s.Seed = r.Prompt, r.Tokens, 0.8, 0.95, r.Seed
	if err := s.write(r.console, &b, r.model, r.base); err != nil {
		fmt.Fprintf(&b, "(no sample: %v)", err)
	}
	if r.ctx.Err() != nil {
		return nil
	}
	return r.recorded(r.records.sample(runs.Sample{Step: step, Prompt: r.Prompt, Text: strings.TrimRight(b.String(), "\n")}))
}

// measure evaluates the held-out data.
func (r *trainingRun) measure(step int) error {
	if _, known := runs.HeldOut(r.records.metrics.All, step); known || len(r.data.heldOut) == 0 {
		return nil
	}
	var micro []train.Sequences
	for _, s := range sequencesOf(r.data.heldOut) {
		micro = append(micro, train.Sequences{s})
	}
	loss, _, err := train.Evaluate(r.device, r.model, micro, func() bool { return r.ctx.Err() == nil })
	switch {
	case errors.Is(err, train.ErrStopped):
		return nil // the run that resumes measures
	case err == nil && loss-loss != 0:
		err = fmt.Errorf("it is %v: the run has diverged; train again with a lower learning_rate", loss)
	}
	if err != nil {
		return fmt.Errorf("held-out loss after step %d: %w", step, err)
	}
	r.progress.note("step %d/%d  held-out loss %.4f", step, r.Steps, loss)
	return r.recorded(r.records.heldOut(step, loss))
}
