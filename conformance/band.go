package conformance

import (
	"math"

	"qlora/ref/num"
	"qlora/ref/op"
)

// The band of a training. AdamW divides by the size of a gradient, so that where one is nearly zero the sign of an update depends on
// roundings: no bound would say anything after the first step. Instead the reference trains once for each of some seeds, and each seed
// moves every result of every operation by a random part of its radius. The distance to which that leads is the band.

const (
	seeds = 4
	wider = 4 // times the largest distance of the seeds: five deviations or so of what they show
)

// bandTraining is the band of what a training reports and where it ends: for a loss or a norm its own, for a matrix that of its
// distance in all.
func bandTraining(c *Case, in Tensors, a arithmetic) map[string][]approx {
	if a.likely { // there is one band
		return nil
	}
	want, err := trainingSteps(op.NewPlain(0), c, in)
	must(err)
	band := unbounded(want)
	for name := range band {
		for i := range band[name] {
			band[name][i].e = 0
		}
	}
	for s := range seeds {
		got, err := trainingSteps(newDisturbed(uint64(s), a), c, in)
		must(err)
		for name, list := range band {
			distances := apart(name, want[name].F, got[name].F)
			for i := range list {
				list[i].e = max(list[i].e, wider*distances[min(i, len(distances)-1)])
			}
		}
	}
	return band
}

// apart is how far x and y are apart: one number for a matrix, one a step for losses and norms.
func apart(name string, x, y []float32) []float64 {
	each, sum := make([]float64, len(x)), 0.0
	for i := range x {
		each[i] = math.Abs(float64(y[i]) - float64(x[i]))
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
