package second

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		threads int
		level   conformance.Level
	}{{1, conformance.Smoke}, {2, conformance.Quick}, {3, conformance.Smoke}} {
		t.Run(fmt.Sprintf("%v, %d threads", c.level, c.threads), func(t *testing.T) {
			conformance.Run(t, c.level, func() (op.Device, error) { return New(c.threads), nil })
		})
	}
}

// here is where the tests' operations stand.
var here = op.At{Layer: 2, Name: "test"}

func filled(d op.Device, life op.Lifetime, x ...float32) *op.Tensor {
	t := d.New(life, "test/x", num.Float32, len(x), 1)
	d.Write(t, x)
	return t
}

// Memory that is given back is used again, though work on it waits; what is new is zero.
func TestMemory(t *testing.T) {
	d := New(2)
	y := d.New(op.Run, "test/y", num.Float32, 2, 1)
	mark := d.Mark(op.Step)
	x := filled(d, op.Step, 1, 2)
	d.Add(here, y, x, x)
	d.Release(mark)
	again := d.New(op.Step, "test/again", num.Float32, 2, 1)
	if &x.Handle.([]byte)[0] != &again.Handle.([]byte)[0] {
		t.Error("memory that was given back is not used again")
	}
	if got, err := d.Read(again); err != nil || got[0] != 0 || got[1] != 0 {
		t.Errorf("new memory holds %v, %v", got, err)
	}
	if got, err := d.Read(y.View(1, 2)); err != nil || len(got) != 1 || got[0] != 4 {
		t.Errorf("%v, %v, want 4", got, err)
	}
	big := d.New(op.Step, "test/big", num.BFloat16, slabSize, 1)
	if got, err := d.Read(big.View(slabSize-1, slabSize)); err != nil || got[0] != 0 || d.Arena().Used() != 2*slabSize+8+8 {
		t.Errorf("%v, %v, %d bytes are in use", got, err, d.Arena().Used())
	}
}

// The first error in the order of the calls sticks, with its place; later calls do nothing.
func TestFirstError(t *testing.T) {
	d := New(2)
	y, table, ids := filled(d, op.Run, 0, 0), filled(d, op.Run, 1, 2, 3), d.NewInts(op.Run, "test/ids", 2)
	d.Arena().Cap = 1000
	d.WriteInts(ids, []int32{1, 3})
	d.Embedding(here, y, table, ids)
	d.New(op.Step, "test/large", num.Float32, 1000, 1)
	d.Add(here, y, y, y)
	_, err := d.Read(y)
	if err == nil || !strings.HasPrefix(err.Error(), "layers.2.test: ") || !strings.Contains(err.Error(), "token id 3 at 1") || err != d.Sync() {
		t.Error(err)
	}
	d = New(2)
	d.Arena().Cap = 1000
	none := d.New(op.Step, "test/large", num.Float32, 1000, 1)
	d.Add(here, none, none, none)
	if err := d.Sync(); err == nil || !strings.Contains(err.Error(), "test/large") || d.Arena().Used() != 0 {
		t.Errorf("%v, %d bytes are in use", err, d.Arena().Used())
	}
}

// A matrix is quantized of what lies there when its turn comes, in memory that is counted at once.
func TestQuantize(t *testing.T) {
	d, o := New(2), quant.Options{Type: quant.FP4, Blocksize: 32, DoubleQuant: true}
	mark := d.Mark(op.Step)
	x := filled(d, op.Step, slices.Repeat([]float32{-2}, 65)...)
	w := d.Quantize(here, "test/w", x, o)
	d.Release(mark)
	if used := d.Arena().Used(); used != o.Bytes(65) {
		t.Errorf("%d bytes are in use, want %d", used, o.Bytes(65))
	}
	y := filled(d, op.Step, slices.Repeat([]float32{3}, 65)...)
	d.Dequantize(here, y, w)
	if got, err := d.Read(y); err != nil || !slices.Equal(got, slices.Repeat([]float32{-2}, 65)) {
		t.Errorf("%v, %v, want −2", got, err)
	}
	for want, o := range map[string]quant.Options{
		"layers.2.test: test/bad: there are no blocks of 48":                       {Type: quant.NF4, Blocksize: 48},
		"layers.2.test: test/bad: profile bnb-cpu-0.50 is not the specification's": {Type: quant.NF4, Blocksize: 32, Profile: quant.BnBCPU050},
		"layers.2.test: test/bad: element 1 is +Inf, not a finite number":          {Type: quant.NF4, Blocksize: 64},
	} {
		d := New(2)
		d.Quantize(here, "test/bad", filled(d, op.Run, 1, float32(math.Inf(1))), o)
		if err := d.Sync(); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Wrong shapes panic where they are called, not when the work is done.
func TestWrongShapesPanic(t *testing.T) {
	d := New(2)
	x := filled(d, op.Run, 1, 2)
	for name, call := range map[string]func(){
		"Add":   func() { d.Add(here, x, x, x.View(0, 1)) },
		"Write": func() { d.Write(x, make([]float32, 3)) },
		"Dequantize": func() {
			d.Dequantize(here, x, d.Quantize(here, "test/w", x.View(0, 1), quant.Options{Type: quant.NF4, Blocksize: 32}))
		},
		"GradNorm": func() { d.GradNorm(here, x, nil) },
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
