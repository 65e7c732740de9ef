package runs

import (
	"fmt"
	"os"
	"strings"
)

// atWork is the error where another process has the lock.
func (d Dir) atWork() error {
	process := ""
	if b, err := os.ReadFile(d.Path(lockFile)); err == nil && len(b) > 0 {
		process = ", process " + strings.TrimSpace(string(b))
	}
	return fmt.Errorf("another run is at work in %s%s: wait for its end or stop it, or give another --output", d, process)
}

func (d Dir) cannotWrite(err error) error {
	return fmt.Errorf("output_dir %s cannot be written to: %w", d, err)
}
