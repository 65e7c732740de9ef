"""A real model here and in transformers, PEFT and bitsandbytes, on the CPU: perplexity, and QLoRA steps one by one.

    go build -o qlora ../../cmd/qlora
    python real_model.py folder SmolLM2-135M-Instruct.Q4_1.gguf MODEL
    python real_model.py perplexity ./qlora MODEL TEXT
    python real_model.py train ./qlora MODEL TEXT

`folder` has transformers make a Hugging Face folder, in float32, of a GGUF file. `perplexity` measures one window, the whole text.
`train` takes twenty steps of 128 tokens from the same adapter on the same sequences; the base is the 4-bit checkpoint that `qlora
quantize` writes, so that both have the same weights to the bit. Both print tables.
"""
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile

import bitsandbytes as bnb
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

STEPS, LENGTH, SEED = 20, 128, 7
COMPUTE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def folder(gguf, out):
    where = {"gguf_file": os.path.basename(gguf)}
    AutoTokenizer.from_pretrained(os.path.dirname(gguf) or ".", **where).save_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(os.path.dirname(gguf) or ".", dtype=torch.float32, **where)
    model.hf_quantizer = None  # its weights are plain by now, but it would refuse to save them
    del model.config.quantization_config
    model.save_pretrained(out)


def run(qlora, *args):
    return subprocess.run([qlora, *args], check=True, capture_output=True, text=True).stdout


def quantize(qlora, model, out):
    run(qlora, "quantize", "--model", model, "--output", out)
    return out


def load(model, compute, **kw):
    m = AutoModelForCausalLM.from_pretrained(model, dtype=COMPUTE[compute], attn_implementation="eager", **kw)
    for p in m.parameters():  # transformers 5.23 leaves a 4-bit checkpoint's other weights in the type of its config.json
        if p.is_floating_point():
            p.data = p.data.to(COMPUTE[compute])
    for module in m.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.compute_dtype = COMPUTE[compute]
    return m


def row(what, ours, theirs):
    print(f"| {what} | {ours:.6f} | {theirs:.6f} | {(ours / theirs - 1) * 100:+.4f}% |", flush=True)


def perplexity(qlora, model, text):
    ids = torch.tensor([AutoTokenizer.from_pretrained(model)(open(text).read())["input_ids"]])
    print("| base, compute type | qlora | transformers | difference |\n|---|---|---|---|")

    def compare(what, ours, compute, m, *flags):
        with torch.no_grad():
            theirs = m(input_ids=ids, labels=ids).loss.item()
        p = json.loads(run(qlora, "eval", "perplexity", "--model", ours, "--text", text, "--compute", compute, "--json", *flags))
        assert p["tokens"] == ids.shape[1] - 1, (p, ids.shape)
        row(f"{what}, {compute}", p["perplexity"], math.exp(theirs))

    with tempfile.TemporaryDirectory() as tmp:
        four = quantize(qlora, model, f"{tmp}/nf4")
        for compute in COMPUTE:
            config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
            compare("full precision", model, compute, load(model, compute), "--quant", "none")
            compare("NF4, the checkpoint of `qlora quantize`", four, compute, load(four, compute))
            compare("NF4, each quantizes for itself", model, compute, load(model, compute, quantization_config=config))
    print(f"\n{ids.shape[1] - 1} tokens.")


def philox(ctr, key):
    ctr, key, mask = list(ctr), list(key), 2**32 - 1
    for _ in range(10):
        p0, p1 = ctr[0] * 0xD2511F53, ctr[2] * 0xCD9E8D57
        ctr = [p1 >> 32 ^ ctr[1] ^ key[0], p1 & mask, p0 >> 32 ^ ctr[3] ^ key[1], p0 & mask]
        key = [key[0] + 0x9E3779B9 & mask, key[1] + 0xBB67AE85 & mask]
    return ctr


def order(seed, n):
    """The first epoch's order of n sequences: the shuffle of Fisher and Yates with Philox."""
    purpose = 0x811C9DC5
    for b in b"data order":
        purpose = (purpose ^ b) * 0x01000193 & 2**32 - 1
    p = list(range(n))
    for i in range(n - 1, 0, -1):
        j = philox([i // 4, 0xFFFF << 16, 0, purpose], [seed, 0])[i % 4] * (i + 1) >> 32
        p[i], p[j] = p[j], p[i]
    return p


def sequences(model, text):
    ids = AutoTokenizer.from_pretrained(model)(open(text).read())["input_ids"]
    cut = [ids[i:i + LENGTH + 1] for i in range(0, len(ids) - 1, LENGTH)]  # the first token of each is not predicted in it
    return [cut[i] for i in order(SEED, len(cut))][:STEPS]


def ours(qlora, four, text, out, compute, steps, lr):
    run(qlora, "train", "--model", four, "--data", text, "--output", out, "--steps", str(steps), "--lr", str(lr), "--seed", str(SEED),
        "--seq-len", str(LENGTH), "--batch-size", "1", "--gradient-accumulation-steps", "1", "--compute", compute,
        "--adapter-compute", "float32")
    return [json.loads(line) for line in open(f"{out}/metrics.jsonl")]


def theirs(four, adapter, batches, compute, lr):
    model = PeftModel.from_pretrained(load(four, compute), adapter, is_trainable=True).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=lr, weight_decay=0)
    for ids in batches:
        ids = torch.tensor([ids])
        logits = model(input_ids=ids[:, :-1]).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 0.3)
        adamw.step()
        adamw.zero_grad()
        yield loss.item(), norm.item()


def train(qlora, model, text):
    batches, lr = sequences(model, text), 2e-4
    with tempfile.TemporaryDirectory() as tmp:
        four = quantize(qlora, model, f"{tmp}/nf4")
        for compute in COMPUTE:
            ours(qlora, four, text, f"{tmp}/first-{compute}", compute, 1, 0)  # leaves the adapter as it was made
            metrics = ours(qlora, four, text, f"{tmp}/run-{compute}", compute, STEPS, lr)
            print(f"\n{compute}\n\n| step | loss, qlora | loss, PEFT | difference | gradient norm, qlora | gradient norm, PEFT | difference |\n|---|---|---|---|---|---|---|")
            differences = []
            for m, (loss, norm) in zip(metrics, theirs(four, f"{tmp}/first-{compute}", batches, compute, lr), strict=True):
                d = [(m["loss"] / loss - 1) * 100, (m["grad_norm"] / norm - 1) * 100]
                print(f"| {m['step']} | {m['loss']:.6f} | {loss:.6f} | {d[0]:+.4f}% | {m['grad_norm']:.6f} | {norm:.6f} | {d[1]:+.4f}% |", flush=True)
                differences.append([abs(x) for x in d])
            for what, d in zip(("loss", "gradient norm"), zip(*differences)):
                print(f"\n{what}: at most {max(d):.4f}%, median {statistics.median(d):.4f}%")


if __name__ == "__main__":
    {"folder": folder, "perplexity": perplexity, "train": train}[sys.argv[1]](*sys.argv[2:])
