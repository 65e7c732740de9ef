package runs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"

	"qlora/ref/checkpoint"
)

// line is a record of a step.
type line interface{ after() int }

// Lines is a file that grows with the run, one JSON line a record. A line that a kill cut off is lost with what follows it.
type Lines[T line] struct {
	All  []T // what the file has
	file *os.File
}

// OpenLines opens a file of lines, or makes it, and drops what it has of steps after upTo. Close it after use.
func OpenLines[T line](name string, upTo int) (*Lines[T], error) {
	all, err := readLines[T](name, upTo)
	if err != nil {
		return nil, err
	}
	err = checkpoint.WriteFile(name, func(w io.Writer) error {
		e := json.NewEncoder(w)
		for _, x := range all {
			if err := e.Encode(x); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	return &Lines[T]{all, f}, err
}

// ReadLines reads a file of lines; one that is not there has none.
func ReadLines[T line](name string) ([]T, error) { return readLines[T](name, math.MaxInt) }

func readLines[T line](name string, upTo int) (all []T, err error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for r := bufio.NewReader(bytes.NewReader(b)); err == nil; {
		var text []byte
		if text, err = r.ReadBytes('\n'); err == io.EOF {
			return all, nil
		}
		var x T
		if json.Unmarshal(text, &x) != nil {
			return all, nil
		}
		if x.after() <= upTo {
			all = append(all, x)
		}
	}
	return all, err
}

// Append adds a line.
func (l *Lines[T]) Append(x T) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	if _, err := l.file.Write(append(b, '\n')); err != nil {
		return err
	}
	l.All = append(l.All, x)
	return nil
}

// Sync brings the file to the disk.
func (l *Lines[T]) Sync() error { return l.file.Sync() }

// Close closes the file.
func (l *Lines[T]) Close() error { return l.file.Close() }
