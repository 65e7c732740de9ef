package checkpoint

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"slices"
)

// GGUF is an open GGUF file, llama.cpp's format (ggml-org/ggml, docs/gguf.md), version 2 or 3: its metadata and the places of
// its tensors are checked, its tensors are read on demand.
type GGUF struct {
	Name     string
	Metadata map[string]any // uint8 to uint64, int8 to int64, float32, float64, bool, string, or a slice of one of them
	tensors  map[string]ggufTensor
	data     io.ReaderAt
	start    int64 // of the tensors' data, in the file
	close    func() error
}

// ggufTensor is a tensor's place. The file gives the length of a row first; shape is the other way round, as everywhere else.
type ggufTensor struct {
	shape  []int
	format ggufFormat
	offset int64 // in the data
	count  int64 // elements
}

func (t ggufTensor) size() int64 { return t.count / t.format.block * t.format.bytes }

// maxGGUFHeader bounds what stands before the tensors, most of which is the vocabulary: real files have less than 40 MB.
const maxGGUFHeader = 1 << 28

// OpenGGUF opens a file and checks everything but the tensors' values. Close it after use.
func OpenGGUF(fsys fs.FS, name string) (*GGUF, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	g, err := parseGGUFFile(f, name)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	g.close = f.Close
	return g, nil
}

func parseGGUFFile(f fs.File, name string) (*GGUF, error) {
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	at, ok := f.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%s: not a file that can be read in any order", name)
	}
	return ParseGGUF(at, stat.Size(), name)
}

// Close closes the file that OpenGGUF opened.
func (g *GGUF) Close() error { return g.close() }

// ParseGGUF reads and checks what stands before the tensors in size bytes of GGUF: "GGUF", version, the numbers of tensors and
// of keys, the keys with their values, and each tensor's name, dimensions, type and offset. All numbers are little-endian.
func ParseGGUF(r io.ReaderAt, size int64, name string) (*GGUF, error) {
	g := &GGUF{Name: name, Metadata: map[string]any{}, tensors: map[string]ggufTensor{}, data: r, close: func() error { return nil }}
	d := &ggufReader{limit: min(size, maxGGUFHeader), whole: size <= maxGGUFHeader}
	d.r = bufio.NewReader(io.NewSectionReader(r, 0, d.limit))
	if err := g.parse(d, size); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return g, nil
}

