package batch

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"testing"

	"qlora/ref/num"
	"qlora/ref/train"
)

// Packing and grouping are TRL's and transformers', of the same lengths in the same order.
func TestOrdersAreTheOriginals(t *testing.T) {
	b, err := os.ReadFile("testdata/masks.json")
	if err != nil {
		t.Fatal(err)
	}
	var o struct {
		Packed []struct {
			Lengths []int
			Room    int
			Bins    [][]int
		}
		Grouped []struct {
			Lengths, Order []int
			Batch          int
			Result         []int
		}
	}
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	for i, p := range o.Packed {
		order := make([]int, len(p.Lengths))
		for i := range order {
			order[i] = i
		}
		// Arrow does not say how it orders equal lengths: the bins' lengths are compared.
		if got, want := lengthsOf(pack(order, p.Lengths, p.Room), p.Lengths), lengthsOf(p.Bins, p.Lengths); !reflect.DeepEqual(got, want) {
			t.Errorf("packing %d: %v, want %v", i, got, want)
		}
	}
	for i, g := range o.Grouped {
		if group(g.Order, g.Lengths, g.Batch); !slices.Equal(g.Order, g.Result) {
			t.Errorf("grouping %d: %v, want %v", i, g.Order, g.Result)
		}
	}
	if len(o.Packed) < 5 || len(o.Grouped) < 5 {
		t.Error("too few")
	}
}

func lengthsOf(bins [][]int, lengths []int) [][]int {
	all := make([][]int, len(bins))
	for i, b := range bins {
		for _, s := range b {
			all[i] = append(all[i], lengths[s])
		}
	}
	return all
}

// sequences are n of lengths from 1 to longest. The first id of each tells which it is.
func sequences(n, longest int) train.Sequences {
	s := make(train.Sequences, n)
	for i := range s {
		length := 1 + int(num.Bits(1, num.Counter{Element: uint64(i)})%uint32(longest))
		s[i] = train.Sequence{IDs: make([]int32, length), Labels: make([]int32, length)}
		s[i].IDs[0] = int32(i)
	}
	return s
}

