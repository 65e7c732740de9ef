package data

import (
	"math"

	"qlora/cmd/qlora/internal/config"
	"qlora/ref/num"
)

// Pick is an example of a mix: the Index-th, from 0, of the Set-th set.
type Pick struct{ Set, Index int }

// maxMix is the longest epoch of a mix.
const maxMix = 1 << 27

// Mix orders the examples of sets, of which the i-th has counts[i], into an epoch that has them in the proportion of weights, evenly
// spread, and every one at least once; where that takes more of a set than it has, it begins again in another order. To the bit:
//
//   - The next example is of the set with the smallest float64(2·taken+1)/weight, the first of equal ones (Webster's apportionment),
//     where taken is what the epoch has of the set so far.
//   - It is the (taken mod count)-th of the set's order number taken div count: 0 … count−1 shuffled by Fisher and Yates, for i from
//     count−1 down to 1 swapping i with j = bits·(i+1) div 2^32, where bits is num.Bits(seed, Counter{Purpose: Purpose("data mix"),
//     Step: number, Layer: set, Element: i}).
//   - The epoch ends as soon as it has at least counts[i] of every set.
//
// The error is a config.UsageError.
func Mix(counts []int, weights []float64, seed uint64) ([]Pick, error) {
	if len(counts) != len(weights) {
		return nil, config.Usagef("dataset_weights: %d for %d sets", len(weights), len(counts))
	}
	sum, longest := 0.0, 0.0
	for i, w := range weights {
		if !(w > 0) || math.IsInf(w, 1) {
			return nil, config.Usagef("dataset_weights: %g: want numbers above 0", w)
		}
		if counts[i] < 1 {
			return nil, config.Usagef("dataset_weights: set %d of %d is empty", i+1, len(counts))
		}
		sum, longest = sum+w, max(longest, float64(counts[i])/w)
	}
	if !(sum*longest <= maxMix) {
		return nil, config.Usagef("dataset_weights: %v of sets of %v examples, each at least once, make an epoch of %.3g: give the large ones more",
			weights, counts, sum*longest)
	}
	var picks []Pick
	taken, orders := make([]int, len(counts)), make([][]int, len(counts))
	for left := len(counts); left > 0; {
		set, least := 0, math.Inf(1)
		for i, w := range weights {
			if next := float64(2*taken[i]+1) / w; next < least {
				set, least = i, next
			}
		}
		number, index := taken[set]/counts[set], taken[set]%counts[set]
		if index == 0 {
			c := num.Counter{Purpose: num.Purpose("data mix"), Step: uint32(number), Layer: uint16(set)}
			orders[set] = Shuffled(counts[set], seed, c)
		}
		picks = append(picks, Pick{set, orders[set][index]})
		if taken[set]++; taken[set] == counts[set] {
			left--
		}
	}
	return picks, nil
}

// Split holds out some of n examples: heldOut of them if that is a whole number, that share of them, rounded and at least one, if it is
// below 1. Both parts are in ascending order. Held out are the first of 0 … n−1 shuffled as by Mix, with Purpose("data split"), step 0
// and num.NoLayer. The error is a config.UsageError.
func Split(n int, heldOut float64, seed uint64) (training, held []int, err error) {
	count := heldOut
	if 0 < heldOut && heldOut < 1 {
		count = max(1, math.Round(float64(n)*heldOut))
	}
	switch {
	case !(count >= 0) || count != math.Trunc(count):
		return nil, nil, config.Usagef("eval_dataset_size: %g: want a number of examples, or a share of them below 1", heldOut)
	case count > 0 && count >= float64(n):
		return nil, nil, config.Usagef("eval_dataset_size: %g held out of %d examples leave none to train on", heldOut, n)
	}
	isHeld := make([]bool, n)
	order := Shuffled(n, seed, num.Counter{Purpose: num.Purpose("data split"), Layer: num.NoLayer})
	for _, i := range order[:int(count)] {
		isHeld[i] = true
	}
	for i, h := range isHeld {
		if h {
			held = append(held, i)
		} else {
			training = append(training, i)
		}
	}
	return training, held, nil
}
