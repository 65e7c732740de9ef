#!/usr/bin/env python3
"""A client of the conformance suite, by the Python standard library alone: it answers an export.

    qlora conformance export DIR --level smoke
    python3 client.py DIR
    qlora conformance verify DIR

It implements 4-bit and dynamic 8-bit quantization, dequantization and linear layers, and declares that it has nothing else. Python
computes in float64; one operation on float32 values that is done there and rounded once more gives what float32 arithmetic gives.
"""

import bisect
import json
import math
import os
import struct
import sys


def f32(x):
    """The nearest float32, ties to even."""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def bf16(x):
    """The nearest bfloat16 of a float32: its upper half, ties to even."""
    if math.isnan(x):
        return x
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def f16(x):
    """The nearest float16, ties to even."""
    try:
        return struct.unpack("<e", struct.pack("<e", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


ROUND = {"F32": f32, "BF16": bf16, "F16": f16}
SIZE = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "U8": 1}


# Files: 8 bytes length of the header, the header in JSON, the data.


def decode(dtype, raw):
    n = len(raw) // SIZE[dtype]
    if dtype == "BF16":
        return [struct.unpack("<f", struct.pack("<I", h << 16))[0] for h in struct.unpack(f"<{n}H", raw)]
    return list(struct.unpack(f"<{n}{ {'F32': 'f', 'F16': 'e', 'I32': 'i', 'U8': 'B'}[dtype] }", raw))


def encode(dtype, values):
    if dtype == "BF16":
        return struct.pack(f"<{len(values)}H", *(struct.unpack("<I", struct.pack("<f", v))[0] >> 16 for v in values))
    return struct.pack(f"<{len(values)}{ {'F32': 'f', 'F16': 'e', 'I32': 'i', 'U8': 'B'}[dtype] }", *values)


def read_safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    return {name: decode(t["dtype"], data[end + t["data_offsets"][0] : end + t["data_offsets"][1]]) for name, t in header.items()}


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        raw = encode(dtype, values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + data)


class Export:
    """The manifest, with the tensors beside it."""

    def __init__(self, folder):
        self.folder, self.files = folder, {}
        with open(os.path.join(folder, "manifest.json")) as f:
            self.manifest = json.load(f)
        if self.manifest["schema"] != "qlora-conformance/1":
            sys.exit(f"schema {self.manifest['schema']}: this client knows qlora-conformance/1")
        self.tables = {name: self.values(t) for name, t in self.manifest["tables"].items()}

    def values(self, t, name=""):
        if "values" in t:
            return [float.fromhex(v) if isinstance(v, str) else v for v in t["values"]]
        if t["file"] not in self.files:
            self.files[t["file"]] = read_safetensors(os.path.join(self.folder, t["file"]))
        return self.files[t["file"]][name]

    def inputs(self, case):
        return {name: self.values(t, f"{case['name']}:{name}") for name, t in case["inputs"].items()}


# The operations. Each gives its outputs' values by name, or raises Rejected.


class Rejected(Exception):
    pass


def scale_blocks(x, size):
    """absmax of each block, and x times its reciprocal."""
    if not all(map(math.isfinite, x)):
        raise Rejected
    scales, scaled = [], []
    for start in range(0, len(x), size):
        block = x[start : start + size]
        absmax = max(map(abs, block))
        r = f32(1 / absmax) if absmax else math.inf
        if math.isinf(r):
            scales.append(0.0)
            scaled += [0.0] * len(block)
        else:
            scales.append(absmax)
            scaled += [f32(v * r) for v in block]
    return scales, scaled


def midpoints(values):
    return [f32((a + b) / 2) for a, b in zip(values, values[1:])]


class FourBits:
    """A 4-bit type by its table. In fp4, e2m1 and e3m0 bit 3 is the sign, and a magnitude decides; int4 has no −8/7."""

    def __init__(self, name, table):
        self.table, self.sign = table, name in ("fp4", "e2m1", "e3m0")
        nibbles = range(8) if self.sign else [i for i in range(16) if table[i] >= -1]
        self.order = sorted(nibbles, key=lambda i: table[i])
        self.thresholds = midpoints([table[i] for i in self.order])

    def code(self, x):
        sign = 8 if self.sign and x < 0 else 0
        # bisect_left counts the thresholds that are below x: a tie goes down.
        return sign | self.order[bisect.bisect_left(self.thresholds, abs(x) if self.sign else x)]

    def quantize(self, x, size):
        scales, scaled = scale_blocks(x, size)
        codes = [self.code(v) for v in scaled]
        if len(codes) % 2:
            codes.append(self.code(0.0))
        return [a << 4 | b for a, b in zip(codes[::2], codes[1::2])], scales

    def dequantize(self, codes, scales, n, size, dtype):
        nibbles = [c for byte in codes for c in (byte >> 4, byte & 15)]
        return [ROUND[dtype](f32(self.table[nibbles[i]] * scales[i // size])) for i in range(n)]


def unnest(codes, scales, table, offset):
    return [f32(f32(table[c] * scales[i // 256]) + offset) for i, c in enumerate(codes)]


def linear(case, tables, t):
    p, dtype = case["params"], case["dtype"]
    m, n, k = p["m"], p["n"], p["k"]
    if p["w"] == "dense":
        w = t["w"]
    else:
        scales = t["absmax"]
        if p["w"].endswith("_dq"):
            scales = unnest(scales, t["absmax2"], t["map"], t["offset"][0])
        name = p["w"].removesuffix("_dq")
        w = FourBits(name, tables[name]).dequantize(t["codes"], scales, n * k, p["bs"], dtype)
    y = []
    for row in range(m):
        for col in range(n):
            s = 0.0
            for i in range(k):
                s = f32(s + f32(t["x"][row * k + i] * w[col * k + i]))
            if "bias" in t:
                s = f32(s + t["bias"][col])
            y.append(ROUND[dtype](s))
    return {"y": y}


def answer(case, tables, t):
    """The outputs of a case, None for what this client does not have."""
    op, p = case["op"], case["params"]
    kind, _, what = op.partition("_")
    if kind in ("nf4", "fp4", "int4", "e2m1", "e3m0") and what in ("quantize", "dequantize"):
        book = FourBits(kind, tables[kind])
        if what == "quantize":
            codes, scales = book.quantize(t["x"], p["bs"])
            return {"codes": codes, "absmax": scales}
        return {"x": book.dequantize(t["codes"], t["absmax"], p["n"], p["bs"], case["dtype"])}
    table = tables["dynamic_unsigned" if "unsigned" in p else "dynamic_signed"]
    if op == "dynamic_quantize":
        scales, scaled = scale_blocks(t["x"], p["bs"])
        thresholds = midpoints(table)
        return {"codes": [bisect.bisect_left(thresholds, v) for v in scaled], "absmax": scales}
    if op == "dynamic_dequantize":
        return {"x": [f32(table[c] * t["absmax"][i // p["bs"]]) for i, c in enumerate(t["codes"])]}
    if kind in ("nf4", "fp4") and what == "dq_dequantize":
        scales = unnest(t["absmax"], t["absmax2"], t["map"], t["offset"][0])
        return {"x": FourBits(kind, tables[kind]).dequantize(t["codes"], scales, p["n"], p["bs"], case["dtype"])}
    if op == "nested_dequantize":
        return {"absmax": unnest(t["codes"], t["absmax2"], t["map"], t["offset"][0])}
    if op == "linear":
        return linear(case, tables, t)
    return None


def main(folder):
    export = Export(folder)
    answers, rejected, lacking = {}, [], {}
    for case in export.manifest["cases"]:
        try:
            out = answer(case, export.tables, export.inputs(case))
        except Rejected:
            rejected.append(case["name"])
            continue
        if out is None:
            lacking[case["op"]] = "not written"
            continue
        for name, values in out.items():
            want = case["outputs"][name]
            answers.setdefault(case["op"], {})[f"{case['name']}:{name}"] = want["dtype"], want["shape"], values
    where = os.path.join(folder, "answers")
    os.makedirs(where, exist_ok=True)
    for op, tensors in answers.items():
        write_safetensors(os.path.join(where, op + ".safetensors"), tensors)
    declaration = {"name": "client.py", "arithmetic": {}, "not_supported": lacking}
    for name, value in ("rejected.json", rejected), ("declare.json", declaration):
        with open(os.path.join(where, name), "w") as f:
            json.dump(value, f, indent=1)
    print(f"answered {', '.join(sorted(answers))}; rejected {len(rejected)} inputs; lacking {len(lacking)} operations")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} DIR")
    main(sys.argv[1])
