package second

import (
	"math"

	"qlora/ref/num"
	"qlora/ref/op"
)

func (d *Device) Noise(at op.At, y, x *op.Tensor, segments *op.Ints, n op.Noise) {
	shaped(at, x.Rows, x.Cols, y)
	want(segments.Len > 0, "%v: no bounds of segments", at)
	d.do(at, func() error {
		if err := ascending(segments, x.Rows); err != nil {
			return err
		}
		to, from, lengths, random := of(y), of(x), lengthsOf(ints(segments), x.Rows), noise(at, n, x.Cols)
		d.elements(x.Len(), func(i int) {
			v := from.at(i)
			if length := lengths[i/x.Cols]; length > 0 && n.Alpha != 0 {
				root := float32(math.Sqrt(float64(float32(float32(length) * float32(x.Cols)))))
				v += y.DType.Round(float32(n.Alpha / root * random(i)))
			}
			to.put(i, v)
		})
		return nil
	})
}

// lengthsOf is how long the segment is that each row is in, 0 for none.
func lengthsOf(bounds []int32, rows int) []int {
	lengths := make([]int, rows)
	for s := range bounds[1:] {
		for row := bounds[s]; row < bounds[s+1]; row++ {
			lengths[row] = int(bounds[s+1] - bounds[s])
		}
	}
	return lengths
}

// noise gives the number from −1 to 1 of element i of a tensor of so many columns. It reads the clock now.
func noise(at op.At, n op.Noise, cols int) func(i int) float32 {
	if n.Alpha == 0 {
		return nil
	}
	clock := ints(n.Clock)
	c := num.Counter{Purpose: num.Purpose("noise/" + at.Name), Layer: at.Layer, Step: uint32(clock[op.ClockStep])}
	first := uint64(clock[op.ClockFirstToken]) * uint64(cols)
	return func(i int) float32 {
		c := c
		c.Element = first + uint64(i)
		return float32(2*num.Uniform(n.Seed, c)) - 1
	}
}
