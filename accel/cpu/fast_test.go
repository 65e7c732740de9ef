package cpu

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"qlora/accel/cpu/kernel"
	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// fastSets are the sets with fast products, and where there is no such instruction, the others with its definition in its place: so
// packing and everything around the kernel is tested on every processor.
func fastSets(t testing.TB) (list []*kernel.Set) {
	for _, s := range kernel.Sets() {
		if s.TilePairs == nil {
			s = defined(s)
		}
		list = append(list, s)
	}
	if Fast() != nil {
		t.Log("AVX512-BF16 is not there: its definition in Go stands for it")
	}
	return list
}

// defined is a set with fast products as they are defined.
func defined(s *kernel.Set) *kernel.Set {
	c := *s
	c.TilePairs = func(c []float32, stride int, a, b []uint32) {
		for p := range len(b) / s.NR {
			for i := range s.MR {
				for j := range s.NR {
					c[i*stride+j] = kernel.DotPair(c[i*stride+j], a[p*s.MR+i], b[p*s.NR+j])
				}
			}
		}
	}
	return &c
}

// pairwise is c + Σ x·w over k as fast products have it: [m, n] of rows of x and of w.
func pairwise(c, x, w []float32, m, n, k int) {
	at := func(v []float32, row, i int) uint32 {
		pair := uint32(num.ToBFloat16(v[row*k+i]))
		if i+1 < k {
			pair |= uint32(num.ToBFloat16(v[row*k+i+1])) << 16
		}
		return pair
	}
	for i := range m {
		for j := range n {
			for p := 0; p < k; p += 2 {
				c[i*n+j] = kernel.DotPair(c[i*n+j], at(x, i, p), at(w, j, p))
			}
		}
	}
}

func turned(x []float32, rows, cols int) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i%cols*rows+i/cols] = v
	}
	return y
}

// Operands lie along and down, in 16 and 32 bits, in sizes around those of pairs, tiles and blocks; each is held to the bit.
func TestFastProduct(t *testing.T) {
	sizes := [][3]int{{5, 1, 1}, {5, 17, 257}, {6, 16, 256}, {7, 33, 255}, {13, 31, 512}, {30, 270, 71}, {97, 17, 300}, {40, 5, 600}}
	for _, set := range fastSets(t) {
		for _, threads := range []int{1, 2, 3} {
			d := opened(t, Options{Kernel: set, Threads: threads, Fast: true})
			for _, s := range sizes {
				m, n, k := s[0], s[1], s[2]
				r := rand.New(rand.NewPCG(uint64(n), uint64(k)))
				x, w, begin := normals(m*k, 1, r), normals(n*k, 1, r), normals(m*n, 1, r)
				num.BFloat16.RoundAll(x)
				want := append([]float32(nil), begin...)
				pairwise(want, x, w, m, n, k)
				for _, a := range operands(d, x, m, k) {
					for _, b := range operands(d, w, n, k) {
						got := make([]float32, m*n)
						d.product(product{m: m, n: n, k: k, a: a, b: b, t: num.BFloat16, begin: begin,
							store: func(_ *scratch, i, j int, c []float32) { copy(got[i*n+j:], c) }})
						if i := differ(got, want); i >= 0 {
							t.Fatalf("%s, %d threads, %v, down %v %v, %v times %v: element %d is %v, want %v",
								set.Name, threads, s, a.down, b.down, a.dense.t, b.dense.t, i, got[i], want[i])
						}
					}
				}
			}
		}
	}
}

// operands are x [rows, k] as bfloat16 and as float32 that is still to be rounded, lanes as rows and as columns.
func operands(d *Device, x []float32, rows, k int) (list []matrix) {
	for _, dtype := range []num.DType{num.BFloat16, num.Float32} {
		along, down := d.New(op.Run, "test/along", dtype, rows, k), d.New(op.Run, "test/down", dtype, k, rows)
		d.Write(along, x)
		d.Write(down, turned(x, rows, k))
		list = append(list, rounded(along, num.BFloat16), rounded(down, num.BFloat16).across())
	}
	return list
}

