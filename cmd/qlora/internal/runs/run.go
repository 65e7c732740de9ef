package runs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Run is what a run's folder tells.
type Run struct {
	Dir         Dir
	Config      []Setting
	Info        Info
	Metrics     []Metric
	Samples     []Sample
	Speed       []Speed
	Checkpoints []int // steps
	Unreadable  error // of a run in a list: why it could not be opened, and nothing else of it is known
}

// Open reads a run's folder. Only its configuration must be there: a run that was killed early has no more.
func Open(dir Dir) (*Run, error) {
	b, err := os.ReadFile(dir.Path(ConfigFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no run: it has no %s", dir, ConfigFile)
	}
	if err != nil {
		return nil, err
	}
	r := &Run{Dir: dir, Config: ParseSettings(string(b))}
	if r.Info, err = readInfo(dir.Path(InfoFile)); err != nil {
		return nil, err
	}
	if r.Metrics, err = ReadLines[Metric](dir.Path(MetricsFile)); err != nil {
		return nil, err
	}
	if r.Samples, err = ReadLines[Sample](dir.Path(SamplesFile)); err != nil {
		return nil, err
	}
	if r.Speed, err = ReadLines[Speed](dir.Path(SpeedFile)); err != nil {
		return nil, err
	}
	r.Checkpoints, err = dir.Checkpoints()
	return r, err
}

func readInfo(name string) (i Info, err error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &i)
	}
	if err != nil {
		return i, fmt.Errorf("%s: %w", name, err)
	}
	return i, nil
}

// List opens the runs in a folder, which may be a run itself, in name order. Folders that are no runs are passed over. A run that cannot be
// opened is listed as such.
func List(dir string) (all []*Run, err error) {
	if Dir(dir).Begun() {
		return []*Run{listed(Dir(dir))}, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if run := Dir(filepath.Join(dir, e.Name())); run.Begun() {
			all = append(all, listed(run))
		}
	}
	return all, nil
}

func listed(dir Dir) *Run {
	r, err := Open(dir)
	if err != nil {
		return &Run{Dir: dir, Unreadable: err}
	}
	return r
}

// Begun says whether the folder is a run's.
func (d Dir) Begun() bool {
	_, err := os.Stat(d.Path(ConfigFile))
	return err == nil
}

// Step is the last step that the run's metrics know.
func (r *Run) Step() (step int) {
	for _, m := range r.Metrics {
		step = max(step, m.Step)
	}
	return step
}

// State is running, done or stopped, or unreadable.
func (r *Run) State() string {
	switch {
	case r.Unreadable != nil:
		return "unreadable"
	case r.Dir.Running():
		return "running"
	case !r.Info.Finished.IsZero():
		return "done"
	}
	return "stopped"
}

// Loss is the mean training loss over the last ten steps: one step's says little.
func (r *Run) Loss() (loss float64, known bool) {
	n := 0
	for i := len(r.Metrics) - 1; i >= 0 && n < 10; i-- {
		if x := r.Metrics[i].Loss; x != nil {
			loss += float64(*x)
			n++
		}
	}
	return loss / float64(max(n, 1)), n > 0
}

// HeldOut are the measurements on held-out text, in the order of their steps.
func (r *Run) HeldOut() (all []Metric) {
	for _, m := range r.Metrics {
		if m.HeldOut != nil {
			all = append(all, m)
		}
	}
	return all
}

// Best is the lowest measurement on held-out text, nil if there is none.
func (r *Run) Best() *Metric {
	var best *Metric
	for _, m := range r.HeldOut() {
		if best == nil || *m.HeldOut < *best.HeldOut {
			best = &m
		}
	}
	return best
}

// Took is what all steps took together, without measurements, samples and checkpoints.
func (r *Run) Took() (seconds float64, tokens int) {
	for _, s := range r.Speed {
		seconds += s.Seconds
		tokens += s.Tokens
	}
	return seconds, tokens
}
