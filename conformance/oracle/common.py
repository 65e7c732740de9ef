"""What the scripts share: inputs that no library decides, and the record of what made a vector."""
import importlib.metadata
import math
import platform

import torch


def version(package):
    return importlib.metadata.version(package)


def environment():
    cpu = platform.processor() or "unknown"
    flags = []
    try:
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
            if line.startswith("flags"):
                flags = sorted(set(line.split(":", 1)[1].split()) & {"avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni"})
    except OSError:
        pass
    packages = ("torch", "bitsandbytes", "transformers", "peft", "safetensors", "numpy")
    return {
        "packages": {p: version(p) for p in packages},
        "python": platform.python_version(),
        "cpu": cpu,
        "cpu flags": flags,
        "torch dispatch": torch.backends.cpu.get_cpu_capability(),
    }


def uniform(seed, n):
    """n doubles in (0, 1) from the 64-bit linear congruential generator of Knuth's MMIX, upper 53 bits."""
    s, out = seed * 0x9E3779B97F4A7C15 & (2**64 - 1), []
    for _ in range(n):
        s = (s * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
        out.append(((s >> 11) + 0.5) / 2**53)
    return out


def normal(seed, n):
    """n float32 of a standard normal distribution, by Box and Muller in double."""
    u = uniform(seed, 2 * n)
    return torch.tensor(
        [math.sqrt(-2 * math.log(u[2 * i])) * math.cos(2 * math.pi * u[2 * i + 1]) for i in range(n)], dtype=torch.float32
    )
