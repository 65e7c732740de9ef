package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/runs"
	"qlora/ref/checkpoint"
)

// sameRun fails where two runs' results differ: what resuming must reproduce.
func sameRun(t *testing.T, a, b string) {
	t.Helper()
	files := []string{"adapter_model.safetensors", "adapter_config.json", runs.MetricsFile, runs.SamplesFile}
	steps, err := runs.Dir(a).Checkpoints()
	if err != nil {
		t.Fatal(err)
	}
	if other, err := runs.Dir(b).Checkpoints(); err != nil || !slices.Equal(steps, other) {
		t.Errorf("checkpoints %v and %v", steps, other)
		return
	}
	for _, step := range steps {
		files = append(files, filepath.Join(filepath.Base(runs.Dir(a).Checkpoint(step)), stateFile))
	}
	for _, name := range files {
		if digest(t, filepath.Join(a, name)) != digest(t, filepath.Join(b, name)) {
			t.Errorf("%s: %s differs from that of %s", b, name, a)
		}
	}
	if best := runs.BestFile; exists(filepath.Join(a, best)) && digest(t, filepath.Join(a, best)) != digest(t, filepath.Join(b, best)) {
		t.Errorf("%s: %s differs", b, best)
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func steps(t *testing.T, dir string) []int {
	t.Helper()
	all, err := runs.Dir(dir).Checkpoints()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Resuming with other options names each, with its old and its new value, and touches nothing. What does not change what is computed may
// differ, and the options of the run need not be given again.
func TestResumeWithOtherOptions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	must(t, quick(dir, "--steps", "2")...)
	before := digest(t, filepath.Join(dir, runs.ConfigFile))
	_, err, code := cli(t, "", "train", "--output", dir, "--resume", "--lr", "0.5", "--lora-r", "4", "--gradient-accumulation-steps", "3")
	if code != 2 {
		t.Error(code)
	}
	for _, want := range []string{"checkpoint-2 is of a run with other options", "learning_rate was 0.003, is 0.5\n", "lora_r was 8, is 4\n", "sequences_a_step was 2, is 6\n"} {
		if !strings.Contains(err, want) {
			t.Errorf("no %q in %s", want, err)
		}
	}
	if strings.Count(err, " was ") != 3 || digest(t, filepath.Join(dir, runs.ConfigFile)) != before {
		t.Error(err)
	}
	other := dir + "-other.txt"
	if e := os.WriteFile(other, []byte("Good night, good night!"), 0o644); e != nil {
		t.Fatal(e)
	}
	if _, err, code := cli(t, "", "train", "--output", dir, "--resume", "--data", other); code != 2 || !strings.Contains(err, "\n  data was sha256") || !strings.Contains(err, "\n  dataset was ") || !strings.Contains(err, other) {
		t.Error(code, err)
	}
	must(t, "train", "--output", dir, "--resume", "--steps", "3", "--save-steps", "1", "--batch-size", "1", "--gradient-accumulation-steps", "2", "--device", "ref")
	if got := steps(t, dir); !slices.Equal(got, []int{2, 3}) {
		t.Error(got)
	}
}

// An option that a checkpoint does not know yet had its default when the checkpoint was written.
func TestDifferencesOfAnOlderProgram(t *testing.T) {
	o := defaultTrain()
	now := o.identity("text", "")
	old := strings.Replace(now, "lora_dropout: 0\n", "", 1)
	if old == now || differences(old, now) != "" {
		t.Error(differences(old, now))
	}
	o.Dropout = 0.1
	if got := differences(old, o.identity("text", "")); got != "\n  lora_dropout was 0, is 0.1" {
		t.Error(got)
	}
}

// A checkpoint that was cut off is passed over, for the one before it, and the run ends in the same bytes. If all are cut off, nothing is begun anew.
func TestResumeAfterACorruptCheckpoint(t *testing.T) {
	tmp := t.TempDir()
	through, dir := filepath.Join(tmp, "through"), filepath.Join(tmp, "run")
	text := []string{"--eval-data", short(dir), "--save-steps", "1"}
	must(t, quick(through, text...)...)
	must(t, quick(dir, append(text, "--steps", "3")...)...)
	damage := func(step int) {
		name := filepath.Join(runs.Dir(dir).Checkpoint(step), stateFile)
		info, err := os.Stat(name)
		if err == nil {
			err = os.Truncate(name, info.Size()-4)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	damage(3)
	_, err, code := cli(t, "", quick(dir, append(text, "--resume")...)...)
	if code != 0 || !strings.Contains(err, "checkpoint-3 cannot be used: "+stateFile) || !strings.Contains(err, "going on from "+filepath.Join(dir, "checkpoint-2")) {
		t.Fatal(code, err)
	}
	sameRun(t, through, dir)
	for _, step := range steps(t, dir) {
		damage(step)
	}
	if _, err, code := cli(t, "", quick(dir, append(text, "--resume")...)...); code != 1 || !strings.Contains(err, "no checkpoint can be used") {
		t.Error(code, err)
	}
}

// What a kill left half written is gone after a resume.
func TestResumeCleans(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	must(t, quick(dir, "--steps", "1")...)
	left := []string{filepath.Join(dir, ".checkpoint-77"), filepath.Join(dir, ".metrics.jsonl.77")}
	for _, name := range left {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must(t, quick(dir, "--resume")...)
	for _, name := range left {
		if exists(name) {
			t.Errorf("%s is left", name)
		}
	}
}

func TestTwoRunsInOneFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	must(t, quick(dir, "--steps", "1")...)
	lock, err := runs.Dir(dir).Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err, code := cli(t, "", quick(dir, "--resume")...); code != 1 || !strings.Contains(err, "another run is at work in "+dir) {
		t.Error(code, err)
	}
	lock.Close()
	must(t, quick(dir, "--resume")...)
}

// heldOut are a run's measurements, by step.
func heldOut(t *testing.T, dir string) map[int]float32 {
	t.Helper()
	all, err := runs.ReadLines[runs.Metric](filepath.Join(dir, runs.MetricsFile))
	if err != nil {
		t.Fatal(err)
	}
	losses := map[int]float32{}
	for _, m := range all {
		if m.HeldOut != nil {
			losses[m.Step] = *m.HeldOut
		}
	}
	return losses
}

// Held-out loss and samples come when they are due, the last checkpoints stay and the best, and the best becomes the result. The learning
// rate is so high that the loss soon rises again.
func TestBestCheckpoint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	out := must(t, quick(dir, "--steps", "12", "--lr", "0.05", "--eval-steps", "2", "--save-steps", "3", "--save-total-limit", "1",
		"--load-best-model-at-end", "--prompt", "O", "--max-new-tokens", "3")...)
	losses := heldOut(t, dir)
	best, evaluated := 12, []int{}
	for step := range 13 {
		loss, known := losses[step]
		if known {
			evaluated = append(evaluated, step)
		}
		if known && step > 0 && (loss < losses[best] || loss == losses[best] && step < best) {
			best = step
		}
	}
	if !slices.Equal(evaluated, []int{0, 2, 4, 6, 8, 10, 12}) {
		t.Errorf("measured at %v", evaluated)
	}
	samples, err := runs.ReadLines[runs.Sample](filepath.Join(dir, runs.SamplesFile))
	if err != nil || len(samples) != 7 || samples[3].Step != 6 || !strings.HasPrefix(samples[3].Text, "O") {
		t.Error(samples, err)
	}
	if best == 12 {
		t.Fatalf("the loss falls to the end, so the test shows nothing: %v", losses)
	}
	if got := steps(t, dir); !slices.Equal(got, []int{best, 12}) {
		t.Errorf("checkpoints %v, the best is of step %d", got, best)
	}
	name := filepath.Base(runs.Dir(dir).Checkpoint(best))
	if b, err := os.ReadFile(filepath.Join(dir, runs.BestFile)); err != nil || string(b) != name+"\n" {
		t.Errorf("%q, %v", b, err)
	}
	adapter := "adapter_model.safetensors"
	if digest(t, filepath.Join(dir, adapter)) != digest(t, filepath.Join(dir, name, adapter)) || !strings.Contains(out, "that of "+name) {
		t.Error("the result is not the best checkpoint's", out)
	}
	if exists(filepath.Join(dir, stateFile)) {
		t.Error("the result has the trainer's state")
	}
}

// Without a strategy nothing is saved but the end, and nothing measured between.
func TestStrategies(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	must(t, quick(dir, "--save-strategy", "no", "--save-steps", "1", "--eval-strategy", "no", "--report-to", "none")...)
	if got := steps(t, dir); !slices.Equal(got, []int{4}) || len(heldOut(t, dir)) != 2 {
		t.Error(got, heldOut(t, dir))
	}
	if events, err := filepath.Glob(filepath.Join(dir, "events.*")); err != nil || events != nil {
		t.Error(events, err)
	}
	for flags, want := range map[string]string{
		"--save-strategy epoch":             `save_strategy "epoch": want steps or no`,
		"--eval-strategy epoch":             `eval_strategy "epoch": want steps or no`,
		"--eval-strategy no --eval-steps 5": "want one or the other",
		"--eval-strategy steps":             "need eval_steps",
		"--load-best-model-at-end":          "need eval_steps",
		"--save-total-limit=-1":             "must not be negative",
		"--report-to wandb":                 "want tensorboard or none",
		"--data " + short(dir) + " --load-best-model-at-end --eval-steps 2": "needs eval_dataset",
	} {
		if _, err, code := cli(t, "", append([]string{"train"}, strings.Fields(flags)...)...); code != 2 || !strings.Contains(err, want) {
			t.Errorf("%s: %d, %s", flags, code, err)
		}
	}
}

// runs list, compare and report read what train writes.
func TestRunsCommands(t *testing.T) {
	tmp := t.TempDir()
	a, b := filepath.Join(tmp, "a"), filepath.Join(tmp, "b")
	must(t, quick(a, "--prompt", "O", "--max-new-tokens", "3")...)
	must(t, quick(b, "--lr", "0.01", "--steps", "3")...)
	if events, err := filepath.Glob(filepath.Join(a, "events.out.tfevents.*")); err != nil || len(events) != 1 {
		t.Error(events, err)
	}
	list := must(t, "runs", "list", tmp)
	if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 3 || !strings.Contains(lines[1], a) || !strings.Contains(lines[2], "3 of 3") || strings.Count(list, "done") != 2 {
		t.Error(list)
	}
	var all []outcome
	if err := json.Unmarshal([]byte(must(t, "runs", "list", a, "--json")), &all); err != nil || len(all) != 1 || all[0].Step != 4 || *all[0].After != heldOut(t, a)[4] || all[0].PerSecond <= 0 {
		t.Error(all, err)
	}
	compared := must(t, "runs", "compare", a, b)
	for _, want := range []string{"learning_rate", "0.003", "max_steps", "prompt", "memory at most"} {
		if !strings.Contains(compared, want) {
			t.Errorf("no %s in\n%s", want, compared)
		}
	}
	for _, not := range []string{"lora_r", "output_dir"} {
		if strings.Contains(compared, not) {
			t.Errorf("%s in\n%s", not, compared)
		}
	}
	if out := must(t, "runs", "report", a); out != filepath.Join(a, runs.ReportFile)+"\n" {
		t.Error(out)
	}
	must(t, "runs", "report", b, "--output", filepath.Join(tmp, "b.html"))
	for _, name := range []string{filepath.Join(a, runs.ReportFile), filepath.Join(tmp, "b.html")} {
		if page, err := os.ReadFile(name); err != nil || !bytes.Contains(page, []byte("held-out loss")) || !bytes.Contains(page, []byte("<svg")) {
			t.Error(name, err)
		}
	}
	for args, want := range map[string]string{"list a b": "one folder", "compare " + a: "two runs", "report": "needs a run's folder"} {
		if _, err, code := cli(t, "", append([]string{"runs"}, strings.Fields(args)...)...); code != 2 || !strings.Contains(err, want) {
			t.Errorf("runs %s: %d, %s", args, code, err)
		}
	}
	if _, err, code := cli(t, "", "runs", "report", tmp); code != 1 || !strings.Contains(err, "is no run") {
		t.Error(code, err)
	}
}

// The state in a checkpoint tells of which run it is, in words.
func TestStateNamesItsRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	must(t, quick(dir, "--steps", "1")...)
	f, err := checkpoint.Open(os.DirFS(runs.Dir(dir).Checkpoint(1)), stateFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, want := range []string{"model: \"demo\"\n", "seed: 1\n", "lora_r: 8\n", "sequences_a_step: 2\n"} {
		if !strings.Contains(f.Metadata["run"], want) {
			t.Errorf("no %q in %s", want, f.Metadata["run"])
		}
	}
}

// A checkpoint that cannot be used takes no place among those that are kept: a resume that is stopped at once leaves the good ones.
func TestUnreadableCheckpointCountsForNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	flags := []string{"--save-steps", "1", "--save-total-limit", "2"}
	must(t, quick(dir, append(flags, "--steps", "3")...)...)
	if err := os.Truncate(filepath.Join(runs.Dir(dir).Checkpoint(3), stateFile), 100); err != nil {
		t.Fatal(err)
	}
	_, said, code := cli(t, "", quick(dir, append(flags, "--steps", "2", "--save-total-limit", "1", "--resume")...)...)
	if left := runs.Dir(dir).Checkpoint(3) + ".unreadable"; code != 0 || !strings.Contains(said, "left as "+left+"\n") || !exists(filepath.Join(left, stateFile)) {
		t.Error(code, said)
	}
	if got := steps(t, dir); !slices.Equal(got, []int{2}) {
		t.Error(got)
	}
}
