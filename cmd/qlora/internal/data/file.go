package data

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// visitor takes a row of a file, or why it cannot be read: n is the line or the number of the row, counted from 1. It says whether
// to go on.
type visitor func(n int, values map[string]any, bad error) bool

// kinds are the files that Read knows, by the end of the name.
var kinds = map[string]func(r *bufio.Reader, visit visitor) error{
	".json":   readJSON,
	".jsonl":  readJSONL,
	".ndjson": readJSONL,
	".csv":    readCSV,
	".tsv":    readTSV,
	".txt":    readDocument,
}

// parquetKind is not among kinds: it is not read from its beginning to its end.
const parquetKind = ".parquet"

// kindOf is the end of a file's name without .gz, in small letters; "" if Read does not know it.
func kindOf(name string) string {
	kind := filepath.Ext(strings.TrimSuffix(strings.ToLower(name), ".gz"))
	if kinds[kind] == nil && kind != parquetKind {
		return ""
	}
	return kind
}

const wantKinds = "want .json, .jsonl, .ndjson, .csv, .tsv, .parquet or .txt, or one of these with .gz"

// dataFiles is the file, or those of the folder.
func dataFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("data %s: there is no such file%s", path, whereToGet(path))
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		if kindOf(path) == "" {
			return nil, fmt.Errorf("%s: the name does not say what it holds: %s", path, wantKinds)
		}
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && kindOf(e.Name()) != "" && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	if names == nil {
		return nil, fmt.Errorf("%s: no data in this folder: %s", path, wantKinds)
	}
	if err := errors.Join(oneKind(names), oneSplit(names)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i, name := range names {
		names[i] = filepath.Join(path, name)
	}
	return names, nil
}

// onHub are the data sets that qlora.py downloads by a name of its own.
var onHub = map[string]string{
	"alpaca":        "tatsu-lab/alpaca",
	"alpaca-clean":  "yahma/alpaca-cleaned",
	"chip2":         "laion/OIG",
	"self-instruct": "yizhongw/self_instruct",
	"hh-rlhf":       "Anthropic/hh-rlhf",
	"longform":      "akoksal/LongForm",
	"oasst1":        "timdettmers/openassistant-guanaco",
}

// whereToGet explains a name that is no file's.
func whereToGet(name string) string {
	const fetch = ", and nothing is downloaded: fetch a file of %s from the Hugging Face Hub and give its path"
	switch hub := onHub[name]; {
	case hub != "":
		return fmt.Sprintf(fetch, hub)
	case kindOf(name) == "":
		return fmt.Sprintf(fetch, "it")
	}
	return ""
}

// oneKind refuses a folder of files that are not pieces of one set.
func oneKind(names []string) error {
	kind := func(name string) string { return strings.Replace(kindOf(name), ".ndjson", ".jsonl", 1) }
	for _, name := range names[1:] {
		if kind(name) != kind(names[0]) {
			return fmt.Errorf("%s and %s are of different kinds: name the files, not the folder", names[0], name)
		}
	}
	return nil
}

// oneSplit refuses train.jsonl beside test.jsonl: training on what is to be held out goes unnoticed.
func oneSplit(names []string) error {
	first := ""
	for _, name := range names {
		s := splitOf(name)
		if s == "" {
			continue
		}
		if first != "" && s != splitOf(first) {
			return fmt.Errorf("%s and %s are different splits: name one file, not the folder", first, name)
		}
		first = name
	}
	return nil
}

// splitOf is the word that a file's name begins with, if it names a split.
func splitOf(name string) string {
	word := strings.ToLower(name)
	if end := strings.IndexFunc(word, func(r rune) bool { return r < 'a' || r > 'z' }); end >= 0 {
		word = word[:end]
	}
	if slices.Contains([]string{"train", "test", "valid", "validation", "val", "dev", "eval"}, word) {
		return word
	}
	return ""
}

// readFile visits the rows of a file. Its errors, which a bad row is not, do not name the file.
func readFile(name string, visit func(where Place, values map[string]any, bad error) bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	text, packed, err := unpack(f)
	if err != nil {
		return err
	}
	kind := kindOf(name)
	if kind != parquetKind {
		return kinds[kind](text, func(n int, values map[string]any, bad error) bool {
			return visit(Place{name, "line", n}, values, bad)
		})
	}
	return readParquetFile(f, text, packed, func(n int, values map[string]any, bad error) bool {
		return visit(Place{name, "row", n}, values, bad)
	})
}

// unpack reads a file that may be compressed with gzip, whatever its name, and may begin with a byte order mark.
func unpack(f io.Reader) (text *bufio.Reader, packed bool, err error) {
	text = bufio.NewReader(f)
	if magic, _ := text.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(text)
		if err != nil {
			return nil, true, err
		}
		text, packed = bufio.NewReader(z), true
	}
	if mark, _ := text.Peek(3); string(mark) == "\ufeff" {
		text.Discard(len(mark))
	}
	return text, packed, nil
}

// readParquetFile reads the file itself, or what it holds packed.
func readParquetFile(f *os.File, unpacked io.Reader, packed bool, visit visitor) error {
	if packed {
		b, err := io.ReadAll(unpacked)
		if err != nil {
			return err
		}
		return readParquet(bytes.NewReader(b), int64(len(b)), visit)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return readParquet(f, info.Size(), visit)
}

// readDocument visits one row, which is the whole text.
func readDocument(r *bufio.Reader, visit visitor) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(b)) > 0 {
		visit(1, map[string]any{"document": string(b)}, nil)
	}
	return nil
}
