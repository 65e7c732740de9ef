package second

const (
	lanes = 32
	run   = 65536
)

// sum is the specification's, one lane after the other.
func sum(x []float32) float32 {
	if len(x) > run {
		partial := make([]float32, blocks(len(x), run))
		for i := range partial {
			partial[i] = sum(x[i*run : min(len(x), (i+1)*run)])
		}
		return sum(partial)
	}
	var lane [lanes]float32
	for l := range lane {
		for i := l; i < len(x); i += lanes {
			lane[l] += x[i]
		}
	}
	return fold(lane[:])
}

// fold adds the upper half of the lanes to the lower until one is left.
func fold(lane []float32) float32 {
	if len(lane) == 1 {
		return lane[0]
	}
	half := len(lane) / 2
	for l := range half {
		lane[l] += lane[half+l]
	}
	return fold(lane[:half])
}
