//go:build !linux && !darwin

package machine

// FreeDisk is not known on this system.
func FreeDisk(dir string) (bytes int64, known bool) { return 0, false }
