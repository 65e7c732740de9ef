package llama

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"qlora/ref/checkpoint"
	"qlora/ref/op"
)

// architectures are the decoders that can be loaded, by config.json's model_type. Each is one function in a file of its own,
// which sets the switches of Config by which it differs from LLaMA.
var architectures = map[string]func(*Config, checkpoint.ModelConfig) error{
	"llama":   llamaArchitecture,
	"mistral": mistralArchitecture,
	"qwen2":   qwen2Architecture,
	"qwen3":   qwen3Architecture,
}

// ConfigOf translates a config.json. What would be computed wrong is an error that names the field.
func ConfigOf(c checkpoint.ModelConfig) (Config, error) {
	architecture, ok := architectures[c.ModelType]
	if !ok {
		return Config{}, fmt.Errorf("model_type %q is not supported: want %s",
			c.ModelType, strings.Join(slices.Sorted(maps.Keys(architectures)), ", "))
	}
	act, err := op.ParseActivation(c.HiddenAct)
	if err != nil {
		return Config{}, err
	}
	if c.PartialRotaryFactor != 1 {
		return Config{}, fmt.Errorf("partial_rotary_factor is %v: only whole heads can be turned", c.PartialRotaryFactor)
	}
	s := Config{
		HiddenSize: c.HiddenSize, IntermediateSize: c.IntermediateSize, NumHiddenLayers: c.NumHiddenLayers,
		NumAttentionHeads: c.NumAttentionHeads, NumKeyValueHeads: c.NumKeyValueHeads, HeadDim: c.HeadDim,
		VocabSize: c.VocabSize, MaxPositionEmbeddings: c.MaxPositionEmbeddings, RMSNormEps: float32(c.RMSNormEps),
		RoPETheta: c.RoPETheta, HiddenAct: act, TieWordEmbeddings: c.TieWordEmbeddings,
		RoPEScaling: RoPEScaling{
			Type: c.RoPE.Type, Factor: c.RoPE.Factor, LowFreqFactor: c.RoPE.LowFreqFactor, HighFreqFactor: c.RoPE.HighFreqFactor,
			OriginalMaxPosition: c.RoPE.OriginalMaxPosition, Factors: c.RoPE.Factors,
		},
	}
	if err := s.Check(); err != nil {
		return s, err
	}
	if err := architecture(&s, c); err != nil {
		return s, err
	}
	return s, s.Check()
}
