"""Fine-tuning a real model on real conversations, here and in TRL with PEFT and bitsandbytes, on the CPU: held-out loss before and after.

    pip install trl==1.16.0
    go build -o qlora ../../cmd/qlora
    python sft.py data TREES.jsonl MODEL DATA             # Open-Assistant's export: each tree's best-ranked path, of at most 1,024 tokens
    python sft.py here ./qlora MODEL DATA bfloat16|float32
    python sft.py there MODEL DATA

`here` and `there` print one line of a table each: the same model, conversations, template and settings; every token counts, as in qlora.py for
OASST1. Each side shuffles the training conversations by a generator of its own.
"""
import json
import subprocess
import sys
import tempfile
import time

LENGTH, BATCH, EPOCHS, SEED = 1024, 4, 1, 0
R, ALPHA, LR, CLIP = 64, 16, 2e-4, 0.3


def path(tree):
    """A tree's best-ranked path: the reply of the lowest rank at each level, up to the last one of the assistant."""
    messages, node = [], tree["prompt"]
    while node:
        messages.append({"role": "user" if node["role"] == "prompter" else node["role"], "content": node["text"]})
        replies = [r for r in node.get("replies", []) if not r.get("deleted")]
        node = min(replies, key=lambda r: r["rank"] if r.get("rank") is not None else 1 << 30) if replies else None
    return messages[:-1] if messages[-1]["role"] == "user" else messages


def data(trees, model, folder):
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(model)
    all = [path(json.loads(line)) for line in open(trees)]
    all = [m for m in all if m and len(tokenizer.apply_chat_template(m)["input_ids"]) <= LENGTH]
    for name, part in (("held-out", all[::5]), ("train", [m for i, m in enumerate(all) if i % 5])):
        with open(f"{folder}/{name}.jsonl", "w") as f:
            f.writelines(json.dumps({"messages": m}) + "\n" for m in part)
        print(f"{name}: {len(part)} conversations")


def row(who, tokens, before, after, steps, seconds):
    print(f"| {who} | {tokens} | {before:.4f} | {after:.4f} | {steps} | {seconds:.0f} |")


def here(qlora, model, folder, compute):
    with tempfile.TemporaryDirectory() as tmp:
        out = f"{tmp}/run"
        begun = time.time()
        subprocess.run([
            qlora, "train", "--model", model, "--data", f"{folder}/train.jsonl", "--eval_dataset", f"{folder}/held-out.jsonl", "--loss", "all",
            "--max_seq_length", str(LENGTH), "--packing=false", "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", str(BATCH),
            "--num_train_epochs", str(EPOCHS), "--lora_r", str(R), "--lora_alpha", str(ALPHA), "--learning_rate", str(LR), "--max_grad_norm", str(CLIP),
            "--seed", str(SEED), "--compute", compute, "--gradient_checkpointing", "--output", out], check=True, stdout=sys.stderr)
        seconds = time.time() - begun
        lines = [json.loads(line) for line in open(f"{out}/metrics.jsonl")]
        held = [m["eval_loss"] for m in lines if "eval_loss" in m]
        row(f"qlora, {compute}", "", held[0], held[-1], max(m["step"] for m in lines), seconds)


def there(model, folder):
    import torch
    from datasets import load_dataset
    from peft import LoraConfig, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer
    from trl import SFTConfig, SFTTrainer
    torch.manual_seed(SEED)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32))
    base = prepare_model_for_kbit_training(base)
    tokenizer = AutoTokenizer.from_pretrained(model)
    sets = load_dataset("json", data_files={"train": f"{folder}/train.jsonl", "test": f"{folder}/held-out.jsonl"})
    with tempfile.TemporaryDirectory() as tmp:
        class WithoutMetrics(SFTTrainer):
            """Entropy and accuracy of every step take most of a step's time on a CPU."""
            def compute_loss(self, *args, **kw):
                return Trainer.compute_loss(self, *args, **kw)

        trainer = WithoutMetrics(
            model=base, processing_class=tokenizer, train_dataset=sets["train"], eval_dataset=sets["test"],
            peft_config=LoraConfig(r=R, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
            args=SFTConfig(
                output_dir=tmp, max_length=LENGTH, packing=False, per_device_train_batch_size=1, gradient_accumulation_steps=BATCH,
                num_train_epochs=EPOCHS, learning_rate=LR, max_grad_norm=CLIP, lr_scheduler_type="constant", weight_decay=0.0, optim="adamw_torch",
                gradient_checkpointing=True, bf16=False, fp16=False, use_cpu=True, seed=SEED, report_to="none", save_strategy="no", logging_steps=1))

        def held():
            """The mean over all predicted tokens, as here; the trainer's own is a mean of the conversations' means."""
            total, count = 0.0, 0
            trainer.model.eval()
            with torch.no_grad():
                for x in trainer.eval_dataset:
                    ids = torch.tensor([x["input_ids"]])
                    n = ids.shape[1] - 1
                    total += trainer.model(input_ids=ids, labels=ids).loss.item() * n
                    count += n
            return total / count, count

        begun = time.time()
        before, tokens = held()
        trainer.train()
        after, _ = held()
        row("TRL, float32", tokens, before, after, trainer.state.global_step, time.time() - begun)


if __name__ == "__main__":
    {"data": data, "here": here, "there": there}[sys.argv[1]](*sys.argv[2:])
