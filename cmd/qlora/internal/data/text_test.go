package data

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestReadText(t *testing.T) {
	files := fstest.MapFS{
		"good.txt":  {Data: []byte("naïve")},
		"empty.txt": {},
		"latin.txt": {Data: []byte("na\xefve")},
	}
	if text, err := ReadText(files, "good.txt"); text != "naïve" || err != nil {
		t.Error(text, err)
	}
	for name, want := range map[string]string{
		"empty.txt": "empty.txt is empty", "latin.txt": "byte 2 (0xef)", "missing.txt": "missing.txt",
	} {
		if _, err := ReadText(files, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// Every token is predicted once, from the one before it or from the beginning of its sequence.
func TestSequences(t *testing.T) {
	got := Sequences([]int32{5, 6, 7, 8, 9}, 1, 3)
	want := [][2][]int32{{{1, 5, 6}, {5, 6, 7}}, {{1, 8}, {8, 9}}}
	if len(got) != len(want) {
		t.Fatal(got)
	}
	for i, w := range want {
		if !slices.Equal(got[i].IDs, w[0]) || !slices.Equal(got[i].Labels, w[1]) {
			t.Error(got[i], w)
		}
	}
}

// However a run is cut into batches, each epoch has every sequence once, and epochs differ.
func TestOrder(t *testing.T) {
	o := Order{Seed: 3, Count: 10}
	whole := o.Batch(0, 30)
	var cut []int
	for _, n := range []int{7, 1, 15, 7} {
		cut = append(cut, o.Batch(len(cut), n)...)
	}
	if !slices.Equal(whole, cut) {
		t.Errorf("cut %v, whole %v", cut, whole)
	}
	if slices.Equal(whole[:10], whole[10:20]) {
		t.Error("two epochs have the same order")
	}
	for epoch := range 3 {
		sorted := slices.Sorted(slices.Values(whole[10*epoch : 10*epoch+10]))
		for i, v := range sorted {
			if i != v {
				t.Fatalf("epoch %d has %v", epoch, sorted)
			}
		}
	}
	if slices.Equal(whole, (Order{Seed: 4, Count: 10}).Batch(0, 30)) {
		t.Error("two seeds have the same order")
	}
}
