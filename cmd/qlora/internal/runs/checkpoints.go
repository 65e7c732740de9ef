package runs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Checkpoints are the steps of which the folder has checkpoints, in ascending order.
func (d Dir) Checkpoints() (steps []int, err error) {
	entries, err := os.ReadDir(string(d))
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "checkpoint-")
		if step, err := strconv.Atoi(number); ok && err == nil && e.IsDir() && strconv.Itoa(step) == number && step >= 0 {
			steps = append(steps, step)
		}
	}
	slices.Sort(steps)
	return steps, err
}

// Checkpoint is the folder of a step's checkpoint.
func (d Dir) Checkpoint(step int) string { return d.Path(fmt.Sprintf("checkpoint-%d", step)) }

// WriteCheckpoint has a folder filled under a temporary name, brings it to the disk, files and names, and gives it its own name.
func (d Dir) WriteCheckpoint(step int, fill func(dir string) error) error {
	temporary, err := os.MkdirTemp(string(d), ".checkpoint-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	if err := fill(temporary); err != nil {
		return err
	}
	if err := syncFolder(temporary); err != nil {
		return err
	}
	if err := d.drop(step); err != nil { // one that could not be read
		return err
	}
	if err := os.Rename(temporary, d.Checkpoint(step)); err != nil {
		return err
	}
	return syncFolder(string(d))
}

// Prune leaves the last limit checkpoints, and best's. 0 leaves all. What SetAside renamed stays, too.
func (d Dir) Prune(limit, best int) error {
	steps, err := d.Checkpoints()
	if err != nil || limit == 0 {
		return err
	}
	for _, step := range steps[:max(0, len(steps)-limit)] {
		if step == best {
			continue
		}
		if err := d.drop(step); err != nil {
			return err
		}
	}
	return nil
}

// SetAside takes checkpoints after a step out of those that count, where a run goes on from that step: they could not be read, and its own will
// take their place. It gives their new names.
func (d Dir) SetAside(after int) (names []string, err error) {
	steps, err := d.Checkpoints()
	for _, step := range steps {
		if step <= after {
			continue
		}
		name := d.Checkpoint(step) + ".unreadable"
		if err := os.RemoveAll(name); err != nil { // of a resume before
			return names, err
		}
		if err := os.Rename(d.Checkpoint(step), name); err != nil {
			return names, err
		}
		names = append(names, name)
	}
	return names, err
}

// drop removes a checkpoint, if it is there, under a name that is not taken for a checkpoint's when a kill leaves a part of it.
func (d Dir) drop(step int) error {
	name := d.Checkpoint(step)
	if _, err := os.Lstat(name); err != nil {
		return nil
	}
	dropped := d.Path(".checkpoint-dropped-" + filepath.Base(name))
	if err := os.RemoveAll(dropped); err != nil {
		return err
	}
	if err := os.Rename(name, dropped); err != nil {
		return err
	}
	return os.RemoveAll(dropped)
}
