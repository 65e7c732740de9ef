package optim

// NewLionScalars are the scalars of a step of Lion, in AdamW's order. Lion has no ε and corrects no bias: these two places hold 0 and are
// not read, and the step size is −lr at every step.
func NewLionScalars(c AdamWConfig, maxNorm float32) []float32 {
	return []float32{
		scalarDecay:         float32(1 - float64(c.LR*c.WeightDecay)),
		scalarBeta1:         float32(c.Beta1),
		scalarOneMinusBeta1: float32(1 - c.Beta1),
		scalarBeta2:         float32(c.Beta2),
		scalarOneMinusBeta2: float32(1 - c.Beta2),
		scalarStepSize:      float32(-c.LR),
		scalarMaxNorm:       maxNorm,
	}
}

// Lion takes a step on p [n] with the moment m [n] from gradients g [n] (Chen et al., 2023, algorithm 2). norm is that of all gradients
// together (Norm). The update looks at m before it moves, by β1; m moves by β2. Decay is of p alone, and comes first:
//
//	g' = g·clip
//	c  = m·β1 + g'·(1 − β1)
//	p  = p·(1 − lr·wd)
//	p  = p + sign(c)·(−lr)
//	m  = m·β2 + g'·(1 − β2)
//
// Every operation rounds to float32. The sign of a zero is +0, and that of NaN is NaN, so that it shows. (torch.sign has 0 there.)
func Lion(p, m, g, scalars []float32, norm float32) {
	clip := Clip(scalars, norm)
	for i := range p {
		p[i], m[i] = lion(p[i], m[i], float32(g[i]*clip), scalars)
	}
}

func lion(p, m, g float32, s []float32) (float32, float32) {
	c := float32(m*s[scalarBeta1]) + float32(g*s[scalarOneMinusBeta1])
	p = float32(p*s[scalarDecay]) + float32(sign(c)*s[scalarStepSize])
	m = float32(m*s[scalarBeta2]) + float32(g*s[scalarOneMinusBeta2])
	return p, m
}

func sign(x float32) float32 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	case x == 0:
		return 0
	}
	return x
}
