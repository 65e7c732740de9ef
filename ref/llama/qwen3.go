package llama

import "qlora/ref/checkpoint"

// qwen3Architecture is LLaMA with a norm on each head of q and k (Qwen Team, 2025).
func qwen3Architecture(s *Config, c checkpoint.ModelConfig) error {
	s.QKNorm = true
	s.QKVBias, s.OutputBias = c.AttentionBias, c.AttentionBias
	return upperWindows(s, c)
}
