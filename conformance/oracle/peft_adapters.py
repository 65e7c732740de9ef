"""Adapters of every kind that PEFT writes and we read, on the models of architectures.py, and what PEFT computes with them.

    python peft_adapters.py make vectors/architectures vectors/adapters
    go test . -run TestAdapters -write-adapters FOLDER
    python peft_adapters.py check vectors/architectures vectors/adapters FOLDER

Each folder BASE.CASE is an adapter as PEFT saves it, with expected.safetensors: ids, labels, and, of the adapter loaded by PEFT from
these files in float32, logits, loss, and the gradients of lora_A and lora_B. check loads in PEFT what our test read and wrote
again, and wants the same logits to the bit.
"""
import json
import os
import shutil
import sys
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from common import environment, normal

ALL = "all-linear"
PREFIX = "base_model.model."
CASES = {
    # base.case: (LoraConfig, what is done to the files then)
    "llama1.rank_pattern": (dict(target_modules=ALL, rank_pattern={"q_proj": 4, "layers.1.self_attn.q_proj": 5, "layers.0.*v_proj|up_proj": 3}), {}),
    "llama1.alpha_pattern": (dict(target_modules=ALL, alpha_pattern={"layers.[01].self_attn.q_proj": 9.5, "layers.0.*": 1, "proj": 7, "model.layers.1.mlp.up_proj": 0}), {}),
    "smollm2.rslora": (dict(target_modules=ALL, use_rslora=True, rank_pattern={"mlp.*": 3}, alpha_pattern={"k_proj|v_proj": 6}), {}),
    "llama_bias.regexp": (dict(target_modules=r"model\.layers\.\d+\.(self_attn\.(q|v)|mlp\.down)_proj"), {}),
    "llama1.look_ahead": (dict(target_modules=r".*layers\.(?!0).*\.(q|o)_proj"), {}),
    "qwen3.exclude": (dict(target_modules=ALL, exclude_modules=["layers.0.mlp.up_proj", "v_proj", "proj"]), {}),
    "qwen3.exclude_regexp": (dict(target_modules=["q_proj", "up_proj"], exclude_modules=r".*layers\.1.*mlp.*"), {}),
    "mistral.layers": (dict(target_modules=["q_proj", "down_proj"], layers_to_transform=1), {}),
    "mistral.layers_pattern": (dict(target_modules=["k_proj", "model.layers.0.mlp.up_proj"], layers_to_transform=[1, 7], layers_pattern="layers"), {}),
    "qwen2.bfloat16": (dict(target_modules=["q_proj", "v_proj"]), {"dtype": torch.bfloat16}),
    "llama1.default_in_names": (dict(target_modules=["q_proj"]), {"rename": lambda k: k.replace(".weight", ".default.weight")}),
    "llama1.saves_both": (dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]), {}),
    "llama1.saves_norms": (dict(target_modules=["q_proj"], modules_to_save=["norm"]), {"dtype": torch.float16}),
    "llama1.saves_attention": (dict(target_modules=ALL, modules_to_save=["layers.1.self_attn", "down_proj"]), {}),
    "llama_bias.saves_linear": (dict(target_modules=["q_proj", "down_proj"], modules_to_save=["layers.0.mlp.down_proj", "v_proj"]), {}),
    "smollm2.saves_embedding": (dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]), {}),
    "smollm2.saves_head": (dict(target_modules=["q_proj"], modules_to_save=["lm_head"]), {}),
    "smollm2.saves_both": (dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]), {}),
    "smollm2.saves_tied": (dict(target_modules=["q_proj"], modules_to_save=["lm_head"], ensure_weight_tying=True), {}),
    "smollm2.in_place": (dict(target_modules=["q_proj"]), {"add": ["model.embed_tokens.weight", "model.norm.weight"]}),
    "llama1.in_place": (dict(target_modules=["q_proj"]), {"add": ["model.embed_tokens.weight", "lm_head.weight", "model.layers.0.input_layernorm.weight"]}),
}
MODULES = [f"model.layers.{i}.{m}_proj" for i in (0, 1, 2, 10, 11)
           for m in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")]
PATTERNS = [
    dict(target_modules=["q_proj", "v_proj"]),
    dict(target_modules=["proj", "mlp.up_proj", "layers.1.self_attn.k_proj", "ayers.0.self_attn.q_proj"]),
    dict(target_modules=r".*\.(q|v)_proj"),
    dict(target_modules=r".*(q|v)_proj", rank_pattern={"layers.1": 3, r"1\d?.*proj": 4, "1.*q_proj": 5, "v_proj": 6}),
    dict(target_modules=r"q_proj"),
    dict(target_modules=r"model\.layers\.(0|1)\.mlp.*|.*o_proj$"),
    dict(target_modules=r"(?i)MODEL\.LAYERS\..*_PROJ", alpha_pattern={"(?i:Q_PROJ)": 2, "Q_PROJ": 3}),
    dict(target_modules=r".*[]a-q]_proj"),
    dict(target_modules=r".*[^]u]_proj|x{2,}"),
    dict(target_modules=r"(?P<all>.*)_proj", rank_pattern={r"(?P<which>q|k)_proj": 3, r"\w+\.layers\.\d\.\S+": 5}),
    dict(target_modules=r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|up_proj)))"),
    dict(target_modules=["q_proj", "up_proj"], exclude_modules=["layers.0.self_attn.q_proj", "1.mlp.up_proj", "roj"]),
    dict(target_modules=["q_proj", "up_proj"], exclude_modules=r".*\.1\d\..*"),
    dict(target_modules=["q_proj", "up_proj"], exclude_modules="up_proj"),
    dict(target_modules=["q_proj", "up_proj"], layers_to_transform=1),
    dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[0, 11, 99]),
    dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[]),
    dict(target_modules=["q_proj", "model.layers.2.mlp.up_proj"], layers_to_transform=[0]),
    dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[1], layers_pattern="layers"),
    dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[1], layers_pattern=["h", "layers"]),
    dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[1], layers_pattern="h"),
    dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[1], layers_pattern="lay|model.layers"),
    dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[1], layers_pattern="model.layers|lay"),
    dict(target_modules=["q_proj", "up_proj", "o_proj"], modules_to_save=["o_proj", "layers.1", "mlp.up"]),
    dict(target_modules=["q_proj", "up_proj", "o_proj"], modules_to_save=["_proj", "1", "q.proj"]),
    dict(target_modules=["q_proj"], rank_pattern={"self_attn.q_proj": 3, "q_proj": 4}),
    dict(target_modules=["q_proj"], rank_pattern={"q_proj": 4, "self_attn.q_proj": 3}),
    dict(target_modules=["q_proj"], rank_pattern={"proj": 4, "attn.q_proj": 3, "^model.layers.1.self_attn.q_proj": 5, "^model.*": 6, "q_proj$": 7}),
    dict(target_modules=["q_proj", "k_proj"], rank_pattern={"q_proj|k": 4, "1.self_attn.q|k_proj": 3}, alpha_pattern={"k|q_proj": 0.5, "layers.*": 1e-3}),
    dict(target_modules=["q_proj"], alpha_pattern={".*": 2, "q_proj": 3}, rank_pattern={"": 3, "model.layers.0": 4, r"model.layers.0\.": 5}),
    dict(target_modules=["q_proj"], alpha_pattern={"layers\\.(0|2)\\..*": 2, "layers.1.*": 3, "layers.1[01].self_attn.[qk]_proj": 4}),
    # what only Python can read
    dict(target_modules=r".*(?<!k)_proj"), dict(target_modules=r".*(?=q).*"), dict(target_modules=r"(.)odel.*\1.*"), dict(target_modules=r"mo?+del.*"),
    dict(target_modules=r".*q_proj\Z"), dict(target_modules=r"x{,3}model.*"), dict(target_modules=r".*[[:alpha:]]"), dict(target_modules=r"(?x) model .* "),
    dict(target_modules=r"(?>model).*"), dict(target_modules=r"(m)?(?(1)odel|x).*"), dict(target_modules=r"(?#all).*"), dict(target_modules=r"(?a).*q_proj"),
    dict(target_modules=r".*\u0071_proj"), dict(target_modules=["q_proj"], rank_pattern={"(?!k).*": 3}), dict(target_modules=["q_proj"], alpha_pattern={r"q_proj\Z": 3}),
    dict(target_modules=r"(?P<m>m)odel.*(?P=m).*"),
]
IDS = torch.tensor([[(7 * i * i + 3 * i) % 40 for i in range(17)]])
LABELS = IDS.clone()
LABELS[0, 5:9] = -100


