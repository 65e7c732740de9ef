package optim

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"qlora/ref/num"
)

// Schedule is the learning rate's course, by the names and formulas of transformers' lr_scheduler_type.
type Schedule struct {
	Kind          string // one of kinds
	Warmup, Steps int    // optimizer steps; constant knows no warm-up
}

// kinds are those that there are, with transformers' defaults: cosine_with_restarts has one cycle, which makes it cosine; polynomial is
// of power 1 and ends at 1e-7.
var kinds = []string{"constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"}

// Check says whether the kind is known.
func (s Schedule) Check() error {
	if slices.Contains(kinds, s.Kind) {
		return nil
	}
	return fmt.Errorf("lr_scheduler_type %q: want one of %s", s.Kind, strings.Join(kinds, ", "))
}

// LR is the learning rate after step optimizer steps, of a given peak. Warm-up rises from 0, which the first step gets. The
// cosine's (1 + cos(π(1−x)))/2 is computed as sin²(πx/2), x the part of the course that is left: nothing cancels near the end. inverse_sqrt is
// the peak by the root of the steps in units of the warm-up's, of 10,000 where there is none.
func (s Schedule) LR(peak float64, step int) float64 {
	if s.Kind == "constant" {
		return peak
	}
	if step < s.Warmup {
		return float64(peak * (float64(step) / float64(s.Warmup)))
	}
	left := max(0, float64(s.Steps-step)/float64(max(1, s.Steps-s.Warmup)))
	switch s.Kind {
	case "constant_with_warmup":
		return peak
	case "linear":
		return float64(peak * left)
	case "polynomial":
		end := min(peak, 1e-7)
		return float64((peak-end)*left) + end
	case "inverse_sqrt":
		scale := s.Warmup
		if scale == 0 {
			scale = 10000
		}
		return peak / math.Sqrt(float64(step-s.Warmup+scale)/float64(scale))
	}
	sin, _ := num.SinCos(float32(float64(math.Pi / 2 * left)))
	return float64(peak * float64(float64(sin)*float64(sin)))
}
