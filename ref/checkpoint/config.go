package checkpoint

import (
	"encoding/json"
	"fmt"
	"io/fs"
)

// ModelConfig is what we read of a Hugging Face config.json; the fields are its own. Which of them a model uses, and what
// else it refuses, is the affair of the model's architecture.
type ModelConfig struct {
	Architectures         []string      `json:"architectures"`
	ModelType             string        `json:"model_type"`
	HiddenSize            int           `json:"hidden_size"`
	IntermediateSize      int           `json:"intermediate_size"`
	NumHiddenLayers       int           `json:"num_hidden_layers"`
	NumAttentionHeads     int           `json:"num_attention_heads"`
	NumKeyValueHeads      int           `json:"num_key_value_heads"` // as many as attention heads where the file has none
	HeadDim               int           `json:"head_dim"`            // hidden_size/num_attention_heads where the file has none
	VocabSize             int           `json:"vocab_size"`
	MaxPositionEmbeddings int           `json:"max_position_embeddings"`
	RMSNormEps            float64       `json:"rms_norm_eps"`
	HiddenAct             string        `json:"hidden_act"`
	TieWordEmbeddings     bool          `json:"tie_word_embeddings"`
	AttentionBias         bool          `json:"attention_bias"`
	MLPBias               bool          `json:"mlp_bias"`
	SlidingWindow         *int          `json:"sliding_window"` // null is none, which is not the same as no such key
	UseSlidingWindow      bool          `json:"use_sliding_window"`
	MaxWindowLayers       int           `json:"max_window_layers"`
	LayerTypes            []string      `json:"layer_types"`
	RoPETheta             float64       `json:"rope_theta"`
	RoPE                  RoPEScaling   `json:"rope_scaling"` // with what rope_parameters says, where transformers 5 puts both
	PartialRotaryFactor   float64       `json:"partial_rotary_factor"`
	EOSTokenID            TokenIDs      `json:"eos_token_id"`
	Quantization          *Quantization `json:"quantization_config"`
}

// RoPEScaling is rope_scaling, or transformers 5's rope_parameters.
type RoPEScaling struct {
	Type                string    `json:"rope_type"`
	OldType             string    `json:"type"` // the name of rope_type until 2024
	Factor              float64   `json:"factor"`
	LowFreqFactor       float64   `json:"low_freq_factor"`
	HighFreqFactor      float64   `json:"high_freq_factor"`
	OriginalMaxPosition int       `json:"original_max_position_embeddings"`
	Theta               float64   `json:"rope_theta"`
	PartialRotaryFactor float64   `json:"partial_rotary_factor"`
	Factors             []float32 `json:"-"` // GGUF's rope_freqs.weight: a divisor for each frequency
}

// Quantization is quantization_config.
type Quantization struct {
	Method      string   `json:"quant_method"`
	LoadIn4bit  bool     `json:"load_in_4bit"`
	LoadIn8bit  bool     `json:"load_in_8bit"`
	QuantType   string   `json:"bnb_4bit_quant_type"`
	DoubleQuant bool     `json:"bnb_4bit_use_double_quant"`
	SkipModules []string `json:"llm_int8_skip_modules"`
}

// TokenIDs is one id or several: files have both.
type TokenIDs []int32

// UnmarshalJSON reads an id, a list of ids or null.
func (t *TokenIDs) UnmarshalJSON(b []byte) error {
	var one int32
	if json.Unmarshal(b, &one) == nil && string(b) != "null" {
		*t = TokenIDs{one}
		return nil
	}
	return json.Unmarshal(b, (*[]int32)(t))
}

const configFile = "config.json"

func readConfig(fsys fs.FS) (ModelConfig, error) {
	b, err := fs.ReadFile(fsys, configFile)
	if err != nil {
		return ModelConfig{}, err
	}
	c, err := ParseConfig(b)
	if err != nil {
		err = fmt.Errorf("%s: %w", configFile, err)
	}
	return c, err
}

// ParseConfig reads a config.json. What the file does not say has the default that transformers gives every architecture here.
func ParseConfig(b []byte) (ModelConfig, error) {
	window := 4096
	c := ModelConfig{
		HiddenAct: "silu", RMSNormEps: 1e-6, RoPETheta: 10000, PartialRotaryFactor: 1,
		SlidingWindow: &window, MaxWindowLayers: 28,
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, err
	}
	var v5 struct {
		RoPE *RoPEScaling `json:"rope_parameters"`
	}
	if err := json.Unmarshal(b, &v5); err != nil {
		return c, err
	}
	if v5.RoPE != nil {
		c.RoPE = *v5.RoPE
	}
	c.settle()
	return c, c.check()
}

// settle fills in what follows from other fields.
func (c *ModelConfig) settle() {
	if c.RoPE.Theta != 0 {
		c.RoPETheta = c.RoPE.Theta
	}
	if c.RoPE.Type == "" {
		c.RoPE.Type = c.RoPE.OldType
	}
	if c.RoPE.Type == "" {
		c.RoPE.Type = "default"
	}
	if c.RoPE.PartialRotaryFactor != 0 {
		c.PartialRotaryFactor = c.RoPE.PartialRotaryFactor
	}
	if c.NumKeyValueHeads == 0 {
		c.NumKeyValueHeads = c.NumAttentionHeads
	}
	if c.HeadDim == 0 && c.NumAttentionHeads > 0 {
		c.HeadDim = c.HiddenSize / c.NumAttentionHeads
	}
}

// check refuses quantizations whose tensors would be misread.
func (c ModelConfig) check() error {
	if q := c.Quantization; q != nil && (q.Method != "bitsandbytes" || q.LoadIn8bit) {
		return fmt.Errorf("quantization_config: %s with load_in_8bit %v cannot be loaded: want bitsandbytes in 4 bits, or a model that is not quantized",
			q.Method, q.LoadIn8bit)
	}
	return nil
}
