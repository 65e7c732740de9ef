package op_test

import (
	"math"
	"slices"
	"testing"

	"qlora/ref/num"
	. "qlora/ref/op"
)

// Noise is spread evenly over ±α/√(L·d) of each sequence: within it, mean 0, variance m²/3. Of n values the mean strays by at most
// 4·m/√(3n), and the variance, of which a value's square has a spread of 2/√5 of it, by 4·2/√(5n) of it.
func TestNoise(t *testing.T) {
	const d, alpha = 50, 5
	bounds := []int32{0, 40, 200}
	x := make([]float32, 210*d)
	y := make([]float32, len(x))
	AddNoise(y, x, bounds, d, alpha, 7, num.Counter{Purpose: 3}, 0, num.Float32)
	for s := range bounds[1:] {
		part := y[bounds[s]*d : bounds[s+1]*d]
		n := float64(len(part))
		m := alpha / math.Sqrt(n)
		var sum, square float64
		for _, v := range part {
			if math.Abs(float64(v)) > m*(1+1e-6) {
				t.Fatalf("%v is outside ±%v", v, m)
			}
			sum += float64(v)
			square += float64(v) * float64(v)
		}
		if mean := sum / n; math.Abs(mean) > 4*m/math.Sqrt(3*n) {
			t.Errorf("sequence %d: mean %v", s, mean)
		}
		if ratio := square / n * 3 / (m * m); math.Abs(ratio-1) > 8/math.Sqrt(5*n) {
			t.Errorf("sequence %d: %v of the variance", s, ratio)
		}
	}
	if slices.ContainsFunc(y[200*d:], func(v float32) bool { return v != 0 }) {
		t.Error("rows in no sequence have noise")
	}
}

// A sequence's noise is the same alone, behind others in its batch, and in another micro-batch.
func TestNoiseOfMicroBatches(t *testing.T) {
	d, at := NewPlain(0), At{Layer: num.NoLayer, Name: "embed_tokens"}
	const cols = 6
	noise := func(first, rows int, bounds ...int32) []float32 {
		x, y := like(d, rows, cols), like(d, rows, cols)
		clock := integers(d, "clock", 4, int32(first))
		d.Noise(at, y, x, integers(d, "segments", bounds...), Noise{Alpha: 2, Seed: 1, Clock: clock})
		return read(t, d, y)
	}
	whole := noise(0, 9, 0, 4, 9)
	if cut := append(noise(0, 4, 0, 4), noise(4, 5, 0, 5)...); !slices.Equal(cut, whole) {
		t.Errorf("%v cut up, %v whole", cut, whole)
	}
}

// What a program of numpy and Philox gives for two sequences of two and three tokens, of step 12, behind 1000 other tokens.
func TestBytesOfNoise(t *testing.T) {
	for dtype, want := range map[num.DType][]uint32{
		num.Float32: {0x3fab756c, 0xc003f2f8, 0xbff1f97e, 0x3f9f2820, 0xbfcb7cdd, 0x3f138eed, 0x3ffdaf02, 0x3f014317, 0xbf4cfa70, 0xbcbec880,
			0x3ddbb0c0, 0x3fa7acda, 0x3f21a716, 0x3f504a48, 0x3e9ceec2},
		num.BFloat16: {0x3fab0000, 0xc0040000, 0xbff20000, 0x3f9f0000, 0xbfcb0000, 0x3f140000, 0x3ffe0000, 0x3f010000, 0xbf4c0000, 0xbcc00000,
			0x3dd80000, 0x3fa80000, 0x3f220000, 0x3f500000, 0x3e9d0000},
	} {
		d := NewPlain(0)
		x, y := d.New(Run, "x", dtype, 5, 3), d.New(Run, "y", dtype, 5, 3)
		values := make([]float32, 15)
		for i := range values {
			values[i] = float32(i/3)/4 - float32(i%3)/8
		}
		d.Write(x, values)
		n := Noise{Alpha: 5, Seed: 7<<32 + 9, Clock: integers(d, "clock", 12, 1000)}
		d.Noise(At{Layer: num.NoLayer, Name: "embed_tokens"}, y, x, integers(d, "segments", 0, 2, 5), n)
		for i, got := range read(t, d, y) {
			if math.Float32bits(got) != want[i] {
				t.Errorf("%v: element %d is %#08x, want %#08x", dtype, i, math.Float32bits(got), want[i])
			}
		}
	}
}
