package optim

import (
	"fmt"
	"math"

	"qlora/ref/num"
)

// Schedule is the learning rate's course, by the names and formulas of transformers' lr_scheduler_type.
type Schedule struct {
	Kind          string // constant, constant_with_warmup, linear, cosine
	Warmup, Steps int    // optimizer steps; constant knows no warm-up
}

// Check says whether the kind is known.
func (s Schedule) Check() error {
	switch s.Kind {
	case "constant", "constant_with_warmup", "linear", "cosine":
		return nil
	}
	return fmt.Errorf("lr_scheduler_type %q: want constant, constant_with_warmup, linear or cosine", s.Kind)
}

// LR is the learning rate after step optimizer steps, of a given peak. Warm-up rises from 0, which the first step gets. The
// cosine's (1 + cos(π(1−x)))/2 is computed as sin²(πx/2), x the part of the course that is left: nothing cancels near the end.
func (s Schedule) LR(peak float64, step int) float64 {
	if s.Kind == "constant" {
		return peak
	}
	if step < s.Warmup {
		return float64(peak * (float64(step) / float64(s.Warmup)))
	}
	if s.Kind == "constant_with_warmup" {
		return peak
	}
	left := max(0, float64(s.Steps-step)/float64(max(1, s.Steps-s.Warmup)))
	if s.Kind == "linear" {
		return float64(peak * left)
	}
	sin, _ := num.SinCos(float32(float64(math.Pi / 2 * left)))
	return float64(peak * float64(float64(sin)*float64(sin)))
}
