package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"qlora/accel/cpu"
)

// work is something to be timed. A call does amount of what the unit counts in billions a second; calls are numbered, so that they can
// take turns with data that no cache keeps.
type work struct {
	unit   string
	amount float64
	call   func(i int)
}

const (
	longest = 5 * time.Second // of all samples of a kernel, once there are fewest
	fewest  = 3
	bestOf  = 3 // a sample of the machine's limits: what other programs take from them is no limit of the machine
)

// sample is how fast w is, in as many calls as take some time: seconds a call, and its amount in billions a second.
func (w work) sample(first int, shortest time.Duration) (seconds, rate float64, calls int) {
	begun := time.Now()
	for calls == 0 || time.Since(begun) < shortest {
		w.call(first + calls)
		calls++
	}
	seconds = time.Since(begun).Seconds() / float64(calls)
	return seconds, w.amount / seconds / 1e9, calls
}

// greatest is the rate of the best of some samples.
func (w work) greatest(of int, shortest time.Duration) (best float64) {
	for range of {
		_, rate, _ := w.sample(0, shortest)
		best = max(best, rate)
	}
	return best
}

// best is a limit by itself.
func (m *machine) best(ctx context.Context, l limit) (value float64, unit string, err error) {
	w := l.setUp(m)
	for range m.sizes.samples {
		if err := ctx.Err(); err != nil {
			return 0, "", err
		}
		value = max(value, w.greatest(l.samples, m.sizes.shortest))
	}
	return value, w.unit, nil
}

// measure takes samples of a kernel and of its limit in turn.
func (m *machine) measure(ctx context.Context, k spec) (Kernel, error) {
	result := Kernel{Name: k.name, Shape: k.shape, Threads: m.threads}
	var err error
	if m.device, err = cpu.New(cpu.Options{Threads: m.threads, Kernel: m.set, Fast: m.fast}); err != nil {
		return result, err
	}
	defer func() { m.device = nil }()
	w := k.setUp(m)
	var against work
	if k.against.setUp != nil {
		against = k.against.setUp(m)
	}
	w.call(0) // takes its scratch memory
	var seconds, rates, bounds []float64
	next := 1
	for begun := time.Now(); len(rates) < m.sizes.samples && (len(rates) < fewest || time.Since(begun) < longest); {
		if err := ctx.Err(); err != nil {
			return result, err
		}
		if against.call != nil {
			bounds = append(bounds, against.greatest(k.against.samples, m.sizes.shortest))
		}
		s, rate, calls := w.sample(next, m.sizes.shortest)
		seconds, rates, next = append(seconds, s), append(rates, rate), next+calls
	}
	if err := m.device.Sync(); err != nil {
		return result, fmt.Errorf("%s %s: %w", k.name, k.shape, err)
	}
	result.Value, result.Unit, result.Seconds = median(rates), w.unit, median(seconds)
	if against.call != nil {
		result.Of, result.Limit = k.against.name, median(bounds)
		result.Percent = 100 * result.Value / result.Limit
	}
	return result, nil
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}
