package data

import (
	"math"
	"slices"
	"strings"
	"testing"
)

// An epoch has every example, in the proportion of the weights at every point, and no longer than it takes.
func TestMix(t *testing.T) {
	for _, c := range []struct {
		counts  []int
		weights []float64
		want    []int // of each set in an epoch
	}{
		{[]int{7}, []float64{3}, []int{7}},
		{[]int{30, 10}, []float64{3, 1}, []int{30, 10}},
		{[]int{30, 10}, []float64{30, 10}, []int{30, 10}},
		{[]int{10, 10}, []float64{0.7, 0.3}, []int{23, 10}},
		{[]int{1, 100}, []float64{0.5, 0.5}, []int{100, 100}},
		{[]int{5, 6, 7}, []float64{1, 2, 1}, []int{7, 13, 7}},
	} {
		picks, err := Mix(c.counts, c.weights, 5)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for _, w := range c.weights {
			sum += w
		}
		taken, seen := make([]int, len(c.counts)), make([][]int, len(c.counts))
		for i := range seen {
			seen[i] = make([]int, c.counts[i])
		}
		for n, p := range picks {
			taken[p.Set]++
			seen[p.Set][p.Index]++
			for i, w := range c.weights {
				if share := float64(n+1) * w / sum; math.Abs(float64(taken[i])-share) >= float64(len(c.counts)) {
					t.Fatalf("%v: %d of set %d among the first %d", c.weights, taken[i], i, n+1)
				}
			}
		}
		for i := range seen {
			if least, most := slices.Min(seen[i]), slices.Max(seen[i]); least < 1 || most > least+1 {
				t.Errorf("%v: an example of set %d stands there %d times, one %d times", c.counts, i, least, most)
			}
			if got := taken[i] - c.want[i]; got < -1 || got > 1 {
				t.Errorf("%v, %v: %d, want about %v", c.counts, c.weights, taken, c.want)
			}
		}
		last := picks[len(picks)-1]
		if taken[last.Set] != c.counts[last.Set] {
			t.Errorf("%v, %v: the epoch goes on after every example has stood there", c.counts, c.weights)
		}
		again, _ := Mix(c.counts, c.weights, 5)
		other, _ := Mix(c.counts, c.weights, 6)
		if !slices.Equal(picks, again) || slices.Equal(picks, other) {
			t.Errorf("%v: the seed does not fix the order", c.counts)
		}
	}
}

// The digits are the specification in Mix's comment, done in Python: see testdata/mix.py.
func TestMixBits(t *testing.T) {
	picks, err := Mix([]int{5, 3}, []float64{0.7, 0.3}, 7)
	if want := []Pick{{0, 2}, {1, 1}, {0, 4}, {0, 1}, {0, 0}, {1, 2}, {0, 3}, {0, 1}, {1, 0}}; err != nil || !slices.Equal(picks, want) {
		t.Error(picks, err)
	}
	training, held, err := Split(10, 3, 7)
	if !slices.Equal(held, []int{0, 6, 7}) || len(training) != 7 || err != nil {
		t.Error(training, held, err)
	}
}

func TestMixErrors(t *testing.T) {
	for _, c := range []struct {
		counts  []int
		weights []float64
		want    string
	}{
		{[]int{1, 2}, []float64{1}, "1 for 2 sets"},
		{[]int{1, 2}, []float64{1, 0}, "0: want numbers above 0"},
		{[]int{1, 2}, []float64{1, -1}, "-1: want numbers above 0"},
		{[]int{1, 2}, []float64{1, math.NaN()}, "NaN: want"},
		{[]int{1, 2}, []float64{1, math.Inf(1)}, "+Inf: want"},
		{[]int{1, 0}, []float64{1, 1}, "set 2 of 2 is empty"},
		{[]int{1000, 1000}, []float64{1, 1e-9}, "make an epoch of 1e+12"},
		{[]int{1000, 1000}, []float64{1, 1e-320}, "make an epoch of +Inf"},
	} {
		if _, err := Mix(c.counts, c.weights, 0); !isUsage(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.weights, err)
		}
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		n       int
		heldOut float64
		want    int
	}{{10, 0, 0}, {10, 3, 3}, {10, 9, 9}, {10, 0.25, 3}, {1000, 0.1, 100}, {3, 0.01, 1}, {2, 0.5, 1}, {0, 0, 0}} {
		training, held, err := Split(c.n, c.heldOut, 3)
		if err != nil || len(held) != c.want || !slices.IsSorted(held) || !slices.IsSorted(training) {
			t.Errorf("%v: %v %v %v", c, training, held, err)
		}
		all := slices.Sorted(slices.Values(slices.Concat(training, held)))
		for i, x := range all {
			if x != i || len(all) != c.n {
				t.Fatalf("%v: %v", c, all)
			}
		}
	}
	a, _, _ := Split(100, 50, 1)
	b, _, _ := Split(100, 50, 2)
	if slices.Equal(a, b) {
		t.Error("two seeds hold out the same")
	}
	for _, c := range []struct {
		n       int
		heldOut float64
	}{{10, 10}, {10, 1024}, {10, -1}, {10, 1.5}, {10, math.NaN()}, {10, math.Inf(1)}, {1, 0.5}, {0, 1}} {
		if _, _, err := Split(c.n, c.heldOut, 0); !isUsage(err) {
			t.Errorf("%v: %v", c, err)
		}
	}
}
