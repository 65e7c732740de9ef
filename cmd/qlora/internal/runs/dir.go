// Package runs is a run's folder: what lies in it; how it is written, so that a kill at any instant, a full disk or a power cut
// loses no more than the steps since the last checkpoint; and how it is read again.
package runs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"qlora/ref/checkpoint"
)

// Dir is the path of a run's folder.
type Dir string

// The files of a run, beside its checkpoints and, at the end, the result.
const (
	ConfigFile  = "config.yaml"     // the options, as config.YAML writes them
	InfoFile    = "run.json"        // Info
	MetricsFile = "metrics.jsonl"   // Metric lines
	SamplesFile = "samples.jsonl"   // Sample lines
	SpeedFile   = "log.jsonl"       // Speed lines
	BestFile    = "best_checkpoint" // the name of the checkpoint with the lowest held-out loss
	ReportFile  = "report.html"     // where runs report writes
	lockFile    = ".lock"
)

// New makes a run's folder: the next free runs/NAME-N, or the one that is given, which must be new or empty unless a run in it
// is resumed.
func New(output, model string, resume bool) (Dir, error) {
	if output == "" {
		return next(filepath.Join("runs", filepath.Base(model)))
	}
	if entries, err := os.ReadDir(output); !resume && (len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist)) {
		return "", fmt.Errorf("%s exists: give another --output, or --resume to go on with the run in it", output)
	}
	if err := os.MkdirAll(output, 0o755); err != nil {
		return "", fmt.Errorf("output_dir %s cannot be made: %w", output, err)
	}
	return Dir(output), nil
}

func next(prefix string) (Dir, error) {
	if err := os.MkdirAll(filepath.Dir(prefix), 0o755); err != nil {
		return "", fmt.Errorf("the run's folder cannot be made: %w; give --output", err)
	}
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s-%d", prefix, n)
		if err := os.Mkdir(name, 0o755); err == nil {
			return Dir(name), nil
		} else if !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("the run's folder cannot be made: %w; give --output", err)
		}
	}
}

// Path is the path of a file in the folder.
func (d Dir) Path(name string) string { return filepath.Join(string(d), name) }

// WriteText writes a file whole or not at all.
func (d Dir) WriteText(name, text string) error {
	return checkpoint.WriteFile(d.Path(name), func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// Copy copies a file into the folder, whole or not at all.
func (d Dir) Copy(from fs.FS, name string) error {
	f, err := from.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return checkpoint.WriteFile(d.Path(name), func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

// WriteInfo writes run.json.
func (d Dir) WriteInfo(i Info) error {
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return d.WriteText(InfoFile, string(b)+"\n")
}

// halfWritten are names that stand for a moment: a checkpoint's before it is whole, a file's of checkpoint.WriteFile; and optimizer state
// that was paged out.
var halfWritten = regexp.MustCompile(`^\.checkpoint-|^\.pages-|^\..+\.\d+$`)

// Clean removes what a kill left half written. The folder must be locked.
func (d Dir) Clean() error {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if halfWritten.MatchString(e.Name()) {
			err = errors.Join(err, os.RemoveAll(d.Path(e.Name())))
		}
	}
	return err
}
