package kernel

import (
	"os"
	"syscall"
	"testing"
	"unsafe"

	"qlora/ref/quant"
)

// beforeHole is memory of n elements at whose end a page begins that cannot be read or written: there a kernel that goes too far faults.
func beforeHole[T float32 | uint16 | byte](t *testing.T, n int) []T {
	t.Helper()
	page, size := os.Getpagesize(), n*int(unsafe.Sizeof(T(0)))
	hole := (size + page - 1) / page * page
	m, err := syscall.Mmap(-1, 0, hole+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(m) })
	if err := syscall.Mprotect(m[hole:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&m[hole-size])), n)
}

// TestReads finds reads beyond slices, which no result shows.
func TestReads(t *testing.T) {
	types, _ := searchedTypes()
	nf4 := types[0]
	all(t, func(t *testing.T, s *Set) {
		for _, n := range lengths {
			x, h := beforeHole[float32](t, n), beforeHole[uint16](t, n)
			for _, f := range s.formats() {
				f.narrow(h, x)
				f.widen(x, h)
				f.round(x)
			}
			s.Magnitudes(x)
			s.Absmax(x)
			s.Read(beforeHole[float32](t, n&^127))

			even := n &^ 1
			packed := beforeHole[byte](t, even/2)
			for blocksize := 32; blocksize <= 256; blocksize *= 2 {
				absmax := beforeHole[float32](t, (n+blocksize-1)/blocksize)
				book := (*[16]float32)(beforeHole[float32](t, 16))
				s.Dequantize4(x[:even], packed, absmax, book, blocksize)
				s.Dequantize4Rounded(x[:even], packed, absmax, book, blocksize)
				s.Dequantize4BFloat16(h[:even], packed, absmax, book, blocksize)
				s.Dequantize4BFloat16Past(h[:even], packed, absmax, book, blocksize)

				blocks := n / blocksize
				x, h, packed, absmax := beforeHole[float32](t, blocks*blocksize), beforeHole[uint16](t, blocks*blocksize), packed[len(packed)-blocks*blocksize/2:], absmax[len(absmax)-blocks:]
				for i := range x {
					x[i], h[i] = 1, 0x3f80 // zeros are left to plain Go
				}
				s.QuantizeFloat32(packed, absmax, x, blocksize, &nf4.thresholds, &nf4.ascending)
				s.QuantizeBFloat16(packed, absmax, h, blocksize, &nf4.thresholds, &nf4.ascending)
			}
			s.Dequantize8(x, beforeHole[byte](t, n), beforeHole[float32](t, (n+255)/256), (*[256]float32)(quant.DynamicSigned), 0)
		}
		for _, width := range []int{1, 3, 6, 8, 12, 16} {
			for rows := 1; rows <= width; rows++ {
				for cols := 1; cols < 20; cols++ {
					dst, src := beforeHole[float32](t, (cols-1)*width+rows), beforeHole[float32](t, rows*cols)
					s.Transpose(dst, width, src, cols, rows, cols)
				}
			}
		}
	})
}
