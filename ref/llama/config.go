package llama

import (
	"fmt"

	"qlora/ref/op"
)

// Config is the shape of a LLaMA-architecture decoder; the fields are named as in config.json.
type Config struct {
	HiddenSize, IntermediateSize int
	NumHiddenLayers              int
	NumAttentionHeads            int
	NumKeyValueHeads             int
	HeadDim                      int
	VocabSize                    int
	MaxPositionEmbeddings        int
	RMSNormEps                   float32
	RoPETheta                    float64
	HiddenAct                    op.Activation
	TieWordEmbeddings            bool
}

// Check says what is wrong with c, if anything.
func (c Config) Check() error {
	for _, f := range []struct {
		name  string
		value int
	}{
		{"hidden_size", c.HiddenSize}, {"intermediate_size", c.IntermediateSize}, {"num_hidden_layers", c.NumHiddenLayers},
		{"num_attention_heads", c.NumAttentionHeads}, {"num_key_value_heads", c.NumKeyValueHeads}, {"head_dim", c.HeadDim},
		{"vocab_size", c.VocabSize}, {"max_position_embeddings", c.MaxPositionEmbeddings},
	} {
		if f.value < 1 {
			return fmt.Errorf("%s is %d: want at least 1", f.name, f.value)
		}
	}
	if c.NumAttentionHeads%c.NumKeyValueHeads != 0 {
		return fmt.Errorf("%d attention heads cannot share %d key-value heads evenly", c.NumAttentionHeads, c.NumKeyValueHeads)
	}
	if c.HeadDim%2 != 0 {
		return fmt.Errorf("head_dim is %d: rotary embeddings need an even number", c.HeadDim)
	}
	return nil
}

// projections lists the linear layers of a block in the order of their use, with their outputs and inputs.
func (c Config) projections() []projectionShape {
	q, kv := c.NumAttentionHeads*c.HeadDim, c.NumKeyValueHeads*c.HeadDim
	return []projectionShape{
		{"self_attn.q_proj", q, c.HiddenSize}, {"self_attn.k_proj", kv, c.HiddenSize},
		{"self_attn.v_proj", kv, c.HiddenSize}, {"self_attn.o_proj", c.HiddenSize, q},
		{"mlp.gate_proj", c.IntermediateSize, c.HiddenSize}, {"mlp.up_proj", c.IntermediateSize, c.HiddenSize},
		{"mlp.down_proj", c.HiddenSize, c.IntermediateSize},
	}
}

type projectionShape struct {
	name    string
	out, in int
}
