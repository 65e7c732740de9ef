"""AdamW's vectors, by the libraries that the file's metadata names, on a CPU with FMA:

    python adamw.py adamw.safetensors

Four steps each of torch.optim.AdamW, and of bitsandbytes' AdamW with moments in 32 and in 8 bits.
"""
import random
import sys

import bitsandbytes
import torch
from safetensors.torch import save_file

N, STEPS = 600, 4  # two full blocks of 256 and a short one
HYPER = dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
RENAMED = {"exp_avg": "m", "exp_avg_sq": "v", "state1": "m", "state2": "v", "absmax1": "absmax_m", "absmax2": "absmax_v"}

rng = random.Random(1)


def normal():
    return torch.tensor([rng.gauss(0, 1) for _ in range(N)], dtype=torch.float32)


start, grads = normal(), [normal() for _ in range(STEPS)]
tensors = {"start": start} | {f"g{step}": g for step, g in enumerate(grads, 1)}
for name, new in {
    "torch": lambda p: torch.optim.AdamW([p], foreach=False, **HYPER),
    "bnb32": lambda p: bitsandbytes.optim.AdamW32bit([p], **HYPER),
    "bnb8": lambda p: bitsandbytes.optim.AdamW8bit([p], min_8bit_size=1, **HYPER),
}.items():
    p = torch.nn.Parameter(start.clone())
    optimizer = new(p)
    for step, g in enumerate(grads, 1):
        p.grad = g.clone()
        optimizer.step()
        state = {RENAMED[k]: t for k, t in optimizer.state[p].items() if k in RENAMED}
        for part, t in ({"p": p} | state).items():
            tensors[f"{name}/{part}{step}"] = t.detach().clone().flatten()
cpu = torch.backends.cpu.get_cpu_capability()
made_by = f"torch {torch.__version__}, bitsandbytes {bitsandbytes.__version__}, {cpu}"
save_file(tensors, sys.argv[1], metadata={"made_by": made_by})