// 4-bit weights lie in blocks; rows do not begin with one.
func TestFastProductOf4Bits(t *testing.T) {
	const m, n, k = 14, 37, 75
	r := rand.New(rand.NewPCG(7, 8))
	x, dy := normals(m*k, 1, r), normals(m*n, 1, r)
	num.BFloat16.RoundAll(x)
	num.BFloat16.RoundAll(dy)
	q, err := quant.Quantize(normals(n*k, 1, r), []int{n, k}, quant.Options{Type: quant.NF4, Blocksize: 32, DoubleQuant: true})
	if err != nil {
		t.Fatal(err)
	}
	weights := make([]float32, n*k)
	if err := q.Dequantize(weights, num.BFloat16); err != nil {
		t.Fatal(err)
	}
	y, dx := make([]float32, m*n), make([]float32, m*k)
	pairwise(y, x, weights, m, n, k)
	pairwise(dx, dy, turned(weights, n, k), m, k, n)
	num.BFloat16.RoundAll(y)
	num.BFloat16.RoundAll(dx)
	for _, set := range fastSets(t) {
		d := opened(t, Options{Kernel: set, Threads: 2, Fast: true})
		tensor := func(v []float32, cols int) *op.Tensor {
			a := d.New(op.Run, "test/x", num.BFloat16, m, cols)
			d.Write(a, v)
			return a
		}
		weight := op.Weight{Quantized: d.NewQuantized("test/w", q)}
		xt, dyt, yt, dxt := tensor(x, k), tensor(dy, n), tensor(make([]float32, m*n), n), tensor(make([]float32, m*k), k)
		d.Linear(here, yt, xt, weight, nil)
		d.LinearBackward(here, dxt, nil, nil, dyt, xt, weight)
		for what, pair := range map[string]struct {
			got  *op.Tensor
			want []float32
		}{"y": {yt, y}, "dx": {dxt, dx}} {
			got, err := d.Read(pair.got)
			if err != nil {
				t.Fatal(err)
			}
			if i := differ(got, pair.want); i >= 0 {
				t.Errorf("%s, %s: element %d is %v, want %v", set.Name, what, i, got[i], pair.want[i])
			}
		}
	}
}

// A fast training is the same with every number of threads, and another than the exact one; in float32 it is exact.
func TestFastTraining(t *testing.T) {
	for _, set := range fastSets(t) {
		for _, c := range []course{{compute: num.BFloat16, values: 1, dropout: 0.1}, {compute: num.Float32, values: 1}} {
			t.Run(fmt.Sprintf("%s, %v", set.Name, c.compute), func(t *testing.T) {
				c.steps = 3
				run := func(threads int, fast bool) string {
					state, said := trained(t, opened(t, Options{Kernel: set, Threads: threads, Fast: fast}), c)
					return string(state) + fmt.Sprint(said)
				}
				one := run(1, true)
				if run(2, true) != one || run(3, true) != one {
					t.Error("the number of threads makes a difference")
				}
				if exact := run(2, false) == one; exact != (c.compute == num.Float32) {
					t.Errorf("the exact training's bits: %v", exact)
				}
			})
		}
	}
}

// Fast devices are within the bounds of what they declare.
func TestFastConformance(t *testing.T) {
	for i, set := range fastSets(t) {
		t.Run(set.Name, func(t *testing.T) {
			conformance.Run(t, conformance.Smoke, func() (op.Device, error) { return New(Options{Kernel: set, Threads: i + 1, Fast: true}) })
		})
	}
}

func TestFastIsDeclared(t *testing.T) {
	set := fastSets(t)[0]
	if a := opened(t, Options{Kernel: set}).Arithmetic(); !a.Exact() {
		t.Errorf("a device that is not asked for fast products declares %+v", a)
	}
	if a := opened(t, Options{Kernel: set, Fast: true}).Arithmetic(); a.Exact() {
		t.Error("a fast device says that it is exact")
	}
	_, err := New(Options{Kernel: kernel.Sets()[0], Fast: true})
	if err == nil || !strings.Contains(err.Error(), "AVX512-BF16") {
		t.Errorf("plain Go has fast products: %v", err)
	}
	there := slices.ContainsFunc(kernel.Sets(), func(s *kernel.Set) bool { return s.TilePairs != nil })
	if err := Fast(); (err == nil) != there {
		t.Error(err)
	}
}
