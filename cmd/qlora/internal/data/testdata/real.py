"""Reads real files whole, with Python's json, csv and gzip and the rules of qlora.py's mapping functions, and writes real.txt: of each file its
name, the columns that are renamed, the format, the number of examples, of rows left out, and the SHA-256 of the examples' texts.

    python real.py DIR > real.txt
"""

import csv
import glob
import gzip
import hashlib
import json
import os
import sys

folder = sys.argv[1]
HEAD = "Below is an instruction that describes a task"
REST = "Write a response that appropriately completes the request.\n\n### Instruction:\n"


def alpaca(instruction, input, output):
    if input:
        return HEAD + ", paired with an input that provides further context. " + REST + instruction + "\n\n### Input:\n" + input + "\n\n### Response: ", output
    return HEAD + ". " + REST + instruction + "\n\n### Response: ", output


def files(name, pattern):
    path = os.path.join(folder, name)
    return sorted(glob.glob(os.path.join(path, pattern))) if os.path.isdir(path) else [path]


def json_lines(name):
    for file in files(name, "*.jsonl"):
        with (gzip.open if file.endswith(".gz") else open)(file, "rt", encoding="utf-8", newline="\n") as f:
            yield from (json.loads(line) for line in f if line.strip())


def json_list(name):
    return json.load(open(os.path.join(folder, name), encoding="utf-8"))


def comma_separated(name):
    """Go's encoding/csv makes a CR LF within a field an LF."""
    for file in files(name, "*.csv"):
        for row in csv.DictReader(open(file, encoding="utf-8", newline="")):
            yield {name: field.replace("\r\n", "\n") for name, field in row.items()}


def pairs(rows, prompt, response):
    return [("", row[prompt], row[response], []) for row in rows]


def instructions(rows, input="input", output="output"):
    return [("", *alpaca(row["instruction"], row.get(input, ""), row[output]), []) for row in rows]


def tasks(rows):
    return [("", *alpaca(row["instruction"], i["input"], i["output"]), []) for row in rows for i in row["instances"]]


def best_path(message):
    """Of the answers that are not deleted or rejected the one of the lowest rank, from the prompt to a leaf that is an answer."""
    path = []
    while message:
        path.append(({"prompter": "user", "assistant": "assistant"}[message["role"]], message["text"]))
        left = [r for r in message["replies"] if not r["deleted"] and r["review_result"] is not False]
        message = min(left, key=lambda r: float("inf") if r.get("rank") is None else r["rank"], default=None)
    return ("", "", "", path[: len(path) // 2 * 2])


def show(name, format, examples, columns="-"):
    kept = [x for x in examples if (x[0] + x[2]).strip() or x[3]]
    h = hashlib.sha256()
    for text, prompt, response, messages in kept:
        for t in [text, prompt, response, *(t for m in messages for t in m), "end"]:
            b = t.encode()
            h.update(b"%d:" % len(b) + b)
    print(name, columns, format, len(kept), len(examples) - len(kept), h.hexdigest())


QA = "prompt=question,response=answer"
name = "instruct/self-instruct/t0_train_50k"
show(name, "self-instruct", [("", r["prompt"], r["completion"].removesuffix("<|endoftext|>"), []) for r in json_lines(name)])
for name in ["instruct/self-instruct/seed_tasks.jsonl", "instruct/self-instruct/user_oriented_instructions.jsonl"]:
    show(name, "self-instruct", tasks(json_lines(name)))
for name in ["instruct/gsm8k/train.jsonl", "eval/gsm8k/test.jsonl"]:
    show(name, "prompt-completion", pairs(json_lines(name), "question", "answer"), QA)
for name in ["gpteacher_gsm8k/gsm_8k_train", "gpteacher_gsm8k/roleplay", "gpteacher_gsm8k/toolformer", "alpaca/alpaca_en_demo", "litgpt_fixtures/alpaca"]:
    name = f"instruct/{name}.json"
    show(name, "alpaca", instructions(json_list(name)))
name = "instruct/litgpt_fixtures/dolly.json"
show(name, "alpaca", instructions(json_list(name), "context", "response"), "input=context,output=response")
for name in ["instruct/litgpt_fixtures/longform_train.json", "instruct/litgpt_fixtures/longform_val.json"]:
    show(name, "input-output", pairs(json_list(name), "input", "output"))
show("instruct/oasst/en_100_tree.jsonl", "oasst1", [best_path(r["prompt"]) for r in json_lines("instruct/oasst/en_100_tree.jsonl")])
show("instruct/oasst/en_100_message.jsonl", "oasst1", [best_path(r) for r in json_lines("instruct/oasst/en_100_message.jsonl")])
name = "instruct/hh-rlhf/harmless-base.test.jsonl.gz"
show(name, "hh-rlhf", [(r["chosen"], "", "", []) for r in json_lines(name)])
for name in ["eval/mmlu/test", "eval/mmlu/dev"]:
    show(name, "prompt-completion", pairs(comma_separated(name), "question", "answer"), QA)
name = "eval/crows_pairs/crows_pairs_anonymized.csv"
show(name, "prompt-completion", pairs(comma_separated(name), "sent_less", "sent_more"), "prompt=sent_less,response=sent_more")
name = "eval/qlora/zero_shot_mmlu_val.json"
show(name, "input-output", pairs(json_lines(name), "input", "output"))
