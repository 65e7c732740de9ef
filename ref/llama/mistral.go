package llama

import (
	"fmt"
	"slices"

	"qlora/ref/checkpoint"
)

// mistralArchitecture is LLaMA with attention to a window in every layer (Jiang et al., 2023).
func mistralArchitecture(s *Config, c checkpoint.ModelConfig) error {
	if c.SlidingWindow == nil {
		return nil
	}
	if *c.SlidingWindow < 1 {
		return fmt.Errorf("sliding_window is %d: want at least 1, or null", *c.SlidingWindow)
	}
	s.SlidingWindow = slices.Repeat([]int{*c.SlidingWindow}, s.NumHiddenLayers)
	return nil
}
