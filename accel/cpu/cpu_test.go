package cpu

import (
	"slices"
	"strings"
	"testing"
	"unsafe"

	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/train"
)

// here is where the tests' operations stand.
var here = op.At{Layer: 2, Name: "test"}

func opened(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func filled(d op.Device, life op.Lifetime, x ...float32) *op.Tensor {
	t := d.New(life, "test/x", num.Float32, len(x), 1)
	d.Write(t, x)
	return t
}

// Memory that is given back is used again, and is zero; every tensor begins where a cache line does.
func TestMemory(t *testing.T) {
	d := opened(t, Options{})
	mark := d.Mark(op.Step)
	first := filled(d, op.Step, 1, 2, 3)
	filled(d, op.Step, 4)
	d.Release(mark)
	again := d.New(op.Step, "test/again", num.Float32, 3, 1)
	if &of(first).full[0] != &of(again).full[0] {
		t.Error("memory that was given back is not used again")
	}
	if got, err := d.Read(again); err != nil || got[0] != 0 || got[2] != 0 {
		t.Errorf("new memory holds %v, %v", got, err)
	}
	for _, n := range []int{1, 1000, slabSize} {
		x := d.New(op.Block, "test/x", num.BFloat16, n, 1)
		if at := uintptr(unsafe.Pointer(&of(x).half[0])); at%alignment != 0 {
			t.Errorf("a tensor of %d begins at %#x", n, at)
		}
	}
	if used := d.Arena().Used(); used != 12+2*(1+1000+slabSize) {
		t.Errorf("%d bytes are in use", used)
	}
}

// The first error sticks, with its place; later calls do nothing.
func TestFirstError(t *testing.T) {
	d := opened(t, Options{Cap: 1 << 20, Threads: 2})
	y, table, ids := filled(d, op.Run, 0, 0), filled(d, op.Run, 1, 2, 3), d.NewInts(op.Run, "test/ids", 2)
	d.WriteInts(ids, []int32{1, 3})
	d.Embedding(here, y, table, ids)
	d.New(op.Step, "test/large", num.Float32, 1<<20, 1)
	d.Add(here, y, y, y)
	_, err := d.Read(y)
	if err == nil || !strings.HasPrefix(err.Error(), "layers.2.test: ") || !strings.Contains(err.Error(), "token id 3 at 1") || err != d.Sync() {
		t.Error(err)
	}
	d = opened(t, Options{Cap: 1000})
	none := d.New(op.Step, "test/large", num.Float32, 1000, 1)
	d.Add(here, none, none, none)
	if err := d.Sync(); err == nil || !strings.Contains(err.Error(), "test/large") || d.Arena().Used() != 0 {
		t.Errorf("%v, %d bytes are in use", err, d.Arena().Used())
	}
}

// What operations compute in counts, too: above the cap the operation ends, and its error says what it wanted.
func TestWorkspaceIsCounted(t *testing.T) {
	d := opened(t, Options{Cap: 20 << 10, Threads: 1})
	x, w, y := d.New(op.Run, "test/x", num.Float32, 8, 100), d.New(op.Run, "test/w", num.Float32, 20, 100), d.New(op.Run, "test/y", num.Float32, 8, 20)
	d.Linear(here, y, x, op.Weight{Dense: w}, nil)
	err := d.Sync()
	if err == nil || !strings.Contains(err.Error(), "layers.2.test: memory limit: workspace/scratch needs") {
		t.Error(err)
	}
	if err == nil || !strings.Contains(err.Error(), "raise --memory-limit") {
		t.Error(err)
	}
}

// A session gives its memory back, not what operations have come to compute in since it began: that stays, and stays counted.
func TestWorkspaceStaysCounted(t *testing.T) {
	d := opened(t, Options{Threads: 2})
	s := situations()["first"]
	m, err := llama.New(d, s.config, s.options, llama.WeightsFunc(func(name string, shape []int) ([]float32, error) { return drawn(name, shape, 1), nil }))
	if err != nil {
		t.Fatal(err)
	}
	run := train.New(d, m, train.Config{AdamW: optim.AdamWConfig{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, Schedule: optim.Schedule{Kind: "constant"}})
	generate := func() error {
		return m.Generate([]int32{1, 2, 3}, 40, llama.Sampling{Choice: op.Choice{Temperature: 1, TopK: 5}, RepetitionPenalty: 1.1}, func(int32) bool { return true })
	}
	step := func() error { _, err := run.Step(s.batch()); return err }
	besides := d.Arena().Used() - held(d, "workspace")
	for i, f := range []func() error{generate, step, generate, step} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
		grown, holds := workspaceOf(d)
		if counted := held(d, "workspace"); counted == 0 || counted != grown || holds > counted {
			t.Errorf("after %d calls: %d bytes are counted, slots have grown to %d and hold %d", i+1, counted, grown, holds)
		}
		if now := d.Arena().Used() - held(d, "workspace"); now != besides {
			t.Errorf("after %d calls: %d bytes besides workspace, %d before", i+1, now, besides)
		}
	}
}

// workspaceOf is how large slots are, and how much of that they have taken: what was reserved and not asked for yet takes nothing.
func workspaceOf(d *Device) (grown, holds int64) {
	for _, s := range append(slices.Clone(d.workers), &d.shared) {
		for slot := range slots {
			grown += int64(4 * s.sizes[slot])
			holds += int64(4 * len(s.slots[slot]))
		}
	}
	return grown, holds
}

// RoPE widens tables that are not float32, and takes memory for these alone.
func TestWorkspaceOfRoPE(t *testing.T) {
	const positions, half = 4000, 4
	for table, takes := range map[num.DType]int64{num.Float32: 0, num.BFloat16: 2 * 4 * positions * half} {
		d := opened(t, Options{Threads: 1})
		x, y := d.New(op.Run, "test/x", num.BFloat16, 3, 2*half), d.New(op.Run, "test/y", num.BFloat16, 3, 2*half)
		cos, sin := d.New(op.Run, "test/cos", table, positions, half), d.New(op.Run, "test/sin", table, positions, half)
		at := d.NewInts(op.Run, "test/positions", 3)
		d.Add(here, y, x, x) // it takes pieces
		before := held(d, "workspace")
		d.RoPE(here, y, x, cos, sin, at)
		d.RoPEBackward(here, x, y, cos, sin, at)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		if got := held(d, "workspace") - before; got < takes || takes == 0 && got != 0 {
			t.Errorf("tables in %v take %d bytes, want %d", table, got, takes)
		}
	}
}

// Wrong shapes panic where they are called.
func TestWrongShapesPanic(t *testing.T) {
	d := opened(t, Options{})
	x := filled(d, op.Run, 1, 2)
	for name, call := range map[string]func(){
		"Add":   func() { d.Add(here, x, x, x.View(0, 1)) },
		"Write": func() { d.Write(x, make([]float32, 3)) },
		"Gate":  func() { d.Gate(here, x, x, x.View(1, 2), op.SiLU) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not panic", name)
				}
			}()
			call()
		}()
	}
	if err := d.Sync(); err != nil {
		t.Error(err)
	}
}
