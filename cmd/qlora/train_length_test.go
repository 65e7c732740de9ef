package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/runs"
)

// How long a run is can be said in steps or in epochs, and its warm-up in steps or as a share; a flag wins over what a file says in the other way.
func TestLengthOfARun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run.yaml")
	if err := os.WriteFile(file, []byte("model: demo\nmax_steps: 5\nwarmup_steps: 2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for flags, want := range map[string]string{
		"":                                          "max_steps: 5\nnum_train_epochs: 0\nwarmup_steps: 2\nwarmup_ratio: 0\n",
		"--num-train-epochs 2":                      "max_steps: -1\nnum_train_epochs: 2\nwarmup_steps: 2\nwarmup_ratio: 0\n",
		"--max-steps -1 --num-train-epochs 2":       "max_steps: -1\nnum_train_epochs: 2\nwarmup_steps: 2\nwarmup_ratio: 0\n",
		"--max-steps 7 --warmup-ratio 0.5":          "max_steps: 7\nnum_train_epochs: 0\nwarmup_steps: 0\nwarmup_ratio: 0.5\n",
		"--max-steps -1":                            "max_steps: 1000\nnum_train_epochs: 0\nwarmup_steps: 2\nwarmup_ratio: 0\n",
		"--max-steps 3 --num-train-epochs 1":        "both given",
		"--warmup-steps 3 --warmup-ratio 0.1":       "both given",
		"--max-steps -1 --num-train-epochs -1":      "num_train_epochs is -1",
		"--max-steps -2":                            "max_steps is -2",
		"--warmup-ratio 1.5 --learning-rate 0.0001": "warmup_ratio is 1.5",
	} {
		out, err, _ := cli(t, "", append([]string{"train", "--print-config", "--config", file}, strings.Fields(flags)...)...)
		var got string
		for _, name := range []string{"max_steps", "num_train_epochs", "warmup_steps", "warmup_ratio"} {
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, name+":") {
					got += line
				}
			}
		}
		if got != want && !(got == "" && strings.Contains(err, want)) {
			t.Errorf("%s: %q, %s; want %q", flags, got, err, want)
		}
	}
}

// A run whose length depends on its data is resumed as it was begun, and by more epochs.
func TestResumeOfEpochs(t *testing.T) {
	tmp := t.TempDir()
	stopped, through := filepath.Join(tmp, "stopped"), filepath.Join(tmp, "through")
	flags := []string{"--num-train-epochs", "0.02", "--warmup-ratio", "0.4", "--lr-scheduler-type", "constant_with_warmup", "--save-steps", "1"}
	must(t, quick(stopped, append(flags, "--steps", "-1")...)...)
	must(t, quick(through, append(flags, "--steps", "-1")...)...)
	last := len(steps(t, stopped))
	if last < 2 {
		t.Fatalf("%d steps", last)
	}
	if err := os.RemoveAll(runs.Dir(stopped).Checkpoint(last)); err != nil {
		t.Fatal(err)
	}
	must(t, "train", "--output", stopped, "--resume")
	if digest(t, filepath.Join(stopped, "adapter_model.safetensors")) != digest(t, filepath.Join(through, "adapter_model.safetensors")) {
		t.Error("the adapters differ")
	}
}

// What was before any step is never the best: a run that is stopped there ends as one that is not.
func TestStoppedBeforeTheFirstStep(t *testing.T) {
	tmp := t.TempDir()
	flags := []string{"--load-best-model-at-end", "--eval-steps", "2", "--learning-rate", "5", "--warmup-steps", "0", "--lr-scheduler-type", "constant"}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, err bytes.Buffer
	stopped, through := filepath.Join(tmp, "stopped"), filepath.Join(tmp, "through")
	if code := run(console{ctx, nil, &out, &err}, quick(stopped, flags...)); code != 1 {
		t.Fatal(code, err.String())
	}
	must(t, "train", "--output", stopped, "--resume")
	must(t, quick(through, flags...)...)
	if digest(t, filepath.Join(stopped, "adapter_model.safetensors")) != digest(t, filepath.Join(through, "adapter_model.safetensors")) {
		t.Error("the adapters differ")
	}
}

// A folder without a run is not resumed with whatever the defaults are.
func TestResumeOfNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "typo")
	if _, err, code := cli(t, "", "train", "--output", dir, "--resume"); code != 2 || !strings.Contains(err, "holds no run to go on with") {
		t.Error(code, err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder was made")
	}
}

// A held-out loss that is no number ends the run with what to do.
func TestHeldOutLossDiverges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	flags := []string{"--learning-rate", "1e30", "--max-grad-norm", "0", "--eval-steps", "1", "--warmup-steps", "0", "--lr-scheduler-type", "constant"}
	if _, err, code := cli(t, "", quick(dir, flags...)...); code != 1 || !strings.Contains(err, "lower learning_rate") {
		t.Error(code, err)
	}
}
