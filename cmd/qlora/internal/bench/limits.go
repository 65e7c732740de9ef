package bench

import (
	"sync"

	"qlora/accel/cpu"
)

// machine is some threads of the machine.
type machine struct {
	*runner
	threads int
	device  *cpu.Device // of the kernel that is measured
}

// The machine's limits.
var (
	peak = limit{"peak", bestOf, func(m *machine) work {
		const rounds = 1_000_000 // some milliseconds: long beside the start of a thread
		flops := m.set.Peak(rounds)
		return work{"GFLOP/s", float64(flops * m.threads), func(int) { m.each(func(int) { m.set.Peak(rounds) }) }}
	}}
	read = limit{"read", bestOf, func(m *machine) work {
		b := m.buffers()
		return work{"GB/s", float64(m.bytes()), func(int) { m.each(func(t int) { m.set.Read(b[t]) }) }}
	}}
	// copied counts what is read and what is written.
	copied = limit{"copy", bestOf, func(m *machine) work {
		b := m.buffers()
		return work{"GB/s", float64(m.bytes()), func(int) {
			m.each(func(t int) { copy(b[t][len(b[t])/2:], b[t][:len(b[t])/2]) })
		}}
	}}
	limits = []limit{peak, read, copied}
)

// limit is what binds a kernel.
type limit struct {
	name    string
	samples int // of which the best counts
	setUp   func(m *machine) work
}

// each calls f on all threads.
func (m *machine) each(f func(thread int)) {
	var group sync.WaitGroup
	for t := 1; t < m.threads; t++ {
		group.Go(func() { f(t) })
	}
	f(0)
	group.Wait()
}

// mostMemory is how much all buffers are together, at most: on many threads each is smaller.
const mostMemory = 8 << 30

// buffers are memory that no cache holds, one a thread. It is written to, for pages that never were are all one page of zeros.
func (m *machine) buffers() [][]float32 {
	for len(m.memory) < m.threads {
		b := make([]float32, min(m.sizes.buffer, mostMemory/m.most)/4&^255)
		for i := range b {
			b[i] = 1
		}
		m.memory = append(m.memory, b)
	}
	return m.memory[:m.threads]
}

func (m *machine) bytes() int { return 4 * len(m.memory[0]) * m.threads }
