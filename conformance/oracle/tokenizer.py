"""Vectors of SentencePiece on the demo model's tokenizer.

    python tokenizer.py TOKENIZER.model OUTPUT_FOLDER
"""
import importlib.metadata
import json
import sys

import sentencepiece

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "", " ", "  two  spaces  ", "\n\nlines\n", "tab\there", "a", "▁", "héllo wörld", "你好，世界", "🙂👍🏽", "\u0000\u0001",
    "<s> </s> <unk> <0x41>", "Zzz qqq xxx", "the the the the", "ROMEO:\nO, she doth teach the torches to burn bright!",
    "x" * 40, "0123456789", "e\u0301",
]


def main(model, out):
    p = sentencepiece.SentencePieceProcessor(model_file=model)
    cases = [{"text": t, "ids": p.encode(t), "decoded": p.decode(p.encode(t))} for t in TEXTS]
    with open(f"{out}/tokenizer.json", "w") as f:
        json.dump({"made with": {"sentencepiece": importlib.metadata.version("sentencepiece")}, "cases": cases}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
