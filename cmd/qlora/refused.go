package main

// Refused says what becomes here of options that qlora.py or transformers has and this program does not: none is passed over in silence.
func (o *trainOptions) Refused(name string) string { return notTaken[name] }

const (
	generates = "`qlora generate` writes texts, from an adapter, too"
	oneCPU    = "one process trains on one device"
	noCode    = "no code of a model's folder is run, and nothing is downloaded: --model takes a folder, a .gguf file or the Hugging Face cache"
	noMMLU    = "MMLU is not measured here yet"
	measures  = "eval_dataset or eval_dataset_size, with eval_steps, measure the held-out loss"
)

var notTaken = map[string]string{
	"fp16":                          "gradients in float16 would need loss scaling, and a fifth of such runs diverges; --bf16 or --compute float32",
	"tf32":                          "products are computed in bfloat16 or float32: --compute",
	"adam8bit":                      "qlora.py declares it and never reads it: --optim adamw_8bit",
	"lora_modules":                  "qlora.py passes over it: --target-modules",
	"max_memory_MB":                 "--memory-limit, such as 48GiB",
	"do_train":                      "this command trains",
	"do_eval":                       measures,
	"do_predict":                    generates,
	"predict_with_generate":         generates,
	"do_sample":                     generates,
	"temperature":                   generates,
	"top_k":                         generates,
	"top_p":                         generates,
	"typical_p":                     generates,
	"num_beams":                     generates,
	"num_beam_groups":               generates,
	"penalty_alpha":                 generates,
	"diversity_penalty":             generates,
	"repetition_penalty":            generates,
	"length_penalty":                generates,
	"no_repeat_ngram_size":          generates,
	"min_new_tokens":                generates,
	"use_cache":                     generates,
	"do_mmlu_eval":                  noMMLU,
	"mmlu_split":                    noMMLU,
	"mmlu_dataset":                  noMMLU,
	"max_mmlu_samples":              noMMLU,
	"mmlu_source_max_len":           noMMLU,
	"per_device_eval_batch_size":    "held-out examples are measured one by one: no loss depends on others",
	"logging_strategy":              "every step is logged; logging_steps is for lines where there is no terminal",
	"resume_from_checkpoint":        "--output DIR --resume goes on from the last checkpoint",
	"overwrite_output_dir":          "no run is overwritten: give another --output",
	"trust_remote_code":             noCode,
	"use_auth_token":                noCode,
	"cache_dir":                     noCode,
	"device_map":                    oneCPU,
	"local_rank":                    oneCPU,
	"ddp_find_unused_parameters":    oneCPU,
	"dataloader_num_workers":        "the data is tokenized before the first step",
	"dataloader_pin_memory":         "the data is tokenized before the first step",
	"remove_unused_columns":         "columns that a format does not use are passed over; --columns names those that it uses",
	"metric_for_best_model":         "load_best_model_at_end takes the lowest held-out loss",
	"greater_is_better":             "load_best_model_at_end takes the lowest held-out loss",
	"gradient_checkpointing_kwargs": "--gradient-checkpointing keeps each block's input alone",
}