def base(bases, case):
    return AutoModelForCausalLM.from_pretrained(f"{bases}/{case.rsplit('.', 1)[0]}", dtype=torch.float32, attn_implementation="eager")


def make(bases, out, case):
    options, then = CASES[case]
    folder = f"{out}/{case}"
    shutil.rmtree(folder, ignore_errors=True)
    model = get_peft_model(base(bases, case), LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", **options))
    for i, (_, p) in enumerate(p for p in model.named_parameters() if p[1].requires_grad):
        p.data = 0.3 * normal(900 + i, p.numel()).reshape(p.shape)
    model.save_pretrained(folder)
    os.remove(f"{folder}/README.md")

    # PEFT sorts the keys of a pattern when it saves; the order in which they were given is as good a file, and a harder one.
    name = f"{folder}/adapter_config.json"
    config = json.load(open(name))
    config |= {k: v for k, v in options.items() if k.endswith("_pattern")} | {"base_model_name_or_path": case.rsplit(".", 1)[0]}
    json.dump(config, open(name, "w"), indent=1)

    name = f"{folder}/adapter_model.safetensors"
    tensors = {then.get("rename", str)(k): t.to(then.get("dtype", t.dtype)) for k, t in load_file(name).items()}
    for i, key in enumerate(then.get("add", [])):
        shape = model.get_base_model().get_parameter(key).shape
        tensors[PREFIX + key] = 0.3 * normal(800 + i, shape.numel()).reshape(shape)
    save_file(tensors, name, {"format": "pt"})

    model = PeftModel.from_pretrained(base(bases, case), folder, is_trainable=True).eval()
    result = model(input_ids=IDS, labels=LABELS)
    result.loss.backward()
    expected = {"ids": IDS.int(), "labels": LABELS.int(), "logits": result.logits, "loss": result.loss.reshape(1)}
    for key, p in model.named_parameters():
        if "lora_" in key:
            expected["gradient/" + key.removeprefix(PREFIX).replace(".default", "")] = p.grad
    save_file({k: t.detach().clone().contiguous() for k, t in expected.items()}, f"{folder}/expected.safetensors")


def patterns(out):
    """What PEFT makes of a configuration: of each module that it adapts, rank and alpha."""
    cases = []
    for options in PATTERNS:
        config = LoraConfig(r=2, lora_alpha=3, **options)
        adapted = {m: [config.rank_pattern.get(get_pattern_key(config.rank_pattern, m), 2), config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, m), 3)]
                   for m in MODULES if check_target_module_exists(config, m)}
        cases.append({"config": {"peft_type": "LORA", "r": 2, "lora_alpha": 3, **options}, "adapted": adapted})
    with open(f"{out}/patterns.json", "w") as f:
        f.write('{"made with": ' + json.dumps(environment()) + ',\n"modules": ' + json.dumps(MODULES) + ',\n"cases": [\n')
        f.write(",\n".join(map(json.dumps, cases)) + "\n]}\n")


def check(bases, vectors, again, case):
    model = PeftModel.from_pretrained(base(bases, case), f"{again}/{case}").eval()
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
    difference = (logits - load_file(f"{vectors}/{case}/expected.safetensors")["logits"]).abs().max().item()
    print(f"{case:30} largest difference of logits {difference}")
    return difference == 0


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    command, *folders = sys.argv[1:]
    if command == "make":
        for case in CASES:
            make(*folders, case)
        patterns(folders[1])
    elif not all([check(*folders, case) for case in CASES]):
        sys.exit("they differ")
