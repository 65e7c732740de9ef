"""Vectors of transformers' LLaMA and PEFT's LoRA in float32 and bfloat16.

    python peft_llama.py DEMO_MODEL_FOLDER OUTPUT_FOLDER

llama_demo: logits, loss and its gradient by every linear weight of the demo model, with ignored labels.
llama_tiny: the same for a random model with grouped queries and an untied head, with its weights.
peft_lora: one linear layer with an adapter, forward and gradients, in float32, in bfloat16 with PEFT's float32 branch, and in
bfloat16 throughout.
"""
import json
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from common import environment, normal


def llama(name, model, ids, labels, out, keep_weights):
    model.eval()
    result = model(input_ids=ids, labels=labels)
    result.loss.backward()
    tensors = {"ids": ids.int(), "labels": labels.int(), "logits": result.logits, "loss": result.loss.reshape(1)}
    for key, p in model.named_parameters():
        if "_proj" in key:
            tensors["gradient/" + key] = p.grad
        if keep_weights:
            tensors["weight/" + key] = p
    save_file({k: t.detach().clone().contiguous() for k, t in tensors.items()}, f"{out}/{name}.safetensors")
    describe(name, out)


def describe(name, out):
    with open(f"{out}/{name}.json", "w") as f:
        json.dump({"made with": environment()}, f, indent=1)
        f.write("\n")


def demo(folder, out):
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = torch.tensor([[1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426]])
    labels = ids.clone()
    labels[0, :4] = -100
    llama("llama_demo", model, ids, labels, out, False)


def tiny(out):
    config = LlamaConfig(vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
                         num_key_value_heads=2, head_dim=8, max_position_embeddings=32, rms_norm_eps=1e-5,
                         tie_word_embeddings=False, attn_implementation="eager")
    model = LlamaForCausalLM(config).float()
    for i, (key, p) in enumerate(model.named_parameters()):
        x = 0.2 * normal(100 + i, p.numel()).reshape(p.shape)
        p.data = x + 1 if "norm" in key else x
    ids = torch.tensor([[(7 * i * i + 3) % 50 for i in range(20)]])
    labels = ids.clone()
    labels[0, 5:9] = -100
    llama("llama_tiny", model, ids, labels, out, True)


class Layer(torch.nn.Module):
    def __init__(self, w):
        super().__init__()
        self.lin = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
        self.lin.weight.data = w

    def forward(self, x):
        return self.lin(x)


def lora(out):
    tensors = {}
    w, a, b = (0.3 * normal(s, n).reshape(shape) for s, n, shape in ((1, 600, (20, 30)), (2, 120, (4, 30)), (3, 80, (20, 4))))
    x, dy = normal(4, 330).reshape(11, 30), normal(5, 220).reshape(11, 20)
    for case, base, branch in (("float32", torch.float32, torch.float32), ("bfloat16, float32 branch", torch.bfloat16, torch.float32),
                               ("bfloat16", torch.bfloat16, torch.bfloat16)):
        model = get_peft_model(Layer(w.to(base)), LoraConfig(r=4, lora_alpha=6, target_modules=["lin"]),
                               autocast_adapter_dtype=branch == torch.float32)
        lin = model.base_model.model.lin
        lin.lora_A["default"].weight.data = a.to(branch)
        lin.lora_B["default"].weight.data = b.to(branch)
        xi = x.to(base).clone().requires_grad_()
        y = model(xi)
        y.backward(dy.to(y.dtype))
        for part, t in {"w": w, "a": a, "b": b, "x": x, "dy": dy, "y": y, "dx": xi.grad, "da": lin.lora_A["default"].weight.grad,
                        "db": lin.lora_B["default"].weight.grad}.items():
            tensors[f"{case}/{part}"] = t.detach().clone().contiguous()
    save_file(tensors, f"{out}/peft_lora.safetensors")
    describe("peft_lora", out)


if __name__ == "__main__":
    demo(sys.argv[1], sys.argv[2])
    tiny(sys.argv[2])
    lora(sys.argv[2])
