package base

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"qlora/cmd/qlora/internal/demo"
)

// Find gives the folder of a model: "demo", a path, or org/name in the local cache of Hugging Face. A path comes first; it may
// be that of a GGUF file, which is then named, too.
func Find(name string) (folder fs.FS, gguf string, err error) {
	if name == demo.Name {
		return demo.Model(), "", nil
	}
	if stat, err := os.Stat(name); err == nil {
		switch {
		case stat.IsDir():
			return os.DirFS(name), "", nil
		case filepath.Ext(name) == ".gguf":
			return os.DirFS(filepath.Dir(name)), filepath.Base(name), nil
		}
		return nil, "", fmt.Errorf("model %s is a file: want a folder with config.json, or a file that ends in .gguf", name)
	}
	if hubName.MatchString(name) {
		dir, err := cached(hubCache(), name)
		if err != nil {
			return nil, "", fmt.Errorf("model %s: %w", name, err)
		}
		return os.DirFS(dir), "", nil
	}
	return nil, "", fmt.Errorf("model %s: want %q, a folder with config.json, a .gguf file, or org/name from the Hugging Face cache", name, demo.Name)
}

// hubName is a repository's name on the hub.
var hubName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// hubCache is where huggingface_hub keeps what it fetched: the same variables in the same order.
func hubCache() string {
	for _, name := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"} {
		if dir := os.Getenv(name); dir != "" {
			return dir
		}
	}
	if dir := os.Getenv("HF_HOME"); dir != "" {
		return filepath.Join(dir, "hub")
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		cache = filepath.Join(home, ".cache")
	}
	return filepath.Join(cache, "huggingface", "hub")
}

// cached finds the snapshot of a repository's main revision.
func cached(cache, name string) (string, error) {
	repository := filepath.Join(cache, "models--"+strings.ReplaceAll(name, "/", "--"))
	revision, err := os.ReadFile(filepath.Join(repository, "refs", "main"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no folder of that name, and %s does not have it: fetch it first (hf download %s), or give a folder", cache, name)
	}
	if err != nil {
		return "", err
	}
	commit := strings.TrimSpace(string(revision))
	if !fs.ValidPath(commit) || commit == "." || strings.ContainsAny(commit, `/\:`) {
		return "", fmt.Errorf("%s holds %q: want the name of a snapshot", filepath.Join(repository, "refs", "main"), commit)
	}
	snapshot := filepath.Join(repository, "snapshots", commit)
	if stat, err := os.Stat(snapshot); err != nil || !stat.IsDir() {
		return "", fmt.Errorf("the cache has no snapshot %s: fetch it again (hf download %s)", snapshot, name)
	}
	return snapshot, nil
}
