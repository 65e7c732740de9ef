package base

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlora/cmd/qlora/internal/demo"
	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
)

// folder writes the demo model, with some files changed; "" takes one away.
func folder(t *testing.T, dir string, changes map[string]string) string {
	t.Helper()
	if err := os.CopyFS(dir, demo.Model()); err != nil {
		t.Fatal(err)
	}
	for name, text := range changes {
		path := filepath.Join(dir, name)
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// org/name is the snapshot that the cache of Hugging Face has of the main revision, wherever its variables put the cache.
func TestCache(t *testing.T) {
	for _, v := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"} {
		t.Setenv(v, "")
	}
	for variable, below := range map[string]string{"HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub", "HOME": ".cache/huggingface/hub"} {
		t.Run(variable, func(t *testing.T) {
			root := t.TempDir()
			t.Setenv(variable, root)
			repository := filepath.Join(root, below, "models--karpathy--tiny")
			folder(t, filepath.Join(repository, "snapshots", "0123abcd"), nil)
			if err := os.MkdirAll(filepath.Join(repository, "refs"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(repository, "refs", "main"), []byte("0123abcd\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			b, err := Open("karpathy/tiny")
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			for revision, want := range map[string]string{"../../elsewhere": "want the name of a snapshot", "4567": "fetch it again"} {
				if err := os.WriteFile(filepath.Join(repository, "refs", "main"), []byte(revision), 0o644); err != nil {
					t.Fatal(err)
				}
				if _, err := Open("karpathy/tiny"); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v", revision, err)
				}
			}
		})
	}
}

// Whatever is wrong with a model is an error that says which file it is and what to do.
func TestBadFolders(t *testing.T) {
	t.Setenv("HF_HUB_CACHE", t.TempDir())
	config := func(old, new string) string {
		b, err := os.ReadFile(filepath.Join(folder(t, t.TempDir(), nil), "config.json"))
		if err != nil || !strings.Contains(string(b), old) {
			t.Fatal(err, old)
		}
		return strings.Replace(string(b), old, new, 1)
	}
	for what, c := range map[string]struct {
		changes map[string]string
		want    string
	}{
		"adapter":       {map[string]string{"config.json": "", "adapter_config.json": "{}"}, "it is an adapter, for --adapter"},
		"pickle":        {map[string]string{"model.safetensors": "", "pytorch_model.bin": "x"}, "pytorch_model.bin, a pickle"},
		"Meta's":        {map[string]string{"model.safetensors": "", "consolidated.00.pth": "x"}, "Meta's own layout"},
		"only GGUF":     {map[string]string{"config.json": "", "m.gguf": "x"}, "m.gguf, whose path can be given"},
		"no weights":    {map[string]string{"model.safetensors": ""}, "want a folder with config.json and model.safetensors"},
		"no tokenizer":  {map[string]string{"tokenizer.model": ""}, "tokenizer"},
		"architecture":  {map[string]string{"config.json": config(`"llama"`, `"gemma2"`)}, `model_type "gemma2" is not supported: want llama, mistral, qwen2, qwen3`},
		"vocabulary":    {map[string]string{"config.json": config(`"vocab_size": 512`, `"vocab_size": 500`)}, "tensor model.embed_tokens.weight has shape [512 64], config.json asks for [500 64]"},
		"more layers":   {map[string]string{"config.json": config(`"num_hidden_layers": 5`, `"num_hidden_layers": 6`)}, "no tensor model.layers.5"},
		"fewer layers":  {map[string]string{"config.json": config(`"num_hidden_layers": 5`, `"num_hidden_layers": 4`)}, "model.layers.4"},
		"not JSON":      {map[string]string{"config.json": "{"}, "config.json: "},
		"ends":          {map[string]string{"generation_config.json": `{"eos_token_id": "x"}`}, "generation_config.json: "},
		"other 4 bits":  {map[string]string{"config.json": config("{", `{"quantization_config": {"quant_method": "gptq"},`)}, "gptq"},
		"larger tokens": {map[string]string{"tokenizer_config.json": `{"eos_token": "<none such>"}`}, `"<none such>"`},
	} {
		dir := folder(t, t.TempDir(), c.changes)
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	for name, want := range map[string]string{"nowhere": "org/name", "no/where": "hf download no/where", folder(t, t.TempDir(), nil) + "/config.json": "is a file"} {
		if _, err := Open(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// What does not fit into the memory that the device may hold is refused before anything is loaded.
func TestMemoryLimit(t *testing.T) {
	b, err := Open(demo.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	d := op.NewPlain(1 << 19)
	if _, err := b.Load(d, llama.Options{Compute: num.Float32}); err == nil || !strings.Contains(err.Error(), "its weights need 1015.8 KiB, the memory limit is 512.0 KiB") {
		t.Error(err)
	}
	if d.Arena().Peak() != 0 {
		t.Errorf("%d bytes were taken", d.Arena().Peak())
	}
}
