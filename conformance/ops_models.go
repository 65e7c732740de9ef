package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/num"
)

// Models' configurations, and GGUF.
func init() {
	for _, t := range ggufTypes {
		register(ggufDequantize(t))
	}
	register(
		&Operation{
			Name: "config_shapes", Of: "llama.ConfigOf",
			Formula: "config U8, a config.json → tensors U8: a line \"NAME [SIZE SIZE]\" for each tensor that the model needs, with \" linear\" " +
				"behind the layers' projections; inv_freq F32 [head_dim/2] of rope_table for the longest context (dynamic: " +
				"⌊factor·max_position_embeddings⌋, else max_position_embeddings); windows I32 [layers], 0 for none. Order: " +
				"model.embed_tokens.weight; of each model.layers.N input_layernorm, post_attention_layernorm, for qwen3 self_attn.q_norm and k_norm " +
				"[head_dim], self_attn.q_proj, k_proj, v_proj, o_proj, mlp.gate_proj, up_proj, down_proj, each .weight followed by its .bias if it " +
				"has one; model.norm.weight; lm_head.weight but with tie_word_embeddings. Biases: llama attention_bias q k v o, mlp_bias gate up " +
				"down; qwen2 q k v always; qwen3 attention_bias q k v o; mistral none. Windows: mistral sliding_window in all layers; qwen2 and " +
				"qwen3 with use_sliding_window alone, in the layers that layer_types calls sliding_attention (the others full_attention), without " +
				"layer_types in those from max_window_layers on. null for sliding_window is no window; any other null is as if not there. Defaults: " +
				"num_key_value_heads num_attention_heads, head_dim ⌊hidden_size/num_attention_heads⌋ (0 counts as not there), rms_norm_eps 1e-6, " +
				"hidden_act silu, rope_theta 10000, sliding_window 4096, max_window_layers 28, partial_rotary_factor 1, flags false, no scaling. " +
				"rope_scaling, or rope_parameters in its place, has rope_type or type, default if neither, factor, low_freq_factor, " +
				"high_freq_factor, original_max_position_embeddings, and its own rope_theta and partial_rotary_factor count before the others. " +
				"Unknown keys do not matter. Must be rejected: no JSON, a value of another type; model_type none of llama, mistral, qwen2, qwen3; " +
				"hidden_act none of silu, swish, gelu_new, gelu_pytorch_tanh, relu; partial_rotary_factor not 1; a size below 1 or above: " +
				"hidden_size 2^20, intermediate_size 2^22, num_hidden_layers 2^12, num_attention_heads, num_key_value_heads and head_dim 2^14, " +
				"vocab_size 2^24, max_position_embeddings 2^26; attention heads that are no multiple of key-value heads; an odd head_dim; a scaling " +
				"but default, linear, dynamic, llama3, for the last three a factor that is infinite or below 1, for llama3 not original > 0 and 0 < " +
				"low < high, for dynamic a head_dim below 4; where windows are used, a sliding_window below 1, layer_types of another number than " +
				"layers, or another name in it; quantization_config but of quant_method bitsandbytes without load_in_8bit.",
			Cases:     configCases,
			Reference: configShapes,
		},
		&Operation{
			Name: "gguf_read", Of: "checkpoint.ParseGGUF",
			Formula: "file U8, GGUF version 2 or 3, little-endian → its tensors F32, dequantized, shapes the other way round than in the file: rows " +
				"first; metadata U8: lines key=value by the order of keys, an array as [a b c]. Must be rejected: lengths beyond the file; another " +
				"magic or version; types but F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q6_K; unknown types of metadata, arrays of arrays, a bool but 0 and " +
				"1; a name or key twice; no dimension, more than four, one of 0, or rows that are no multiple of the type's block; " +
				"general.alignment but a power of two as uint32; offsets that are no multiple of it (32 where it is missing), and data but in the " +
				"order of the names, each at the next multiple: tensors that overlap, leave a hole or end beyond the file.",
			Cases: ggufReadCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				g, err := checkpoint.ParseGGUF(bytes.NewReader(in["file"].B), int64(in["file"].Len()), "file")
				if err != nil {
					return nil, err
				}
				out := Tensors{"metadata": lines(g.Metadata)}
				return out, readGGUF(g, out)
			},
		},
		&Operation{
			Name: "gguf_model", Of: "checkpoint.GGUFModel",
			Formula: "file U8, a GGUF file of llama, qwen2 or qwen3 (general.architecture; another must be rejected) → tensors F32 by the names of " +
				"Hugging Face, as transformers has them: token_embd is model.embed_tokens, output_norm model.norm, output lm_head, blk.N " +
				"model.layers.N, and there attn_norm input_layernorm, ffn_norm post_attention_layernorm, attn_q, attn_k, attn_v and attn_output " +
				"self_attn.q_proj, k_proj, v_proj and o_proj, attn_q_norm and attn_k_norm self_attn.q_norm and k_norm, ffn_gate, ffn_up and " +
				"ffn_down mlp.gate_proj, up_proj and down_proj. For llama the rows of q and k (…attention.head_count and head_count_kv heads), " +
				"weights alone, which llama.cpp's converter reorders for rotary embeddings of neighbours, are put back: row 2j+i of a head of n " +
				"rows is row i·n/2 + j.",
			Cases:     ggufModelCases,
			Reference: ggufModel,
		})
}

