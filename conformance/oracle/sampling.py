"""What transformers' logits processors make of logits: the repetition penalty, temperature, top-k, top-p and min-p.

    python sampling.py vectors

sampling.json has, case by case, logits, the tokens that were seen, the settings; then the logits behind the repetition penalty, and the
tokens that are left behind all of them with their probabilities. Numbers are float32 in hexadecimal, probabilities float64.
"""
import json
import os
import sys

import torch
from transformers import (LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper,
                          TopPLogitsWarper)

from common import environment, normal

INF = float("inf")


def logits(seed, n, scale=1.0):
    return normal(seed, n) * scale


def some(seed, n, share, value):
    """logits of which a share is one value"""
    x = logits(seed, n)
    x[normal(seed + 1000, n) > share] = value
    return x


def steps(n):
    """logits whose probabilities are 1/2, 1/4, …: sums of them meet round numbers"""
    return torch.tensor([-0.6931471805599453 * i for i in range(n)], dtype=torch.float32)


CASES = {
    # name: (logits, seen, settings)
    "temperature": (logits(1, 60), [], dict(temperature=0.7)),
    "hot": (logits(2, 60, 4), [], dict(temperature=3.0)),
    "cold": (logits(3, 60, 4), [], dict(temperature=0.05)),
    "top-k": (logits(4, 60), [], dict(top_k=7)),
    "top-k 1": (logits(5, 60), [], dict(top_k=1)),
    "top-k of more than all": (logits(6, 60), [], dict(top_k=100)),
    "top-p": (logits(7, 60), [], dict(top_p=0.9)),
    "top-p of little": (logits(8, 60), [], dict(top_p=0.001)),
    "top-p, nearly all": (logits(9, 60, 5), [], dict(top_p=0.999)),
    "min-p": (logits(10, 60), [], dict(min_p=0.1)),
    "min-p of much": (logits(11, 60), [], dict(min_p=0.9)),
    "min-p after temperature": (logits(12, 60, 2), [], dict(temperature=2.0, min_p=0.1)),
    "min-p after top-p": (logits(13, 60, 2), [], dict(top_p=0.8, min_p=0.05)),
    "top-p after top-k": (logits(14, 60), [], dict(top_k=8, top_p=0.7)),
    "all": (logits(15, 300, 3), [1, 5, 5, 9, 200, 1], dict(repetition_penalty=1.3, temperature=0.8, top_k=40, top_p=0.95, min_p=0.02)),
    "all, hot": (logits(16, 300, 2), list(range(0, 300, 7)), dict(repetition_penalty=1.1, temperature=1.7, top_k=100, top_p=0.9, min_p=0.1)),
    "penalty": (logits(17, 60, 5), [3, 3, 4, 50, 3, 59, 0], dict(repetition_penalty=1.2)),
    "penalty below 1": (logits(18, 60, 5), [3, 4, 50], dict(repetition_penalty=0.7)),
    "penalty of 1": (logits(19, 60, 5), [3, 4, 50], dict(repetition_penalty=1.0)),
    "penalty of all": (logits(20, 60, 5), list(range(60)), dict(repetition_penalty=3.0)),
    "penalty of zeros": (torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, 1.0, -INF]), list(range(8)), dict(repetition_penalty=1.5)),
    "bfloat16": (logits(21, 60, 5).bfloat16().float(), [2, 7, 9, 11, 30], dict(repetition_penalty=1.1, top_p=0.9)),
    "masked": (some(22, 60, 0.0, -INF), [], dict(temperature=0.9, top_p=0.9)),
    "masked but few": (some(23, 60, -1.5, -INF), [1, 2, 3], dict(top_k=20, min_p=0.05, repetition_penalty=1.4)),
    "masked but one": (torch.tensor([-INF] * 20 + [2.0] + [-INF] * 11), [], dict(top_p=0.9, min_p=0.5, top_k=3)),
    "equals": (torch.full((8,), 1.5), [], dict(top_p=0.5)),
    "equals at the end of top-k": (some(24, 60, 0.5, 0.25), [], dict(top_k=30)),
    "equals at the end of top-p": (some(25, 60, 0.5, 0.25), [], dict(top_p=0.6)),
    "equals and min-p": (torch.full((50,), -2.0), [], dict(min_p=1.0)),
    "halves": (steps(20), [], dict(top_p=0.7)),
    "halves and min-p": (steps(20), [], dict(min_p=0.2)),
    "greedy": (logits(26, 60), [4], dict(repetition_penalty=2.0, top_k=1)),
}

WARPERS = dict(temperature=TemperatureLogitsWarper, top_k=TopKLogitsWarper, top_p=TopPLogitsWarper, min_p=MinPLogitsWarper)


def hexes(x):
    return [float(v).hex() if abs(float(v)) != INF else ("-inf" if v < 0 else "inf") for v in x]


def case(name, z, seen, settings):
    ids = torch.tensor([seen], dtype=torch.long)
    z = z[None].float()
    penalized = z
    if "repetition_penalty" in settings:
        penalized = RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"])(ids, z.clone())
    # the order in which generate puts them together
    warp = LogitsProcessorList([WARPERS[k](settings[k]) for k in WARPERS if k in settings])
    scores = warp(ids, penalized.clone())[0]
    kept = [i for i in range(len(scores)) if scores[i] > -INF]
    p = torch.softmax(scores.double(), -1)
    return dict(name=name, logits=hexes(z[0]), seen=seen, settings=settings, penalized=hexes(penalized[0]) if "repetition_penalty" in settings else [], kept=kept, probabilities=[float(p[i]) for i in kept])


def main(folder):
    record = {"made with": environment(), "cases": [case(name, *c) for name, c in CASES.items()]}
    with open(os.path.join(folder, "sampling.json"), "w") as f:
        f.write("{\"made with\": %s,\n\"cases\": [\n" % json.dumps(record["made with"]))
        f.write(",\n".join(json.dumps(c) for c in record["cases"]))
        f.write("\n]}\n")


main(sys.argv[1])
