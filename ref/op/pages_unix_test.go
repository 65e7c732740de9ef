//go:build unix

package op_test

import (
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	. "qlora/ref/op"
)

// A disk that has no room for pages that are sure to leave is found before the first step, and what was written to it is given back.
func TestFullDisk(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	small := before
	small.Cur = 64 << 10
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before)
	d, dir := NewPlain(500<<10), t.TempDir()
	paged(d, "a", 100<<10)
	paged(d, "b", 100<<10)
	err := d.PageTo(dir)
	if err == nil || !strings.Contains(err.Error(), "needs 800.0 KiB in "+dir) || !strings.Contains(err.Error(), "make room there") {
		t.Error(err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("%v, %v", names, err)
	}
}
