package llama

import "qlora/ref/checkpoint"

// llamaArchitecture is LLaMA 1 to 3 (Touvron et al., 2023; Llama Team, 2024), and SmolLM2.
func llamaArchitecture(s *Config, c checkpoint.ModelConfig) error {
	s.QKVBias, s.OutputBias, s.MLPBias = c.AttentionBias, c.AttentionBias, c.MLPBias
	return nil
}
