// Package synthetic has the shapes of models whose weights nobody needs to have: to plan with, for example.
package synthetic

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"qlora/ref/llama"
)

// Prefix begins the names of synthetic models: synthetic:llama-65b.
const Prefix = "synthetic:"

// models are the shapes in the papers of LLaMA (Touvron et al., 2023, table 2), Llama 2 (2023, table 1) and Llama 3 (Llama Team, 2024, table
// 3), and what these leave out, and SmolLM2, from config.json.
var models = map[string]llama.Config{
	"llama-7b":   llama1(4096, 11008, 32, 32, 1e-6),
	"llama-13b":  llama1(5120, 13824, 40, 40, 1e-6),
	"llama-33b":  llama1(6656, 17920, 60, 52, 1e-6),
	"llama-65b":  llama1(8192, 22016, 80, 64, 1e-5),
	"llama2-7b":  llama2(4096, 11008, 32, 32, 32),
	"llama2-13b": llama2(5120, 13824, 40, 40, 40),
	"llama2-70b": llama2(8192, 28672, 80, 64, 8),
	"llama3-8b":  llama3(4096, 14336, 32, 32),
	"llama3-70b": llama3(8192, 28672, 80, 64),
	"smollm2-135m": shape(576, 1536, 30, 9, 3, llama.Config{
		VocabSize: 49152, MaxPositionEmbeddings: 8192, RMSNormEps: 1e-5, RoPETheta: 1e5, TieWordEmbeddings: true,
	}),
}

func llama1(hidden, intermediate, layers, heads int, eps float32) llama.Config {
	return shape(hidden, intermediate, layers, heads, heads, llama.Config{
		VocabSize: 32000, MaxPositionEmbeddings: 2048, RMSNormEps: eps, RoPETheta: 1e4,
	})
}

func llama2(hidden, intermediate, layers, heads, kvHeads int) llama.Config {
	return shape(hidden, intermediate, layers, heads, kvHeads, llama.Config{
		VocabSize: 32000, MaxPositionEmbeddings: 4096, RMSNormEps: 1e-5, RoPETheta: 1e4,
	})
}

func llama3(hidden, intermediate, layers, heads int) llama.Config {
	return shape(hidden, intermediate, layers, heads, 8, llama.Config{
		VocabSize: 128256, MaxPositionEmbeddings: 8192, RMSNormEps: 1e-5, RoPETheta: 5e5,
	})
}

// shape is c with the sizes of its blocks.
func shape(hidden, intermediate, layers, heads, kvHeads int, c llama.Config) llama.Config {
	c.HiddenSize, c.IntermediateSize, c.NumHiddenLayers = hidden, intermediate, layers
	c.NumAttentionHeads, c.NumKeyValueHeads, c.HeadDim = heads, kvHeads, hidden/heads
	return c
}

// Config is the shape of a synthetic model by its whole name.
func Config(name string) (llama.Config, error) {
	c, ok := models[strings.TrimPrefix(name, Prefix)]
	if !ok {
		return c, fmt.Errorf("model %s: want %s and one of %s", name, Prefix, strings.Join(slices.Sorted(maps.Keys(models)), ", "))
	}
	return c, nil
}
