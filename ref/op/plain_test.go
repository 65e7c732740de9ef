package op_test

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"qlora/ref/num"
	. "qlora/ref/op"
	"qlora/ref/quant"
)

// The arena counts by part and lifetime, keeps peaks, and refuses what goes over the cap without counting it.
func TestArena(t *testing.T) {
	d := NewPlain(1000)
	d.New(Run, "weights/a", num.Float32, 10, 10)
	mark := d.Mark(Step)
	d.New(Step, "activations/x", num.BFloat16, 10, 10)
	inner := d.Mark(Step)
	d.New(Step, "activations/y", num.BFloat16, 10, 10)
	a := d.Arena()
	if a.Used() != 800 || a.Peak() != 800 {
		t.Errorf("used %d, peak %d", a.Used(), a.Peak())
	}
	d.Release(inner)
	if a.Used() != 600 {
		t.Errorf("used %d after the inner release", a.Used())
	}
	d.Release(mark)
	if a.Used() != 400 || a.Peak() != 800 {
		t.Errorf("used %d, peak %d", a.Used(), a.Peak())
	}
	parts := a.Parts()
	if len(parts) != 2 || parts[0] != (Part{"activations", 0, 400, 400}) || parts[1] != (Part{"weights", 400, 400, 400}) {
		t.Errorf("%+v", parts)
	}
	d.New(Block, "gradients/z", num.Float32, 1000, 1)
	err := d.Sync()
	if err == nil || !strings.Contains(err.Error(), "gradients/z needs 3.9 KiB") || !strings.Contains(err.Error(), "weights") || a.Used() != 400 {
		t.Errorf("used %d, %v", a.Used(), err)
	}
}

// What the parts hold when the most is held adds up to that, whatever they held before and after.
func TestAtPeak(t *testing.T) {
	d := NewPlain(0)
	mark := d.Mark(Step)
	d.New(Step, "a/x", num.Float32, 30, 1)
	d.Release(mark)
	d.New(Step, "a/x", num.Float32, 10, 1)
	d.New(Step, "b/x", num.Float32, 25, 1)
	d.Release(mark)
	d.New(Step, "c/x", num.Float32, 20, 1)
	want := []Part{{"a", 0, 120, 40}, {"b", 0, 100, 100}, {"c", 80, 80, 0}}
	if got := d.Arena().Parts(); !slices.Equal(got, want) || d.Arena().Peak() != 140 {
		t.Errorf("%+v, want %+v; the peak is %d", got, want, d.Arena().Peak())
	}
}

// The first error sticks, carries its place, and later calls do nothing.
func TestErrorsStick(t *testing.T) {
	d := NewPlain(0)
	y, table := like(d, 2, 3), like(d, 5, 3)
	d.Embedding(At{Layer: 4, Name: "embed"}, y, table, integers(d, "ids", 1, 5))
	d.Embedding(here, y, table, integers(d, "other", 9, 9))
	d.Add(here, y, y, y)
	if _, err := d.Read(y); err == nil || err.Error() != "layers.4.embed: ids: token id 5 at 1 is outside 0…4" {
		t.Error(err)
	}
}

// What is quantized on the device is counted as what comes to it, reads back as package quant makes it, and gives its values.
func TestQuantize(t *testing.T) {
	const rows, cols = 7, 33
	x, o := random(3, rows*cols), quant.Options{Type: quant.NF4, Blocksize: 32, DoubleQuant: true, DType: num.BFloat16}
	want, err := quant.Quantize(x, []int{rows, cols}, o)
	if err != nil {
		t.Fatal(err)
	}
	values := make([]float32, rows*cols)
	if err := want.Dequantize(values, num.Float16); err != nil {
		t.Fatal(err)
	}
	d := NewPlain(0)
	v, y := tensor(d, "v", rows, cols, x), d.New(Run, "y", num.Float16, rows, cols)
	for name, w := range map[string]func() *Quantized{
		"Quantize":     func() *Quantized { return d.Quantize(here, "weights/w", v, o) },
		"NewQuantized": func() *Quantized { return d.NewQuantized("weights/w", want) },
	} {
		before := d.Arena().Used()
		w := w()
		if used := d.Arena().Used() - before; used != int64(want.Bytes()) {
			t.Errorf("%s: %d bytes are counted, want %d", name, used, want.Bytes())
		}
		if got, err := d.ReadQuantized(w); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		d.Zero(y)
		if d.Dequantize(here, y, w); !slices.Equal(read(t, d, y), values) {
			t.Errorf("%s: %v, want %v", name, read(t, d, y), values)
		}
	}
}

