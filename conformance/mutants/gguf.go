package mutants

import (
	"encoding/binary"
	"encoding/json"
	"strings"

	"qlora/conformance"
	"qlora/ref/num"
)

// blocks dequantizes blocks of so many elements, one by one.
func blocks(elements int, dequantize func(x []float32, block []byte)) Func {
	return func(_ *Case, in Tensors) (Tensors, error) {
		b := in["blocks"]
		x := make([]float32, b.Rows()*elements)
		for i := range b.Rows() {
			dequantize(row(x, i, elements), row(b.B, i, b.Cols()))
		}
		return Tensors{"x": conformance.Floats(f32, x)}, nil
	}
}

// half is the float16 at the beginning of b.
func half(b []byte) float32 { return num.FromFloat16(binary.LittleEndian.Uint16(b)) }

// halves hands on the codes of the low halves of bytes, then those of the high ones, with the elements they are of.
func halves(codes []byte, f func(i int, code float32)) {
	for j, b := range codes {
		f(j, float32(b&15))
		f(j+len(codes), float32(b>>4))
	}
}

// pairs hands on codes as bitsandbytes packs them, two neighbours a byte.
func pairs(codes []byte, f func(i int, code float32)) {
	for j, b := range codes {
		f(2*j, float32(b&15))
		f(2*j+1, float32(b>>4))
	}
}

// q6 dequantizes Q6_K with the codes' two high bits and the scale's index as they are given.
func q6(high func(b byte, i int) byte, scale func(i, j int) int) Func {
	return blocks(256, func(x []float32, b []byte) {
		for h := range 2 {
			for i := range 4 {
				for j := range 32 {
					low := b[64*h+32*(i%2)+j] >> (4 * (i / 2)) & 15
					code := low | high(b[128+32*h+j], i)<<4
					s := float32(half(b[208:]) * float32(int8(b[192+8*h+scale(i, j)])))
					x[128*h+32*i+j] = s * (float32(code) - 32)
				}
			}
		}
	})
}

var ggufMutants = []Mutant{
	{
		Name: "Q4_0: neighbours share a byte", Bug: "A byte holds elements 2j and 2j+1, as in NF4, for j and j+16.", Op: "gguf_q4_0_dequantize",
		Func: blocks(32, func(x []float32, b []byte) {
			pairs(b[2:], func(i int, code float32) { x[i] = half(b) * (code - 8) })
		}),
	},
	{
		Name: "Q4_0: offset 7", Bug: "Codes are counted from 7 and not from 8.", Op: "gguf_q4_0_dequantize",
		Func: blocks(32, func(x []float32, b []byte) {
			halves(b[2:], func(i int, code float32) { x[i] = half(b) * (code - 7) })
		}),
	},
	{
		Name: "Q4_1: minimum taken away", Bug: "d·code − m.", Op: "gguf_q4_1_dequantize",
		Func: blocks(32, func(x []float32, b []byte) {
			halves(b[4:], func(i int, code float32) { x[i] = float32(half(b)*code) - half(b[2:]) })
		}),
	},
	{
		Name: "Q4_1: minimum scaled", Bug: "d·(code + m).", Op: "gguf_q4_1_dequantize",
		Func: blocks(32, func(x []float32, b []byte) {
			halves(b[4:], func(i int, code float32) { x[i] = half(b) * (code + half(b[2:])) })
		}),
	},
	{
		Name: "Q8_0: scale in bfloat16", Bug: "The scale's bits are read as bfloat16.", Op: "gguf_q8_0_dequantize",
		Func: blocks(32, func(x []float32, b []byte) {
			for i, code := range b[2:] {
				x[i] = num.FromBFloat16(binary.LittleEndian.Uint16(b)) * float32(int8(code))
			}
		}),
	},
	{
		Name: "Q8_0: codes without sign", Bug: "Codes are read as 0 to 255.", Op: "gguf_q8_0_dequantize",
		Func: blocks(32, func(x []float32, b []byte) {
			for i, code := range b[2:] {
				x[i] = half(b) * float32(code)
			}
		}),
	},
	{
		Name: "Q6_K: high bits in order", Bug: "The two high bits are taken from bit 6 − 2i.", Op: "gguf_q6_k_dequantize",
		Func: q6(func(b byte, i int) byte { return b >> (6 - 2*i) & 3 }, func(i, j int) int { return 2*i + j/16 }),
	},
	{
		Name: "Q6_K: one scale for 32", Bug: "The scale changes with every 32 elements, not with every 16.", Op: "gguf_q6_k_dequantize",
		Func: q6(func(b byte, i int) byte { return b >> (2 * i) & 3 }, func(i, _ int) int { return 2 * i }),
	},
	{
		Name: "big-endian float32", Bug: "Bytes are read in the other order.", Op: "gguf_f32_dequantize",
		Func: blocks(1, func(x []float32, b []byte) { _, err := binary.Decode(b, binary.BigEndian, x); must(err) }),
	},
	{
		Name: "dimensions not turned", Bug: "The file's dimensions, a row's length first, are taken as they stand.", Op: "gguf_read",
		Func: spoiled("gguf_read", func(_ *Case, _, out Tensors) {
			for name, t := range out {
				if t.DType == f32 && len(t.Shape) > 1 {
					turned := append([]int{}, t.Shape...)
					for i, d := range t.Shape {
						turned[len(turned)-1-i] = d
					}
					t.Shape = turned
					out[name] = t
				}
			}
		}),
	},
	{
		Name: "gguf: key twice accepted", Bug: "Of a key that stands there twice the last one counts.", Op: "gguf_read",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			out, err := reference("gguf_read", c, in)
			if err != nil && c.Reason == "key-twice" {
				return Tensors{"metadata": conformance.Bytes(nil, 0)}, nil
			}
			return out, err
		},
	},
	{
		Name: "rows of q and k not put back", Bug: "The rows of q and k stay in the order for neighbours.", Seen: "TinyLlama #24", Op: "gguf_model",
		Func: reordered(func(w []float32, _ *Case) {}),
	},
	{
		Name: "k put back by the heads of q", Bug: "k's rows are put back as if it had as many heads as q.",
		Seen: "transformers #31766, PR #31788", Op: "gguf_model",
		Func: reordered(func(w []float32, c *Case) { putBack(w, c.Int("heads")) }),
	},
	{
		Name: "Qwen's rows reordered", Bug: "The rows of q and k are put back for every architecture.", Op: "gguf_model",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			out, err := reference("gguf_model", c, in)
			for name, t := range out {
				if heads := headsOf(c, name); heads > 0 && c.Param("architecture") != "llama" {
					putBack(t.F, heads)
				}
			}
			return out, err
		},
	},
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// headsOf is the number of heads of q's or k's weight; 0 of others.
func headsOf(c *Case, name string) int {
	switch {
	case strings.HasSuffix(name, "q_proj.weight"):
		return c.Int("heads")
	case strings.HasSuffix(name, "k_proj.weight"):
		return c.Int("kv_heads")
	}
	return 0
}

