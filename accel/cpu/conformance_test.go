package cpu_test

import (
	"fmt"
	"testing"

	"qlora/accel/cpu"
	"qlora/accel/cpu/kernel"
	"qlora/conformance"
	"qlora/ref/op"
)

// Every set of kernels passes the suite; the best one at its quick level.
func TestConformance(t *testing.T) {
	sets := kernel.Sets()
	for i, k := range sets {
		level := conformance.Smoke
		if i == len(sets)-1 {
			level = conformance.Quick
		}
		t.Run(fmt.Sprintf("%s, %v", k.Name, level), func(t *testing.T) {
			conformance.Run(t, level, func() (op.Device, error) { return cpu.New(cpu.Options{Kernel: k, Threads: i + 1}) })
		})
	}
}
