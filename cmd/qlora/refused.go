package main

import (
	"slices"
	"strconv"
	"strings"
)

// refusal is why an option that qlora.py or transformers has is not taken here.
type refusal struct {
	why string
	but string // values, a space apart, that ask for nothing or for what is done anyway
}

// needless are options of theirs that make no difference here, whatever their value: how processes, loaders and caches work; what is fetched
// or run of a model's folder, which nothing is; and MMLU's, which do_mmlu_eval alone would ask for.
var needless = strings.Fields(`tf32 logging_first_step
	dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataloader_persistent_workers remove_unused_columns
	per_device_eval_batch_size eval_accumulation_steps ddp_find_unused_parameters gradient_checkpointing_kwargs use_cache
	trust_remote_code use_auth use_auth_token
	mmlu_split mmlu_dataset max_mmlu_samples mmlu_source_max_len`)

// Refused knows the options of qlora.py and transformers that train has not.
func (o *trainOptions) Refused(name, value string) (why string, known bool) {
	return refuse(notTaken, name, value)
}

// Refused knows what transformers' generate takes and this program does not.
func (s *sampling) Refused(name, value string) (why string, known bool) {
	return refuse(notSampled, name, value)
}

func refuse(all map[string]refusal, name, value string) (why string, known bool) {
	r, refused := all[name]
	if !refused {
		return "", slices.Contains(needless, name)
	}
	if value == "" || slices.ContainsFunc(strings.Fields(r.but), func(v string) bool { return same(v, value) }) {
		return "", true
	}
	return r.why, true
}

// same compares values, 1 and 1.0 alike, true and True.
func same(a, b string) bool {
	x, err := strconv.ParseFloat(a, 64)
	y, other := strconv.ParseFloat(b, 64)
	return strings.EqualFold(a, b) || err == nil && other == nil && x == y
}

const (
	generates = "`qlora generate` writes texts, from an adapter, too"
	oneDevice = "one process trains on one device"
	noBeams   = "there is no beam search"
)

// notTaken are refused by train, with qlora.py's defaults as values that change nothing.
var notTaken = map[string]refusal{
	"fp16":                   {"gradients in float16 would need loss scaling, and a fifth of such runs diverges; --bf16 or --compute float32", "false"},
	"adam8bit":               {"qlora.py declares it and never reads it: --optim adamw_8bit", "false"},
	"lora_modules":           {"qlora.py passes over it: --target-modules, of which all-linear is the default", ""},
	"max_memory_MB":          {"--memory-limit, such as 48GiB", ""},
	"do_train":               {"this command trains", "true"},
	"do_eval":                {"eval_dataset or eval_dataset_size, with eval_steps, measure the held-out loss", "true false"},
	"do_predict":             {generates, "false"},
	"predict_with_generate":  {generates, "false"},
	"do_sample":              {generates, "false"},
	"temperature":            {generates, "1"},
	"top_k":                  {generates, "50"},
	"top_p":                  {generates, "1"},
	"typical_p":              {generates, "1"},
	"num_beams":              {generates, "1"},
	"num_beam_groups":        {generates, "1"},
	"penalty_alpha":          {generates, "0"},
	"diversity_penalty":      {generates, "0"},
	"repetition_penalty":     {generates, "1"},
	"length_penalty":         {generates, "1"},
	"no_repeat_ngram_size":   {generates, "0"},
	"min_new_tokens":         {generates, "0"},
	"do_mmlu_eval":           {"MMLU is not measured here yet", "false"},
	"logging_strategy":       {"every step is logged; logging_steps is for lines where there is no terminal", "steps"},
	"resume_from_checkpoint": {"--output DIR --resume goes on from the last checkpoint", "false"},
	"overwrite_output_dir":   {"no run is overwritten: give another --output", "false"},
	"cache_dir":              {"nothing is downloaded: --model takes a folder, a .gguf file or the Hugging Face cache", ""},
	"device_map":             {oneDevice, "auto"},
	"local_rank":             {oneDevice, "-1 0"},
	"metric_for_best_model":  {"load_best_model_at_end takes the lowest held-out loss", "loss eval_loss"},
	"greater_is_better":      {"load_best_model_at_end takes the lowest held-out loss", "false"},
}

// notSampled are refused by generate and chat.
var notSampled = map[string]refusal{
	"do_sample":         {"--temperature 0 takes the likeliest token, one above 0 a random one", ""},
	"typical_p":         {"--top-p, --top-k and --min-p leave out tokens that are not likely", "1"},
	"penalty_alpha":     {"there is no contrastive search: --repetition-penalty and --no-repeat-ngram-size are against repetition", "0"},
	"num_beam_groups":   {noBeams, "1"},
	"diversity_penalty": {noBeams, "0"},
	"length_penalty":    {noBeams, "1"},
	"do_predict":        {"this command predicts; --prompts FILE --output FILE is for many texts", "true"},
}