// readGGUF adds all tensors.
func readGGUF(g *checkpoint.GGUF, out Tensors) error {
	for _, name := range g.Names() {
		x, shape, err := g.Float32(name)
		if err != nil {
			return err
		}
		out[name] = Tensor{DType: F32, Shape: shape, F: x}
	}
	return nil
}

var ggufFormulas = map[string]string{
	"F32": "float32", "F16": "float16, widened", "BF16": "bfloat16, widened",
	"Q8_0": "a block is d (float16) and 32 signed bytes: x = d·code",
	"Q4_0": "a block is d (float16) and 16 bytes, byte j with the code of element j in its low half and of element j+16 in its high half: x = d·(code − 8)",
	"Q6_K": "a block is 128 bytes with the low four bits of its codes, 64 bytes with the high two, 16 signed bytes of scales, and d (float16). Element 128h + 32i + j has its low bits " +
		"in byte 64h + 32·(i mod 2) + j, in the lower half of the byte for i < 2, its high bits at bit 2i of byte 32h + j of the second part, and " +
		"scale 8h + 2i + j/16: x = round32(round32(d·scale)·(code − 32))",
	"Q4_1": "a block is d and m (float16) and 16 bytes as in Q4_0: x = round32(round32(d·code) + m)",
}

func ggufDequantize(t ggufType) *Operation {
	return &Operation{
		Name: "gguf_" + strings.ToLower(t.name) + "_dequantize", Of: "checkpoint.GGUF.Float32",
		Formula: fmt.Sprintf("blocks U8 [n/%d, %d], little-endian → x F32 [n]: %s.", t.block, t.bytes, ggufFormulas[t.name]),
		Cases:   func(m *Maker) { ggufDequantizeCases(m, t) },
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			n := c.Int("n")
			file := newGGUF().tensor("x", t.number, in["blocks"].B, uint64(n)).file()
			g, err := checkpoint.ParseGGUF(bytes.NewReader(file), int64(len(file)), "file")
			if err != nil {
				return nil, err
			}
			out := Tensors{}
			return out, readGGUF(g, out)
		},
	}
}

func ggufDequantizeCases(m *Maker, t ggufType) {
	add := func(level Level, blocks int, reason string, change func(r *random, i int, block []byte)) {
		m.Add(level, "", reason, []Param{Int("n", blocks*t.block)}, func(r *random) Tensors {
			b := r.bytes(blocks * t.bytes)
			for i := range blocks {
				change(r, i, b[i*t.bytes:(i+1)*t.bytes])
			}
			return Tensors{"blocks": Bytes(b, blocks, t.bytes)}
		})
	}
	// number puts a value where d is, or m, or the element itself.
	number := func(block []byte, at int, v float32) {
		switch {
		case t.name == "F32":
			binary.LittleEndian.PutUint32(block, math.Float32bits(v))
		case t.name == "BF16":
			binary.LittleEndian.PutUint16(block, num.ToBFloat16(v))
		case at < max(t.scales, 1):
			binary.LittleEndian.PutUint16(block[t.first+at:], num.ToFloat16(v))
		}
	}
	normal := func(r *random, i int, block []byte) {
		number(block, 0, r.normal(1, 0.01)[0])
		number(block, 2, r.normal(1, 0.01)[0])
	}
	for _, blocks := range []int{1, 2, 3, 7, 33, 100, 2049} {
		level := Quick
		if blocks == 3 || blocks == 33 {
			level = Smoke
		}
		add(level, blocks, "random", normal)
	}
	add(Smoke, 256, "every-code", func(r *random, i int, block []byte) {
		for j := range block {
			block[j] = byte(i + j)
		}
		normal(r, i, block)
	})
	for _, c := range []struct {
		reason string
		values []float32
	}{
		{"subnormal", []float32{0x1p-24, -0x1p-24, 0x1.ff8p-15, 0x1p-14, 0x1p-126, 0x1p-133}},
		{"huge-scale", []float32{65504, -65504, 32768, 0x1.fep127}},
		{"signed-zero", []float32{0, float32(math.Copysign(0, -1))}},
		{"nan-inf", []float32{float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())}},
	} {
		add(Quick, 40, c.reason, func(r *random, i int, block []byte) {
			normal(r, i, block)
			number(block, 0, c.values[r.below(len(c.values))])
		})
	}
	if t.name == "Q4_1" {
		add(Quick, 64, "fused", func(r *random, i int, block []byte) { // d·code is exact, but cancels against m
			d := r.normal(1, 1)[0]
			number(block, 0, d)
			number(block, 2, -d*float32(r.below(16)))
		})
	}
	add(Full, 1<<14, "random", normal)
}