const ggufWidth = 32 // of the models of gguf_model

// putBack moves row 2j+i of each head to row i·n/2 + j, and forth is the other way round.
func putBack(w []float32, heads int) { move(w, heads, true) }
func forth(w []float32, heads int)   { move(w, heads, false) }

func move(w []float32, heads int, back bool) {
	n := len(w) / ggufWidth / heads
	old := append([]float32{}, w...)
	for h := range heads {
		for j := range n / 2 {
			for i := range 2 {
				from, to := h*n+2*j+i, h*n+i*(n/2)+j
				if !back {
					from, to = to, from
				}
				copy(row(w, to, ggufWidth), row(old, from, ggufWidth))
			}
		}
	}
}

// reordered undoes what the reference did to q and k of llama, and does something else to them.
func reordered(do func(w []float32, c *Case)) Func {
	return spoiled("gguf_model", func(c *Case, _, out Tensors) {
		for name, t := range out {
			if heads := headsOf(c, name); heads > 0 && c.Param("architecture") == "llama" {
				forth(t.F, heads)
				do(t.F, c)
			}
		}
	})
}

// reconfigured is a model's configuration that was changed first.
func reconfigured(change func(config map[string]any)) Func {
	return asked("config_shapes", func(_ *Case, in Tensors) {
		var config map[string]any
		if json.Unmarshal(in["config"].B, &config) != nil {
			return
		}
		change(config)
		if b, err := json.Marshal(config); err == nil {
			in["config"] = conformance.Bytes(b)
		}
	})
}

// without takes a key away.
func without(key string) Func {
	return reconfigured(func(config map[string]any) { delete(config, key) })
}

var configMutants = []Mutant{
	{Name: "head_dim ignored", Bug: "A head's size is hidden_size/heads whatever head_dim says.", Op: "config_shapes", Func: without("head_dim")},
	{Name: "key-value heads ignored", Bug: "There are as many key-value heads as heads.", Op: "config_shapes", Func: without("num_key_value_heads")},
	{Name: "rope_scaling ignored", Bug: "rope_scaling is passed over.", Op: "config_shapes", Func: without("rope_scaling")},
	{Name: "rope_theta ignored", Bug: "The base is 10000.", Op: "config_shapes", Func: without("rope_theta")},
	{Name: "sliding_window ignored", Bug: "There is no window, or the default one.", Op: "config_shapes", Func: without("sliding_window")},
	{
		Name: "use_sliding_window ignored", Bug: "A sliding_window is used though use_sliding_window is false.", Op: "config_shapes",
		Func: reconfigured(func(config map[string]any) {
			if _, ok := config["use_sliding_window"]; ok {
				config["use_sliding_window"] = true
			}
		}),
	},
	{Name: "tied head ignored", Bug: "A tied head is asked for as a tensor of its own.", Op: "config_shapes", Func: without("tie_word_embeddings")},
	{Name: "biases ignored", Bug: "attention_bias is passed over.", Op: "config_shapes", Func: without("attention_bias")},
	{Name: "GPTQ accepted", Bug: "Another quantization is taken for none.", Op: "config_shapes", Func: without("quantization_config")},
	{Name: "partial rotation accepted", Bug: "partial_rotary_factor is passed over.", Op: "config_shapes", Func: without("partial_rotary_factor")},
}
