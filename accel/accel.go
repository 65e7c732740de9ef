// Package accel knows the devices: what each is, whether it is here, and which one is taken unless another is asked for.
package accel

import (
	"errors"
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
	// Open makes the device.
	Open func(Options) (op.Device, error)
}

// Options say how a device computes.
type Options struct {
	Cap  int64 // bytes that it may hold; 0 is no limit
	Fast bool  // where that is faster, within the bounds of an arithmetic that it declares instead of the reference's bits

	// AccountOnly makes a device that counts the memory of another's calls and computes nothing.
	AccountOnly bool
}

// Entries are all devices, in the order in which Auto tries them.
var Entries = []Entry{
	{"cuda", missing, nil},
	{"vulkan", missing, nil},
	{"cpu", findCPU, openCPU},
	{"ref", findRef, openRef},
}

func missing() (string, error) { return "", fmt.Errorf("not part of this program yet") }

func openCPU(o Options) (op.Device, error) {
	return cpu.New(cpu.Options{Cap: o.Cap, Fast: o.Fast, AccountOnly: o.AccountOnly})
}

func findCPU() (string, error) {
	d, err := cpu.New(cpu.Options{})
	if err != nil {
		return "", err
	}
	what := d.Describe() + "; the reference's bits"
	if err := cpu.Fast(); err != nil {
		return what + "; no math fast: " + err.Error(), nil
	}
	return what + "; with math fast within bounds of them, by AVX512-BF16", nil
}

func openRef(o Options) (op.Device, error) {
	if o.Fast {
		return nil, fmt.Errorf("there is no math fast: the reference says what is exact")
	}
	if o.AccountOnly {
		return nil, ErrNoAccount
	}
	return op.NewPlain(o.Cap), nil
}

// ErrNoAccount says that a device cannot be opened with AccountOnly.
var ErrNoAccount = errors.New("its arena does not count what operations compute in, so that nothing says how much memory a run will take")

func findRef() (string, error) { return "the specification in plain Go, one core", nil }

// Auto is the name under which Open takes the first device that is there.
const Auto = "auto"

// Open makes the device of a name. There is always a processor: what is wrong with that one is wrong with how it was asked for, and no
// reason to take the reference in silence.
func Open(name string, o Options) (op.Device, error) {
	var names []string
	for _, e := range Entries {
		_, err := e.Find()
		if taken := name == Auto && (err == nil || e.Name == "cpu"); taken || name == e.Name {
			var d op.Device
			if err == nil {
				d, err = e.Open(o)
			}
			if err != nil {
				return nil, fmt.Errorf("device %s: %w", e.Name, err)
			}
			return d, nil
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
