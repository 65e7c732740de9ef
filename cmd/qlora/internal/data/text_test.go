package data

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"qlora/ref/train"
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
	for _, c := range []struct {
		tokens []int32
		start  int32
		want   train.Sequences
	}{
		{[]int32{5, 6, 7, 8, 9}, 1, train.Sequences{{IDs: []int32{1, 5, 6}, Labels: []int32{5, 6, 7}}, {IDs: []int32{1, 8}, Labels: []int32{8, 9}}}},
		{[]int32{5, 6, 7, 8, 9}, -1, train.Sequences{{IDs: []int32{5, 6, 7}, Labels: []int32{6, 7, 8}}, {IDs: []int32{8}, Labels: []int32{9}}}},
		{nil, 1, nil},
		{nil, -1, nil},
		{[]int32{5}, -1, nil},
	} {
		if got := Sequences(c.tokens, c.start, 3); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v after %d: %v, want %v", c.tokens, c.start, got, c.want)
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
