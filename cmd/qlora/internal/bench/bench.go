// Package bench measures the CPU device: each kernel against what binds it, and training steps.
//
// What binds a kernel is measured in the same run, between its own repetitions, so that a machine that is busy or clocks down is so for both:
// how fast the processor multiplies and adds (peak), how fast memory is read (read) and copied (copy), or another kernel. Numbers are medians.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"qlora/accel/cpu"
	"qlora/accel/cpu/kernel"
)

// Options say what is measured.
type Options struct {
	Threads  []int          // each kernel is measured on so many; steps on the most of them
	Only     *regexp.Regexp // of the names of cases; nil is all
	Quick    bool           // small shapes and few repetitions: whether everything runs, not how fast
	Sweep    bool           // steps of more lengths and on every number of threads
	Fast     bool           // cpu.Options.Fast
	Progress func(done, of int)
}

// Report is what was measured.
type Report struct {
	Machine Machine  `json:"machine"`
	Limits  []Limit  `json:"limits"`
	Kernels []Kernel `json:"kernels"`
	Steps   []Step   `json:"steps"`
}

// Machine is what measured.
type Machine struct {
	CPU     string `json:"cpu"`
	Threads int    `json:"threads"` // that the processor runs at a time
	Kernels string `json:"kernel_set"`
	Math    string `json:"math"` // exact, fast
	Go      string `json:"go"`
}

// Limit is one of the machine's, the best of its repetitions.
type Limit struct {
	Name    string  `json:"name"`
	Threads int     `json:"threads"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
}

// Kernel is one operation of the device, or a loop under it. Limit is what binds it, in the same unit, where something is named that does.
type Kernel struct {
	Name    string  `json:"name"`
	Shape   string  `json:"shape"`
	Threads int     `json:"threads"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Of      string  `json:"of,omitempty"` // the limit's name
	Limit   float64 `json:"limit,omitempty"`
	Percent float64 `json:"percent,omitempty"` // of the limit
	Seconds float64 `json:"seconds"`           // a call
}

// entry is something to measure, by the name that --only selects.
type entry struct {
	name    string
	measure func(ctx context.Context) error // adds to the report
}

// ErrNone says that nothing is selected.
var ErrNone = errors.New("nothing has such a name")

// Run measures what o selects, and gives what was measured before ctx was done, too.
func Run(ctx context.Context, o Options) (*Report, error) {
	set, err := kernel.Choose()
	if err != nil {
		return nil, err
	}
	math := "exact"
	if o.Fast {
		if err := cpu.Fast(); err != nil {
			return nil, err
		}
		math = "fast"
	}
	s := ordinary
	if o.Quick {
		s = quick
	}
	r := &runner{set: set, sizes: s, fast: o.Fast, most: slices.Max(o.Threads)}
	r.report = Report{
		Machine: Machine{CPU: processor(), Threads: runtime.NumCPU(), Kernels: set.Name, Math: math, Go: runtime.Version()},
		Limits:  []Limit{}, Kernels: []Kernel{}, Steps: []Step{},
	}
	var names []string
	var todo []entry
	for _, e := range append(r.kernels(o.Threads), r.steps(o.Sweep)...) {
		if !slices.Contains(names, e.name) {
			names = append(names, e.name)
		}
		if o.Only == nil || o.Only.MatchString(e.name) {
			todo = append(todo, e)
		}
	}
	if todo == nil {
		return nil, fmt.Errorf("%w; these are there:\n%s", ErrNone, strings.Join(names, "\n"))
	}
	for i, e := range todo {
		if err := cmp.Or(ctx.Err(), e.measure(ctx)); err != nil {
			return &r.report, err
		}
		o.Progress(i+1, len(todo))
	}
	return &r.report, nil
}

// runner adds to a report.
type runner struct {
	report Report
	set    *kernel.Set
	sizes  sizes
	fast   bool
	most   int         // threads
	memory [][]float32 // one a thread: see machine.buffers
}

// kernels are all limits and kernels, on each number of threads.
func (r *runner) kernels(threads []int) (all []entry) {
	for _, n := range threads {
		m := &machine{runner: r, threads: n}
		for _, l := range limits {
			all = append(all, entry{l.name, func(ctx context.Context) error {
				best, unit, err := m.best(ctx, l)
				if err == nil {
					r.report.Limits = append(r.report.Limits, Limit{l.name, n, best, unit})
				}
				return err
			}})
		}
		for _, k := range kernels(r.sizes) {
			all = append(all, entry{k.name + " " + k.shape, func(ctx context.Context) error {
				one, err := m.measure(ctx, k)
				if err == nil {
					r.report.Kernels = append(r.report.Kernels, one)
				}
				debug.FreeOSMemory()
				return err
			}})
		}
	}
	return all
}

// processor is the name that the system has for it, or its architecture.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	if name := regexp.MustCompile(`(?m)^model name\s*:\s*(.*)$`).FindSubmatch(info); name != nil {
		return strings.TrimSpace(string(name[1]))
	}
	return runtime.GOARCH
}
