package batch

import (
	"cmp"
	"slices"

	"qlora/cmd/qlora/internal/data"
	"qlora/ref/num"
)

// The order of an epoch begins with a permutation of the sequences: data.Order's.
//
// Plain: that order, a sequence a slot.
//
// Grouped is Hugging Face's LengthGroupedSampler by the number of tokens, for batches of n slots: the permutation is cut into
// mega-batches of n × min(50, ⌊sequences / 4n⌋), or of n where that is 0. Each is sorted, the longest first, equal ones as they were.
// Then the longest sequence of all, the first of equal ones, changes places with the first of the first mega-batch, so that a batch
// that does not fit into memory comes at once.
//
// Packing is best fit decreasing: the sequences, the longest first and equal ones as the permutation has them, go one after the other
// into the fullest bin with room for them; of equally full ones into the one that has been so full for the longest time; where no bin
// has room, into a new one. Then the bins are shuffled, a bin a slot; where no two sequences fit together, the order is the plain one.
// Attention does not cross sequences, so it does not matter which of them share a bin.

// epochOrder gives the sequences of each slot of an epoch.
func (b *Batches) epochOrder(epoch int) [][]int {
	n := len(b.sequences)
	order := data.Order{Seed: b.options.Seed, Count: n}.Batch(epoch*n, n)
	lengths := make([]int, n)
	for i, s := range b.sequences {
		lengths[i] = len(s.IDs)
	}
	switch b.options.Mode {
	case Packing:
		if bins := pack(slices.Clone(order), lengths, b.options.Max); len(bins) < n {
			return shuffled(bins, b.options.Seed, epoch)
		}
	case Grouped:
		group(order, lengths, b.slotsOfStep())
	}
	slots := make([][]int, n)
	for i, s := range order {
		slots[i] = []int{s}
	}
	return slots
}

func longestFirst(order, lengths []int) {
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(lengths[b], lengths[a]) })
}

func group(order, lengths []int, batch int) {
	mega := batch * max(1, min(50, len(order)/(4*batch)))
	longest := 0 // of the places where a mega-batch begins
	for from := 0; from < len(order); from += mega {
		longestFirst(order[from:min(from+mega, len(order))], lengths)
		if lengths[order[from]] > lengths[order[longest]] {
			longest = from
		}
	}
	order[0], order[longest] = order[longest], order[0]
}

// pack puts sequences of up to room tokens into bins.
func pack(order, lengths []int, room int) (bins [][]int) {
	longestFirst(order, lengths)
	withRoom := make([][]int, room+1) // the bins with so many tokens free, those that have had so many for longer first
	free := newNextTree(room)
	for _, s := range order {
		left, bin := free.next(lengths[s]), len(bins)
		if left < 0 {
			left, bins = room, append(bins, nil)
		} else if bin, withRoom[left] = withRoom[left][0], withRoom[left][1:]; len(withRoom[left]) == 0 {
			free.set(left, false)
		}
		bins[bin] = append(bins[bin], s)
		left -= lengths[s]
		withRoom[left] = append(withRoom[left], bin)
		free.set(left, true)
	}
	return bins
}

// nextTree is a set of numbers from 0 to n that finds the next one in it from a number on: a binary tree, of which node i has the
// children 2i and 2i+1, and says whether there are any below it.
type nextTree struct {
	size int // leaves
	any  []bool
}

func newNextTree(n int) *nextTree {
	size := 1
	for size <= n {
		size *= 2
	}
	return &nextTree{size, make([]bool, 2*size)}
}

func (t *nextTree) set(v int, in bool) {
	i := t.size + v
	t.any[i] = in
	for i /= 2; i > 0; i /= 2 {
		t.any[i] = t.any[2*i] || t.any[2*i+1]
	}
}

// next is the smallest number in the set that is at least v; −1 if there is none.
func (t *nextTree) next(v int) int {
	i := t.size + v
	for !t.any[i] {
		for i&1 == 1 { // the last child: nothing to its right below the parent
			i /= 2
		}
		if i == 0 {
			return -1
		}
		i++
	}
	for i < t.size {
		if i *= 2; !t.any[i] {
			i++
		}
	}
	return i - t.size
}

// shuffled puts bins into the order of data.Shuffled with Purpose("data bins") and Step epoch.
func shuffled(bins [][]int, seed uint64, epoch int) [][]int {
	order := data.Shuffled(len(bins), seed, num.Counter{Purpose: num.Purpose("data bins"), Step: uint32(epoch), Layer: num.NoLayer})
	slots := make([][]int, len(bins))
	for i, bin := range order {
		slots[i] = bins[bin]
	}
	return slots
}