func batches(t testing.TB, s train.Sequences, o Options) *Batches {
	t.Helper()
	b, err := New(s, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func which(micro []train.Sequences) (all []int32) {
	for _, m := range micro {
		for _, s := range m {
			all = append(all, s.IDs[0])
		}
	}
	return all
}

// In every mode an epoch has every sequence once, steps may be asked for in any order, and how a batch is cut does not matter.
func TestBatches(t *testing.T) {
	for _, mode := range []Mode{Packing, Grouped, Plain} {
		for _, n := range []int{1, 2, 17, 100} {
			t.Run(fmt.Sprint(mode, n), func(t *testing.T) {
				s := sequences(n, 20)
				o := Options{Mode: mode, Seed: 3, Max: 32, Micro: 1, Accumulate: 1}
				single := batches(t, s, o)
				var epochs [2][]int32
				for e := range epochs {
					for i := range single.Slots() {
						epochs[e] = append(epochs[e], which(single.Batch(e*single.Slots()+i))...)
					}
					if sorted := slices.Sorted(slices.Values(epochs[e])); len(sorted) != n || sorted[0] != 0 || int(sorted[n-1]) != n-1 || len(slices.Compact(sorted)) != n {
						t.Errorf("epoch %d has %v", e, sorted)
					}
				}
				if n > 2 && slices.Equal(epochs[0], epochs[1]) {
					t.Error("two epochs are the same")
				}
				o.Seed = 4
				other := batches(t, s, o)
				var first []int32
				for i := range other.Slots() {
					first = append(first, which(other.Batch(i))...)
				}
				if n > 2 && slices.Equal(first, epochs[0]) {
					t.Error("two seeds are the same")
				}
				o.Seed = 3
				cutEqually(t, s, o)
			})
		}
	}
}

func cutEqually(t *testing.T, s train.Sequences, o Options) {
	t.Helper()
	o.Micro, o.Accumulate = 6, 1
	whole := batches(t, s, o)
	for _, cut := range []Options{{Micro: 1, Accumulate: 6}, {Micro: 2, Accumulate: 3}, {Micro: 3, Accumulate: 2}} {
		o.Micro, o.Accumulate = cut.Micro, cut.Accumulate
		b := batches(t, s, o)
		for _, step := range []int{40, 3, 0, 41, 7} {
			micro := b.Batch(step)
			if len(micro) != cut.Accumulate {
				t.Errorf("%d micro-batches, want %d", len(micro), cut.Accumulate)
			}
			if got, want := which(micro), which(whole.Batch(step)); !slices.Equal(got, want) {
				t.Errorf("step %d in %d micro-batches: %v, in one: %v", step, cut.Accumulate, got, want)
			}
		}
	}
}

// A bin holds what fits, is never left half empty where another could take its sequences, and packing is worth it.
func TestPacking(t *testing.T) {
	s := sequences(500, 60)
	b := batches(t, s, Options{Mode: Packing, Seed: 1, Max: 64, Micro: 1, Accumulate: 1})
	tokens, fullest := 0, []int{}
	for i := range b.Slots() {
		n := 0
		for _, x := range b.Batch(i)[0] {
			n += len(x.IDs)
		}
		if n > 64 || n == 0 {
			t.Errorf("slot %d has %d tokens", i, n)
		}
		tokens += n
		fullest = append(fullest, n)
	}
	slices.SortFunc(fullest, cmp.Compare)
	if fullest[0]+fullest[1] <= 64 {
		t.Errorf("two bins of %d and %d tokens would fit into one", fullest[0], fullest[1])
	}
	if got := b.Longest(); got != fullest[len(fullest)-1] {
		t.Errorf("the longest slot has %d tokens, not %d", fullest[len(fullest)-1], got)
	}
	if least := (tokens + 63) / 64; b.Slots() > least*11/9+1 {
		t.Errorf("%d bins for what would fill %d", b.Slots(), least)
	}
}

// Sequences that do not fit together are in the order of plain batches: a text in blocks trains the same with and without packing.
func TestNothingToPack(t *testing.T) {
	s := make(train.Sequences, 20)
	for i := range s {
		s[i] = train.Sequence{IDs: slices.Repeat([]int32{int32(i)}, 9), Labels: make([]int32, 9)}
	}
	o := Options{Mode: Packing, Seed: 5, Max: 16, Micro: 2, Accumulate: 2}
	packed := batches(t, s, o)
	o.Mode = Plain
	plain := batches(t, s, o)
	for step := range 12 {
		if a, b := which(packed.Batch(step)), which(plain.Batch(step)); !slices.Equal(a, b) {
			t.Errorf("step %d: %v packed, %v plain", step, a, b)
		}
	}
}

// Sequences of a batch are of like lengths when they are grouped.
func TestGrouping(t *testing.T) {
	s := sequences(1000, 100)
	spread := func(mode Mode) (sum int) {
		b := batches(t, s, Options{Mode: mode, Seed: 1, Micro: 4, Accumulate: 2})
		for step := range 1000 / 8 {
			low, high := 1000, 0
			for _, m := range b.Batch(step) {
				for _, x := range m {
					low, high = min(low, len(x.IDs)), max(high, len(x.IDs))
				}
			}
			sum += high - low
		}
		return sum
	}
	if g, p := spread(Grouped), spread(Plain); g*10 > p {
		t.Errorf("lengths in a batch differ by %d when grouped, by %d otherwise", g, p)
	}
}

func TestSteps(t *testing.T) {
	b := batches(t, sequences(10, 5), Options{Mode: Plain, Micro: 2, Accumulate: 2})
	for epochs, want := range map[float64]int{1: 3, 2: 5, 0.5: 2, 3: 8} {
		if got := b.Steps(epochs); got != want {
			t.Errorf("%v epochs of 10 sequences in batches of 4 take %d steps, want %d", epochs, got, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(nil, Options{}); err == nil {
		t.Error("no sequences are taken")
	}
	if _, err := New(sequences(30, 20), Options{Mode: Packing, Max: 10}); err == nil {
		t.Error("a sequence that is longer than a slot is taken")
	}
}

// next against a search from number to number.
func FuzzNextTree(f *testing.F) {
	f.Add(uint8(5), []byte{1, 3, 3})
	f.Add(uint8(0), []byte{0})
	f.Add(uint8(255), []byte{0, 255, 128, 7, 7})
	f.Fuzz(func(t *testing.T, n uint8, toggles []byte) {
		tree, in := newNextTree(int(n)), make([]bool, int(n)+1)
		for _, v := range toggles {
			i := int(v) % len(in)
			in[i] = !in[i]
			tree.set(i, in[i])
			for from := range in {
				want := slices.Index(in[from:], true)
				if want >= 0 {
					want += from
				}
				if got := tree.next(from); got != want {
					t.Fatalf("after %d in %v comes %d, want %d", from, in, got, want)
				}
			}
		}
	})
}
