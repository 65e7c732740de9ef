package conformance

import (
	"math"

	"qlora/ref/num"
	"qlora/ref/op"
)

// Band is how far from the reference's a program's outputs may be on a device of an arithmetic: one number for each element of losses and
// norms, one for a whole matrix, in Euclidean norm.
//
// AdamW divides by the size of a gradient, so that where one is nearly zero the sign of an update depends on roundings: after the first
// step of a training no bound would say anything. And a bound looks at samples of a model's outputs. Beside it, or in place of it, the
// reference runs once for each of some seeds, and each seed moves every result of every operation by a random part of its radius. The
// distance to which that leads is the band.
type Band map[string][]float64

const (
	seeds = 4
	wider = 4 // times the largest distance of the seeds: five deviations or so of what they show
)

// programs are what has a band.
var programs = map[string]func(d op.Device, c *Case, in Tensors) (Tensors, error){
	"decoder_block": decoderBlock, "model_forward_backward": forwardBackward, "training_steps": trainingSteps, "full_training": trainingSteps,
}

// bandOf is the band of a case, whose outputs on the reference are want; nil where it has none.
func bandOf(c *Case, in, want Tensors, a arithmetic) Band {
	program := programs[c.Op]
	if program == nil {
		return nil
	}
	band := Band{}
	for s := range seeds {
		got, err := program(newDisturbed(uint64(s), a), c, in)
		must(err)
		for name := range want {
			for i, d := range apart(name, want[name], got[name]) {
				if s == 0 {
					band[name] = append(band[name], 0)
				}
				band[name][i] = max(band[name][i], wider*d)
			}
		}
	}
	return band
}

// share is the largest part of the band that an output uses.
func (b Band) share(name string, want, got Tensor) (share float64) {
	for i, d := range apart(name, want, got) {
		if d > 0 {
			share = max(share, d/b[name][i])
		}
	}
	return share
}

// apart is how far two outputs are apart.
func apart(name string, x, y Tensor) []float64 {
	each, sum := make([]float64, x.Len()), 0.0
	for i := range each {
		each[i] = math.Abs(float64(y.F[i]) - float64(x.F[i]))
		sum += each[i] * each[i]
	}
	if name == "loss" || name == "norm" {
		return each
	}
	return []float64{math.Sqrt(sum)}
}

// newDisturbed is the reference device with results that are moved within their radii.
func newDisturbed(seed uint64, a arithmetic) *observer {
	n := uint64(0)
	var d *observer
	d = newObserver(func(o *observed) {
		for name, limits := range o.bound(a) {
			t := o.out[name]
			if t == nil {
				continue
			}
			x := d.read(t).F
			for i, limit := range limits {
				u := num.Uniform(seed, num.Counter{Purpose: num.Purpose("disturbed " + name), Element: n + uint64(i)})
				x[i] += float32(limit.e * float64(2*u-1))
			}
			d.Write(t, x)
		}
		n += 1 << 32 // another operation
	})
	return d
}
