// Package machine says what memory and disk there is, so that what cannot end well is refused before it begins.
package machine

import (
	"fmt"

	"qlora/ref/op"
)

// CheckMemory refuses to begin what needs more memory than there is. Where that is not known, it lets everything begin.
func CheckMemory(what string, need int64) error {
	if have, known := AvailableMemory(); known && need > have {
		return fmt.Errorf("%s needs %s of memory, %s are available: close other programs or take a smaller model", what, op.Bytes(need), op.Bytes(have))
	}
	return nil
}

// CheckDisk refuses to begin what needs more disk than there is.
func CheckDisk(dir string, need int64) error {
	if have, known := FreeDisk(dir); known && need > have {
		return fmt.Errorf("%s: %s are to be written, %s are free there: make room or choose another disk", dir, op.Bytes(need), op.Bytes(have))
	}
	return nil
}
