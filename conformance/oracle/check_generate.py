"""Greedy texts of `qlora generate` and of transformers' generate, with the repetition penalty, no_repeat_ngram_size and min_new_tokens.

    python check_generate.py ./qlora ../../cmd/qlora/internal/demo/stories260k
"""
import json
import subprocess
import sys

import sentencepiece
import torch
from transformers import AutoModelForCausalLM

PROMPTS = ["Once upon a time", "The dog", "Tom and Lily went to the park. They saw", "É"]
SETTINGS = [{}] + [dict(repetition_penalty=p) for p in (1.1, 1.3, 2.0, 0.9)] + [dict(no_repeat_ngram_size=n) for n in (1, 2, 3, 5)] + [
    dict(repetition_penalty=1.2, no_repeat_ngram_size=3, min_new_tokens=90)]
TOKENS, END = 100, 2


def run(*args, text=""):
    return subprocess.run(args, input=text, capture_output=True, text=True, check=True).stdout


def main(qlora, folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    pieces = sentencepiece.SentencePieceProcessor(model_file=folder + "/tokenizer.model")
    same = 0
    for prompt in PROMPTS:
        ids = [int(i) for i in run(qlora, "tokenize", "--model", folder, text=prompt).split()]
        for settings in SETTINGS:
            out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=TOKENS, eos_token_id=END, pad_token_id=0, **settings)[0].tolist()
            want = pieces.decode([i for i in out if i != END])
            flags = [f"--{name}={value}" for name, value in settings.items()]
            answer = json.loads(run(qlora, "generate", "--model", folder, "--quant=none", "--compute=float32", "--prompt", prompt, f"--tokens={TOKENS}", "--json", *flags))
            got = pieces.decode(ids) + answer["text"]
            same += got == want
            if got != want:
                print(prompt, settings, "\n  transformers", repr(want), "\n  qlora       ", repr(got))
    total = len(PROMPTS) * len(SETTINGS)
    print(f"{same} of {total} texts are the same")
    sys.exit(same != total)


main(*sys.argv[1:])
