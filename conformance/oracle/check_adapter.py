"""Loads an adapter of `qlora train` with PEFT and compares the mean loss of a text with `qlora eval perplexity --json`.

    qlora eval perplexity --model demo --adapter DIR --text FILE --quant none --compute float32 --json > OURS.json
    python check_adapter.py MODEL_FOLDER DIR FILE OURS.json
"""
import json
import sys

import sentencepiece
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM


def main(folder, adapter, text, ours):
    model = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), adapter).eval()
    tokens = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model").encode(open(text).read())
    ids = torch.tensor([[1] + tokens[: model.config.max_position_embeddings - 1]])
    with torch.no_grad():
        theirs = model(input_ids=ids, labels=ids).loss.item()
    mine = json.load(open(ours))
    print(f"PEFT {theirs:.7f}, qlora {mine['nll']:.7f}, tokens {ids.shape[1] - 1} and {mine['tokens']}")
    if abs(theirs - mine["nll"]) > 1e-5 or ids.shape[1] - 1 != mine["tokens"]:
        sys.exit("they differ")


if __name__ == "__main__":
    main(*sys.argv[1:])
