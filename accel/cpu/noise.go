package cpu

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

// Noise computes, for each segment of L rows, with u uniform by element (op.AddNoise),
//
//	y = round(x + round(m·(2u − 1))),  m = α/√(L·d)
//
// y is x without noise, and in rows that are in no segment.
func (d *Device) Noise(at op.At, y, x *op.Tensor, segments *op.Ints, n op.Noise) {
	op.CheckNoise(at, y, x)
	d.do(at, func() error {
		bounds := ints(segments)
		if err := op.CheckSegments(segments.Name, bounds, x.Rows); err != nil {
			return err
		}
		to, from, cols, done := of(y), of(x), x.Cols, 0
		if n.Alpha != 0 {
			random := d.noise(at, n)
			for s := 1; s < len(bounds); s++ {
				first := int(bounds[s-1]) * cols
				done = int(bounds[s]) * cols
				m := op.NoiseMagnitude(n.Alpha, int(bounds[s]-bounds[s-1]), cols)
				d.elements(done-first, func(w *scratch, i, j int) {
					z, u := w.floats(slotX, j-i), w.floats(slotY, j-i)
					random.uniforms(u, uint64(random.firstToken*cols+first+i))
					for k, v := range u {
						u[k] = float32(m * (float32(2*v) - 1))
					}
					round(d.kernel, y.DType, u)
					d.kernel.Add(z, from.part(first+i, first+j).at(d.kernel, z), u)
					to.part(first+i, first+j).put(d.kernel, z)
				})
			}
		}
		d.elements(x.Len()-done, func(w *scratch, i, j int) {
			to.part(done+i, done+j).put(d.kernel, from.part(done+i, done+j).at(d.kernel, w.floats(slotX, j-i)))
		})
		return nil
	})
}

// noise is a place's random numbers at the clock's step.
func (d *Device) noise(at op.At, n op.Noise) mask {
	clock := ints(n.Clock)
	c := num.Counter{Purpose: num.Purpose("noise/" + at.Name), Layer: at.Layer, Step: uint32(clock[op.ClockStep])}
	return mask{seed: n.Seed, counter: c, firstToken: int(clock[op.ClockFirstToken])}
}

// uniforms are num.Uniform of elements that follow each other, four of a block of Philox.
func (m mask) uniforms(u []float32, element uint64) {
	var words [4]uint32
	for i := range u {
		at := element + uint64(i)
		if i == 0 || at%4 == 0 {
			words = m.block(at / 4)
		}
		u[i] = float32(float32(words[at%4]>>8) * 0x1p-24)
	}
}
