//go:build linux || darwin

package machine

import "syscall"

// FreeDisk is the space on a folder's file system that this user may fill.
func FreeDisk(dir string) (bytes int64, known bool) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
