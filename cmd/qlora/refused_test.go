package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Options of qlora.py's published scripts are taken, or refused with the reason; a flag and a line of a file alike.
func TestOptionsOfQLoRAScripts(t *testing.T) {
	// finetune_guanaco_7b.sh, without what is refused.
	guanaco := strings.Fields(`train --print-config --model_name_or_path demo --output_dir out --logging_steps 10 --save_strategy steps --data_seed 42 --save_steps 500
		--save_total_limit 40 --evaluation_strategy steps --eval_dataset_size 1024 --max_eval_samples 1000 --max_new_tokens 32 --group_by_length
		--lora_r 64 --lora_alpha 16 --double_quant --quant_type nf4 --bf16 --bits 4 --warmup_ratio 0.03 --lr_scheduler_type constant
		--gradient_checkpointing --dataset oasst1.jsonl --source_max_len 16 --target_max_len 512 --per_device_train_batch_size 1
		--gradient_accumulation_steps 16 --max_steps 1875 --eval_steps 187 --learning_rate 0.0002 --adam_beta2 0.999 --max_grad_norm 0.3
		--lora_dropout 0.1 --weight_decay 0.0 --seed 0 --train_on_source --warmup_steps 0`)
	out, err, code := cli(t, "", guanaco...)
	if code != 0 || !strings.Contains(out, "data_seed: 42\n") || !strings.Contains(out, "eval_steps: 187\n") {
		t.Fatal(code, out, err)
	}
	for flag, want := range map[string]string{
		"--fp16": "loss scaling", "--lora_modules all": "--target-modules", "--max_memory_MB 80000": "--memory-limit", "--do_mmlu_eval": "MMLU",
		"--dataloader_num_workers 1": "tokenized before", "--bits 8": "LLM.int8", "--max_steps 3 --num_train_epochs 1": "want one of them",
		"--resume_from_checkpoint x": "--resume", "--optim paged_lion_8bit": "paged_lion_32bit",
	} {
		if _, err, code := cli(t, "", strings.Fields("train "+flag)...); code != 2 || !strings.Contains(err, want) {
			t.Errorf("%s: exit code %d, %q; want %q", flag, code, err, want)
		}
	}
	file := filepath.Join(t.TempDir(), "run.yaml")
	if err := os.WriteFile(file, []byte("max_steps: 3\nfp16: true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err, code := cli(t, "", "train", "--config", file); code != 2 || !strings.Contains(err, "run.yaml:2: fp16: not taken here: gradients in float16") {
		t.Error(code, err)
	}
}
