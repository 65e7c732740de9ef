"""The same work here and in PyTorch, PEFT and bitsandbytes, on the CPU: seconds and memory.

    go build -o qlora ../../cmd/qlora
    python cpu.py --qlora ./qlora --markdown

Each case takes turns, here, there, here, there …, so that a machine that is busy or clocks down is so for both. What counts is the median of
the rounds' ratios. Here is `qlora bench cpu --only CASE --json`, there a process of its own that waits while the other works.
"""
import argparse
import ctypes
import gc
import itertools
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

TOKENS, VOCAB, MATRIX, WIDTH = 512, 49152, 4096, 2048
ROTATED = 256 << 20  # bytes that a kernel goes through before it sees the same data again, as in `qlora bench`
SHORTEST = 0.2  # seconds of a sample of a kernel

STEPS = {f"step {compute}, {TOKENS} tokens, {kept}": (compute, kept == "checkpointing")
         for compute in ("float32", "bfloat16") for kept in ("activations kept", "checkpointing")}
KERNELS = [
    f"dequantize NF4 {MATRIX}x{MATRIX}", f"quantize NF4 {MATRIX}x{MATRIX}", f"matrix-vector NF4 {MATRIX}x{MATRIX}",
    *(f"product {kind} {TOKENS}x{WIDTH}x{WIDTH}" for kind in ("NF4", "bfloat16", "float32")),
]


def saved_model(folder):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, vocab_size=VOCAB,
        max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=100000.0, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


def their_step(folder, compute, checkpointing):
    """A QLoRA step as PEFT's guide has it: prepare_model_for_kbit_training with its defaults, LoRA on all linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    dtype = getattr(torch, compute)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype))
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    model.config.use_cache = False
    model = get_peft_model(model, LoraConfig(r=64, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)

    def step(_):
        ids = torch.randint(VOCAB, (1, TOKENS))
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.3)
        adamw.step()
        adamw.zero_grad()
    return step


def their_kernel(name):
    """A call that takes the number of the turn, for data that no cache keeps take turns."""
    import bitsandbytes.functional as F
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit
    kind = name.split()[0]

    def matrices(n, bytes_a_call):
        packed, state = F.quantize_4bit(torch.randn(n, n, dtype=torch.bfloat16), blocksize=64, compress_statistics=True, quant_type="nf4")
        return [(packed.clone(), state) for _ in range(ROTATED // bytes_a_call + 1)]

    if kind == "dequantize":
        n = MATRIX
        weights = matrices(n, n * n // 2 + n * n // 64 + 2 * n * n)
        return lambda i: F.dequantize_4bit(*weights[i % len(weights)])  # into new memory: out= is not there on a CPU
    if kind == "quantize":
        x = [torch.randn(MATRIX, MATRIX, dtype=torch.bfloat16) for _ in range(ROTATED // (2 * MATRIX * MATRIX) + 1)]
        return lambda i: F.quantize_4bit(x[i % len(x)], blocksize=64, compress_statistics=True, quant_type="nf4")

    def layer(n):
        linear = Linear4bit(n, n, bias=False, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4")
        linear.weight = Params4bit(torch.randn(n, n, dtype=torch.bfloat16), requires_grad=False, compress_statistics=True, quant_type="nf4")
        return linear.to("cpu").eval()

    if kind == "matrix-vector":
        layers = [layer(MATRIX) for _ in range(ROTATED // (MATRIX * MATRIX // 2) + 1)]
        x = torch.randn(1, MATRIX, dtype=torch.bfloat16)
        return lambda i: layers[i % len(layers)](x)
    if name.startswith("product NF4"):
        linear, x = layer(WIDTH), torch.randn(TOKENS, WIDTH, dtype=torch.bfloat16)
        return lambda _: linear(x)
    dtype = getattr(torch, name.split()[1])
    x, w = torch.randn(TOKENS, WIDTH, dtype=dtype), torch.randn(WIDTH, WIDTH, dtype=dtype)
    return lambda _: torch.mm(x, w.t())


def resident(field):
    return int(re.search(rf"^{field}:\s*(\d+) kB$", open("/proc/self/status").read(), re.M)[1]) << 10


def theirs(name, threads, folder, compute):
    """The other side's process: measures once for each line that it reads."""
    import torch
    torch.set_num_threads(threads)
    imported = resident("VmRSS")
    step = name in STEPS
    call = their_step(folder, compute or STEPS[name][0], STEPS[name][1]) if step else their_kernel(name)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # forgets the greatest memory so far: what loading took
    turn = itertools.count()
    with torch.set_grad_enabled(step):
        call(next(turn))
        print("ready", flush=True)
        while sys.stdin.readline():
            begun, calls = time.perf_counter(), 0
            while calls == 0 or (not step and time.perf_counter() - begun < SHORTEST):
                call(next(turn))
                calls += 1
            seconds = (time.perf_counter() - begun) / calls
            print(json.dumps({"seconds": seconds, "resident_peak": resident("VmHWM"), "imported": imported}), "ready", sep="\n", flush=True)


class Others:
    """How many cores other programs, and the machine's host, took between here and there: what is left of all cores' time."""
    def __init__(self, pid):
        self.pid, self.begun, self.before = pid, time.time(), self.taken(pid)

    @staticmethod
    def taken(pid):
        ticks = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, *rest = map(int, open("/proc/stat").readline().split()[1:9])
        mine = sum(map(int, open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[11:13]))
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (user + nice + system + sum(rest) - mine) / ticks - children.ru_utime - children.ru_stime

    def cores(self):
        return max(0.0, (self.taken(self.pid) - self.before) / (time.time() - self.begun))


