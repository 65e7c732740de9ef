"""Holds the mean loss of a text with an adapter, as `qlora eval perplexity --json` measures it, against PEFT's. The adapter is one
of `qlora train`, or one that this script lets PEFT make: patterns of ranks and alphas, layers, and whole modules. For none as DIR it is
the model itself, such as one that `qlora train --full_finetune` has made.

    python check_adapter.py make MODEL_FOLDER DIR
    qlora eval perplexity --model demo --adapter DIR --text FILE --quant none --compute float32 --json > OURS.json
    python check_adapter.py check MODEL_FOLDER DIR FILE OURS.json
"""
import json
import sys

import sentencepiece
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from common import normal


def base(folder):
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make(folder, adapter):
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "o_proj", "up_proj", "model.layers.0.mlp.down_proj"],
                        layers_to_transform=[1, 3, 4], rank_pattern={"layers.3.*": 7}, alpha_pattern={"mlp.*_proj": 2}, use_rslora=True,
                        modules_to_save=["embed_tokens", "norm"], task_type="CAUSAL_LM")
    model = get_peft_model(base(folder), config)
    for i, (_, p) in enumerate(p for p in model.named_parameters() if p[1].requires_grad):
        p.data += 0.05 * normal(500 + i, p.numel()).reshape(p.shape)
    model.save_pretrained(adapter)


def check(folder, adapter, text, ours):
    model = base(folder) if adapter == "none" else PeftModel.from_pretrained(base(folder), adapter)
    model.eval()
    tokens = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model").encode(open(text).read())
    ids = torch.tensor([[1] + tokens[: model.config.max_position_embeddings - 1]])
    with torch.no_grad():
        theirs = model(input_ids=ids, labels=ids).loss.item()
    mine = json.load(open(ours))
    print(f"theirs {theirs:.7f}, qlora {mine['nll']:.7f}, tokens {ids.shape[1] - 1} and {mine['tokens']}")
    if abs(theirs - mine["nll"]) > 1e-5 or ids.shape[1] - 1 != mine["tokens"]:
        sys.exit("they differ")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](*sys.argv[2:])
