"""Vectors of bitsandbytes' quantization on the CPU: 4-bit, 8-bit, nested.

    python bnb_quant.py OUTPUT_FOLDER

writes bnb_quant_<version>.safetensors (tensors named case/part) and bnb_quant_<version>.json (cases with their reasons, the
packages and the CPU). Inputs come from a fixed integer recurrence, so they do not depend on any library.
"""
import hashlib
import json
import sys

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

from common import environment, normal, version

tensors, cases = {}, []


def keep(case, **parts):
    for part, t in parts.items():
        tensors[f"{case}/{part}"] = t.detach().clone().contiguous()


def state_parts(state):
    if not state.nested:
        return {"absmax": state.absmax}
    return {
        "absmax": state.absmax,
        "nested_absmax": state.state2.absmax,
        "nested_quant_map": state.state2.code,
        "offset": state.offset.reshape(1),
    }


def case4(name, x, quant_type, blocksize, nested, reason):
    name = f"{name}/{quant_type}/{blocksize}{'/nested' if nested else ''}"
    entry = {"case": name, "bits": 4, "quant_type": quant_type, "blocksize": blocksize, "nested": nested, "reason": reason}
    cases.append(entry)
    keep(name, input=x)
    try:
        packed, state = F.quantize_4bit(x, blocksize=blocksize, quant_type=quant_type, compress_statistics=nested)
    except Exception as e:  # a refusal is a fact about the library, too
        entry["error"] = f"{type(e).__name__}: {e}"
        return
    keep(name, packed=packed.flatten(), dequantized=F.dequantize_4bit(packed, state).flatten(), **state_parts(state))


def case8(name, x, code, signed, blocksize, reason):
    name = f"{name}/dynamic8/{'signed' if signed else 'unsigned'}/{blocksize}"
    cases.append({"case": name, "bits": 8, "signed": signed, "blocksize": blocksize, "nested": False, "reason": reason})
    q, state = F.quantize_blockwise(x, code=code.clone(), blocksize=blocksize)
    keep(name, input=x, codes=q, absmax=state.absmax, quant_map=state.code, dequantized=F.dequantize_blockwise(q, state))


def thresholds(table):
    """Every midpoint of neighbouring values and its two float32 neighbours, in one block whose absmax is 1."""
    v = torch.tensor(sorted(set(table)), dtype=torch.float32)
    mid = (v[:-1] + v[1:]) / 2
    inf = torch.tensor(float("inf"))
    return torch.cat([mid, torch.nextafter(mid, inf), torch.nextafter(mid, -inf), torch.tensor([1.0, -0.0, 0.0])])


def padded(x, n):
    return torch.cat([x, torch.zeros(n - x.numel())])


def main(out):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        short = str(dtype).removeprefix("torch.")
        for qt in ("nf4", "fp4"):
            x = (0.02 * normal(1, 12 * 96)).reshape(12, 96).to(dtype)
            case4(f"normal/{short}", x, qt, 64, False, "weights of a usual size; 96 columns, so blocks straddle rows")
            case4(f"normal/{short}", x, qt, 64, True, "the same with double quantization")
    big = (0.02 * normal(2, 40000)).reshape(100, 400)
    case4("large", big, "nf4", 64, True, "625 blocks: three nested blocks, the last one short")
    for bs in (32, 128, 256, 512, 1024, 2048, 4096):
        for qt in ("nf4", "fp4"):
            case4("blocksizes", normal(3, 2 * 4096 + 100).reshape(2, -1), qt, bs, False, "two blocks and a tail at the largest block size")
    for qt in ("nf4", "fp4"):
        table = F.get_4bit_type(qt, device="cpu").tolist()
        case4("thresholds", padded(thresholds(table), 64), qt, 64, False, "a value on every threshold and one float32 to either side")
        zero = torch.zeros(64)
        case4("zero block", torch.cat([zero, normal(4, 64)]), qt, 64, False, "absmax is 0")
        case4("zero tail", torch.cat([normal(4, 64), torch.zeros(10)]), qt, 64, False, "the last, short block is 0")
        case4("tail", normal(5, 74), qt, 64, False, "the last block is short")
        case4("odd", normal(6, 77), qt, 64, False, "an odd number of elements: half of the last byte is padding")
        case4("subnormal", torch.cat([1e-39 * normal(7, 64), 1e-41 * normal(8, 64), 3e-38 * normal(9, 64)]), qt, 64, False,
              "absmax below 2^-126, where 1/absmax can overflow, and just above")
        case4("huge", 1e38 * normal(10, 64).clamp(-3, 3), qt, 64, False, "1/absmax is subnormal")
        nan = normal(11, 128)
        nan[70] = float("nan")
        case4("NaN", nan, qt, 64, False, "a NaN in the second block")
        inf = normal(12, 128)
        inf[70] = float("inf")
        case4("Inf", inf, qt, 64, False, "an infinity in the second block")
        case4("equal blocks", torch.cat([normal(13, 64)] * 4), qt, 64, True, "all absmax equal: the nested block is all zero")
    for signed in (True, False):
        code = F.create_dynamic_map(signed=signed)
        tensors[f"dynamic map/{'signed' if signed else 'unsigned'}"] = code
        x = normal(14, 3 * 256 + 50)
        x = x if signed else x.abs()
        case8("normal", x, code, signed, 256, "three blocks and a tail")
        case8("thresholds", torch.cat([thresholds(code.tolist()), torch.zeros(1024)])[:1024], code, signed, 1024,
              "a value on every threshold and one float32 to either side")
        case8("zero block", torch.cat([torch.zeros(256), x[:256]]), code, signed, 256, "absmax is 0")
    v = version("bitsandbytes")
    save_file(tensors, f"{out}/bnb_quant_{v}.safetensors")
    maps = {k: hashlib.sha256(t.numpy().tobytes()).hexdigest() for k, t in tensors.items() if k.startswith("dynamic map/")}
    with open(f"{out}/bnb_quant_{v}.json", "w") as f:
        json.dump({"made with": environment(), "sha256 of maps": maps, "cases": cases}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
