package cpu

import (
	"fmt"
	"testing"

	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// BenchmarkBeyondCaches quantizes and dequantizes a matrix larger than the caches on two threads, and reads or copies as many bytes.
func BenchmarkBeyondCaches(b *testing.B) {
	const rows, cols = 8192, 4096
	d := opened(b, Options{Threads: 2})
	run := func(name string, bytes int, f func()) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(bytes))
			for b.Loop() {
				f()
			}
			if err := d.Sync(); err != nil {
				b.Fatal(err)
			}
		})
	}
	one := quant.Options{Type: quant.NF4, Blocksize: 64, DType: num.BFloat16}
	both := one
	both.DoubleQuant = true
	x := map[num.DType]*op.Tensor{}
	for _, t := range []num.DType{num.BFloat16, num.Float32, num.Float16} {
		x[t] = drawnTensor(d, t, rows, cols)
		for _, o := range []quant.Options{one, both} {
			run(fmt.Sprintf("Quantize/%v/double=%v", t, o.DoubleQuant), x[t].Len()*t.Size(), func() {
				if _, err := d.quantize(x[t], o); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
	for _, o := range []quant.Options{one, both} {
		w := d.Quantize(here, "bench/w", x[num.BFloat16], o)
		for t, y := range x {
			bytes := w.Handle.(*quant.Tensor).Bytes() + y.Len()*t.Size()
			run(fmt.Sprintf("Dequantize/%v/double=%v", t, o.DoubleQuant), bytes, func() { d.Dequantize(here, y, w) })
		}
	}
	absmax := of(x[num.Float32]).full[:rows*cols/one.Blocksize]
	// What Quantize is made of, beside Nest: the blocks into memory that is there, and new memory.
	q := &quant.Tensor{Type: one.Type, Blocksize: one.Blocksize, Packed: make([]byte, rows*cols/2), Absmax: make([]float32, rows*cols/one.Blocksize)}
	run("Blocks", 2*rows*cols, func() {
		if err := d.quantizeBlocks(q, of(x[num.BFloat16])); err != nil {
			b.Fatal(err)
		}
	})
	run("New", rows*cols/2, func() { q.Packed = make([]byte, rows*cols/2) })
	run("Nest", 5*len(absmax), func() { d.nest(absmax) })

	// half is half of a thread's part of what Dequantize reads and writes of bfloat16, in float32.
	full, half := of(x[num.Float32]).full, rows*cols*41/64/4
	run("Read", 4*len(full), func() {
		d.tasks(2, func(_ *scratch, i int) { d.kernel.Read(full[i*len(full)/2 : (i+1)*len(full)/2]) })
	})
	run("Copy", 4*4*half, func() {
		d.tasks(2, func(_ *scratch, i int) { copy(full[2*i*half:(2*i+1)*half], full[(2*i+1)*half:(2*i+2)*half]) })
	})
	run("Clear", 4*len(full), func() {
		d.tasks(2, func(_ *scratch, i int) { clear(full[i*len(full)/2 : (i+1)*len(full)/2]) })
	})
}
