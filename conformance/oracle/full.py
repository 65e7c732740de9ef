"""Gradients of every weight, on the models of architectures.py, and of modules_to_save, on the adapters of peft_adapters.py.

    python full.py vectors/architectures vectors/adapters vectors/full

BASE.safetensors has ids, labels and the gradient by each parameter of the model that transformers loads in float32. BASE.CASE.safetensors
has those of the modules that PEFT trains whole beside the adapter BASE.CASE, by their names in the base.
"""
import json
import os
import sys
import warnings

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from common import environment

BASES = ["llama1", "llama_bias", "smollm2", "qwen2", "qwen3"]
CASES = ["llama1.saves_both", "llama1.saves_norms", "llama1.saves_attention", "llama_bias.saves_linear", "smollm2.saves_embedding",
         "smollm2.saves_head", "smollm2.saves_both"]
IDS = torch.tensor([[(7 * i * i + 3 * i) % 40 for i in range(17)]])
LABELS = IDS.clone()
LABELS[0, 5:9] = -100


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def gradients(model, names):
    """names gives a parameter's name in the base, or None for one that is not wanted."""
    model.eval()
    result = model(input_ids=IDS, labels=LABELS)
    result.loss.backward()
    tensors = {"ids": IDS.int(), "labels": LABELS.int(), "loss": result.loss.detach().reshape(1)}
    for key, p in model.named_parameters():
        if (name := names(key)) is not None:
            tensors["gradient/" + name] = p.grad.clone().contiguous()
    return tensors


def saved(key):
    if ".modules_to_save.default." not in key:
        return None
    return key.removeprefix("base_model.model.").replace(".modules_to_save.default", "")


if __name__ == "__main__":
    bases, adapters, out = sys.argv[1:]
    warnings.filterwarnings("ignore")
    os.makedirs(out, exist_ok=True)
    for base in BASES:
        save_file(gradients(load(f"{bases}/{base}"), lambda key: key), f"{out}/{base}.safetensors")
    for case in CASES:
        model = PeftModel.from_pretrained(load(f"{bases}/{case.split('.')[0]}"), f"{adapters}/{case}", is_trainable=True)
        save_file(gradients(model, saved), f"{out}/{case}.safetensors")
    with open(f"{out}/made_with.json", "w") as f:
        json.dump({"made with": environment()}, f, indent=1)
        f.write("\n")
