package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// guanaco7B is finetune_guanaco_7b.sh with one edit: of --dataset, which is a file here.
const guanaco7B = `--model_name_or_path huggyllama/llama-7b --use_auth --output_dir ./output/guanaco-7b --logging_steps 10 --save_strategy steps --data_seed 42
	--save_steps 500 --save_total_limit 40 --evaluation_strategy steps --eval_dataset_size 1024 --max_eval_samples 1000 --per_device_eval_batch_size 1
	--max_new_tokens 32 --dataloader_num_workers 1 --group_by_length --logging_strategy steps --remove_unused_columns False --do_train --do_eval
	--lora_r 64 --lora_alpha 16 --lora_modules all --double_quant --quant_type nf4 --bf16 --bits 4 --warmup_ratio 0.03 --lr_scheduler_type constant
	--gradient_checkpointing --dataset oasst1.jsonl --source_max_len 16 --target_max_len 512 --per_device_train_batch_size 1
	--gradient_accumulation_steps 16 --max_steps 1875 --eval_steps 187 --learning_rate 0.0002 --adam_beta2 0.999 --max_grad_norm 0.3
	--lora_dropout 0.1 --weight_decay 0.0 --seed 0`

// Options of qlora.py's published scripts are taken, or refused with the reason, all at once; a flag and a line of a file alike.
func TestOptionsOfQLoRAScripts(t *testing.T) {
	script := append([]string{"train", "--print-config"}, strings.Fields(guanaco7B)...)
	out, err, code := cli(t, "", script...)
	if want := "qlora: flag --lora_modules: not taken here: qlora.py passes over it: --target-modules, of which all-linear is the default\n"; code != 2 || err != want || out != "" {
		t.Errorf("%d, %q, want %q", code, err, want)
	}
	i := slices.Index(script, "--lora_modules")
	out, err, code = cli(t, "", slices.Delete(script, i, i+2)...)
	if code != 0 || err != "" {
		t.Fatal(code, out, err)
	}
	for _, want := range []string{"data_seed: 42", "eval_steps: 187", "lora_r: 64", "quant_type: \"nf4\"", "group_by_length: true", "max_steps: 1875", "learning_rate: 0.0002"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	for flag, want := range map[string]string{
		"--fp16": "loss scaling", "--lora_modules all": "--target-modules", "--max_memory_MB 80000": "--memory-limit", "--do_mmlu_eval": "MMLU",
		"--bits 8": "LLM.int8", "--max_steps 3 --num_train_epochs 1": "want one of them", "--do_train False": "this command trains",
		"--resume_from_checkpoint x": "--resume", "--optim paged_lion_8bit": "paged_lion_32bit", "--logging_strategy epoch": "every step is logged",
		"--do_predict": "`qlora generate`", "--predict_with_generate True": "`qlora generate`", "--temperature 0.7": "`qlora generate`", "--local_rank 3": "one device",
		"--fp16 true --group_by_length --do_predict --lora_modules all": "in float16 would need loss scaling, and a fifth of such runs diverges; --bf16 or --compute float32\n" +
			"flag --do_predict: not taken here: `qlora generate` writes texts, from an adapter, too\nflag --lora_modules: not taken here: ",
	} {
		if _, err, code := cli(t, "", strings.Fields("train "+flag)...); code != 2 || !strings.Contains(err, want) {
			t.Errorf("%s: exit code %d, %q; want %q", flag, code, err, want)
		}
	}
	plain := must(t, "train", "--print-config")
	for _, flags := range []string{
		"--fp16 false --tf32 True --adam8bit False --do_predict=false --local_rank -1 --ddp_find_unused_parameters False --do_eval False --report_to tensorboard",
		"--temperature 1.0 --top_k 50 --num_beams 1 --do_sample False --trust_remote_code False --use_auth_token --device_map auto --mmlu_split eval --do_mmlu_eval False",
	} {
		if got := must(t, append([]string{"train", "--print-config"}, strings.Fields(flags)...)...); got != plain {
			t.Errorf("%s changes what is run", flags)
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

// What transformers' generate takes besides is refused with the reason; and what would change nothing, and its names for a model, are taken.
func TestOptionsOfGenerate(t *testing.T) {
	for flag, want := range map[string]string{
		"--do_sample": "--temperature", "--do_sample False": "--temperature", "--typical_p 0.9": "--top-p", "--penalty_alpha 0.6": "contrastive",
		"--length_penalty 2": "no beam search", "--num_beam_groups 2": "no beam search", "--diversity_penalty 0.5": "no beam search",
		"--typical_p 0.9 --length_penalty 2": "likely\nflag --length_penalty: not taken here: there is no beam search",
	} {
		for _, command := range []string{"generate", "chat"} {
			if _, err, code := cli(t, "", strings.Fields(command+" "+flag)...); code != 2 || !strings.Contains(err, want) {
				t.Errorf("%s %s: exit code %d, %q; want %q", command, flag, code, err, want)
			}
		}
	}
	plain := must(t, "generate", "--prompt", once, "--tokens", "5")
	if got := must(t, "generate", "--prompt", once, "--tokens", "5", "--model_name_or_path", "demo", "--use_cache", "--typical_p", "1.0", "--length_penalty", "1"); got != plain {
		t.Error(got)
	}
}
