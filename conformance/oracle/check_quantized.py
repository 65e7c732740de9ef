"""4-bit checkpoints written here, loaded by transformers and bitsandbytes, and theirs read here.

    go build -o qlora ../../cmd/qlora
    python check_quantized.py ./qlora MODEL_FOLDER...

For each model, type, nesting and storage: every weight of a checkpoint that `qlora quantize` wrote is dequantized by bitsandbytes
after transformers loaded it, and must have the bytes that `qlora dequantize` gives; likewise for a checkpoint that transformers
wrote. The offset of double quantization is a tensor of torch's default type when it is loaded: the program says which one the
loader had. The zero of FP4's nibble 8 has another sign in one kernel of bitsandbytes than in another, so signs of zeros are not
compared; its AVX-512 dequantization is wrong where rows are no multiple of the block, so such weights are dequantized by its
formula in torch (README.md).
"""
import itertools
import os
import subprocess
import sys
import tempfile

import bitsandbytes as bnb
import bitsandbytes.functional as F
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

STORAGE = {"uint8": torch.uint8, "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def weights(folder):
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            tensors.update(load_file(f"{folder}/{name}"))
    return tensors


def dequantize(packed, state):
    if state.shape[1] % state.blocksize == 0:
        return F.dequantize_4bit(packed, state)
    scale = state.absmax
    if state.nested:
        scale = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
    codes = packed.contiguous().view(torch.uint8).flatten()
    values = state.code[torch.stack([codes >> 4, codes & 15], 1).flatten().long()]
    n = state.shape.numel()
    return (values[:n] * scale.float().repeat_interleave(state.blocksize)[:n]).to(state.dtype).reshape(state.shape)


def loaded(folder, storage, default=torch.float32, **kw):
    torch.set_default_dtype(default)  # which transformers 4 did itself, to dtype
    model = AutoModelForCausalLM.from_pretrained(folder, **kw)
    torch.set_default_dtype(torch.float32)
    result, offsets = {}, set()
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            assert module.weight.dtype == STORAGE[storage], (name, module.weight.dtype)
            state = module.weight.quant_state
            if state.nested:
                offsets.add(state.offset.dtype)
            result[name + ".weight"] = dequantize(module.weight.data, state)
    assert result
    return model, result, offsets


def same(what, theirs, ours):
    def bits(x):
        return (x + 0).view(torch.uint8)  # −0 + 0 is +0

    wrong = [k for k in theirs if theirs[k].dtype != ours[k].dtype or not torch.equal(bits(theirs[k]), bits(ours[k]))]
    print(f"{what}: {len(theirs)} weights, {len(wrong)} differ", wrong[:3])
    return len(wrong)


def check(qlora, folder, kind, nested, storage, tmp):
    ours, theirs, plain = f"{tmp}/ours", f"{tmp}/theirs", f"{tmp}/plain"
    label = f"{os.path.basename(folder.rstrip('/'))} {kind} nested={nested} {storage}"
    subprocess.run([qlora, "quantize", "--model", folder, "--output", ours, "--type", kind, f"--double-quant={str(nested).lower()}",
                    "--quant-storage", storage], check=True, capture_output=True)
    bad = 0
    for default in (torch.bfloat16, torch.float32):
        _, result, offsets = loaded(ours, storage, default, dtype=torch.bfloat16)
        offset = "bfloat16" if torch.bfloat16 in offsets else "float32"
        subprocess.run([qlora, "dequantize", "--model", ours, "--output", plain, "--nested-offset", offset], check=True, capture_output=True)
        bad += same(f"{label}, ours, default type {default}, offsets {offsets or 'none'}", result, weights(plain))
        subprocess.run(["rm", "-r", plain])
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested,
                                bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_quant_storage=STORAGE[storage])
    model, _, _ = loaded(folder, storage, quantization_config=config, dtype=torch.bfloat16)
    model.save_pretrained(theirs)
    for f in os.listdir(folder):
        if "token" in f or "spiece" in f:
            subprocess.run(["cp", f"{folder}/{f}", theirs])
    _, result, offsets = loaded(theirs, storage, dtype=torch.bfloat16)
    offset = "bfloat16" if torch.bfloat16 in offsets else "float32"
    subprocess.run([qlora, "dequantize", "--model", theirs, "--output", plain, "--nested-offset", offset], check=True, capture_output=True)
    bad += same(f"{label}, theirs", result, weights(plain))
    return bad


if __name__ == "__main__":
    bad = 0
    for folder in sys.argv[2:]:
        for kind, nested, storage in itertools.product(("nf4", "fp4"), (True, False), STORAGE):
            with tempfile.TemporaryDirectory() as tmp:
                bad += check(sys.argv[1], folder, kind, nested, storage, tmp)
    sys.exit(bad > 0)
