package llama

import (
	"fmt"

	"qlora/ref/op"
)

// Config is the shape of a decoder; the fields are named as in config.json. A new architecture sets the last group's switches.
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
	RoPEScaling                  RoPEScaling
	HiddenAct                    op.Activation
	TieWordEmbeddings            bool

	QKVBias, OutputBias, MLPBias bool  // of q, k, v; of o; of gate, up and down
	QKNorm                       bool  // each head of q and k is normalized before it is turned
	SlidingWindow                []int // each layer's window, 0 where it sees everything; nil for no windows
}

// Check says what is wrong with c, if anything.
func (c Config) Check() error {
	for _, f := range []struct {
		name       string
		value, max int
	}{
		{"hidden_size", c.HiddenSize, 1 << 20}, {"intermediate_size", c.IntermediateSize, 1 << 22},
		{"num_hidden_layers", c.NumHiddenLayers, 1 << 12}, {"num_attention_heads", c.NumAttentionHeads, 1 << 14},
		{"num_key_value_heads", c.NumKeyValueHeads, 1 << 14}, {"head_dim", c.HeadDim, 1 << 14},
		{"vocab_size", c.VocabSize, 1 << 24}, {"max_position_embeddings", c.MaxPositionEmbeddings, 1 << 26},
	} {
		if f.value < 1 || f.value > f.max {
			return fmt.Errorf("%s is %d: want at least 1 and at most %d", f.name, f.value, f.max)
		}
	}
	if c.NumAttentionHeads%c.NumKeyValueHeads != 0 {
		return fmt.Errorf("%d attention heads cannot share %d key-value heads evenly", c.NumAttentionHeads, c.NumKeyValueHeads)
	}
	if c.HeadDim%2 != 0 {
		return fmt.Errorf("head_dim is %d: rotary embeddings need an even number", c.HeadDim)
	}
	if n := len(c.SlidingWindow); n != 0 && n != c.NumHiddenLayers {
		return fmt.Errorf("sliding windows of %d layers, the model has %d", n, c.NumHiddenLayers)
	}
	return c.RoPEScaling.check(c.HeadDim)
}

// projections lists the linear layers of a block in the order of their use, with their outputs and inputs.
func (c Config) projections() []projectionShape {
	q, kv := c.NumAttentionHeads*c.HeadDim, c.NumKeyValueHeads*c.HeadDim
	return []projectionShape{
		{"self_attn.q_proj", q, c.HiddenSize, c.QKVBias}, {"self_attn.k_proj", kv, c.HiddenSize, c.QKVBias},
		{"self_attn.v_proj", kv, c.HiddenSize, c.QKVBias}, {"self_attn.o_proj", c.HiddenSize, q, c.OutputBias},
		{"mlp.gate_proj", c.IntermediateSize, c.HiddenSize, c.MLPBias}, {"mlp.up_proj", c.IntermediateSize, c.HiddenSize, c.MLPBias},
		{"mlp.down_proj", c.HiddenSize, c.IntermediateSize, c.MLPBias},
	}
}

type projectionShape struct {
	name    string
	out, in int
	bias    bool
}

// Modules lists the linear layers that can be adapted, by their full names: all but the head.
func (c Config) Modules() (names []string) {
	for layer := range c.NumHiddenLayers {
		for _, p := range c.projections() {
			names = append(names, layerPrefix(layer)+p.name)
		}
	}
	return names
}

// TensorShape is a tensor that a model of a shape needs. Linear is said of those that are quantized.
type TensorShape struct {
	Name   string
	Shape  []int
	Linear bool
}

// Tensors lists what New asks for, in its order.
func (c Config) Tensors() []TensorShape {
	all := []TensorShape{{embeddingWeight, []int{c.VocabSize, c.HiddenSize}, false}}
	vector := func(name string, n int) { all = append(all, TensorShape{name, []int{n}, false}) }
	for layer := range c.NumHiddenLayers {
		prefix := layerPrefix(layer)
		vector(prefix+"input_layernorm.weight", c.HiddenSize)
		vector(prefix+"post_attention_layernorm.weight", c.HiddenSize)
		if c.QKNorm {
			vector(prefix+"self_attn.q_norm.weight", c.HeadDim)
			vector(prefix+"self_attn.k_norm.weight", c.HeadDim)
		}
		for _, p := range c.projections() {
			all = append(all, TensorShape{prefix + p.name + ".weight", []int{p.out, p.in}, true})
			if p.bias {
				vector(prefix+p.name+".bias", p.out)
			}
		}
	}
	vector("model.norm.weight", c.HiddenSize)
	if !c.TieWordEmbeddings {
		all = append(all, TensorShape{headWeight, []int{c.VocabSize, c.HiddenSize}, false})
	}
	return all
}

const (
	embeddingWeight = "model.embed_tokens.weight"
	headWeight      = "lm_head.weight"
)

func layerPrefix(layer int) string { return fmt.Sprintf("model.layers.%d.", layer) }
