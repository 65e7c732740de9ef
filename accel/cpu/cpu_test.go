package cpu

import (
	"fmt"
	"testing"

	"qlora/accel/cpu/kernel"
	"qlora/ref/num"
	"qlora/ref/op"
)

// here is where the tests' operations stand.
var here = op.At{Layer: 2, Name: "test"}

func opened(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// all runs a test for every set of kernels of this processor, with one, two and three threads.
func all(t *testing.T, f func(t *testing.T, o Options)) {
	for _, k := range kernel.Sets() {
		for _, threads := range []int{1, 2, 3} {
			t.Run(fmt.Sprintf("%s, %d threads", k.Name, threads), func(t *testing.T) { f(t, Options{Kernel: k, Threads: threads}) })
		}
	}
}

var dtypes = []num.DType{num.Float32, num.BFloat16, num.Float16}
