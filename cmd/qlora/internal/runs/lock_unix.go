//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package runs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Lock keeps other runs out of the folder until it is closed or the process ends, however it ends. File systems that have no locks are
// used without.
func (d Dir) Lock() (io.Closer, error) {
	f, err := os.OpenFile(d.Path(lockFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, d.cannotWrite(err)
	}
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		f.Close()
		return nil, d.atWork()
	case err != nil && !errors.Is(err, errors.ErrUnsupported):
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	if err := writeProcess(f); err != nil {
		f.Close()
		return nil, d.cannotWrite(err)
	}
	return f, nil
}

func writeProcess(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := fmt.Fprintln(f, os.Getpid())
	return err
}

// Running says whether a process has the lock.
func (d Dir) Running() bool {
	f, err := os.Open(d.Path(lockFile))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// syncFolder brings a folder's names to the disk.
func syncFolder(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", name, err)
	}
	return nil
}
