package cpu

import (
	"testing"

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