func ggufReadCases(m *Maker) {
	add := func(level Level, reason string, file func(r *random) []byte) {
		m.Add(level, "", reason, nil, func(r *random) Tensors { return Tensors{"file": Bytes(file(r))} })
	}
	good := func(r *random) *gguf {
		return newGGUF().key("general.architecture", "llama").key("llama.block_count", uint32(2)).
			key("flag", true).key("ids", []int32{1, -2}).key("tokens", []string{"a", "", "ccc"}).
			tensor("b.weight", 0, float32Bytes(r.normal(6, 1)), 3, 2).
			tensor("a.weight", 8, append([]byte{0, 0x3c}, r.bytes(32)...), 32).tensor("v", 1, []byte{0, 0x3c, 0, 0xc0}, 2, 1, 1)
	}
	whole := func(r *random) []byte { return good(r).file() }
	add(Smoke, "layout", whole)
	add(Smoke, "layout", func(r *random) []byte { g := good(r); g.version = 2; return g.file() })
	add(Quick, "layout", func(r *random) []byte { return good(r).key("general.alignment", uint32(32)).file() })
	add(Quick, "empty", func(*random) []byte { return newGGUF().file() })
	for _, c := range []struct {
		level  Level
		reason string
		change func(g *gguf)
	}{
		{Quick, "wrong-type", func(g *gguf) { g.magic = "GGML" }},
		{Quick, "wrong-type", func(g *gguf) { g.version = 1 }},
		{Quick, "wrong-type", func(g *gguf) { g.version = 4 }},
		{Quick, "wrong-type", func(g *gguf) { g.version = 3 << 24 }},
		{Quick, "wrong-type", func(g *gguf) { g.info("q", 12, 128, 256) }},
		{Quick, "wrong-type", func(g *gguf) { g.info("q", 999, 128, 256) }},
		{Quick, "wrong-type", func(g *gguf) { g.key("general.alignment", "32") }},
		{Quick, "wrong-type", func(g *gguf) { g.key("general.alignment", uint32(24)) }},
		{Quick, "wrong-type", func(g *gguf) { g.key("general.alignment", uint32(0)) }},
		{Quick, "wrong-type", func(g *gguf) { g.metadata = appendAll(g.metadata, "k", uint32(13)); g.keys++ }},
		{Quick, "wrong-type", func(g *gguf) { g.metadata = appendAll(g.metadata, "k", uint32(7), byte(2)); g.keys++ }},
		{Smoke, "key-twice", func(g *gguf) { g.key("flag", true) }},
		{Quick, "key-twice", func(g *gguf) { g.tensor("v", 1, []byte{0, 0}, 1) }},
		{Quick, "lying-size", func(g *gguf) { g.keys++ }},
		{Quick, "lying-size", func(g *gguf) { g.keys = 1 << 62 }},
		{Quick, "lying-size", func(g *gguf) { g.tensors = 1 << 62 }},
		{Quick, "lying-size", func(g *gguf) {
			g.metadata = appendAll(g.metadata, uint64(1<<62))
			g.keys++
		}},
		{Quick, "lying-size", func(g *gguf) {
			g.metadata = appendAll(g.metadata, "k", uint32(9), uint32(8), uint64(1<<60))
			g.keys++
		}},
		{Quick, "lying-size", func(g *gguf) { g.info("z", 0, 128, 0) }},
		{Quick, "lying-size", func(g *gguf) { g.info("z", 0, 128, 1<<40, 1<<40) }},
		{Quick, "lying-size", func(g *gguf) { g.info("z", 0, 128) }},
		{Quick, "lying-size", func(g *gguf) { g.info("z", 0, 128, 1, 1, 1, 1, 1) }},
		{Quick, "lying-size", func(g *gguf) { g.info("z", 8, 128, 33) }},
		{Smoke, "overlap", func(g *gguf) { g.info("z", 0, 64, 1) }},
		{Quick, "hole", func(g *gguf) { g.data = append(g.data, make([]byte, 64)...); g.tensor("z", 0, []byte{1, 2, 3, 4}, 1) }},
		{Quick, "hole", func(g *gguf) { g.info("z", 0, 100, 1) }},
		{Quick, "truncated", func(g *gguf) { g.info("z", 0, 128, 100) }},
		{Quick, "truncated", func(g *gguf) { g.info("z", 0, 1<<63, 1) }},
	} {
		add(c.level, c.reason, func(r *random) []byte {
			g := good(r)
			c.change(g)
			return g.file()
		})
	}
	for _, n := range []int{0, 3, 8, 23, 24, 60, 150} {
		add(Quick, "truncated", func(r *random) []byte { return whole(r)[:n] })
	}
	add(Quick, "truncated", func(r *random) []byte { b := whole(r); return b[:len(b)-1] })
}

