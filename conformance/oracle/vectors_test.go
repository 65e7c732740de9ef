// Package oracle holds ref against vectors that the real libraries made: see README.md for how.
package oracle

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"qlora/ref/checkpoint"
)

// vectors is a safetensors file of tensors with the JSON that describes it.
type vectors struct {
	t *testing.T
	*checkpoint.File
}

func open(t *testing.T, name string, description any) vectors {
	t.Helper()
	f, err := checkpoint.Open(os.DirFS("vectors"), name+".safetensors")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	b, err := os.ReadFile("vectors/" + name + ".json")
	if err == nil {
		err = json.Unmarshal(b, description)
	}
	if err != nil {
		t.Fatal(err)
	}
	return vectors{t, f}
}

func (v vectors) floats(name string) []float32 {
	v.t.Helper()
	x, _, err := v.Float32(name)
	if err != nil {
		v.t.Fatal(err)
	}
	return x
}

func (v vectors) bytes(name string) []byte {
	v.t.Helper()
	x, err := v.Tensor(name)
	if err != nil {
		v.t.Fatal(err)
	}
	return x.Bytes
}

// sameBits reports the first difference and how many there are. NaN equals NaN.
func sameBits(got, want []float32) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d values, want %d", len(got), len(want))
	}
	different, first := 0, -1
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && !(got[i] != got[i] && want[i] != want[i]) {
			if different++; first < 0 {
				first = i
			}
		}
	}
	if different > 0 {
		return fmt.Errorf("%d of %d differ, the first at %d: %x, want %x", different, len(want), first, got[first], want[first])
	}
	return nil
}

func sameBytes(got, want []byte) error {
	a, b := make([]float32, len(got)), make([]float32, len(want))
	for i := range got {
		a[i] = float32(got[i])
	}
	for i := range want {
		b[i] = float32(want[i])
	}
	return sameBits(a, b)
}

func short(name string) string { return strings.ReplaceAll(name, " ", "_") }
