package second

import (
	"fmt"
	"sync"

	"qlora/ref/op"
)

// longest is how long the queue may be before it is worked off unasked.
const longest = 100

// do enqueues an operation. Its closure reads the device's memory when its turn comes, so that it sees what the calls before it
// have written, and none that come after.
func (d *Device) do(at op.At, f func() error) {
	d.enqueue(func() error {
		if err := f(); err != nil {
			return fmt.Errorf("%v: %w", at, err)
		}
		return nil
	})
}

func (d *Device) enqueue(f func() error) {
	if d.err != nil {
		return
	}
	if d.queue = append(d.queue, f); len(d.queue) >= longest {
		d.drain()
	}
}

// drain works the queue off, as far as the first error.
func (d *Device) drain() {
	queue := d.queue
	d.queue = nil
	for _, f := range queue {
		if d.err == nil {
			d.err = f()
		}
	}
}

func (d *Device) Sync() error {
	d.drain()
	return d.err
}

// write enqueues the copying of bytes that nobody else has.
func (d *Device) write(to, from []byte) {
	d.enqueue(func() error {
		copy(to, from)
		return nil
	})
}

// each calls f for 0 ≤ i < n, from the end, dealt among the device's goroutines.
func (d *Device) each(n int, f func(i int)) {
	var group sync.WaitGroup
	for g := range min(d.threads, n) {
		group.Go(func() {
			for i := n - 1 - g; i >= 0; i -= d.threads {
				f(i)
			}
		})
	}
	group.Wait()
}

// elements is each for work that is too little for a goroutine to take it one by one.
func (d *Device) elements(n int, f func(i int)) {
	const piece = 512
	d.each(blocks(n, piece), func(p int) {
		for i := min(n, (p+1)*piece) - 1; i >= p*piece; i-- {
			f(i)
		}
	})
}

// blocks is how many blocks of a size n elements are, the last one perhaps short.
func blocks(n, size int) int { return (n + size - 1) / size }
