package lora_test

import (
	"math"
	"slices"
	"testing"

	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
)

func TestScale(t *testing.T) {
	if s := (lora.Config{R: 64, Alpha: 16}).Scale(); s != 0.25 {
		t.Error(s)
	}
	if s := (lora.Config{R: 64, Alpha: 16, RSLoRA: true}).Scale(); s != 2 {
		t.Error(s)
	}
	for _, bad := range []lora.Config{{R: 0}, {R: 1, Dropout: 1}, {R: 1, Dropout: -0.1}} {
		if bad.Check() == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

// A is spread evenly over ±1/√in: mean 0, variance 1/(3·in). It depends on the seed and the place.
func TestInitA(t *testing.T) {
	const in, n = 100, 200 * 100
	at := op.At{Layer: 1, Name: "self_attn.q_proj"}
	a := lora.InitA(at, 200, in, 1)
	var sum, square float64
	for _, v := range a {
		if math.Abs(float64(v)) > 0.1 {
			t.Fatalf("%v is outside ±1/√in", v)
		}
		sum += float64(v)
		square += float64(v) * float64(v)
	}
	if mean := sum / n; math.Abs(mean) > 4*0.1/math.Sqrt(3*n) {
		t.Errorf("mean %v", mean)
	}
	if variance := square / n; math.Abs(variance*3*in-1) > 0.03 {
		t.Errorf("variance %v, want %v", variance, 1.0/(3*in))
	}
	at.Layer = 2
	if slices.Equal(a, lora.InitA(at, 200, in, 1)) || slices.Equal(lora.InitA(at, 200, in, 1), lora.InitA(at, 200, in, 2)) {
		t.Error("two places or two seeds have the same A")
	}
}

// A fresh adapter changes nothing, and a merged one computes what the adapter does, but for the roundings.
func TestMerge(t *testing.T) {
	const tokens, out, in, r = 3, 5, 7, 2
	d := op.NewPlain(0)
	at := op.At{Name: "lin"}
	tensor := func(purpose string, rows, cols int) *op.Tensor {
		x := d.New(op.Run, purpose, num.Float32, rows, cols)
		d.Write(x, values(purpose, rows*cols))
		return x
	}
	read := func(x *op.Tensor) []float32 {
		v, err := d.Read(x)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	x, w := tensor("x", tokens, in), tensor("w", out, in)
	plain, y, u := tensor("plain", tokens, out), tensor("y", tokens, out), tensor("u", tokens, r)
	a := lora.New(d, at, out, in, lora.Config{R: r, Alpha: 3}, nil)
	d.Linear(at, plain, x, op.Weight{Dense: w}, nil)
	d.LoRALinear(at, y, u, x, op.Weight{Dense: w}, nil, a)
	if !slices.Equal(read(plain), read(y)) {
		t.Error("a fresh adapter changes the layer")
	}
	d.Write(a.B, values("B", out*r))
	d.LoRALinear(at, y, u, x, op.Weight{Dense: w}, nil, a)
	merged := read(w)
	lora.Merge(merged, read(a.A), read(a.B), out, in, r, a.Scale)
	d.Write(w, merged)
	d.Linear(at, plain, x, op.Weight{Dense: w}, nil)
	for i, want := range read(y) {
		if got := read(plain)[i]; math.Abs(float64(got-want)) > 1e-5 {
			t.Errorf("output %d: %v merged, %v with the adapter", i, got, want)
		}
	}
}

func values(purpose string, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = num.Normal(1, num.Counter{Purpose: num.Purpose(purpose), Element: uint64(i)})
	}
	return x
}
