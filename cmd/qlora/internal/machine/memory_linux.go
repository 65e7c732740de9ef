package machine

import (
	"bufio"
	"os"
	"path"
	"strconv"
	"strings"
)

// AvailableMemory is what a program can still take without swapping: the kernel's own estimate, or what the control group
// leaves, whichever is less.
func AvailableMemory() (bytes int64, known bool) {
	bytes, known = memAvailable()
	if left, limited := groupMemory(); limited && (!known || left < bytes) {
		return left, true
	}
	return bytes, known
}

func memAvailable() (int64, bool) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) >= 2 && fields[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err == nil
		}
	}
	return 0, false
}

// groupMemory is limit − use of this process's control group, version 2.
func groupMemory() (int64, bool) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	name, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "0::")
	if !ok {
		return 0, false
	}
	limit, limited := readInt(path.Join("/sys/fs/cgroup", name, "memory.max"))
	used, known := readInt(path.Join("/sys/fs/cgroup", name, "memory.current"))
	return limit - used, limited && known
}

func readInt(name string) (int64, bool) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil // "max" is no limit
}
