//go:build !linux

package machine

// AvailableMemory is not known on this system.
func AvailableMemory() (bytes int64, known bool) { return 0, false }
