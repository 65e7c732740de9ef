package cpu

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlora/accel/cpu/kernel"
	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/train"
)

// With room for half of the optimizer's state a training ends in the reference's bytes, and memory stays within the limit.
func TestPagedTraining(t *testing.T) {
	for name, c := range map[string]course{
		"32 bits": {compute: num.BFloat16, values: 1},
		"8 bits":  {compute: num.BFloat16, values: 1, eight: true, dropout: 0.1},
		"Lion":    {compute: num.BFloat16, values: 1, lion: true},
		"full":    {compute: num.BFloat16, values: 1, full: true},
	} {
		t.Run(name, func(t *testing.T) {
			c.steps = 4
			want, _ := trained(t, op.NewPlain(0), c)
			for _, threads := range []int{1, 2} {
				free := opened(t, Options{Kernel: kernel.Sets()[0], Threads: threads})
				trained(t, free, c)
				limit := free.Arena().Peak() - held(free, "optimizer")/2
				c.paged = true
				d := opened(t, Options{Cap: limit, Kernel: kernel.Sets()[0], Threads: threads})
				if got, _ := trained(t, d, c); !bytes.Equal(got, want) {
					t.Error("the states differ")
				}
				if peak := d.Arena().Peak(); peak > limit || peak < limit*9/10 {
					t.Errorf("%d bytes were in memory, the limit is %d", peak, limit)
				}
				c.paged = false
			}
		})
	}
}

