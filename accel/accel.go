// Package accel knows the devices: what each is, whether it is here, and which one is taken unless another is asked for.
package accel

import (
	"fmt"
	"strings"

	"qlora/accel/cpu"
	"qlora/ref/op"
)

// Entry is a device by its name.
type Entry struct {
	Name string
	// Find says what is there, or why there is nothing.
	Find func() (what string, err error)
	// Open makes the device, which may hold cap bytes; 0 is no limit.
	Open func(cap int64) (op.Device, error)
}

// Entries are all devices, in the order in which Auto tries them.
var Entries = []Entry{
	{"cuda", missing, nil},
	{"vulkan", missing, nil},
	{"cpu", findCPU, openCPU},
	{"ref", findRef, openRef},
}

func missing() (string, error) { return "", fmt.Errorf("not part of this program yet") }

func openCPU(cap int64) (op.Device, error) { return cpu.New(cpu.Options{Cap: cap}) }

func findCPU() (string, error) {
	d, err := cpu.New(cpu.Options{})
	if err != nil {
		return "", err
	}
	return d.Describe() + "; the reference's bits", nil
}

func openRef(cap int64) (op.Device, error) { return op.NewPlain(cap), nil }
func findRef() (string, error)             { return "the specification in plain Go, one core", nil }

// Auto is the name under which Open takes the first device that is there.
const Auto = "auto"

// Open makes the device of a name.
func Open(name string, cap int64) (op.Device, error) {
	var names []string
	for _, e := range Entries {
		if _, err := e.Find(); name == Auto && err == nil || name == e.Name {
			if err != nil {
				return nil, fmt.Errorf("device %s: %w", name, err)
			}
			return e.Open(cap)
		}
		names = append(names, e.Name)
	}
	return nil, fmt.Errorf("device %q: want %s or %s", name, Auto, strings.Join(names, ", "))
}

// Known says whether there is a device of a name, here or elsewhere.
func Known(name string) bool {
	for _, e := range Entries {
		if e.Name == name {
			return true
		}
	}
	return name == Auto
}