// What cannot be quantized is an error with its place and the matrix's name, and takes no memory.
func TestQuantizeFails(t *testing.T) {
	nf4 := quant.Options{Type: quant.NF4, Blocksize: 32}
	for name, test := range map[string]struct {
		o    quant.Options
		want string
	}{
		"NaN":       {nf4, "element 37 is NaN"},
		"blocksize": {quant.Options{Type: quant.NF4, Blocksize: 33}, "blocksize 33"},
	} {
		d := NewPlain(0)
		x := random(4, 64)
		x[37] = float32(math.NaN())
		v := tensor(d, "v", 2, 32, x)
		w := d.Quantize(here, "weights/w", v, test.o)
		used := d.Arena().Used()
		d.Dequantize(here, v, w)
		_, err := d.ReadQuantized(w)
		if err == nil || !strings.HasPrefix(err.Error(), "layers.3.test: weights/w: "+test.want) || used != 4*64 {
			t.Errorf("%s: %v, %d bytes are in use", name, err, used)
		}
	}
	d := NewPlain(4*64 + 20)
	w := d.Quantize(here, "weights/w", like(d, 2, 32), nf4)
	if _, err := d.ReadQuantized(w); err == nil || !strings.Contains(err.Error(), "layers.3.test: memory limit: weights/w needs 40 B") || d.Arena().Used() != 4*64 {
		t.Errorf("%v, %d bytes are in use", err, d.Arena().Used())
	}
}

func TestWrongShapesPanic(t *testing.T) {
	defer func() {
		if message, _ := recover().(string); !strings.Contains(message, "layers.3.test") || !strings.Contains(message, "want 2×3") {
			t.Errorf("%q", message)
		}
	}()
	d := NewPlain(0)
	d.Add(here, like(d, 2, 4), like(d, 2, 3), like(d, 2, 3))
}

// Tensors of 16 bits hold rounded values, and a view shares its rows.
func TestStorage(t *testing.T) {
	d := NewPlain(0)
	for dtype, want := range map[num.DType]float32{num.Float32: 1.001, num.BFloat16: 1, num.Float16: 1.0009765625} {
		x := d.New(Run, "x", dtype, 3, 1)
		d.Write(x, []float32{0, 0, 0})
		d.Write(x.View(1, 2), []float32{1.001})
		if got := read(t, d, x); got[1] != want || got[0] != 0 || got[2] != 0 {
			t.Errorf("%v: %v, want %v", dtype, got, want)
		}
	}
}

func TestChoose(t *testing.T) {
	z := []float32{1, 3, 2, 3, -1}
	if got := Choose(z, Choice{}, 0); got != 1 {
		t.Errorf("greedy takes %d, want the first of the largest", got)
	}
	const n = 4000
	counts := func(c Choice) (k [5]float64) {
		for step := range n {
			k[Choose(z, c, step)] += 1.0 / n
		}
		return k
	}
	// The softmax of z; of n draws a share strays by at most 4·√(p(1−p)/n) = 0.032.
	for i, p := range []float64{0.0537, 0.3966, 0.1459, 0.3966, 0.0073} {
		if got := counts(Choice{Temperature: 1, Seed: 7})[i]; got < p-0.032 || got > p+0.032 {
			t.Errorf("token %d has a share of %v, want %v", i, got, p)
		}
	}
	if k := counts(Choice{Temperature: 1, TopK: 2}); k[1]+k[3] < 0.999 || k[1] < 0.4 || k[3] < 0.4 {
		t.Errorf("the two likeliest: %v", k)
	}
	if k := counts(Choice{Temperature: 1, TopP: 0.8}); k[0] != 0 || k[4] != 0 || k[2] == 0 {
		t.Errorf("those that reach 0.8: %v", k)
	}
	// The likeliest have e = 1, the next exp(−1) = 0.368, the next exp(−2) = 0.135.
	if k := counts(Choice{Temperature: 1, MinP: 0.36}); k[0] != 0 || k[4] != 0 || k[2] == 0 {
		t.Errorf("those of 0.36 of the likeliest: %v", k)
	}
	if k := counts(Choice{Temperature: 1, MinP: 0.37}); k[1]+k[3] < 0.999 || k[1] < 0.4 {
		t.Errorf("those of 0.37 of the likeliest: %v", k)
	}
	if k := counts(Choice{Temperature: 0.05}); k[2] != 0 {
		t.Errorf("nearly greedy: %v", k)
	}
}
