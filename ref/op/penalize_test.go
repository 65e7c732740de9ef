package op

import (
	"math"
	"slices"
	"strings"
	"testing"

	"qlora/ref/num"
)

func TestPenalize(t *testing.T) {
	inf := float32(math.Inf(1))
	z := []float32{3, -3, 0, 1, -inf, 2, -2, 8}
	y := make([]float32, len(z))
	Penalize(y, z, []int32{0, 1, 1, 2, 4, 6, IgnoredLabel}, []int32{6, IgnoredLabel, 7}, 1.5)
	if want := []float32{2, -4.5, 0, 1, -inf, 2, -inf, -inf}; !slices.Equal(y, want) {
		t.Errorf("%v, want %v", y, want)
	}
	for _, bad := range []int32{-1, 8} {
		for i := range 2 {
			d := NewPlain(0)
			logits, out, ids := d.New(Run, "logits", num.BFloat16, 1, 8), d.New(Run, "y", num.Float32, 1, 8), []*Ints{d.NewInts(Run, "seen", 1), d.NewInts(Run, "banned", 1)}
			d.WriteInts(ids[i], []int32{bad})
			d.Penalize(At{Name: "penalize"}, out, logits, ids[0], ids[1], 1.5)
			if err := d.Sync(); err == nil || !strings.Contains(err.Error(), "penalize: "+ids[i].Name+": token id") {
				t.Errorf("id %d: %v", bad, err)
			}
		}
	}
}
