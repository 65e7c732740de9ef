package checkpoint

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
)

// ModelConfig is what we read of a Hugging Face config.json; the fields are its own.
type ModelConfig struct {
	Architectures         []string `json:"architectures"`
	ModelType             string   `json:"model_type"`
	HiddenSize            int      `json:"hidden_size"`
	IntermediateSize      int      `json:"intermediate_size"`
	NumHiddenLayers       int      `json:"num_hidden_layers"`
	NumAttentionHeads     int      `json:"num_attention_heads"`
	NumKeyValueHeads      int      `json:"num_key_value_heads"` // 0 where the file has none: as many as attention heads
	HeadDim               int      `json:"head_dim"`            // 0 where the file has none: hidden_size/num_attention_heads
	VocabSize             int      `json:"vocab_size"`
	MaxPositionEmbeddings int      `json:"max_position_embeddings"`
	RMSNormEps            float64  `json:"rms_norm_eps"`
	RoPETheta             float64  `json:"rope_theta"`
	HiddenAct             string   `json:"hidden_act"`
	TieWordEmbeddings     bool     `json:"tie_word_embeddings"`
	AttentionBias         bool     `json:"attention_bias"`
	RoPEScaling           any      `json:"rope_scaling"`
	RoPEParameters        struct { // where transformers 5 has both
		Theta float64 `json:"rope_theta"`
		Type  string  `json:"rope_type"`
	} `json:"rope_parameters"`
	BOSTokenID int32 `json:"bos_token_id"`
	EOSTokenID int32 `json:"eos_token_id"`
}

// Model is a folder with a model in Hugging Face's layout.
type Model struct {
	Config ModelConfig
	File   *File
}

// OpenModel reads config.json and opens model.safetensors. Close the file after use.
func OpenModel(fsys fs.FS) (*Model, error) {
	c, err := readConfig(fsys)
	if err != nil {
		return nil, err
	}
	f, err := Open(fsys, "model.safetensors")
	if err != nil {
		return nil, err
	}
	return &Model{c, f}, nil
}

func readConfig(fsys fs.FS) (ModelConfig, error) {
	c := ModelConfig{HiddenAct: "silu", RMSNormEps: 1e-6, RoPETheta: 10000} // transformers' defaults for LLaMA
	b, err := fs.ReadFile(fsys, "config.json")
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("config.json: %w", err)
	}
	if c.RoPEParameters.Theta != 0 {
		c.RoPETheta = c.RoPEParameters.Theta
	}
	if c.NumKeyValueHeads == 0 {
		c.NumKeyValueHeads = c.NumAttentionHeads
	}
	if c.HeadDim == 0 && c.NumAttentionHeads > 0 {
		c.HeadDim = c.HiddenSize / c.NumAttentionHeads
	}
	return c, c.check()
}

// check refuses what would be computed wrong in silence.
func (c ModelConfig) check() error {
	switch {
	case c.ModelType != "llama":
		return fmt.Errorf("config.json: model_type %q: only llama can be loaded", c.ModelType)
	case c.RoPEScaling != nil:
		return fmt.Errorf("config.json: rope_scaling cannot be loaded yet")
	case c.RoPEParameters.Type != "" && c.RoPEParameters.Type != "default":
		return fmt.Errorf("config.json: rope_type %q cannot be loaded yet", c.RoPEParameters.Type)
	case c.AttentionBias:
		return fmt.Errorf("config.json: attention_bias cannot be loaded yet")
	}
	return nil
}

// Float32 reads a tensor that must have a shape.
func (m *Model) Float32(name string, shape []int) ([]float32, error) {
	x, got, err := m.File.Float32(name)
	if err == nil && !slices.Equal(got, shape) {
		err = fmt.Errorf("%s: tensor %s has shape %v, config.json asks for %v", m.File.Name, name, got, shape)
	}
	return x, err
}
