package kernel

import (
	"fmt"
	"math"
	"sort"
)

// Search8 finds the code of a number in an 8-bit type in two steps: the upper half of its bits tells the code but for one threshold.
type Search8 struct {
	below      [1 << 16]uint8 // the number of thresholds below all numbers with these upper bits
	thresholds [256]float32   // ascending; the last is +Inf
}

// NewSearch8 is the search among 255 thresholds. It panics if two of them have the same upper half.
func NewSearch8(thresholds []float32) *Search8 {
	s := &Search8{}
	copy(s.thresholds[:], thresholds)
	s.thresholds[255] = float32(math.Inf(1))
	count := func(x float32) int { return sort.Search(255, func(i int) bool { return thresholds[i] >= x }) }
	for upper := range s.below {
		first, last := math.Float32frombits(uint32(upper)<<16), math.Float32frombits(uint32(upper)<<16|0xffff)
		if first < 0 || upper == 1<<15 {
			first, last = last, first
		}
		if first != first || last != last {
			continue // NaN, or infinity with them
		}
		s.below[upper] = uint8(count(first))
		if n := count(last) - count(first); n > 1 {
			panic(fmt.Sprintf("kernel: %d thresholds between %v and %v", n, first, last))
		}
	}
	return s
}

func codes8(codes []byte, x []float32, r float32, s *Search8) {
	x = x[:len(codes)]
	for i, v := range x {
		v = float32(v * r)
		n := int(s.below[math.Float32bits(v)>>16]) // an int, of which Go makes no branch, which nothing could foretell
		if v > s.thresholds[n] {
			n++
		}
		codes[i] = uint8(n)
	}
}
