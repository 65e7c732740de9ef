package llama

import (
	"fmt"

	"qlora/ref/checkpoint"
)

// qwen2Architecture is LLaMA with biases in q, k and v (Qwen Team, 2024), and windows in its upper layers where they are wanted.
func qwen2Architecture(s *Config, c checkpoint.ModelConfig) error {
	s.QKVBias = true
	return upperWindows(s, c)
}

// upperWindows gives a window to the layers that layer_types names, or to those from max_window_layers on.
func upperWindows(s *Config, c checkpoint.ModelConfig) error {
	if !c.UseSlidingWindow || c.SlidingWindow == nil {
		return nil
	}
	if *c.SlidingWindow < 1 {
		return fmt.Errorf("sliding_window is %d: want at least 1, or null", *c.SlidingWindow)
	}
	if n := len(c.LayerTypes); n != 0 && n != s.NumHiddenLayers {
		return fmt.Errorf("layer_types names %d layers, the model has %d", n, s.NumHiddenLayers)
	}
	s.SlidingWindow = make([]int, s.NumHiddenLayers)
	for layer := range s.SlidingWindow {
		slides := layer >= c.MaxWindowLayers
		if len(c.LayerTypes) > 0 {
			slides = c.LayerTypes[layer] == "sliding_attention"
			if !slides && c.LayerTypes[layer] != "full_attention" {
				return fmt.Errorf("layer_types has %q: want sliding_attention or full_attention", c.LayerTypes[layer])
			}
		}
		if slides {
			s.SlidingWindow[layer] = *c.SlidingWindow
		}
	}
	return nil
}
