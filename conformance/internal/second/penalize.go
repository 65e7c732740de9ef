package second

import (
	"cmp"
	"math"
	"slices"

	"qlora/ref/op"
)

// Penalize looks at each token of the vocabulary by itself, and not at the ids one by one.
func (d *Device) Penalize(at op.At, y, logits *op.Tensor, seen, banned *op.Ints, penalty float32) {
	shaped(at, 1, logits.Cols, logits, y)
	full(at, y)
	d.do(at, func() error {
		if err := cmp.Or(within(seen, logits.Cols, "token id", op.IgnoredLabel), within(banned, logits.Cols, "token id", op.IgnoredLabel)); err != nil {
			return err
		}
		z, to, penalized, never := of(logits), of(y), ints(seen), ints(banned)
		d.elements(logits.Cols, func(i int) {
			v := z.at(i)
			switch id := int32(i); {
			case slices.Contains(never, id):
				v = float32(math.Inf(-1))
			case !slices.Contains(penalized, id):
			case v < 0:
				v = float32(penalty * v)
			default:
				v /= penalty
			}
			to.put(i, v)
		})
		return nil
	})
}
