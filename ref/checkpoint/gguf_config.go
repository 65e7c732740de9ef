package checkpoint

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// ggufArchitectures are those whose metadata and tensors are known here, with Hugging Face's model_type.
var ggufArchitectures = map[string]string{"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}

// config translates the metadata to what a config.json would say. What would be computed wrong is an error that names the key.
func (g *GGUF) config() (ModelConfig, error) {
	k := ggufKeys{g: g}
	if n := k.whole("split.count", 1); n > 1 {
		return ModelConfig{}, fmt.Errorf("it is one of %d parts of a model: join them with llama.cpp's llama-gguf-split --merge", n)
	}
	architecture := k.text("general.architecture", "")
	modelType, ok := ggufArchitectures[architecture]
	if k.err == nil && !ok {
		k.err = fmt.Errorf("general.architecture %q is not supported: want %s", architecture,
			strings.Join(slices.Sorted(maps.Keys(ggufArchitectures)), ", "))
	}
	a := architecture + "."
	c := ModelConfig{
		ModelType: modelType, HiddenAct: "silu", PartialRotaryFactor: 1,
		HiddenSize: k.need(a + "embedding_length"), IntermediateSize: k.need(a + "feed_forward_length"),
		NumHiddenLayers: k.need(a + "block_count"), NumAttentionHeads: k.need(a + "attention.head_count"),
		MaxPositionEmbeddings: k.need(a + "context_length"), RMSNormEps: k.number(a+"attention.layer_norm_rms_epsilon", 0),
		RoPETheta: k.number(a+"rope.freq_base", 10000), TieWordEmbeddings: !g.has("output.weight"),
		AttentionBias: g.has("blk.0.attn_q.bias"), MLPBias: g.has("blk.0.ffn_gate.bias"),
	}
	c.NumKeyValueHeads = k.whole(a+"attention.head_count_kv", c.NumAttentionHeads)
	k.vocabulary(&c, a)
	k.heads(&c, a)
	k.rope(&c, a)
	k.window(&c, a)
	k.ends(&c)
	if n := k.whole(a+"expert_count", 0); n > 0 && k.err == nil {
		k.err = fmt.Errorf("%sexpert_count is %d: mixtures of experts are not supported", a, n)
	}
	return c, k.err
}

func (g *GGUF) has(tensor string) bool {
	_, ok := g.tensors[tensor]
	return ok
}

// vocabulary is as long as the metadata say, or as the embedding is.
func (k *ggufKeys) vocabulary(c *ModelConfig, a string) {
	embedding, ok := k.g.tensors["token_embd.weight"]
	if !ok {
		k.fail("no tensor token_embd.weight")
		return
	}
	c.VocabSize = k.whole(a+"vocab_size", embedding.shape[0])
	if tokens, ok := k.g.Metadata["tokenizer.ggml.tokens"].([]string); ok && len(tokens) != c.VocabSize {
		k.fail("tokenizer.ggml.tokens has %d tokens, the model a vocabulary of %d: they are of different models", len(tokens), c.VocabSize)
	}
}

// heads have one width, which rotary embeddings turn wholly.
func (k *ggufKeys) heads(c *ModelConfig, a string) {
	width := 0
	if c.NumAttentionHeads > 0 {
		width = c.HiddenSize / c.NumAttentionHeads
	}
	c.HeadDim = k.whole(a+"attention.key_length", width)
	for _, key := range []string{a + "attention.value_length", a + "rope.dimension_count"} {
		if n := k.whole(key, c.HeadDim); n != c.HeadDim {
			k.fail("%s is %d, a head has a width of %d: they must be the same", key, n, c.HeadDim)
		}
	}
}

// rope: without a type, a factor means linear scaling, as in llama.cpp; rope_freqs.weight is Llama 3.1's scaling.
func (k *ggufKeys) rope(c *ModelConfig, a string) {
	r := &c.RoPE
	r.Factor = k.number(a+"rope.scaling.factor", k.number(a+"rope.scale_linear", 1))
	r.Type = k.text(a+"rope.scaling.type", "linear")
	if r.Type == "none" || r.Type == "linear" && r.Factor == 1 {
		r.Type = "default"
	}
	t, ok := k.g.tensors[ropeFreqs]
	if !ok {
		return
	}
	if !slices.Equal(t.shape, []int{c.HeadDim / 2}) {
		k.fail("tensor %s has shape %v, a head of %d asks for [%d]", ropeFreqs, t.shape, c.HeadDim, c.HeadDim/2)
	}
	if k.err != nil {
		return
	}
	r.Factors = make([]float32, t.count)
	k.err = k.g.read(r.Factors, ropeFreqs)
	for i, f := range r.Factors {
		if !(f > 0 && f <= math.MaxFloat32) {
			k.fail("tensor %s: element %d is %v: want a positive number", ropeFreqs, i, f)
		}
	}
}

// window: llama.cpp calls Mistral "llama". It has no key for which of Qwen's layers see a window.
func (k *ggufKeys) window(c *ModelConfig, a string) {
	n := k.whole(a+"attention.sliding_window", 0)
	if n == 0 || n >= c.MaxPositionEmbeddings {
		return
	}
	if c.ModelType != "llama" {
		k.fail("%sattention.sliding_window is %d, but not which layers it is for: such a model cannot be computed right", a, n)
	}
	c.ModelType, c.SlidingWindow = "mistral", &n
}

// ends are the tokens that end a text, a turn, or a message.
func (k *ggufKeys) ends(c *ModelConfig) {
	for _, name := range []string{"eos", "eot", "eom"} {
		key := "tokenizer.ggml." + name + "_token_id"
		if _, ok := k.g.Metadata[key]; !ok {
			continue
		}
		id := k.whole(key, 0)
		if id >= c.VocabSize {
			k.fail("%s is %d, the vocabulary has %d tokens", key, id, c.VocabSize)
		} else if !slices.Contains(c.EOSTokenID, int32(id)) {
			c.EOSTokenID = append(c.EOSTokenID, int32(id))
		}
	}
}

// ggufKeys reads metadata and keeps the first error.
type ggufKeys struct {
	g   *GGUF
	err error
}

func (k *ggufKeys) fail(format string, args ...any) {
	if k.err == nil {
		k.err = fmt.Errorf(format, args...)
	}
}

// need is a whole number that must be there.
func (k *ggufKeys) need(key string) int {
	if _, ok := k.g.Metadata[key]; !ok {
		k.fail("metadata key %s is missing", key)
	}
	return k.whole(key, 0)
}

func (k *ggufKeys) whole(key string, otherwise int) int {
	v, ok := k.g.Metadata[key]
	if !ok {
		return otherwise
	}
	n := int64(-1)
	switch v := v.(type) {
	case uint8:
		n = int64(v)
	case uint16:
		n = int64(v)
	case uint32:
		n = int64(v)
	case uint64:
		n = int64(min(v, math.MaxInt64))
	case int8:
		n = int64(v)
	case int16:
		n = int64(v)
	case int32:
		n = int64(v)
	case int64:
		n = v
	default:
		k.fail("metadata key %s is of type %T: want a whole number", key, v)
	}
	if n < 0 || n > math.MaxInt32 {
		k.fail("metadata key %s is %d: want 0 to %d", key, n, math.MaxInt32)
		return otherwise
	}
	return int(n)
}

// number is a positive one; it must be there if otherwise is 0.
func (k *ggufKeys) number(key string, otherwise float64) float64 {
	v, ok := k.g.Metadata[key]
	if !ok {
		if otherwise == 0 {
			k.fail("metadata key %s is missing", key)
		}
		return otherwise
	}
	x := 0.0
	switch v := v.(type) {
	case float32:
		x = float64(v)
	case float64:
		x = v
	default:
		k.fail("metadata key %s is of type %T: want a float32", key, v)
	}
	if !(x > 0) || math.IsInf(x, 0) {
		k.fail("metadata key %s is %v: want a positive number", key, x)
	}
	return x
}

func (k *ggufKeys) text(key, otherwise string) string {
	v, ok := k.g.Metadata[key]
	if !ok {
		if otherwise == "" {
			k.fail("metadata key %s is missing", key)
		}
		return otherwise
	}
	s, ok := v.(string)
	if !ok || len(s) > 100 {
		k.fail("metadata key %s is of type %T: want a string, of 100 bytes at most", key, v)
	}
	return s
}
