package conformance

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"qlora/ref/checkpoint"
	"qlora/ref/num"
)

// text is a tensor of the bytes of a text, or of a file.
func text(s string) Tensor { return Bytes([]byte(s)) }

// rawFile is a safetensors file of a header and data, right or wrong.
func rawFile(header string, data ...byte) []byte {
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), data...)
}

// plainFile is a safetensors file with tensors in the order given.
func plainFile(tensors ...checkpoint.Tensor) []byte {
	var header []string
	var data []byte
	for _, t := range tensors {
		name, err := json.Marshal(t.Name)
		if err != nil {
			panic(err)
		}
		shape := strings.ReplaceAll(fmt.Sprint(t.Shape), " ", ",")
		header = append(header, fmt.Sprintf(`%s:{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, name, t.DType, shape, len(data), len(data)+len(t.Bytes)))
		data = append(data, t.Bytes...)
	}
	return rawFile("{"+strings.Join(header, ",")+"}", data...)
}

// folder is a folder in memory.
type folder map[string][]byte

func (f folder) Open(name string) (fs.File, error) {
	b, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memoryFile{bytes.NewReader(b), name}, nil
}

// memoryFile is its own fs.FileInfo.
type memoryFile struct {
	*bytes.Reader
	name string
}

func (f *memoryFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *memoryFile) Close() error               { return nil }
func (f *memoryFile) Name() string               { return f.name }
func (f *memoryFile) Mode() fs.FileMode          { return 0o444 }
func (f *memoryFile) ModTime() time.Time         { return time.Time{} }
func (f *memoryFile) IsDir() bool                { return false }
func (f *memoryFile) Sys() any                   { return nil }

// written are the files that write leaves in an empty folder.
func written(write func(dir string) error) (Tensors, error) {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := write(dir); err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return nil, err
	}
	files := Tensors{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files[filepath.Base(name)] = Bytes(b)
	}
	return files, nil
}

// parseSafetensors reads a file's tensors and, as __metadata__, lines of key=value.
func parseSafetensors(b []byte) (Tensors, error) {
	f, err := checkpoint.Parse(bytes.NewReader(b), int64(len(b)), "file")
	if err != nil {
		return nil, err
	}
	out := Tensors{}
	if f.Metadata != nil {
		out["__metadata__"] = lines(f.Metadata)
	}
	for _, name := range f.Names() {
		e, err := f.Tensor(name)
		if err != nil {
			return nil, err
		}
		switch DType(e.DType) {
		case F32, BF16, F16, I32, U8:
			if out[name], err = fromFile(f, name); err != nil {
				return nil, err
			}
		default:
			out[name] = Bytes(e.Bytes)
		}
	}
	return out, nil
}

// lines are key=value, in the order of the keys.
func lines[V any](m map[string]V) Tensor {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%v\n", key, m[key])
	}
	return text(b.String())
}

// ggufType is a type of GGUF's tensors: its number there, and a block's elements, bytes, and the first of these, in which scales are.
type ggufType struct {
	name                 string
	number               uint32
	block, bytes, scales int
	first                int // where in a block the scales are
}

var ggufTypes = []ggufType{
	{"F32", 0, 1, 4, 0, 0}, {"F16", 1, 1, 2, 0, 0}, {"Q4_0", 2, 32, 18, 2, 0}, {"Q4_1", 3, 32, 20, 4, 0}, {"Q8_0", 8, 32, 34, 2, 0},
	{"Q6_K", 14, 256, 210, 2, 208}, {"BF16", 30, 1, 2, 0, 0},
}

// gguf writes GGUF files, right or wrong.
type gguf struct {
	magic           string
	version         uint32
	keys, tensors   uint64 // as the file says
	metadata, infos []byte
	data            []byte
}

func newGGUF() *gguf { return &gguf{magic: "GGUF", version: 3} }

// key adds a key of metadata: a uint32, float32, string, bool, a slice of int32 or of strings.
func (g *gguf) key(name string, value any) *gguf {
	g.metadata = appendAll(g.metadata, name)
	switch v := value.(type) {
	case uint32:
		g.metadata = appendAll(g.metadata, uint32(4), v)
	case float32:
		g.metadata = appendAll(g.metadata, uint32(6), v)
	case bool:
		g.metadata = appendAll(g.metadata, uint32(7), v)
	case string:
		g.metadata = appendAll(g.metadata, uint32(8), v)
	case []int32:
		g.metadata = appendAll(g.metadata, uint32(9), uint32(5), uint64(len(v)), v)
	case []string:
		g.metadata = appendAll(g.metadata, uint32(9), uint32(8), uint64(len(v)))
		for _, s := range v {
			g.metadata = appendAll(g.metadata, s)
		}
	}
	g.keys++
	return g
}

// tensor adds a tensor with its data at the next multiple of 32; dims are as GGUF has them, a row's length first.
func (g *gguf) tensor(name string, number uint32, data []byte, dims ...uint64) *gguf {
	g.data = append(g.data, make([]byte, -len(g.data)&31)...)
	g.info(name, number, uint64(len(g.data)), dims...)
	g.data = append(g.data, data...)
	return g
}

// info adds what the file says of a tensor, and no data.
func (g *gguf) info(name string, number uint32, offset uint64, dims ...uint64) *gguf {
	g.infos = appendAll(g.infos, name, uint32(len(dims)), dims, number, offset)
	g.tensors++
	return g
}

func (g *gguf) file() []byte {
	b := appendAll([]byte(g.magic), g.version, g.tensors, g.keys)
	b = append(append(b, g.metadata...), g.infos...)
	b = append(b, make([]byte, -len(b)&31)...)
	return append(b, g.data...)
}

// appendAll appends values, little-endian, strings after their lengths.
func appendAll(b []byte, values ...any) []byte {
	for _, v := range values {
		if s, ok := v.(string); ok {
			b = append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
			continue
		}
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return b
}

// float32Bytes are values as files have them.
func float32Bytes(x []float32) []byte { return checkpoint.Narrow("", nil, x, num.Float32).Bytes }