func ggufModelCases(m *Maker) {
	add := func(level Level, reason, architecture string, heads, kv int) {
		params := []Param{Text("architecture", architecture), Int("heads", heads), Int("kv_heads", kv)}
		m.Add(level, "", reason, params, func(r *random) Tensors {
			const width, ff, vocab = 32, 48, 10
			dim := width / heads
			g := newGGUF().key("general.architecture", architecture)
			sizes := []uint32{width, ff, 1, uint32(heads), uint32(kv), 64}
			for i, key := range strings.Fields("embedding_length feed_forward_length block_count attention.head_count attention.head_count_kv context_length") {
				g.key(architecture+"."+key, sizes[i])
			}
			g.key(architecture+".attention.layer_norm_rms_epsilon", float32(1e-5))
			matrix := func(name string, rows, cols int) {
				g.tensor(name+".weight", 0, float32Bytes(r.normal(rows*cols, 1)), uint64(cols), uint64(rows))
			}
			vector := func(name string, n int) { g.tensor(name, 0, float32Bytes(r.normal(n, 1)), uint64(n)) }
			matrix("token_embd", vocab, width)
			vector("output_norm.weight", width)
			matrix("output", vocab, width)
			vector("blk.0.attn_norm.weight", width)
			vector("blk.0.ffn_norm.weight", width)
			matrix("blk.0.attn_q", heads*dim, width)
			matrix("blk.0.attn_k", kv*dim, width)
			matrix("blk.0.attn_v", kv*dim, width)
			matrix("blk.0.attn_output", width, heads*dim)
			matrix("blk.0.ffn_gate", ff, width)
			matrix("blk.0.ffn_up", ff, width)
			matrix("blk.0.ffn_down", width, ff)
			switch architecture {
			case "qwen2":
				vector("blk.0.attn_q.bias", heads*dim)
				vector("blk.0.attn_k.bias", kv*dim)
				vector("blk.0.attn_v.bias", kv*dim)
			case "qwen3":
				vector("blk.0.attn_q_norm.weight", dim)
				vector("blk.0.attn_k_norm.weight", dim)
			}
			return Tensors{"file": Bytes(g.file())}
		})
	}
	for _, architecture := range []string{"llama", "qwen2", "qwen3"} {
		add(Smoke, "permuted", architecture, 4, 2)
		add(Quick, "permuted", architecture, 2, 2)
		add(Quick, "permuted", architecture, 8, 1)
		add(Quick, "permuted", architecture, 1, 1)
	}
	add(Quick, "unknown", "gpt2", 4, 2)
	add(Quick, "unknown", "mamba", 4, 2)
}

func ggufModel(c *Case, in Tensors) (Tensors, error) {
	g, err := checkpoint.ParseGGUF(bytes.NewReader(in["file"].B), int64(in["file"].Len()), "file")
	if err != nil {
		return nil, err
	}
	m, err := checkpoint.GGUFModel(g)
	if err != nil {
		return nil, err
	}
	config, err := llama.ConfigOf(m.Config)
	if err != nil {
		return nil, err
	}
	out := Tensors{}
	for _, t := range config.Tensors() {
		x, err := m.Float32(t.Name, t.Shape)
		if err != nil {
			return nil, err
		}
		out[t.Name] = Floats(F32, x, t.Shape...)
	}
	return out, nil
}

