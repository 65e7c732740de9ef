package llama

import "testing"

// Tables are made at their size: those of a long context would take twice that if they grew to it.
func TestAnglesTakeTheirSize(t *testing.T) {
	c := Config{HeadDim: 6, RoPETheta: 10000, MaxPositionEmbeddings: 1000}
	cosines, sines := c.angles(1000)
	if len(cosines) != 3000 || cap(cosines) != 3000 || cap(sines) != 3000 {
		t.Errorf("%d values in room for %d and %d", len(cosines), cap(cosines), cap(sines))
	}
}
