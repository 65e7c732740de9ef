package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// formats are what a matrix may be stored in.
var formats = []num.DType{num.Float32, num.BFloat16, num.Float16}

// drawnMatrix is one of normal numbers, rounded to t, its first rows zeros, and what it holds.
func drawnMatrix(d *Device, t num.DType, rows, cols int) (*op.Tensor, []float32) {
	x := normals(rows*cols, 1, rand.New(rand.NewPCG(uint64(rows), uint64(cols))))
	clear(x[:min(100, len(x)/2)])
	t.RoundAll(x)
	m := d.New(op.Run, "test/w", t, rows, cols)
	d.Write(m, x)
	return m, x
}

// TestQuantize holds matrices of no, one and many tasks, with and without a short block and an odd number of elements, against package quant,
// and back.
func TestQuantize(t *testing.T) {
	d := opened(t, Options{Threads: 3})
	for _, size := range [][2]int{{1, 1}, {1, 63}, {3, 33}, {2, 64}, {5, 1024}, {33, 1031}, {9, 8192}} {
		for _, format := range formats {
			x, full := drawnMatrix(d, format, size[0], size[1])
			for _, c := range quant.Codebooks {
				for _, o := range []quant.Options{{Blocksize: 64}, {Blocksize: 64, DoubleQuant: true}, {Blocksize: 32}, {Blocksize: 4096}} {
					o.Type = c
					what := fmt.Sprintf("%d×%d of %v in %s, blocks of %d, double %v", size[0], size[1], format, c.Name, o.Blocksize, o.DoubleQuant)
					want, err := quant.Quantize(full, size[:], o)
					if err != nil {
						t.Fatal(err)
					}
					got, err := d.quantize(x, o)
					if err != nil || !reflect.DeepEqual(got, want) {
						t.Fatalf("%s differs, error %v", what, err)
					}
				}
			}
		}
	}
}

// TestDequantizePast is of a matrix that is large enough to be written past the caches, and of rows of it that begin anywhere.
func TestDequantizePast(t *testing.T) {
	d := opened(t, Options{Threads: 3})
	const rows, cols = 1400, 3001
	x, full := drawnMatrix(d, num.BFloat16, rows, cols)
	for _, skip := range []int{0, 1} {
		part := *x
		part.FirstRow, part.Rows = skip, rows-skip
		if 2*part.Len() < past {
			t.Fatal("too small")
		}
		w, err := quant.Quantize(full[skip*cols:], []int{part.Rows, cols}, nf4)
		if err != nil {
			t.Fatal(err)
		}
		d.Dequantize(here, &part, d.NewQuantized("test/w", w))
		want := make([]float32, part.Len())
		if err := w.Dequantize(want, num.BFloat16); err != nil {
			t.Fatal(err)
		}
		got, err := d.Read(&part)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("after %d rows: differs, error %v", skip, err)
		}
	}
}

// TestQuantizeNotFinite puts numbers that are not finite where several tasks find them: the first is named.
func TestQuantizeNotFinite(t *testing.T) {
	d := opened(t, Options{Threads: 3})
	const rows, cols = 41, 4099
	for _, format := range formats {
		for _, c := range []*quant.Codebook{quant.NF4, quant.FP4} {
			for i, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
				for _, at := range []int{0, 63, 64, 5000, runOfBlocks, rows*cols - 3, rows*cols - 1} {
					x, full := drawnMatrix(d, format, rows, cols)
					full[at], full[len(full)-1-i/2] = bad, bad
					d.Write(x, full)
					_, want := quant.Quantize(full, []int{rows, cols}, quant.Options{Type: c, Blocksize: 64})
					_, err := d.quantize(x, quant.Options{Type: c, Blocksize: 64})
					if err == nil || err.Error() != want.Error() {
						t.Fatalf("%v in %s: %v, want %v", format, c.Name, err, want)
					}
				}
			}
		}
	}
}
