package op_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlora/ref/num"
	. "qlora/ref/op"
	"qlora/ref/optim"
)

// paged is n values that live paged.
func paged(d Device, name string, n int) *Tensor {
	return d.New(Paged, "optimizer/"+name, num.Float32, n, 1)
}

// What has no room leaves, the least recently used first, and comes back as it was.
func TestPages(t *testing.T) {
	d := NewPlain(100)
	a, b, c := paged(d, "a", 10), paged(d, "b", 10), paged(d, "c", 10) // 40 bytes each: one has left already
	if err := d.PageTo(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	d.Write(a, slices.Repeat([]float32{1}, 10))
	d.Write(b, slices.Repeat([]float32{2}, 10))
	d.Write(c.View(5, 10), slices.Repeat([]float32{3}, 5))
	if d.Arena().Used() != 80 || d.Arena().Peak() != 80 {
		t.Errorf("%d bytes are in memory, %d at most", d.Arena().Used(), d.Arena().Peak())
	}
	mark := d.Mark(Step)
	d.New(Step, "activations/x", num.Float32, 20, 1)
	if d.Arena().Used() != 80 {
		t.Errorf("%d bytes are in memory beside 80 others", d.Arena().Used())
	}
	d.Release(mark)
	d.Write(b, slices.Repeat([]float32{4}, 10))
	for i, x := range []*Tensor{b, a, c, b} { // b leaves after it was read
		if got, want := read(t, d, x), []float32{4, 1, 3, 4}[i]; got[9] != want {
			t.Errorf("%s holds %v, want %v", x.Name, got, want)
		}
	}
	if got := read(t, d, c); got[4] != 0 || got[5] != 3 {
		t.Errorf("c holds %v", got)
	}
	if d.Arena().Peak() > 100 {
		t.Errorf("%d bytes were in memory", d.Arena().Peak())
	}
}

// A page alone may be too large, and so may be what an operation needs at once.
func TestPagesWithoutRoom(t *testing.T) {
	d := NewPlain(100)
	paged(d, "small", 10)
	paged(d, "large", 26)
	if err := d.Sync(); err == nil || !strings.Contains(err.Error(), "memory limit: optimizer/large needs 104 B") {
		t.Error(err)
	}
	for limit, want := range map[int64]string{200: "", 190: "layers.3.test: memory limit: optimizer/m needs 40 B"} {
		d := NewPlain(limit)
		p, g := d.New(Run, "adapter/p", num.Float32, 10, 1), d.New(Run, "adapter/g", num.Float32, 10, 1)
		scalars, norm := d.New(Run, "optimizer/scalars", num.Float32, 1, optim.NumScalars), d.New(Run, "optimizer/norm", num.Float32, 1, 1)
		d.AdamW(here, p, paged(d, "m", 10), paged(d, "v", 10), g, scalars, norm) // beside 120 others
		if err := d.Sync(); (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

// A page for which there was no room is none.
func TestPagesOf(t *testing.T) {
	d := NewPlain(100)
	a := paged(d, "a", 20)
	paged(d, "large", 50)
	none := paged(d, "none", 1)
	if got := PagesOf(none.Handle, a.Handle, nil, 1, a.Handle, none.Handle); len(got) != 1 || !got[0].Here() {
		t.Errorf("%v", got)
	}
}

// What is written to an 8-bit state, and what is read from it, is the caller's: neither is the state itself.
func TestState8IsCopied(t *testing.T) {
	for _, life := range []Lifetime{Run, Paged} {
		d := NewPlain(0)
		s, x := d.NewState8(life, "optimizer/s", 300), optim.NewState8(300)
		x.M[299], x.AbsmaxV[1] = 7, 0.5
		d.WriteState8(s, x)
		x.M[299], x.V[0], x.AbsmaxM[0], x.AbsmaxV[1] = 1, 1, 1, 1
		first, err := d.ReadState8(s)
		if err != nil {
			t.Fatal(err)
		}
		first.M[0], first.AbsmaxV[0] = 9, 9
		got, err := d.ReadState8(s)
		if err != nil || got.M[299] != 7 || got.V[0] != 0 || got.AbsmaxM[0] != 0 || got.AbsmaxV[1] != 0.5 || got.M[0] != 0 || got.AbsmaxV[0] != 0 {
			t.Errorf("%v: %+v, %v", life, got, err)
		}
	}
}

// The size of a state is known without one, so that what has no room is never made.
func TestState8Bytes(t *testing.T) {
	for _, n := range []int{1, 255, 256, 257, 5000} {
		if got, want := State8Bytes(n), int64(optim.NewState8(n).Bytes()); got != want {
			t.Errorf("%d parameters: %d bytes, want %d", n, got, want)
		}
	}
	d := NewPlain(1 << 20)
	d.NewState8(Run, "optimizer/s", 1<<50)
	if err := d.Sync(); err == nil || !strings.Contains(err.Error(), "memory limit: optimizer/s needs ") {
		t.Error(err)
	}
}

// Without a folder nothing that was written can leave; what is zero still needs no file.
func TestPagesWithoutFolder(t *testing.T) {
	d := NewPlain(100)
	a, b := paged(d, "a", 20), paged(d, "b", 20)
	if got := read(t, d, a); got[0] != 0 {
		t.Error(got)
	}
	d.Write(b, make([]float32, 20))
	read(t, d, b)
	if _, err := d.Read(a); err == nil || !strings.Contains(err.Error(), "optimizer/b has to leave memory") {
		t.Error(err)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if err := d.PageTo(missing); err == nil || !strings.Contains(err.Error(), missing) {
		t.Error(err)
	}
}

// Nothing is left in the folder, even while the run goes on.
func TestPagesLeaveNothing(t *testing.T) {
	d, dir := NewPlain(100), t.TempDir()
	a := paged(d, "a", 20)
	if err := d.PageTo(dir); err != nil {
		t.Fatal(err)
	}
	d.Write(a, make([]float32, 20))
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("%v, %v", names, err)
	}
}

// FuzzPages holds pages against values that never leave: what is read is what was written last, under any limit, beside other memory
// that comes and goes, and never is there more than the limit. The first error is that there is no room, and then there is none.
func FuzzPages(f *testing.F) {
	f.Add(uint16(3000), []byte("\x00\x01\x02\x03\x40\x41\x42\x43\x80\x90\x40\x41\xc0\x42\x43\x00\x41\x04\x45\x44"))
	f.Add(uint16(2100), []byte("\x00\x41\x02\x43\x04\x45\x06\x47\x40\x81\x41\x82\x42\x83\x43\xc0\x44\x05\x46\x07\x40"))
	f.Add(uint16(0), []byte("\x00\x41\xff"))
	f.Fuzz(func(t *testing.T, limit uint16, ops []byte) {
		d := NewPlain(int64(limit))
		var tensors []*Tensor
		var states []*State8
		for i := range 4 {
			tensors = append(tensors, paged(d, fmt.Sprint("t", i), 100*(i+1)))
			states = append(states, d.NewState8(Paged, fmt.Sprint("optimizer/s", i), 150*(i+1)))
		}
		if err := d.PageTo(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		values, codes := make([]float32, 4), make([]byte, 4)
		mark := d.Mark(Step)
		for now, o := range ops {
			i := int(o & 3)
			switch kind := o >> 6; {
			case kind == 0 && o&4 == 0:
				values[i] = float32(now)
				d.Write(tensors[i], slices.Repeat(values[i:i+1], tensors[i].Len()))
			case kind == 0:
				codes[i] = byte(now)
				s := optim.NewState8(states[i].Len)
				s.V[states[i].Len-1], s.AbsmaxV[0] = codes[i], float32(codes[i])
				d.WriteState8(states[i], s)
			case kind == 1 && o&4 == 0:
				if x, err := d.Read(tensors[i]); err == nil && (x[0] != values[i] || x[len(x)-1] != values[i]) {
					t.Fatalf("%s holds %v to %v, want %v", tensors[i].Name, x[0], x[len(x)-1], values[i])
				}
			case kind == 1:
				if s, err := d.ReadState8(states[i]); err == nil && (s.V[states[i].Len-1] != codes[i] || s.AbsmaxV[0] != float32(codes[i])) {
					t.Fatalf("%s holds %v and %v, want %v", states[i].Name, s.V[states[i].Len-1], s.AbsmaxV[0], codes[i])
				}
			case kind == 2:
				d.New(Step, "activations/x", num.Float32, int(o&63)*10, 1)
			default:
				d.Release(mark)
			}
			if a := d.Arena(); limit > 0 && a.Peak() > int64(limit) {
				t.Fatalf("%d bytes were in memory, the limit is %d", a.Peak(), limit)
			}
		}
		if err := d.Sync(); err != nil && !strings.HasPrefix(err.Error(), "memory limit: ") {
			t.Fatal(err)
		}
	})
}
