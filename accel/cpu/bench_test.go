package cpu

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"qlora/accel/cpu/kernel"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// `qlora bench cpu` measures more, and against the machine's limits; these are for a profile of one kernel, on every set:
//
//	go test ./accel/cpu -run '^$' -bench Product/avx2/2/NF4 -cpuprofile profile

// eachSet runs a benchmark on every set, on one thread and on all. f sets up a call and says how much it does, of what unit in billions a second.
func eachSet(b *testing.B, name string, f func(d *Device) (amount float64, unit string, call func())) {
	for _, k := range kernel.Sets() {
		for _, threads := range []int{1, runtime.GOMAXPROCS(0)} {
			b.Run(fmt.Sprintf("%s/%d/%s", k.Name, threads, name), func(b *testing.B) {
				d := opened(b, Options{Kernel: k, Threads: threads})
				amount, unit, call := f(d)
				for b.Loop() {
					call()
				}
				if err := d.Sync(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(amount*float64(b.N)/float64(b.Elapsed().Nanoseconds()), unit)
			})
		}
	}
}

func drawnTensor(d *Device, t num.DType, rows, cols int) *op.Tensor {
	x := d.New(op.Run, "bench/x", t, rows, cols)
	d.Write(x, normals(rows*cols, 1, rand.New(rand.NewPCG(1, 2))))
	return x
}

var nf4 = quant.Options{Type: quant.NF4, Blocksize: 64, DoubleQuant: true}

func BenchmarkProduct(b *testing.B) {
	const n = 2048
	for _, m := range []int{1, 256} {
		for _, kind := range []string{"bfloat16", "float32", "NF4"} {
			eachSet(b, fmt.Sprintf("%s/%d", kind, m), func(d *Device) (float64, string, func()) {
				t := num.BFloat16
				if kind == "float32" {
					t = num.Float32
				}
				x, y, w := drawnTensor(d, t, m, n), d.New(op.Run, "bench/y", t, m, n), op.Weight{Dense: drawnTensor(d, t, n, n)}
				if kind == "NF4" {
					w = op.Weight{Quantized: d.Quantize(here, "bench/w", w.Dense, nf4)}
				}
				return 2 * float64(m) * n * n, "GFLOP/s", func() { d.Linear(here, y, x, w, nil) }
			})
		}
	}
}

func BenchmarkAttention(b *testing.B) {
	for _, tokens := range []int{512, 2048} {
		eachSet(b, fmt.Sprint(tokens), func(d *Device) (float64, string, func()) {
			const heads, kvHeads, dim = 9, 3, 64
			q, k, v := drawnTensor(d, num.BFloat16, tokens, heads*dim), drawnTensor(d, num.BFloat16, tokens, kvHeads*dim), drawnTensor(d, num.BFloat16, tokens, kvHeads*dim)
			y, stats := d.New(op.Run, "bench/y", num.BFloat16, tokens, heads*dim), d.New(op.Run, "bench/stats", num.Float32, tokens, 2*heads)
			segments := d.NewInts(op.Run, "bench/segments", 2)
			d.WriteInts(segments, []int32{0, int32(tokens)})
			shape := op.AttentionShape{Heads: heads, KVHeads: kvHeads, Dim: dim, Scale: 0.125, Mask: op.Mask{Causal: true}}
			return 2 * heads * dim * float64(tokens) * float64(tokens+1), "GFLOP/s", func() {
				d.Attention(here, y, stats, q, k, v, segments, segments, nil, shape)
			}
		})
	}
}
