package op

import (
	"os"
	"slices"
	"strings"
	"testing"

	"qlora/ref/num"
	"qlora/ref/optim"
)

// leaving is a device on which a page of ones has left memory for another.
func leaving(t *testing.T) (*Plain, *Tensor, *os.File) {
	t.Helper()
	d := NewPlain(100)
	a, b := d.New(Paged, "optimizer/a", num.Float32, 20, 1), d.New(Paged, "optimizer/b", num.Float32, 20, 1)
	if err := d.PageTo(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	d.Write(a, slices.Repeat([]float32{1}, 20))
	d.Write(b, slices.Repeat([]float32{2}, 20))
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	return d, a, d.pages.file
}

// What the file does not have as it was written is an error that names it, not a state that is trained on.
func TestLostWrites(t *testing.T) {
	for name, lose := range map[string]func(f *os.File) error{
		"zeros":     func(f *os.File) error { _, err := f.WriteAt(make([]byte, 80), 0); return err },
		"a bit":     func(f *os.File) error { _, err := f.WriteAt([]byte{0x81}, 78); return err }, // of 0x3f800000
		"cut short": func(f *os.File) error { return f.Truncate(40) },
	} {
		d, a, file := leaving(t)
		if err := lose(file); err != nil {
			t.Fatal(err)
		}
		_, err := d.Read(a)
		if err == nil || !strings.Contains(err.Error(), "optimizer/a comes back to memory: "+file.Name()) || !strings.Contains(err.Error(), "resume from the last checkpoint") {
			t.Errorf("%s: %v", name, err)
		}
	}
	d, a, _ := leaving(t)
	if x, err := d.Read(a); err != nil || x[19] != 1 {
		t.Errorf("nothing is lost: %v, %v", x, err)
	}
}

// The same for codes and scales of 8 bits.
func TestLostWritesOf8Bits(t *testing.T) {
	for at := range State8Bytes(300) {
		d := NewPlain(1000)
		a, b := d.NewState8(Paged, "optimizer/a", 300), d.NewState8(Paged, "optimizer/b", 300)
		if err := d.PageTo(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		d.WriteState8(a, optim.NewState8(300))
		d.WriteState8(b, optim.NewState8(300))
		if _, err := d.pages.file.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ReadState8(a); err == nil || !strings.Contains(err.Error(), "not those that were written") {
			t.Fatalf("byte %d: %v", at, err)
		}
		d.Close()
	}
}

// The file is filled before the first step if something is sure to leave; otherwise it takes no room until something does.
func TestFileIsFilled(t *testing.T) {
	for _, c := range []struct {
		limit, beside int
		size          int64
	}{{159, 0, 160}, {160, 0, 0}, {199, 10, 160}, {200, 10, 0}} {
		d := NewPlain(int64(c.limit))
		if c.beside > 0 {
			d.New(Run, "weights/x", num.Float32, c.beside, 1)
		}
		a, b := d.New(Paged, "optimizer/a", num.Float32, 20, 1), d.New(Paged, "optimizer/b", num.Float32, 20, 1)
		if err := d.PageTo(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		if info, err := d.pages.file.Stat(); err != nil || info.Size() != c.size {
			t.Errorf("%+v: the file has %d bytes, %v", c, info.Size(), err)
		}
		d.Write(a, slices.Repeat([]float32{3}, 20))
		d.Write(b, slices.Repeat([]float32{4}, 20))
		mark := d.Mark(Step)
		d.New(Step, "activations/x", num.Float32, 20, 1) // it drives one out
		d.Release(mark)
		for i, x := range []*Tensor{a, b} {
			if got, err := d.Read(x); err != nil || got[0] != float32(3+i) || got[19] != float32(3+i) {
				t.Errorf("%+v: %s holds %v, %v", c, x.Name, got, err)
			}
		}
	}
}

// After Close the file is gone, and with it what had left.
func TestClosePages(t *testing.T) {
	d, a, file := leaving(t)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file.Name()); !os.IsNotExist(err) {
		t.Errorf("%s: %v", file.Name(), err)
	}
	if _, err := d.Read(a); err == nil || !strings.Contains(err.Error(), "already closed") {
		t.Error(err)
	}
	if err := NewPlain(0).Close(); err != nil {
		t.Error(err)
	}
}
