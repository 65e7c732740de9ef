package checkpoint

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// dtypeOrder is the order in which Hugging Face's writer lays types out: wide ones first, so that all stay aligned.
var dtypeOrder = strings.Fields("U64 I64 F64 F32 U32 I32 BF16 F16 U16 I16 F8_E4M3 F8_E5M2 I8 U8 BOOL")

// Lazy is a tensor whose bytes are made when they are written.
type Lazy struct {
	Name, DType string
	Shape       []int
	Make        func() ([]byte, error)
}

// Write writes a safetensors file. The same tensors and metadata give the same bytes.
func Write(path string, tensors []Tensor, metadata map[string]string) error {
	var all []Lazy
	for _, t := range tensors {
		all = append(all, Lazy{t.Name, t.DType, t.Shape, func() ([]byte, error) { return t.Bytes, nil }})
	}
	return WriteLazy(path, all, metadata)
}

// WriteLazy is Write with one tensor after the other in memory, in the order of the file.
func WriteLazy(path string, tensors []Lazy, metadata map[string]string) error {
	sorted := append([]Lazy(nil), tensors...)
	rank := map[string]int{}
	for i, name := range dtypeOrder {
		rank[name] = i
	}
	sort.Slice(sorted, func(i, j int) bool {
		a, b := sorted[i], sorted[j]
		return rank[a.DType] < rank[b.DType] || a.DType == b.DType && a.Name < b.Name
	})
	header, err := header(sorted, metadata)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return WriteFile(path, func(w io.Writer) error {
		if _, err := w.Write(header); err != nil {
			return err
		}
		for _, t := range sorted {
			b, err := t.Make()
			if err != nil {
				return fmt.Errorf("tensor %s: %w", t.Name, err)
			}
			if len(b) != int(t.size()) {
				return fmt.Errorf("tensor %s has %d bytes, %s %v takes %d", t.Name, len(b), t.DType, t.Shape, t.size())
			}
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		return nil
	})
}

// size is the number of bytes that type and shape make; 0 for a type that is not known.
func (t Lazy) size() int64 {
	n := itemSizes[t.DType]
	for _, d := range t.Shape {
		n *= int64(d)
	}
	return n
}

// header is the length, and the JSON padded with spaces to a multiple of 8.
func header(tensors []Lazy, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	b.Write(make([]byte, 8))
	b.WriteByte('{')
	if len(metadata) > 0 {
		m, err := json.Marshal(metadata)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, `"__metadata__":%s`, m)
	}
	at, names := int64(0), map[string]bool{}
	for _, t := range tensors {
		i := info{DType: t.DType, Shape: t.Shape, Offsets: [2]int64{at, at + t.size()}}
		if i.Shape == nil {
			i.Shape = []int{}
		}
		if err := i.check(); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		if names[t.Name] {
			return nil, fmt.Errorf("tensor %s is there twice", t.Name)
		}
		names[t.Name], at = true, i.Offsets[1]
		key, err := json.Marshal(t.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(i)
		if err != nil {
			return nil, err
		}
		if b.Len() > 9 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s:%s", key, value)
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	binary.LittleEndian.PutUint64(b.Bytes(), uint64(b.Len()-8))
	return b.Bytes(), nil
}

// WriteFile writes a file whole or not at all: what write writes goes to a temporary file in the same folder, which is
// synced and renamed.
func WriteFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
