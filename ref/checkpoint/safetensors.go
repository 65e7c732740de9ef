// Package checkpoint is the bytes on disk: safetensors, the configuration of a Hugging Face model, PEFT adapters, GGUF. What is
// read is checked before it is used, and every error names the file and the tensor or byte. What is written appears whole or
// not at all: under a temporary name first, then renamed.
package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"sort"

	"qlora/ref/num"
	"qlora/ref/quant"
)

// Tensor is a tensor as it lies in a file.
type Tensor = quant.Entry

// maxHeader is the limit that the safetensors format sets for its JSON header.
const maxHeader = 100_000_000

// itemSizes are the types that we know to check: bytes an element.
var itemSizes = map[string]int64{
	"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
	"I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}

// File is an open safetensors file: its header is checked, its tensors are read on demand.
type File struct {
	Name     string
	Metadata map[string]string
	tensors  map[string]info
	data     io.ReaderAt
	start    int64 // of the data, in the file
	close    func() error
}

type info struct {
	DType   string   `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// Open opens a file and checks its header. Close it after use.
func Open(fsys fs.FS, name string) (*File, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	parsed, err := parseOpen(f, name)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	parsed.close = f.Close
	return parsed, nil
}

func parseOpen(f fs.File, name string) (*File, error) {
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	at, ok := f.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%s: not a file that can be read in any order", name)
	}
	return Parse(at, stat.Size(), name)
}

// Close closes the file that Open opened.
func (f *File) Close() error { return f.close() }

// Parse reads and checks the header of size bytes of safetensors: 8 bytes little-endian length, the header in JSON, the data,
// which the tensors must cover without holes and without overlapping.
func Parse(r io.ReaderAt, size int64, name string) (*File, error) {
	fail := func(format string, args ...any) (*File, error) {
		return nil, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...))
	}
	var prefix [8]byte
	if size < 8 {
		return fail("%d bytes are too few for a safetensors file: it is truncated or something else", size)
	}
	if _, err := r.ReadAt(prefix[:], 0); err != nil {
		return fail("%v", err)
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxHeader {
		return fail("bytes 0 to 7 give a header of %d bytes, more than the format's %d: not a safetensors file", n, maxHeader)
	}
	if int64(n) > size-8 {
		return fail("the header should end at byte %d, the file ends at %d: it is truncated", n+8, size)
	}
	header := make([]byte, n)
	if _, err := r.ReadAt(header, 8); err != nil {
		return fail("%v", err)
	}
	f := &File{Name: name, data: r, start: 8 + int64(n), close: func() error { return nil }}
	if err := f.parseHeader(header); err != nil {
		return fail("%v", err)
	}
	if err := f.check(size - f.start); err != nil {
		return fail("%v", err)
	}
	return f, nil
}

func (f *File) parseHeader(header []byte) error {
	if key, err := duplicateKey(header); err != nil || key != "" {
		return fmt.Errorf("header: %w", errors.Join(err, duplicateError(key)))
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(header, &raw); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	f.tensors = map[string]info{}
	for name, value := range raw {
		if name == "__metadata__" {
			if err := json.Unmarshal(value, &f.Metadata); err != nil {
				return fmt.Errorf("header: __metadata__: %w", err)
			}
			continue
		}
		var t info
		if err := json.Unmarshal(value, &t); err != nil {
			return fmt.Errorf("header: tensor %s: %w", name, err)
		}
		f.tensors[name] = t
	}
	return nil
}

// duplicateKey finds a key that stands twice in one object of a JSON text: a decoder into a map would hide it.
func duplicateKey(text []byte) (string, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	type level struct {
		seen  map[string]bool // nil in a list
		value bool            // a key has come, its value has not
	}
	var levels []level
	for {
		token, err := d.Token()
		if err == io.EOF {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			levels = levels[:len(levels)-1]
			continue
		}
		if n := len(levels); n > 0 && levels[n-1].seen != nil {
			at := &levels[n-1]
			if !at.value {
				key := token.(string)
				if at.seen[key] {
					return key, nil
				}
				at.seen[key], at.value = true, true
				continue
			}
			at.value = false
		}
		switch token {
		case json.Delim('{'):
			levels = append(levels, level{seen: map[string]bool{}})
		case json.Delim('['):
			levels = append(levels, level{})
		}
	}
}

func duplicateError(key string) error {
	if key == "" {
		return nil
	}
	return fmt.Errorf("%q stands there twice", key)
}

// check holds every tensor's place against its type and shape, and all against the data.
func (f *File) check(size int64) error {
	names := f.Names()
	sort.SliceStable(names, func(i, j int) bool {
		a, b := f.tensors[names[i]].Offsets, f.tensors[names[j]].Offsets
		return a[0] < b[0] || a[0] == b[0] && a[1] < b[1]
	})
	end := int64(0)
	for _, name := range names {
		t := f.tensors[name]
		if err := t.check(); err != nil {
			return fmt.Errorf("tensor %s: %w", name, err)
		}
		if t.Offsets[0] < end {
			return fmt.Errorf("tensor %s begins at byte %d of the data, where another one ends only at %d: they overlap", name, t.Offsets[0], end)
		}
		if t.Offsets[0] > end {
			return fmt.Errorf("tensor %s begins at byte %d of the data, the one before it ends at %d: a hole", name, t.Offsets[0], end)
		}
		end = t.Offsets[1]
	}
	if end > size {
		return fmt.Errorf("the tensors need %d bytes of data, the file has %d: it is truncated", end, size)
	}
	if end < size {
		return fmt.Errorf("%d bytes after the last tensor", size-end)
	}
	return nil
}

func (t info) check() error {
	item, ok := itemSizes[t.DType]
	if !ok {
		return fmt.Errorf("type %q is unknown", t.DType)
	}
	n := item
	for _, d := range t.Shape {
		if d < 0 || d > 0 && n > math.MaxInt64/int64(d) {
			return fmt.Errorf("shape %v is impossible", t.Shape)
		}
		n *= int64(d)
	}
	if t.Offsets[0] < 0 || t.Offsets[1] < t.Offsets[0] || t.Offsets[1]-t.Offsets[0] != n {
		return fmt.Errorf("%s %v takes %d bytes, data_offsets %v are something else", t.DType, t.Shape, n, t.Offsets)
	}
	return nil
}

// Names lists the tensors in alphabetical order.
func (f *File) Names() []string {
	names := make([]string, 0, len(f.tensors))
	for name := range f.tensors {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Has says whether the file has a tensor.
func (f *File) Has(name string) bool {
	_, ok := f.tensors[name]
	return ok
}

// Size is a tensor's bytes; 0 if the file has none of that name.
func (f *File) Size(name string) int64 {
	t := f.tensors[name]
	return t.Offsets[1] - t.Offsets[0]
}

// Tensor reads a tensor.
func (f *File) Tensor(name string) (Tensor, error) {
	t, ok := f.tensors[name]
	if !ok {
		return Tensor{}, fmt.Errorf("%s: no tensor %s", f.Name, name)
	}
	b := make([]byte, t.Offsets[1]-t.Offsets[0])
	if _, err := f.data.ReadAt(b, f.start+t.Offsets[0]); err != nil && !(err == io.EOF && len(b) == 0) {
		return Tensor{}, fmt.Errorf("%s: tensor %s: %w", f.Name, name, err)
	}
	return Tensor{Name: name, DType: t.DType, Shape: t.Shape, Bytes: b}, nil
}

// Float32 reads a tensor of F32, BF16 or F16, widened.
func (f *File) Float32(name string) ([]float32, []int, error) {
	t, ok := f.tensors[name]
	if !ok {
		return nil, nil, fmt.Errorf("%s: no tensor %s", f.Name, name)
	}
	dtype, ok := DTypes[t.DType]
	if !ok {
		return nil, nil, f.notFloat(name)
	}
	x := make([]float32, (t.Offsets[1]-t.Offsets[0])/int64(dtype.Size()))
	return x, t.Shape, f.float32s(x, name)
}

func (f *File) notFloat(name string) error {
	return fmt.Errorf("%s: tensor %s is %s: want F32, BF16 or F16", f.Name, name, f.tensors[name].DType)
}

func (f *File) fileName() string { return f.Name }

func (f *File) ownName(name string) string { return name }

func (f *File) shape(name string) []int { return f.tensors[name].Shape }

// float32s reads and widens a piece at a time, so that the tensor is in memory only once.
func (f *File) float32s(dst []float32, name string) error {
	t := f.tensors[name]
	dtype, ok := DTypes[t.DType]
	if !ok {
		return f.notFloat(name)
	}
	const piece = 1 << 16
	b := make([]byte, min(len(dst), piece)*dtype.Size())
	for from := 0; from < len(dst); from += piece {
		part := dst[from:min(from+piece, len(dst))]
		b := b[:len(part)*dtype.Size()]
		if _, err := f.data.ReadAt(b, f.start+t.Offsets[0]+int64(from*dtype.Size())); err != nil {
			return fmt.Errorf("%s: tensor %s: %w", f.Name, name, err)
		}
		widen(part, b, dtype)
	}
	return nil
}

// DTypes are the names that safetensors gives to our types.
var DTypes = map[string]num.DType{"F32": num.Float32, "BF16": num.BFloat16, "F16": num.Float16}

// Widen gives a tensor's values in float32.
func Widen(t Tensor) ([]float32, error) {
	dtype, ok := DTypes[t.DType]
	if !ok {
		return nil, fmt.Errorf("tensor %s is %s: want F32, BF16 or F16", t.Name, t.DType)
	}
	x := make([]float32, len(t.Bytes)/dtype.Size())
	widen(x, t.Bytes, dtype)
	return x, nil
}

func widen(x []float32, b []byte, dtype num.DType) {
	for i := range x {
		switch dtype {
		case num.BFloat16:
			x[i] = num.FromBFloat16(binary.LittleEndian.Uint16(b[2*i:]))
		case num.Float16:
			x[i] = num.FromFloat16(binary.LittleEndian.Uint16(b[2*i:]))
		default:
			x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
	}
}

// Narrow is a tensor as a file holds it: x, row-major of a shape, rounded to dtype.
func Narrow(name string, shape []int, x []float32, dtype num.DType) Tensor {
	t := Tensor{Name: name, Shape: shape, Bytes: make([]byte, 0, len(x)*dtype.Size())}
	for _, v := range x {
		switch dtype {
		case num.BFloat16:
			t.Bytes = binary.LittleEndian.AppendUint16(t.Bytes, num.ToBFloat16(v))
		case num.Float16:
			t.Bytes = binary.LittleEndian.AppendUint16(t.Bytes, num.ToFloat16(v))
		default:
			t.Bytes = binary.LittleEndian.AppendUint32(t.Bytes, math.Float32bits(v))
		}
	}
	for safetensors, d := range DTypes {
		if d == dtype {
			t.DType = safetensors
		}
	}
	return t
}
