"""GGUF files, as gguf-py writes them: every type of tensor that is read, and the small models of architectures.py.

    python gguf_vectors.py vectors/architectures vectors/gguf

types.gguf has blocks with every code and with extreme scales; types.safetensors what gguf-py dequantizes them to. NAME.gguf is
the model NAME as llama.cpp's convert_hf_to_gguf.py lays it out: names, order of dimensions, rows of q and k, rope_freqs.
"""
import json
import math
import os
import sys

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from common import environment, normal, version

# zeros, subnormals, the smallest and largest normals, infinities, a NaN, and the ordinary, of either sign
SCALES = np.array([0x0000, 0x0001, 0x03FF, 0x0400, 0x2E66, 0x3C00, 0x5555, 0x7BFF, 0x7C00, 0x7E00], np.uint16)
SCALES = np.concatenate([SCALES, SCALES | 0x8000]).view(np.uint8).reshape(-1, 2)


def blocks(kind):
    """Blocks as bytes: each code with each scale, and in Q4_1 each scale with each minimum. Q6_K has scales of scales."""
    if kind == Type.Q8_0:
        codes = np.arange(256, dtype=np.uint8).reshape(8, 32)
        return np.array([[*d, *c] for d in SCALES for c in codes], np.uint8)
    if kind == Type.Q6_K:
        low, high = (np.array([i * step + i // 16 & 255 for i in range(n)], np.uint8) for n, step in ((128, 37), (64, 91)))
        scales = np.array([0, 1, 127, 128, 255, 3, 64, 200, 17, 250, 100, 129, 5, 77, 180, 31], np.uint8)
        return np.array([[*low, *high, *scales, *d] for d in SCALES], np.uint8)
    low = np.arange(16, dtype=np.uint8)
    codes = low | low[::-1] * 7 % 16 << 4
    if kind == Type.Q4_0:
        return np.array([[*d, *codes] for d in SCALES], np.uint8)
    return np.array([[*d, *m, *codes] for d in SCALES for m in SCALES], np.uint8)


def types(out):
    writer = gguf.GGUFWriter(f"{out}/types.gguf", "llama")
    expected = {}
    for kind in (Type.Q4_0, Type.Q4_1, Type.Q8_0, Type.Q6_K):
        data = blocks(kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        with np.errstate(all="ignore"):
            expected[kind.name] = torch.from_numpy(gguf.dequantize(data, kind).copy())
    for kind in (Type.F16, Type.BF16):
        data = np.concatenate([SCALES.reshape(-1), np.arange(0, 65536, 97, dtype=np.uint16).view(np.uint8)]).reshape(1, -1)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        expected[kind.name] = torch.from_numpy(gguf.dequantize(data, kind).copy())
    x = normal(900, 160).numpy().reshape(5, 32)
    writer.add_tensor("F32", x)
    expected["F32"] = torch.from_numpy(x)
    for kind in (Type.Q4_0, Type.Q4_1, Type.Q8_0):  # what gguf-py quantizes
        data = gguf.quantize(x, kind)
        writer.add_tensor(kind.name + ".normal", data, raw_dtype=kind)
        expected[kind.name + ".normal"] = torch.from_numpy(gguf.dequantize(data, kind).copy())
    finish(writer)
    save_file(expected, f"{out}/types.safetensors")


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


MODELS = {  # of architectures.py, with the type that matrices get; vectors are F32, as in llama.cpp
    "llama1": Type.F16, "llama_bias": Type.F32, "llama_linear": Type.F32, "llama3.1": Type.BF16, "smollm2": Type.F32,
    "mistral": Type.BF16, "qwen2": Type.F32, "qwen3": Type.BF16,
}
NAMES = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}


def own_name(name):
    parts = name.split(".")
    block = f"blk.{parts[2]}." if parts[1] == "layers" else ""
    return f"{block}{NAMES[parts[-2]]}.{parts[-1]}"


def permute(x, heads):
    """Halves of a head side by side, as llama.cpp turns them: row i·n/2 + j becomes row 2j + i."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def rope_freqs(c, rope):
    """Llama 3.1's scaling as a divisor of each frequency."""
    dim, original = c["head_dim"], rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    divisors = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        smooth = min(max((original / wavelength - low) / (high - low), 0), 1)
        divisors.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(divisors, dtype=torch.float32)


def tokenizer(writer, n, architecture):
    """Characters: SentencePiece's for llama, bytes for the others."""
    letters = [chr(ord("a") + i) for i in range(26)]
    if architecture == "llama":
        tokens = ["<unk>", "<s>", "</s>", "▁", *letters]
        kinds = [2, 3, 3] + [1] * 27
    else:
        tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "Ġ", *letters]
        kinds = [3, 3, 3] + [1] * 27
        writer.add_token_merges(["a b"])
        tokens.append("ab")
        kinds.append(1)
    tokens += [f"[PAD{i}]" for i in range(len(tokens), n)]
    writer.add_tokenizer_model("llama" if architecture == "llama" else "gpt2")
    writer.add_tokenizer_pre("default" if architecture == "llama" else "qwen2")
    writer.add_token_list(tokens)
    if architecture == "llama":
        writer.add_token_scores([-float(i) for i in range(n)])
    writer.add_token_types(kinds + [5] * (n - len(kinds)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if architecture != "llama":
        writer.add_eot_token_id(0)
        writer.add_add_bos_token(False)


def model(folder, name, out):
    with open(f"{folder}/{name}/config.json") as f:
        c = json.load(f)
    rope = c["rope_parameters"]
    architecture = {"mistral": "llama"}.get(c["model_type"], c["model_type"])
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    c["head_dim"] = c.get("head_dim") or c["hidden_size"] // heads
    w = gguf.GGUFWriter(f"{out}/{name}.gguf", architecture)
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_freq_base(rope["rope_theta"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    if architecture == "llama":
        w.add_vocab_size(c["vocab_size"])
        w.add_rope_dimension_count(c["head_dim"])
    if c["head_dim"] != c["hidden_size"] // heads:
        w.add_key_length(c["head_dim"])
        w.add_value_length(c["head_dim"])
    if rope["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        w.add_tensor("rope_freqs.weight", rope_freqs(c, rope).numpy())
    if c["model_type"] == "mistral":
        w.add_sliding_window(c["sliding_window"])
    tokenizer(w, c["vocab_size"], architecture)
    for file in sorted(os.listdir(f"{folder}/{name}")):
        if not file.endswith(".safetensors") or file == "expected.safetensors":
            continue
        for key, x in load_file(f"{folder}/{name}/{file}").items():
            x = x.float()
            if architecture == "llama" and ("q_proj" in key or "k_proj" in key):
                x = permute(x, heads if "q_proj" in key else kv_heads)
            kind = MODELS[name] if x.dim() == 2 else Type.F32
            w.add_tensor(own_name(key), gguf.quantize(x.contiguous().numpy(), kind), raw_dtype=kind)
    finish(w)


if __name__ == "__main__":
    source, out = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    types(out)
    for name in MODELS:
        model(source, name, out)
    made = environment()
    made["packages"]["gguf"] = version("gguf")
    with open(f"{out}/made_with.json", "w") as f:
        json.dump({"made with": made}, f, indent=1)
        f.write("\n")
