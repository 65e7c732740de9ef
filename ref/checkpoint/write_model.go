package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"qlora/ref/num"
)

// Part is what a model's tensor becomes in WriteModel: tensors of about so many bytes, made when they are written.
type Part struct {
	Bytes int64
	Make  func() ([]Tensor, error)
}

// WriteModel writes a model's tensors into a folder: model.safetensors, or, beyond shardSize bytes, several files with an index.
// A file's tensors are in memory before it is written. step is called after each part; its error stops the writing. It returns
// the number of bytes of all tensors.
func WriteModel(dir string, parts []Part, shardSize int64, step func(done int) error) (int64, error) {
	shards := cut(parts, shardSize)
	index := struct {
		Metadata struct {
			TotalSize int64 `json:"total_size"`
		} `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}{WeightMap: map[string]string{}}
	done := 0
	for i, shard := range shards {
		name := modelFile
		if len(shards) > 1 {
			name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		}
		var tensors []Tensor
		for _, p := range shard {
			made, err := p.Make()
			if err != nil {
				return 0, err
			}
			tensors = append(tensors, made...)
			done++
			if err := step(done); err != nil {
				return 0, err
			}
		}
		for _, t := range tensors {
			index.WeightMap[t.Name] = name
			index.Metadata.TotalSize += int64(len(t.Bytes))
		}
		if err := Write(filepath.Join(dir, name), tensors, map[string]string{"format": "pt"}); err != nil {
			return 0, err
		}
	}
	if len(shards) == 1 {
		return index.Metadata.TotalSize, nil
	}
	return index.Metadata.TotalSize, writeJSON(filepath.Join(dir, indexFile), index)
}

// cut puts parts into shards, in their order.
func cut(parts []Part, shardSize int64) [][]Part {
	shards, size := [][]Part{nil}, int64(0)
	for _, p := range parts {
		if size+p.Bytes > shardSize && size > 0 {
			shards, size = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], p)
		size += p.Bytes
	}
	return shards
}

func writeJSON(path string, value any) error {
	b, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(path, func(w io.Writer) error {
		_, err := w.Write(append(b, '\n'))
		return err
	})
}

// CopyConfig writes config.json as it is in a model's folder, with quantization_config set; nil takes it away.
func CopyConfig(dir string, from fs.FS, quantization any) error {
	return copyConfig(dir, from, func(fields map[string]any) {
		delete(fields, "quantization_config")
		if quantization != nil {
			fields["quantization_config"] = quantization
		}
	})
}

// CopyConfigOf is CopyConfig for a model that was written in plain tensors of a type, under the name of it that every version of
// transformers reads.
func CopyConfigOf(dir string, from fs.FS, t num.DType) error {
	return copyConfig(dir, from, func(fields map[string]any) {
		delete(fields, "quantization_config")
		delete(fields, "dtype")
		fields["torch_dtype"] = t.String()
	})
}

func copyConfig(dir string, from fs.FS, change func(fields map[string]any)) error {
	b, err := fs.ReadFile(from, configFile)
	if err != nil {
		return err
	}
	var fields map[string]any
	if err := decodeNumbers(b, &fields); err != nil {
		return fmt.Errorf("%s: %w", configFile, err)
	}
	change(fields)
	return writeJSON(filepath.Join(dir, configFile), fields)
}

// besides are the files of a model's folder, other than its weights and configuration, that belong to it.
var besides = []string{
	"tokenizer*", "spiece.model", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
	"generation_config.json", "chat_template*", "LICENSE*", "USE_POLICY*", "NOTICE*",
}

// CopyBesides copies the tokenizer and whatever else a model needs beside its weights.
func CopyBesides(dir string, from fs.FS) error {
	entries, err := fs.ReadDir(from, ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() || !belongs(e.Name()) {
			continue
		}
		b, err := fs.ReadFile(from, e.Name())
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func belongs(name string) bool {
	for _, pattern := range besides {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// decodeNumbers decodes JSON without changing how its numbers are written.
func decodeNumbers(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(into)
}
