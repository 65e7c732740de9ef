package cpu

import (
	"sync"
	"sync/atomic"
)

// tasks calls f for 0 ≤ task < n on the device's threads; worker says on which. Who computes what has no influence on bits, for a
// task writes what no other reads or writes.
func (d *Device) tasks(n int, f func(w *scratch, task int)) {
	threads := min(d.threads, n)
	if threads <= 1 {
		for i := range n {
			f(d.workers[0], i)
		}
		return
	}
	var next atomic.Int64
	run := func(w *scratch) {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			f(w, i)
		}
	}
	var group sync.WaitGroup
	for t := 1; t < threads; t++ {
		group.Go(func() { run(d.workers[t]) })
	}
	run(d.workers[0])
	group.Wait()
}

const (
	// piece is how many elements an elementwise operation goes through at a time: their float32 stay in the first-level cache.
	piece = 2048
	// alone is how many elements are too few to wake another thread for.
	alone = 2 * piece
)

// elements calls f for pieces of 0…n.
func (d *Device) elements(n int, f func(w *scratch, from, to int)) {
	d.spread(n, piece, n, f)
}

// rows calls f for runs of rows of cols elements, each run about a piece.
func (d *Device) rows(rows, cols int, f func(w *scratch, from, to int)) {
	d.spread(rows, max(1, piece/max(cols, 1)), rows*cols, f)
}

// spread cuts 0…n into runs of step, and deals them among threads if the work is enough.
func (d *Device) spread(n, step, work int, f func(w *scratch, from, to int)) {
	run := func(w *scratch, task int) { f(w, task*step, min(n, (task+1)*step)) }
	count := ceil(n, step)
	if work <= alone {
		for i := range count {
			run(d.workers[0], i)
		}
		return
	}
	d.tasks(count, run)
}

func ceil(n, size int) int    { return (n + size - 1) / size }
func roundUp(n, size int) int { return ceil(n, size) * size }
