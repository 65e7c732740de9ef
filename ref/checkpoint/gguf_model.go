package checkpoint

import (
	"fmt"
	"strings"
)

// GGUFModel gives a GGUF file's configuration and tensors the names that Hugging Face has for them. What llama.cpp's converter
// changed is changed back. Closing the model closes the file.
func GGUFModel(g *GGUF) (*Model, error) {
	c, err := g.config()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", g.Name, err)
	}
	s := &ggufSource{GGUF: g, names: map[string]string{}}
	if g.Metadata["general.architecture"] == "llama" {
		s.permuted = map[string]int{"q_proj": c.NumAttentionHeads, "k_proj": c.NumKeyValueHeads}
	}
	m := &Model{Config: c, ConfigName: "metadata", files: []source{s}, where: map[string]source{}}
	for _, name := range g.Names() {
		if name == ropeFreqs {
			continue
		}
		translated := toHuggingFace.Replace(name)
		if other, twice := s.names[translated]; twice {
			return nil, fmt.Errorf("%s: tensors %s and %s are both %s", g.Name, other, name, translated)
		}
		s.names[translated], m.where[translated] = name, s
	}
	return m, nil
}

// ropeFreqs is a part of the configuration: it divides the frequencies of Llama 3.1's rotary embeddings.
const ropeFreqs = "rope_freqs.weight"

// ggufSource is a GGUF file under the names of Hugging Face.
type ggufSource struct {
	*GGUF
	names    map[string]string // the file's own
	permuted map[string]int    // heads of the modules whose rows llama.cpp has in another order
}

func (s *ggufSource) fileName() string { return s.Name }

func (s *ggufSource) ownName(name string) string {
	if own, ok := s.names[name]; ok {
		return own
	}
	return toGGUF.Replace(name)
}

func (s *ggufSource) shape(name string) []int { return s.tensors[s.names[name]].shape }

func (s *ggufSource) float32s(dst []float32, name string) error {
	own := s.names[name]
	if err := s.read(dst, own); err != nil {
		return err
	}
	module := strings.Split(name, ".")
	heads := s.permuted[module[max(len(module)-2, 0)]]
	if heads == 0 {
		return nil
	}
	rows := s.tensors[own].shape[0]
	if heads < 0 || rows%heads != 0 {
		return fmt.Errorf("%s: tensor %s has %d rows for %d heads", s.Name, own, rows, heads)
	}
	unpermute(dst, heads, rows/heads, len(dst)/rows)
	return nil
}

// unpermute undoes what llama.cpp's converter does to q and k of LLaMA, whose rotary embedding turns neighbours where Hugging
// Face's turns the halves of a head: row 2j+i of a head of n rows is row i·n/2 + j in Hugging Face's order.
func unpermute(x []float32, heads, n, cols int) {
	old := make([]float32, n*cols)
	for head := range heads {
		x := x[head*n*cols : (head+1)*n*cols]
		copy(old, x)
		for j := range n / 2 {
			for i := range 2 {
				to, from := i*(n/2)+j, 2*j+i
				copy(x[to*cols:(to+1)*cols], old[from*cols:])
			}
		}
	}
}

// ggufNames are llama.cpp's parts of names with Hugging Face's.
var ggufNames = []string{
	"blk.", "model.layers.", "token_embd.", "model.embed_tokens.", "output_norm.", "model.norm.",
	".attn_norm.", ".input_layernorm.", ".ffn_norm.", ".post_attention_layernorm.", ".attn_q.", ".self_attn.q_proj.",
	".attn_k.", ".self_attn.k_proj.", ".attn_v.", ".self_attn.v_proj.", ".attn_output.", ".self_attn.o_proj.",
	".attn_q_norm.", ".self_attn.q_norm.", ".attn_k_norm.", ".self_attn.k_norm.", ".ffn_gate.", ".mlp.gate_proj.",
	".ffn_up.", ".mlp.up_proj.", ".ffn_down.", ".mlp.down_proj.", "output.", "lm_head.",
}

// toHuggingFace and toGGUF translate names of tensors; what they do not know stays.
var toHuggingFace, toGGUF = strings.NewReplacer(ggufNames...), strings.NewReplacer(turned(ggufNames)...)

func turned(pairs []string) (all []string) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, pairs[i+1], pairs[i])
	}
	return all
}
