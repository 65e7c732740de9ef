"""Lion's vectors, by bitsandbytes, whose version the file's metadata has, on a CPU with FMA:

    python lion.py lion.safetensors

Four steps of its Lion with a moment in 32 bits. In the first fifty places the gradient is zero until the fourth.
"""
import random
import sys

import bitsandbytes
import torch
from safetensors.torch import save_file

N, STEPS = 300, 4
HYPER = dict(lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)

rng = random.Random(2)


def normal():
    return torch.tensor([rng.gauss(0, 1) for _ in range(N)], dtype=torch.float32)


start, grads = normal(), [normal() for _ in range(STEPS)]
for g in grads[:3]:
    g[:50] = 0
tensors = {"start": start} | {f"g{step}": g for step, g in enumerate(grads, 1)}
p = torch.nn.Parameter(start.clone())
optimizer = bitsandbytes.optim.Lion32bit([p], **HYPER)
for step, g in enumerate(grads, 1):
    p.grad = g.clone()
    optimizer.step()
    tensors[f"p{step}"] = p.detach().clone()
    tensors[f"m{step}"] = optimizer.state[p]["state1"].clone()
cpu = torch.backends.cpu.get_cpu_capability()
made_by = f"torch {torch.__version__}, bitsandbytes {bitsandbytes.__version__}, {cpu}"
save_file(tensors, sys.argv[1], metadata={"made_by": made_by})
