// Package optim is what happens between the gradients and the parameters: AdamW with moments in 32 and in 8 bits, Lion, clipping
// by the global norm, learning-rate schedules, and the policy by which paged optimizer state comes and goes.
package optim

import (
	"math"

	"qlora/ref/num"
)

// AdamWConfig holds the hyperparameters of AdamW (Loshchilov and Hutter, 2019). Those of Lion are the same without Eps.
type AdamWConfig struct {
	LR, Beta1, Beta2, Eps, WeightDecay float64
}

// The scalars of a step, as they lie in a device's memory. All that needs powers or float64 is computed here, on the host,
// and rounded once; a device needs +, −, ×, ÷ and √ alone.
const (
	scalarDecay         = iota // 1 − lr·wd
	scalarBeta1                // β1
	scalarOneMinusBeta1        // 1 − β1, of the float64 β1
	scalarBeta2                // β2
	scalarOneMinusBeta2        // 1 − β2
	scalarRootBias2            // √(1 − β2^t)
	scalarEps                  // ε
	scalarStepSize             // −lr/(1 − β1^t)
	scalarMaxNorm              // the largest norm of all gradients; 0 does not clip
	NumScalars
)

// NewScalars are the scalars of the t-th step, t from 1.
func NewScalars(c AdamWConfig, maxNorm float32, t int) []float32 {
	bias1, bias2 := 1-num.PowInt(c.Beta1, t), 1-num.PowInt(c.Beta2, t)
	return []float32{
		scalarDecay:         float32(1 - float64(c.LR*c.WeightDecay)),
		scalarBeta1:         float32(c.Beta1),
		scalarOneMinusBeta1: float32(1 - c.Beta1),
		scalarBeta2:         float32(c.Beta2),
		scalarOneMinusBeta2: float32(1 - c.Beta2),
		scalarRootBias2:     float32(math.Sqrt(bias2)),
		scalarEps:           float32(c.Eps),
		scalarStepSize:      float32(-c.LR / bias1),
		scalarMaxNorm:       maxNorm,
	}
}

// AdamW takes a step on p [n] with moments m and v [n] from gradients g [n]. norm is that of all gradients together (Norm).
// Decay comes first, then the update, as in PyTorch:
//
//	g' = g·clip
//	p  = p·(1 − lr·wd)
//	m  = m·β1 + g'·(1 − β1)
//	v  = v·β2 + (g'·(1 − β2))·g'
//	p  = p + (m·(−lr/(1 − β1^t)))/(√v/√(1 − β2^t) + ε)
//
// Every operation rounds to float32. (PyTorch's own AdamW computes m as m + (g − m)·(1 − β1), which rounds otherwise.)
func AdamW(p, m, v, g, scalars []float32, norm float32) {
	clip := Clip(scalars, norm)
	for i := range p {
		p[i], m[i], v[i] = adamW(p[i], m[i], v[i], float32(g[i]*clip), scalars)
	}
}

func adamW(p, m, v, g float32, s []float32) (float32, float32, float32) {
	p = float32(p * s[scalarDecay])
	m = float32(m*s[scalarBeta1]) + float32(g*s[scalarOneMinusBeta1])
	v = float32(v*s[scalarBeta2]) + float32(float32(g*s[scalarOneMinusBeta2])*g)
	root := float32(math.Sqrt(float64(v))) // the float32 nearest to √v: float64 has the bits to spare
	p += float32(m*s[scalarStepSize]) / (root/s[scalarRootBias2] + s[scalarEps])
	return p, m, v
}