func (g *GGUF) parse(d *ggufReader, size int64) error {
	magic := make([]byte, 4)
	if d.bytes(magic); d.err != nil || string(magic) != "GGUF" {
		return fmt.Errorf("it begins with %q, not with \"GGUF\": not a GGUF file, or one that was not fetched whole", bytes.TrimRight(magic, "\x00"))
	}
	version := d.u32()
	if err := checkGGUFVersion(version); err != nil && d.err == nil {
		return err
	}
	tensors, keys := d.u64(), d.u64()
	for range keys {
		if err := g.parseKey(d); err != nil {
			return err
		}
	}
	alignment, err := g.alignment()
	if err != nil {
		return err
	}
	var names []string
	for range tensors {
		name, err := g.parseTensor(d)
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	if d.err != nil {
		return d.err
	}
	g.start = align(d.at, alignment)
	return g.checkPlaces(names, alignment, size-g.start)
}

func checkGGUFVersion(version uint32) error {
	switch {
	case version == 2 || version == 3:
		return nil
	case version&0xffff == 0 && version != 0:
		return fmt.Errorf("its version is %#x: a big-endian file, which cannot be read here: convert it for little-endian machines", version)
	case version == 1:
		return fmt.Errorf("GGUF version 1, of August 2023, is not supported: convert the model again")
	}
	return fmt.Errorf("GGUF version %d is unknown: want 2 or 3", version)
}

func (g *GGUF) parseKey(d *ggufReader) error {
	key := d.string()
	value := d.value()
	if d.err != nil {
		return fmt.Errorf("metadata key %.80q: %w", key, d.err)
	}
	if _, twice := g.Metadata[key]; twice {
		return fmt.Errorf("metadata key %.80q stands there twice", key)
	}
	g.Metadata[key] = value
	return nil
}

// alignment is what the offsets of tensors are multiples of.
func (g *GGUF) alignment() (int64, error) {
	v, given := g.Metadata["general.alignment"]
	if !given {
		return 32, nil
	}
	a, ok := v.(uint32)
	if !ok || a == 0 || a&(a-1) != 0 {
		return 0, fmt.Errorf("general.alignment is %d, of type %T: want a power of two in a uint32", a, v)
	}
	return int64(a), nil
}

func align(n, alignment int64) int64 { return (n + alignment - 1) &^ (alignment - 1) }

// maxGGUFDims is ggml's GGML_MAX_DIMS.
const maxGGUFDims = 4

func (g *GGUF) parseTensor(d *ggufReader) (string, error) {
	name := d.string()
	fail := func(format string, args ...any) (string, error) {
		return "", fmt.Errorf("tensor %.80q: %w", name, fmt.Errorf(format, args...))
	}
	n := d.u32()
	if d.err == nil && (n == 0 || n > maxGGUFDims) {
		return fail("%d dimensions: want 1 to %d", n, maxGGUFDims)
	}
	dims := make([]uint64, min(n, maxGGUFDims))
	for i := range dims {
		dims[i] = d.u64()
	}
	kind, offset := d.u32(), d.u64()
	if d.err != nil {
		return fail("%w", d.err)
	}
	if _, twice := g.tensors[name]; twice {
		return fail("stands there twice")
	}
	t, err := newGGUFTensor(dims, kind)
	if err != nil {
		return fail("%w", err)
	}
	if offset > math.MaxInt64/2 {
		return fail("its offset %d is impossible", offset)
	}
	t.offset = int64(offset)
	g.tensors[name] = t
	return name, nil
}

func newGGUFTensor(dims []uint64, kind uint32) (ggufTensor, error) {
	format, ok := ggufFormats[kind]
	if !ok {
		return ggufTensor{}, fmt.Errorf("type %s cannot be read: want %s; convert the file, for example with llama.cpp's llama-quantize --allow-requantize IN OUT Q8_0",
			ggufTypeName(kind), supportedGGUFTypes())
	}
	t := ggufTensor{format: format, count: 1}
	for _, n := range dims {
		if n == 0 || n > math.MaxInt || n > uint64(math.MaxInt64/8/t.count) { // 8: no element takes more bytes
			return t, fmt.Errorf("its dimensions %v are impossible", dims)
		}
		t.count *= int64(n)
		t.shape = append(t.shape, int(n))
	}
	if dims[0]%uint64(format.block) != 0 {
		return t, fmt.Errorf("a row has %d elements, which is no multiple of %s's block of %d", dims[0], format.name, format.block)
	}
	slices.Reverse(t.shape)
	return t, nil
}

// checkPlaces wants every tensor where llama.cpp wants it: in the order of their names, each at the next multiple of the
// alignment, all within size bytes.
func (g *GGUF) checkPlaces(names []string, alignment, size int64) error {
	end := int64(0)
	for _, name := range names {
		t := g.tensors[name]
		fail := func(format string, args ...any) error {
			return fmt.Errorf("tensor %.80q: its offset is %d, "+format, append([]any{name, t.offset}, args...)...)
		}
		switch {
		case t.offset%alignment != 0:
			return fail("which is no multiple of the alignment %d", alignment)
		case t.offset > size || t.size() > size-t.offset:
			return fail("its %d bytes would end beyond the file's %d bytes of data: the file is truncated, or its header is wrong", t.size(), max(size, 0))
		case t.offset < end:
			return fail("where other tensors end only at %d: they overlap", end)
		case t.offset > end:
			return fail("where the one before it ends at %d: a hole", end)
		}
		end = align(t.offset+t.size(), alignment)
	}
	return nil
}

// Names lists the tensors in alphabetical order.
func (g *GGUF) Names() []string { return slices.Sorted(maps.Keys(g.tensors)) }

// Float32 reads a tensor, dequantized, with its shape: rows first.
func (g *GGUF) Float32(name string) ([]float32, []int, error) {
	t, ok := g.tensors[name]
	if !ok {
		return nil, nil, fmt.Errorf("%s: no tensor %s", g.Name, name)
	}
	x := make([]float32, t.count)
	return x, t.shape, g.read(x, name)
}

// read dequantizes a tensor a piece at a time, so that it is in memory only once.
func (g *GGUF) read(dst []float32, name string) error {
	t := g.tensors[name]
	const piece = 1 << 16 // a multiple of every block
	b := make([]byte, min(t.count, piece)/t.format.block*t.format.bytes)
	at := g.start + t.offset
	for from := 0; from < len(dst); from += piece {
		part := dst[from:min(from+piece, len(dst))]
		b := b[:int64(len(part))/t.format.block*t.format.bytes]
		if n, err := g.data.ReadAt(b, at); n < len(b) {
			return fmt.Errorf("%s: tensor %s: %w", g.Name, name, err)
		}
		t.format.dequantize(part, b)
		at += int64(len(b))
	}
	return nil
}

// ggufReader keeps the first error. It allocates no more than the file, or maxGGUFHeader, can hold.
type ggufReader struct {
	r         *bufio.Reader
	at, limit int64
	whole     bool // limit is the file's end
	err       error
	scratch   [8]byte
}

// need says whether n values of at least size bytes can still come.
func (d *ggufReader) need(n uint64, size int64) bool {
	if d.err == nil && n > uint64((d.limit-d.at)/size) {
		end := "the file ends at byte %d: it is truncated, or a length in it is wrong"
		if !d.whole {
			end = "what stands before the tensors may take %d bytes at most: a length in it is wrong"
		}
		d.err = fmt.Errorf("at byte %d: %d × %d bytes or more should follow, "+end, d.at, n, size, d.limit)
	}
	return d.err == nil
}

func (d *ggufReader) bytes(b []byte) {
	if !d.need(uint64(len(b)), 1) {
		return
	}
	n, err := io.ReadFull(d.r, b)
	d.at += int64(n)
	d.err = err
}

func (d *ggufReader) u32() uint32 {
	b := d.scratch[:4]
	if d.bytes(b); d.err != nil {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

func (d *ggufReader) u64() uint64 {
	b := d.scratch[:8]
	if d.bytes(b); d.err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

func (d *ggufReader) string() string {
	n := d.u64()
	if !d.need(n, 1) {
		return ""
	}
	b := make([]byte, n)
	d.bytes(b)
	return string(b)
}

// ggufType is how values of a type of metadata are read.
type ggufType struct {
	one  func(d *ggufReader) any
	list func(d *ggufReader, n uint64) any
}

// ggufTypes are by their numbers in the file; number 9 is an array of one of them.
var ggufTypes = map[uint32]ggufType{
	0: ggufNumber[uint8](1), 1: ggufNumber[int8](1), 2: ggufNumber[uint16](2), 3: ggufNumber[int16](2),
	4: ggufNumber[uint32](4), 5: ggufNumber[int32](4), 6: ggufNumber[float32](4), 7: ggufOther((*ggufReader).bool, 1),
	8: ggufOther((*ggufReader).string, 8), 10: ggufNumber[uint64](8), 11: ggufNumber[int64](8), 12: ggufNumber[float64](8),
}

const ggufArray = 9

func (d *ggufReader) value() any {
	kind := d.u32()
	if kind != ggufArray {
		return d.typed(kind).one(d)
	}
	kind = d.u32()
	if kind == ggufArray && d.err == nil {
		d.err = fmt.Errorf("an array of arrays, which no key has that is known here")
	}
	return d.typed(kind).list(d, d.u64())
}

func (d *ggufReader) typed(kind uint32) ggufType {
	t, ok := ggufTypes[kind]
	if !ok {
		if d.err == nil {
			d.err = fmt.Errorf("its type %d is unknown", kind)
		}
		return ggufTypes[0] // which reads nothing after an error
	}
	return t
}

// ggufNumber is a type of numbers, each of size bytes.
func ggufNumber[T any](size int64) ggufType {
	list := func(d *ggufReader, n uint64) []T {
		if !d.need(n, size) {
			return nil
		}
		x := make([]T, n)
		d.err = binary.Read(d.r, binary.LittleEndian, x)
		d.at += int64(n) * size
		return x
	}
	return ggufType{
		one: func(d *ggufReader) any {
			if x := list(d, 1); d.err == nil {
				return x[0]
			}
			return nil
		},
		list: func(d *ggufReader, n uint64) any { return list(d, n) },
	}
}

// ggufOther is a type whose values are read one by one, each of at least size bytes.
func ggufOther[T any](read func(*ggufReader) T, size int64) ggufType {
	return ggufType{
		one: func(d *ggufReader) any { return read(d) },
		list: func(d *ggufReader, n uint64) any {
			if !d.need(n, size) {
				return nil
			}
			x := make([]T, 0, n)
			for i := uint64(0); i < n && d.err == nil; i++ {
				x = append(x, read(d))
			}
			return x
		},
	}
}

func (d *ggufReader) bool() bool {
	b := d.scratch[:1]
	d.bytes(b)
	if d.err == nil && b[0] > 1 {
		d.err = fmt.Errorf("at byte %d: a bool is %d", d.at-1, b[0])
	}
	return b[0] == 1
}
