package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"qlora/ref/checkpoint"
)

// runDir is a run's folder: config.yaml, metrics.jsonl, the checkpoints, at the end the adapter.
type runDir string

const (
	configFile  = "config.yaml"
	metricsFile = "metrics.jsonl"
	stateFile   = "trainer_state.safetensors"
)

// newRunDir takes the next free runs/NAME-N, or the folder that is given, which must not exist unless a run in it is resumed.
func newRunDir(output, model string, resume bool) (runDir, error) {
	if output == "" {
		return nextRunDir(filepath.Join("runs", filepath.Base(model)))
	}
	if _, err := os.Stat(output); err == nil && !resume {
		return "", fmt.Errorf("%s exists: give another --output, or --resume to go on with the run in it", output)
	}
	return runDir(output), os.MkdirAll(output, 0o755)
}

func nextRunDir(prefix string) (runDir, error) {
	if err := os.MkdirAll(filepath.Dir(prefix), 0o755); err != nil {
		return "", err
	}
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s-%d", prefix, n)
		if err := os.Mkdir(name, 0o755); err == nil {
			return runDir(name), nil
		} else if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
}

func (d runDir) path(name string) string { return filepath.Join(string(d), name) }

// lastCheckpoint is the folder of the latest step, "" if there is none.
func (d runDir) lastCheckpoint() (string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return "", err
	}
	best, last := "", -1
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "checkpoint-")
		if step, err := strconv.Atoi(number); ok && err == nil && step > last {
			best, last = e.Name(), step
		}
	}
	if best == "" {
		return "", nil
	}
	return d.path(best), nil
}

// writeCheckpoint fills a folder under a temporary name and renames it.
func (d runDir) writeCheckpoint(step int, write func(dir string) error) error {
	name := d.path(fmt.Sprintf("checkpoint-%d", step))
	temporary, err := os.MkdirTemp(string(d), ".checkpoint-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	if err := write(temporary); err != nil {
		return err
	}
	if err := os.RemoveAll(name); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}

// writeText writes a file whole.
func (d runDir) writeText(name, text string) error {
	return checkpoint.WriteFile(d.path(name), func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// metric is a line of metrics.jsonl: a step, or a measurement on held-out text after a step. It holds nothing that differs
// from run to run, such as times.
type metric struct {
	Step     int      `json:"step"`
	Loss     *float32 `json:"loss,omitempty"`
	LR       *float64 `json:"learning_rate,omitempty"`
	GradNorm *float32 `json:"grad_norm,omitempty"`
	HeldOut  *float32 `json:"eval_loss,omitempty"`
}

// readMetrics reads the lines up to a step. A last line that was cut off, as by a power cut, is left out.
func (d runDir) readMetrics(upTo int) (all []metric, err error) {
	b, err := os.ReadFile(d.path(metricsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var m metric
		if json.Unmarshal(lines.Bytes(), &m) != nil {
			break
		}
		if m.Step <= upTo {
			all = append(all, m)
		}
	}
	return all, err
}

func (d runDir) writeMetrics(all []metric) error {
	var b strings.Builder
	e := json.NewEncoder(&b)
	for _, m := range all {
		if err := e.Encode(m); err != nil {
			return err
		}
	}
	return d.writeText(metricsFile, b.String())
}
