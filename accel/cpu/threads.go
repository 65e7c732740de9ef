package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// tasks calls f for 0 ≤ task < n on the device's threads; w says on which. Who computes what has no influence on bits, for a task
// writes what no other reads or writes.
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
	helpers := take(threads - 1)
	jobs := make([]job, len(helpers))
	for t, h := range helpers {
		jobs[t].run = func() { run(d.workers[t+1]) }
		h.give(&jobs[t])
	}
	run(d.workers[0])
	for t, h := range helpers {
		h.await(&jobs[t])
	}
	giveBack(helpers)
}

// Operations follow each other within microseconds, and to wake a thread takes longer than many of them. So helpers are goroutines that
// all devices share; each looks for its next job a while before it sleeps.

// helper is a goroutine that runs one job after the other.
type helper struct {
	job    atomic.Pointer[job]
	asleep atomic.Bool
	wake   chan struct{}
}

type job struct {
	run  func()
	done atomic.Bool
}

// idle are helpers that have no job.
var idle struct {
	sync.Mutex
	helpers []*helper
}

// take gives n helpers.
func take(n int) []*helper {
	idle.Lock()
	defer idle.Unlock()
	for len(idle.helpers) < n {
		h := &helper{wake: make(chan struct{}, 1)}
		go h.work()
		idle.helpers = append(idle.helpers, h)
	}
	at := len(idle.helpers) - n
	taken := append([]*helper(nil), idle.helpers[at:]...)
	idle.helpers = idle.helpers[:at]
	return taken
}

func giveBack(helpers []*helper) {
	idle.Lock()
	defer idle.Unlock()
	idle.helpers = append(idle.helpers, helpers...)
}

func (h *helper) work() {
	for {
		j := h.next()
		j.run()
		j.done.Store(true)
	}
}

// patience is how often a helper looks for a job before it sleeps: about a tenth of a millisecond.
const patience = 200000

func (h *helper) next() *job {
	for {
		for i := range patience {
			if h.job.Load() != nil {
				if j := h.job.Swap(nil); j != nil {
					return j
				}
			}
			if i%1000 == 999 {
				runtime.Gosched()
			}
		}
		h.asleep.Store(true)
		if h.job.Load() == nil || !h.asleep.CompareAndSwap(true, false) {
			<-h.wake
		}
	}
}

func (h *helper) give(j *job) {
	h.job.Store(j)
	if h.asleep.CompareAndSwap(true, false) {
		h.wake <- struct{}{}
	}
}

// await takes back a job that has not begun, or waits for its end.
func (h *helper) await(j *job) {
	if h.job.CompareAndSwap(j, nil) {
		return
	}
	for i := 1; !j.done.Load(); i++ {
		if i%1000 == 0 {
			runtime.Gosched()
		}
	}
}

const (
	// piece is how many elements an elementwise operation goes through at a time: their float32 stay in the first-level cache.
	piece = 2048
	// alone is how many elements are too few to ask another thread for help.
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