func configShapes(c *Case, in Tensors) (Tensors, error) {
	file, err := checkpoint.ParseConfig(in["config"].B)
	if err != nil {
		return nil, err
	}
	config, err := llama.ConfigOf(file)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for _, t := range config.Tensors() {
		linear := ""
		if t.Linear {
			linear = " linear"
		}
		fmt.Fprintf(&b, "%s %v%s\n", t.Name, t.Shape, linear)
	}
	windows := make([]int32, config.NumHiddenLayers)
	for i, w := range config.SlidingWindow {
		windows[i] = int32(w)
	}
	return Tensors{"tensors": text(b.String()), "inv_freq": Floats(F32, config.InvFreq(config.MaxContext())), "windows": Ints(windows)}, nil
}

func configCases(m *Maker) {
	const shape = `"hidden_size":64,"intermediate_size":96,"num_hidden_layers":4,"num_attention_heads":4,"vocab_size":100,"max_position_embeddings":128`
	for _, c := range []struct {
		level               Level
		reason, kind, field string
	}{
		{Smoke, "layout", "llama", ``},
		{Smoke, "layout", "mistral", ``},
		{Smoke, "layout", "qwen2", ``},
		{Smoke, "layout", "qwen3", `"head_dim":32`},
		{Quick, "layout", "llama", `"num_key_value_heads":2,"tie_word_embeddings":true,"rms_norm_eps":1e-5`},
		{Quick, "layout", "llama", `"attention_bias":true,"mlp_bias":true`},
		{Quick, "layout", "llama", `"head_dim":8`},
		{Quick, "layout", "llama", `"a_new_key":{"x":[1]},"hidden_act":"gelu_pytorch_tanh","eos_token_id":[1,2]`},
		{Quick, "layout", "qwen3", `"attention_bias":true`},
		{Quick, "default-value", "mistral", `"sliding_window":null`},
		{Quick, "default-value", "mistral", `"sliding_window":7`},
		{Quick, "default-value", "qwen2", `"use_sliding_window":true,"max_window_layers":2,"sliding_window":5`},
		{Quick, "default-value", "qwen2", `"use_sliding_window":false,"sliding_window":5,"max_window_layers":0`},
		{Quick, "default-value", "qwen2", `"use_sliding_window":true,"sliding_window":5,"layer_types":["full_attention","sliding_attention","full_attention","sliding_attention"]`},
		{Quick, "default-value", "llama", `"rope_theta":500000`},
		{Quick, "scaling", "llama", `"rope_scaling":{"type":"linear","factor":4}`},
		{Quick, "scaling", "llama", `"rope_scaling":{"rope_type":"dynamic","factor":2}`},
		{Quick, "scaling", "llama", `"rope_theta":500000,"rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":64}`},
		{Quick, "scaling", "llama", `"rope_parameters":{"rope_type":"linear","rope_theta":20000,"factor":3}`},
		{Quick, "scaling", "llama", `"rope_scaling":null`},
		{Quick, "not-computed", "llama", `"rope_scaling":{"rope_type":"yarn","factor":4}`},
		{Quick, "not-computed", "llama", `"rope_scaling":{"rope_type":"linear","factor":0.5}`},
		{Quick, "not-computed", "llama", `"rope_scaling":{"rope_type":"llama3","factor":8}`},
		{Quick, "not-computed", "llama", `"partial_rotary_factor":0.5`},
		{Quick, "not-computed", "llama", `"hidden_act":"gelu"`},
		{Quick, "not-computed", "llama", `"quantization_config":{"quant_method":"gptq"}`},
		{Quick, "not-computed", "llama", `"quantization_config":{"quant_method":"bitsandbytes","load_in_8bit":true}`},
		{Quick, "not-computed", "mistral", `"sliding_window":0`},
		{Quick, "not-computed", "qwen2", `"use_sliding_window":true,"layer_types":["full_attention"]`},
		{Quick, "not-computed", "qwen2", `"use_sliding_window":true,"layer_types":["a","b","c","d"]`},
		{Quick, "unknown", "gpt2", ``},
		{Quick, "unknown", "", ``},
		{Quick, "impossible-shape", "llama", `"num_key_value_heads":3`},
		{Quick, "impossible-shape", "llama", `"head_dim":7`},
		{Quick, "impossible-shape", "llama", `"hidden_size":0`},
		{Quick, "impossible-shape", "llama", `"vocab_size":-5`},
		{Quick, "impossible-shape", "llama", `"num_hidden_layers":1000000000`},
		{Quick, "wrong-type", "llama", `"hidden_size":"64"`},
		{Quick, "not-json", "llama", `"hidden_size"`},
	} {
		fields := `{"model_type":"` + c.kind + `",` + shape
		if c.field != "" {
			fields += "," + c.field
		}
		m.Add(c.level, "", c.reason, nil, func(*random) Tensors { return Tensors{"config": text(fields + "}")} })
	}
}
