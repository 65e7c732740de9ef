package cpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"qlora/accel/cpu/kernel"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// linear computes y = x·Wᵀ on a device and gives y's values.
func linear(t testing.TB, d op.Device, x, w []float32, tokens, out, in int, dtype num.DType) []float32 {
	t.Helper()
	tensor := func(v []float32, rows, cols int) *op.Tensor {
		a := d.New(op.Run, "test/x", dtype, rows, cols)
		if v != nil {
			d.Write(a, v)
		}
		return a
	}
	y := tensor(nil, tokens, out)
	d.Linear(here, y, tensor(x, tokens, in), op.Weight{Dense: tensor(w, out, in)}, nil)
	got, err := d.Read(y)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// differ is the first element whose bits differ, -1 if none does.
func differ(a, b []float32) int {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) && (a[i] == a[i] || b[i] == b[i]) {
			return i
		}
	}
	return -1
}

func normals(n int, scale float32, r *rand.Rand) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64()) * scale
	}
	return x
}

// Sizes around those of tiles, blocks and tasks.
func TestProductOfAllSizes(t *testing.T) {
	sizes := [][3]int{{1, 1, 1}, {1, 200, 300}, {4, 129, 65}, {5, 17, 257}, {6, 16, 256}, {7, 33, 255}, {13, 31, 512}, {50, 300, 70}, {97, 257, 300}, {100, 5, 600}}
	for _, k := range kernel.Sets() {
		for _, threads := range []int{1, 3} {
			d := opened(t, Options{Kernel: k, Threads: threads})
			for _, s := range sizes {
				for _, dtype := range []num.DType{num.Float32, num.BFloat16, num.Float16} {
					r := rand.New(rand.NewPCG(uint64(s[1]), uint64(s[2])))
					x, w := normals(s[0]*s[2], 1, r), normals(s[1]*s[2], 1, r)
					want := linear(t, op.NewPlain(0), x, w, s[0], s[1], s[2], dtype)
					if at := differ(linear(t, d, x, w, s[0], s[1], s[2], dtype), want); at >= 0 {
						t.Errorf("%s, %d threads, %v %v: element %d", k.Name, threads, s, dtype, at)
					}
				}
			}
		}
	}
}

// Where products are too small or too large to be exact, fused multiply-adds give other bits: a device that does not look would be found
// by this test, and it is.
func TestProductOutsideOfTheFusedDomain(t *testing.T) {
	const n, k = 40, 300
	multiplied := func(s *kernel.Set, x, w []float32, m int) []float32 {
		c := make([]float32, m*n)
		opened(t, Options{Kernel: s, Threads: 2}).product(product{
			m: m, n: n, k: k, t: num.BFloat16,
			a: matrix{dense: values{full: x}, cols: k}, b: matrix{dense: values{full: w}, cols: k},
			store: func(_ *scratch, i, j int, v []float32) { copy(c[i*n+j:], v) },
		})
		return c
	}
	for _, s := range kernel.Sets() {
		for name, scale := range map[string][2]float32{"small": {0x1p-70, 0x1p-68}, "large": {0x1p64, 0x1p62}} {
			for _, m := range []int{1, 30} {
				r := rand.New(rand.NewPCG(3, 4))
				x, w, want := normals(m*k, scale[0], r), normals(n*k, scale[1], r), make([]float32, m*n)
				num.BFloat16.RoundAll(x)
				num.BFloat16.RoundAll(w)
				op.MatMul(want, x, w, m, n, k)
				if at := differ(multiplied(s, x, w, m), want); at >= 0 {
					t.Errorf("%s, %s: element %d", s.Name, name, at)
				}
				blind := *s
				blind.Tile, blind.Row = s.TileFused, s.RowFused
				if s.Name != "portable" && differ(multiplied(&blind, x, w, m), want) < 0 {
					t.Errorf("%s, %s, %d rows: fused multiply-adds have the same bits: the data do not test anything", s.Name, name, m)
				}
			}
		}
	}
}

// Every two sets agree on any bytes: operands of all exponents, with NaN and infinities, in all types, against 4-bit and dense weights.
func FuzzPaths(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint8(5), uint8(20), uint8(40), uint8(1))
	f.Add([]byte("\x00\x00\x80\x00\xff\x7f\x01\x00"), uint8(1), uint8(64), uint8(70), uint8(2))
	f.Fuzz(func(t *testing.T, seed []byte, tokens, out, in, kind uint8) {
		m, n, k := 1+int(tokens)%40, 1+int(out)%90, 1+int(in)
		dtype := num.DType(kind % 3)
		x, w := fromBytes(seed, m*k), fromBytes(append(seed, 1), n*k)
		want := linear(t, op.NewPlain(0), x, w, m, n, k, dtype)
		for _, s := range kernel.Sets() {
			d := opened(t, Options{Kernel: s, Threads: 1 + int(kind)%3})
			if at := differ(linear(t, d, x, w, m, n, k, dtype), want); at >= 0 {
				t.Errorf("%s: element %d of %d×%d, k %d, %v", s.Name, at, m, n, k, dtype)
			}
		}
		samePaths(t, x, w, n, k, dtype)
	})
}

// samePaths quantizes w and multiplies with it, forward and backward, on every set and on the reference.
func samePaths(t *testing.T, x, w []float32, n, k int, dtype num.DType) {
	q, err := quant.Quantize(w, []int{n, k}, quant.Options{Type: quant.NF4, Blocksize: 32, DoubleQuant: true})
	if err != nil {
		return // not finite: nothing to multiply with
	}
	run := func(d op.Device) []float32 {
		m := len(x) / k
		xt, y, dx := d.New(op.Run, "test/x", dtype, m, k), d.New(op.Run, "test/y", dtype, m, n), d.New(op.Run, "test/dx", dtype, m, k)
		d.Write(xt, x)
		weight := op.Weight{Quantized: d.NewQuantized("test/w", q)}
		d.Linear(here, y, xt, weight, nil)
		d.LinearBackward(here, dx, nil, nil, y, xt, weight)
		got, err := d.Read(y)
		if err != nil {
			t.Fatal(err)
		}
		back, _ := d.Read(dx)
		return append(got, back...)
	}
	want := run(op.NewPlain(0))
	for _, s := range kernel.Sets() {
		if at := differ(run(opened(t, Options{Kernel: s, Threads: 2})), want); at >= 0 {
			t.Errorf("%s, 4-bit %d×%d, %v: element %d", s.Name, n, k, dtype, at)
		}
	}
}

// fromBytes makes n numbers of some bytes, again and again but never quite the same.
func fromBytes(b []byte, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		var word [4]byte
		for j := range word {
			if len(b) > 0 {
				word[j] = b[(4*i+j)%len(b)]
			}
		}
		bits := binary.LittleEndian.Uint32(word[:])
		x[i] = math.Float32frombits(bits ^ uint32(i*i)<<7)
	}
	return x
}

func ExampleNew() {
	d, err := New(Options{Threads: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	x := d.New(op.Run, "example/x", num.BFloat16, 1, 3)
	d.Write(x, []float32{1, 2, 3.14159})
	d.Add(op.At{Name: "example"}, x, x, x)
	fmt.Println(d.Read(x))
	// Output: [2 4 6.28125] <nil>
}
