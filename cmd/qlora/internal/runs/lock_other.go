//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package runs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Lock keeps other runs out of the folder until it is closed, by a file with the process's number. A process that is killed leaves the file.
func (d Dir) Lock() (io.Closer, error) {
	f, err := os.OpenFile(d.Path(lockFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w; if no such process is left, remove %s", d.atWork(), d.Path(lockFile))
	}
	if err != nil {
		return nil, d.cannotWrite(err)
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		return nil, errors.Join(d.cannotWrite(err), f.Close(), os.Remove(f.Name()))
	}
	return lock{f}, nil
}

type lock struct{ f *os.File }

func (l lock) Close() error { return errors.Join(l.f.Close(), os.Remove(l.f.Name())) }

// Running says whether a process has the lock, or was killed while it had it.
func (d Dir) Running() bool {
	_, err := os.Stat(d.Path(lockFile))
	return err == nil
}

// syncFolder does nothing: here a folder cannot be synced.
func syncFolder(string) error { return nil }
