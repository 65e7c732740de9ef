package cpu

import (
	"strings"
	"testing"
	"unsafe"

	"qlora/ref/num"
	"qlora/ref/op"
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