def ours(o, name):
    out = subprocess.run([o.qlora, "bench", "cpu", "--only", f"^{name}$", "--threads", str(o.threads), "--math", o.math, "--json"],
                         check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    report = json.loads(out.stdout)
    return report["machine"], (report["steps"] or report["kernels"])[0]


def compare(o, name, folder):
    other = subprocess.Popen([sys.executable, __file__, "--theirs", name, "--threads", str(o.threads), "--folder", folder, "--there", o.there],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pairs, disturbed = [], 0.0
    for i in range(o.rounds):
        if other.stdout.readline() != "ready\n":
            sys.exit(f"{name}: the other side has ended")
        others = Others(other.pid)
        machine, here = ours(o, name)
        print("go", file=other.stdin, flush=True)
        there = json.loads(other.stdout.readline())
        pairs.append((here, there))
        disturbed = max(disturbed, others.cores())
        print(f"{name}, {i + 1} of {o.rounds}: {here['seconds']:.4g} s here, {there['seconds']:.4g} s there, "
              f"others took {others.cores():.2f} cores", file=sys.stderr, flush=True)
    other.stdin.close()
    other.wait()
    ratios = sorted(there["seconds"] / here["seconds"] for here, there in pairs)
    result = {"case": name, "machine": machine, "disturbed": disturbed, "imported": pairs[0][1]["imported"],
              "here": statistics.median(here["seconds"] for here, _ in pairs), "there": statistics.median(there["seconds"] for _, there in pairs),
              "ratio": statistics.median(ratios), "least": ratios[0], "greatest": ratios[-1]}
    if name in STEPS:
        result |= {"memory_here": max(here["resident_peak"] for here, _ in pairs), "arena": max(here["arena_peak"] for here, _ in pairs),
                   "memory_there": max(there["resident_peak"] for _, there in pairs)}
    return result


def versions(qlora):
    from importlib.metadata import version
    here = subprocess.run([qlora, "version"], check=True, capture_output=True, text=True).stdout.strip()
    return [here] + [f"{p} {version(p)}" for p in ("torch", "transformers", "peft", "bitsandbytes")]


def markdown(results, o):
    mib = lambda n: f"{n / 2**20:,.0f} MiB"
    steps = [r for r in results if r["case"] in STEPS]
    kernels = [r for r in results if r["case"] not in STEPS]
    if steps:
        print("| training step | tokens/s here | there | times as fast | least … greatest | memory here | there |\n|---|---|---|---|---|---|---|")
        for r in steps:
            print(f"| {r['case'].removeprefix('step ')}{o.there and f', there {o.there}'} | {TOKENS / r['here']:.1f} | {TOKENS / r['there']:.1f} | **{r['ratio']:.2f}** "
                  f"| {r['least']:.2f} … {r['greatest']:.2f} | {mib(r['memory_here'])} | {mib(r['memory_there'])} |")
        here, there = min(steps, key=lambda r: r["here"]), min(steps, key=lambda r: r["there"])
        print(f"| the fastest of each | {TOKENS / here['here']:.1f} | {TOKENS / there['there']:.1f} | {there['there'] / here['here']:.2f} | "
              f"| {mib(here['memory_here'])} | {mib(there['memory_there'])} |")
    if kernels:
        print("\n| kernel | ms here | there | times as fast | least … greatest |\n|---|---|---|---|---|")
        for r in kernels:
            print(f"| {r['case']} | {r['here'] * 1e3:.4g} | {r['there'] * 1e3:.4g} | **{r['ratio']:.2f}** | {r['least']:.2f} … {r['greatest']:.2f} |")
    m = results[0]["machine"]
    print(f"\n{o.rounds} rounds on {o.threads} threads of {m['cpu']}, kernels {m['kernel_set']}, math {m['math']}; "
          f"other programs took at most {max(r['disturbed'] for r in results):.2f} cores. Of the memory there, {mib(results[0]['imported'])} are PyTorch itself.")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qlora", help="the program that `go build` made")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--math", default="exact", help="of qlora: exact, or fast where the processor has AVX512-BF16")
    p.add_argument("--there", default="", choices=("", "float32", "bfloat16"), help="compute type of the other side's steps, if not the case's")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--only", default="", help="regular expression of the names of cases")
    p.add_argument("--markdown", action="store_true", help="print tables, not JSON")
    p.add_argument("--theirs", help=argparse.SUPPRESS)  # be the other side's process, for one case
    p.add_argument("--folder", help=argparse.SUPPRESS)
    o = p.parse_args()
    if o.theirs:
        return theirs(o.theirs, o.threads, o.folder, o.there)
    cases = [name for name in [*STEPS, *KERNELS] if re.search(o.only, name)]
    if not o.qlora or not cases:
        p.error("--qlora is missing" if cases else f"--only {o.only}: there are {', '.join([*STEPS, *KERNELS])}")
    os.environ |= {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        if any(name in STEPS for name in cases):
            saved_model(folder)
        results = [compare(o, name, folder) for name in cases]
    if not o.markdown:
        return print(json.dumps({"versions": versions(o.qlora), "results": results}, indent=1))
    markdown(results, o)
    print(", ".join(versions(o.qlora)) + ".")


if __name__ == "__main__":
    main()
