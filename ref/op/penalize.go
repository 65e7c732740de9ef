package op

import "math"

// Penalize sets y [vocab] to the logits z, less those of tokens that are not to come again. For each id in seen, however often it is there,
// y[id] = z[id]·penalty where z[id] < 0, else z[id]/penalty, rounded to float32 (Keskar et al., 2019, section 4.1, in the form of
// transformers, where a penalty above 1 makes negative logits less likely, too). Then y[id] = −∞ for each id in banned. IgnoredLabel is
// passed over in both, which may have room for tokens that are still to come. y is not z.
func Penalize(y, z []float32, seen, banned []int32, penalty float32) {
	copy(y, z)
	for _, id := range seen {
		switch {
		case id == IgnoredLabel:
		case z[id] < 0:
			y[id] = float32(z[id] * penalty)
		default:
			y[id] = z[id] / penalty
		}
	}
	for _, id := range banned {
		if id != IgnoredLabel {
			y[id] = float32(math.Inf(-1))
		}
	}
}
