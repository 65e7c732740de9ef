"""A model in GGUF, read here and by transformers: every tensor, to the bit, and the logits of a prompt in float32.

    go build -o qlora ../../cmd/qlora && go build -o dump ./dump
    python check_gguf.py ./qlora ./dump FILE.gguf [PROMPT]

transformers dequantizes with gguf-py and turns the rows of q and k back itself. The ids are transformers' too; they are compared
with `qlora tokenize`. (transformers 5.23 forgets that SmolLM2 splits digits when it makes a tokenizer of GGUF: a prompt for it
must have none.)
"""
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(qlora, dump, file, prompt="The capital of France is Paris. The capital of Italy is"):
    folder, name = os.path.dirname(os.path.abspath(file)), os.path.basename(file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager").eval()
    ids = AutoTokenizer.from_pretrained(folder, gguf_file=name)(prompt).input_ids
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    words = subprocess.run([qlora, "tokenize", "--model", file], input=prompt, check=True, capture_output=True, text=True).stdout.split()
    bad = words != [str(i) for i in ids]
    print(f"{len(ids)} ids, {'others here: ' + ' '.join(words) if bad else 'the same here'}")
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run([dump, file, f"{tmp}/ours.safetensors", *map(str, ids)], check=True)
        ours = load_file(f"{tmp}/ours.safetensors")
    mine = ours.pop("logits")
    theirs = model.state_dict()
    if model.config.tie_word_embeddings:
        theirs.pop("lm_head.weight", None)
    if ours.keys() != theirs.keys():
        sys.exit(f"tensors of one alone: {sorted(ours.keys() ^ theirs.keys())}")
    different = {k: int((ours[k].view(torch.int32) != theirs[k].view(torch.int32)).sum()) for k in ours}
    print(f"{len(ours)} tensors with {sum(x.numel() for x in ours.values())} elements: "
          f"{sum(n > 0 for n in different.values())} tensors and {sum(different.values())} elements differ")
    off, scale = (mine - logits).abs().max().item(), logits.abs().max().item()
    print(f"logits {list(logits.shape)}: the largest is {scale:.4f}, the largest difference {off:.3e}, "
          f"the same likeliest token in {int((mine.argmax(1) == logits.argmax(1)).sum())} of {len(ids)} places")
    if bad or any(different.values()) or off > 1e-4 * scale:
        sys.exit("they differ")


if __name__ == "__main__":
    main(*sys.argv[1:])
