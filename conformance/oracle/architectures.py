"""Small random models of every architecture, as transformers saves them, with an adapter as PEFT saves it, and what the
libraries compute with them in float32.

    python architectures.py vectors/architectures

Each folder is a model's: config.json, the weights in one of the forms that people have (one file or several, float32,
bfloat16 or float16), adapter/ with a LoRA adapter on all linear layers, and expected.safetensors with ids, labels, logits, loss,
the gradients of lora_A and lora_B, and the frequencies of the rotary embeddings.
"""
import json
import os
import shutil
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM,
                          Qwen3Config, Qwen3ForCausalLM)

from common import environment, normal

SHAPE = dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, attn_implementation="eager")
MODELS = {
    # name: (config, model, changes of the shape, type of the file, shards)
    "llama1": (LlamaConfig, LlamaForCausalLM, dict(num_key_value_heads=4, rms_norm_eps=1e-6), torch.float16, 1),
    "llama_bias": (LlamaConfig, LlamaForCausalLM, dict(attention_bias=True, mlp_bias=True), torch.float32, 1),
    "llama_linear": (LlamaConfig, LlamaForCausalLM, dict(rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0}), torch.bfloat16, 1),
    "llama_dynamic": (LlamaConfig, LlamaForCausalLM, dict(max_position_embeddings=16, rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}), torch.bfloat16, 1),
    "llama3.1": (LlamaConfig, LlamaForCausalLM, dict(head_dim=16, rms_norm_eps=1e-5, tie_word_embeddings=True, eos_token_id=[1, 8, 9], rope_parameters={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        "rope_theta": 500000.0}), torch.bfloat16, 3),
    "smollm2": (LlamaConfig, LlamaForCausalLM, dict(hidden_size=18, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 100000.0}), torch.bfloat16, 1),
    "mistral": (MistralConfig, MistralForCausalLM, dict(sliding_window=7, head_dim=8), torch.bfloat16, 2),
    "mistral_no_window": (MistralConfig, MistralForCausalLM, dict(sliding_window=None, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}), torch.bfloat16, 1),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, dict(tie_word_embeddings=True), torch.bfloat16, 1),
    "qwen2_window": (Qwen2Config, Qwen2ForCausalLM, dict(use_sliding_window=True, sliding_window=5, max_window_layers=1), torch.bfloat16, 1),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, dict(head_dim=8), torch.bfloat16, 2),
}


def weights(model):
    for i, (key, p) in enumerate(model.named_parameters()):
        x = 0.3 * normal(300 + i, p.numel()).reshape(p.shape)
        p.data = x + 1 if "norm" in key else x


def make(name, out):
    config_class, model_class, changes, dtype, shards = MODELS[name]
    folder = f"{out}/{name}"
    shutil.rmtree(folder, ignore_errors=True)
    model = model_class(config_class(**{**SHAPE, **changes}))
    weights(model)
    model = model.to(dtype)
    total = sum(p.numel() * p.element_size() for p in {id(p): p for p in model.parameters()}.values())
    model.save_pretrained(folder, max_shard_size=total if shards == 1 else -(-total // shards) + 700)
    os.path.exists(f"{folder}/generation_config.json") and os.remove(f"{folder}/generation_config.json")

    model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    inv_freq_default = model.model.rotary_emb.inv_freq.clone()
    peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, target_modules="all-linear", task_type="CAUSAL_LM"))
    for i, (key, p) in enumerate(p for p in peft.named_parameters() if "lora_" in p[0]):
        p.data = 0.3 * normal(700 + i, p.numel()).reshape(p.shape)
    peft.save_pretrained(f"{folder}/adapter")
    os.remove(f"{folder}/adapter/README.md")

    ids = torch.tensor([[(7 * i * i + 3 * i) % 40 for i in range(29)]])
    labels = ids.clone()
    labels[0, 5:9] = -100
    peft.eval()
    result = peft(input_ids=ids, labels=labels)
    result.loss.backward()
    tensors = {"ids": ids.int(), "labels": labels.int(), "logits": result.logits, "loss": result.loss.reshape(1),
               "inv_freq": model.model.rotary_emb.inv_freq, "inv_freq_default": inv_freq_default}
    for key, p in peft.named_parameters():
        if "lora_" in key:
            tensors["gradient/" + key.removeprefix("base_model.model.").replace(".default", "")] = p.grad
    save_file({k: t.detach().clone().contiguous() for k, t in tensors.items()}, f"{folder}/expected.safetensors")


if __name__ == "__main__":
    for name in MODELS:
        make(name, sys.argv[1])
    with open(f"{sys.argv[1]}/made_with.json", "w") as f:
        json.dump({"made with": environment()}, f, indent=1)
        f.write("\n")
