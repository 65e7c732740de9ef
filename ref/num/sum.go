package num

const (
	sumLanes = 32
	sumRun   = 65536
)

// Sum adds x in the one order that every device reproduces: lane l of 32 takes elements l, l+32, l+64, … from +0, then the
// lanes fold in halves (16, 8, 4, 2, 1). A vector longer than 65,536 is cut into runs of that length, each summed so, and
// the partial sums are summed so again.
func Sum(x []float32) float32 {
	if len(x) <= sumRun {
		return sumOneRun(x)
	}
	var partial []float32
	for len(x) > 0 {
		n := min(sumRun, len(x))
		partial = append(partial, sumOneRun(x[:n]))
		x = x[n:]
	}
	return Sum(partial)
}

func sumOneRun(x []float32) float32 {
	var lane [sumLanes]float32
	for len(x) >= sumLanes {
		for l, v := range x[:sumLanes] {
			lane[l] += v
		}
		x = x[sumLanes:]
	}
	for l, v := range x {
		lane[l] += v
	}
	for half := sumLanes / 2; half > 0; half /= 2 {
		for l := range half {
			lane[l] += lane[l+half]
		}
	}
	return lane[0]
}