// A device that only accounts pages as the other does: it has the same peaks under the same limit.
func TestAccountOnlyPages(t *testing.T) {
	s := situations()["first"]
	parts := func(o Options) []op.Part {
		d := opened(t, o)
		m, err := llama.New(d, s.config, s.options, llama.WeightsFunc(func(name string, shape []int) ([]float32, error) { return drawn(name, shape, 1), nil }))
		if err != nil {
			t.Fatal(err)
		}
		m.Checkpointing = true
		run := train.New(d, m, train.Config{AdamW: optim.AdamWConfig{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, Schedule: optim.Schedule{Kind: "constant"}, Paged: true})
		if err := d.PageTo(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := run.Step(s.batch()); err != nil {
				t.Fatal(err)
			}
		}
		return d.Arena().Parts()
	}
	o := Options{Threads: 2}
	for _, p := range parts(o) {
		o.Cap += p.AtPeak
	}
	o.Cap -= 20000
	want := parts(o)
	o.AccountOnly = true
	if got := parts(o); !slices.Equal(got, want) {
		t.Errorf("the device held\n%+v, accounted for were\n%+v", want, got)
	}
}

// Under every limit a training runs or says that there is no room, from its first tensor on, the same with values and without.
func TestEveryLimit(t *testing.T) {
	for name, change := range map[string]func(s *situation){
		"32 bits": func(s *situation) {},
		"8 bits":  func(s *situation) { s.eight, s.options.LoRA.R = true, 104 },
	} {
		t.Run(name, func(t *testing.T) {
			s := situations()["first"]
			s.lengths = [][]int{{5}}
			change(&s)
			free := opened(t, Options{Threads: 1, AccountOnly: true})
			if err := s.paged(free, t.TempDir()); err != nil {
				t.Fatal(err)
			}
			const limits = 80
			refused := 0
			for i := range int64(limits) {
				var said [2]error
				for k, accountOnly := range []bool{false, true} {
					d := opened(t, Options{Cap: max(1, free.Arena().Peak()*i/limits), Threads: 1, AccountOnly: accountOnly})
					said[k] = s.paged(d, t.TempDir())
					if err := d.Close(); err != nil {
						t.Error(err)
					}
				}
				if got, want := fmt.Sprint(said[1]), fmt.Sprint(said[0]); got != want {
					t.Errorf("%d of %d: %s\naccounted: %s", i, limits, want, got)
				}
				if said[0] != nil {
					refused++
					if !strings.Contains(said[0].Error(), "memory limit: ") {
						t.Errorf("%d of %d: %v", i, limits, said[0])
					}
				}
			}
			if refused == 0 || refused == limits {
				t.Errorf("%d of %d limits are too low", refused, limits)
			}
		})
	}
}

// paged trains two steps with pages, and saves. Nobody asks whether there is room before the first step.
func (s situation) paged(d *Device, dir string) error {
	m, err := llama.New(d, s.config, s.options, llama.WeightsFunc(func(name string, shape []int) ([]float32, error) { return drawn(name, shape, 1), nil }))
	if err != nil {
		return err
	}
	m.Checkpointing = s.checkpointing
	run := train.New(d, m, train.Config{
		AdamW:    optim.AdamWConfig{LR: 0.001, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8},
		Schedule: optim.Schedule{Kind: "constant"}, EightBit: s.eight, Paged: true,
	})
	if err := d.PageTo(dir); err != nil {
		return err
	}
	for range 2 {
		if _, err := run.Step(s.batch()); err != nil {
			return err
		}
	}
	return run.Save(filepath.Join(dir, "state"), "test")
}

// What is written and read brings pages in on a device that only accounts, too.
func TestAccountOnlyMovesPages(t *testing.T) {
	used := func(accountOnly bool) (used []int64) {
		d := opened(t, Options{Cap: 10000, Threads: 1, AccountOnly: accountOnly})
		var pages []*op.Tensor
		for i, n := range []int{500, 1000, 2000} { // of 4 bytes: the last alone
			pages = append(pages, d.New(op.Paged, fmt.Sprint("optimizer/", i), num.Float32, n, 1))
		}
		s := d.NewState8(op.Paged, "optimizer/s", 2500) // 5080 bytes
		if err := d.PageTo(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		for _, f := range []func(){
			func() { d.Write(pages[0], make([]float32, 500)) },
			func() { d.Read(pages[2]) },
			func() { d.Zero(pages[1]) },
			func() { d.WriteState8(s, optim.NewState8(2500)) },
			func() { d.Read(pages[2].View(10, 11)) },
			func() { d.ReadState8(s) },
		} {
			f()
			used = append(used, d.Arena().Used())
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		return used
	}
	want := used(false)
	if got := used(true); !slices.Equal(got, want) {
		t.Errorf("%v bytes are in memory after each, accounted for are %v", want, got)
	}
	if slices.Max(want) == slices.Min(want) {
		t.Error("no page left")
	}
}

// What is not there, or has no room, is not made.
func TestState8IsNotMade(t *testing.T) {
	const n = 1 << 50
	d := opened(t, Options{AccountOnly: true})
	d.NewState8(op.Run, "optimizer/s", n)
	if err := d.Sync(); err != nil || d.Arena().Used() != op.State8Bytes(n) {
		t.Errorf("%d bytes, %v", d.Arena().Used(), err)
	}
	d = opened(t, Options{Cap: 1 << 20})
	d.NewState8(op.Run, "optimizer/s", n)
	if err := d.Sync(); err == nil || !strings.HasPrefix(err.Error(), "memory limit: optimizer/s needs ") {
		t.Error(err)
	}
}

func held(d *Device, part string) int64 {
	for _, p := range d.Arena().Parts() {
		if p.Name == part {
			return p.Used
		}
	}
	return 0
}

// A page that comes in ahead of its use is there when it is used, whatever happens in between.
func TestBringIn(t *testing.T) {
	d := opened(t, Options{Cap: 1 << 20, Threads: 2})
	var pages []*op.Tensor
	for i := range 8 { // 256 KiB each: at most four
		pages = append(pages, d.New(op.Paged, fmt.Sprint("optimizer/", i), num.Float32, 1<<16, 1))
	}
	if err := d.PageTo(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	x := make([]float32, 1<<16)
	for i, p := range pages {
		x[i] = float32(i + 1)
		d.Write(p, x)
		x[i] = 0
	}
	between := []func(){
		func() {},
		func() { d.BringIn(pages[7]) },
		func() { d.Release(d.Mark(op.Step)) },
		func() { // the page has to leave again, for there is no room
			mark := d.Mark(op.Step)
			d.New(op.Step, "activations/x", num.Float32, 240<<10, 1)
			d.Release(mark)
		},
	}
	for round, f := range between {
		for i, p := range pages {
			d.BringIn(p)
			f()
			if got, err := d.Read(p); err != nil || got[i] != float32(i+1) || got[(i+1)%8] != 0 {
				t.Fatalf("round %d: page %d holds %v, %v", round, i, got[:8], err)
			}
		}
	}
	if peak := d.Arena().Peak(); peak > 1<<20 {
		t.Errorf("%d bytes were in memory", peak)
	}
}

// Memory that steps have used is given back when there is no room for pages otherwise.
func TestHeapsAreTrimmed(t *testing.T) {
	var h heap
	h.alloc(100)
	keep := h.top
	h.alloc(slabSize)
	h.alloc(2 * slabSize)
	h.top = keep
	h.trim()
	if len(h.slabs) != 1 {
		t.Errorf("%d slabs are left, want the one in use", len(h.slabs))
	}
	if b, fresh := h.alloc(slabSize); len(b) != slabSize || !fresh {
		t.Errorf("%d bytes, fresh %v", len(b), fresh)
	}
	h.top = top{}
	h.trim()
	if len(h.slabs) != 0 {
		t.Errorf("%d slabs are left, want none", len(h.slabs))
	}
}

// BenchmarkPagedAdamW is AdamW over 32 matrices of 2^20 parameters as a trainer steps over them, with room for all of their moments, 256 MiB,
// or for half.
func BenchmarkPagedAdamW(b *testing.B) {
	const count, n = 32, 1 << 20
	for name, limit := range map[string]int64{"all": 0, "half": count * n * (4 + 4 + 4)} {
		b.Run(name, func(b *testing.B) {
			d := opened(b, Options{Cap: limit + limit/1000})
			scalars, norm := d.New(op.Run, "optimizer/scalars", num.Float32, 1, optim.NumScalars), d.New(op.Run, "optimizer/norm", num.Float32, 1, 1)
			d.Write(scalars, optim.NewScalars(optim.AdamWConfig{LR: 1e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, 0, 1))
			type param struct{ p, g, m, v *op.Tensor }
			var params []param
			for i := range count {
				moments := d.New(op.Paged, fmt.Sprint("optimizer/", i), num.Float32, 2, n)
				params = append(params, param{d.New(op.Run, "adapter/p", num.Float32, 1, n), d.New(op.Run, "gradients/g", num.Float32, 1, n),
					moments.View(0, 1), moments.View(1, 2)})
			}
			if err := d.PageTo(b.TempDir()); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				for i, x := range params {
					for _, soon := range params[i:min(i+2, count)] {
						d.BringIn(soon.m)
					}
					d.AdamW(here, x.p, x.m, x.v, x.g, scalars, norm)
				}
				slices.Reverse(params)
			}
			if err := d.Sync(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
