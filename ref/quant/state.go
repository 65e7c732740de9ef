package quant

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"qlora/ref/num"
)

// Options say how a weight is quantized. The paper's are NF4, 64, double quantization.
type Options struct {
	Type        *Codebook
	Blocksize   int
	DoubleQuant bool
	DType       num.DType // recorded as the type of the original, to which it is dequantized by default
	Profile     Profile   // "" is Spec
}

// Tensor is a 4-bit weight with everything that its way back needs: what bitsandbytes calls a QuantState, and the codes.
// Either Absmax or Nested is set.
type Tensor struct {
	Type      *Codebook
	Blocksize int
	DType     num.DType
	Shape     []int
	Packed    []byte
	Absmax    []float32
	Nested    *Nested
}

// Quantize quantizes w, row-major of the given shape. NaN and infinities are errors that name the element.
func Quantize(w []float32, shape []int, o Options) (*Tensor, error) {
	if n := elements(shape); n != len(w) || n == 0 {
		return nil, fmt.Errorf("shape %v does not hold %d values", shape, len(w))
	}
	if o.Profile == "" {
		o.Profile = Spec
	}
	packed, absmax, err := Quantize4(w, o.Type, o.Blocksize, o.Profile)
	if err != nil {
		return nil, err
	}
	t := &Tensor{Type: o.Type, Blocksize: o.Blocksize, DType: o.DType, Shape: slices.Clone(shape), Packed: packed, Absmax: absmax}
	if o.DoubleQuant {
		mean := num.Sum(absmax) / float32(len(absmax))
		t.Absmax, t.Nested = nil, NestAround(absmax, mean, o.Profile)
	}
	return t, nil
}

func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// Scales gives each block's absmax.
func (t *Tensor) Scales() []float32 {
	if t.Nested != nil {
		return t.Nested.Dequantize()
	}
	return t.Absmax
}

// Dequantize sets dst, as long as the tensor has elements, to the weight rounded to dt.
func (t *Tensor) Dequantize(dst []float32, dt num.DType) error {
	if len(dst) != elements(t.Shape) {
		return fmt.Errorf("a tensor of shape %v does not fit %d values", t.Shape, len(dst))
	}
	Spec.Dequantize4(dst, 0, t.Packed, t.Scales(), t.Type, t.Blocksize, dt)
	return nil
}

// Bytes is the memory that the tensor takes.
func (t *Tensor) Bytes() int {
	n := len(t.Packed) + 4*len(t.Absmax)
	if t.Nested != nil {
		n += len(t.Nested.Codes) + 4*len(t.Nested.Absmax) + 4*len(t.Nested.Map) + 4
	}
	return n
}

// Bytes is the memory that a tensor of n elements will take.
func (o Options) Bytes(n int64) int64 {
	blocks := (n + int64(o.Blocksize) - 1) / int64(o.Blocksize)
	bytes := (n + 1) / 2
	if !o.DoubleQuant {
		return bytes + 4*blocks
	}
	return bytes + blocks + 4*((blocks+NestedBlocksize-1)/NestedBlocksize) + 4*256 + 4
}

// Entry is a tensor as a safetensors file holds it.
type Entry struct {
	Name  string
	DType string // of safetensors: U8, F32, BF16, …
	Shape []int
	Bytes []byte
}

// The names of a weight's parts, after its own (bitsandbytes, QuantState.as_dict).
const (
	keyAbsmax          = ".absmax"
	keyQuantMap        = ".quant_map"
	keyNestedAbsmax    = ".nested_absmax"
	keyNestedQuantMap  = ".nested_quant_map"
	keyQuantState      = ".quant_state.bitsandbytes__"
	secondBlocksizeKey = "nested_blocksize"
)

// storageSizes are the types under which bitsandbytes stores packed codes (quant_storage): bytes an element.
var storageSizes = map[string]int{"U8": 1, "I8": 1, "BF16": 2, "F16": 2, "F32": 4}

// Entries gives the tensors by which bitsandbytes stores a 4-bit weight under a name. It has no names for types but nf4 and
// fp4. storage is the type, as safetensors names it, that the packed codes are said to have; the bytes are the same.
func (t *Tensor) Entries(name, storage string) ([]Entry, error) {
	if t.Type != NF4 && t.Type != FP4 {
		return nil, fmt.Errorf("tensor %s: bitsandbytes files hold nf4 and fp4, not %s", name, t.Type.Name)
	}
	size, ok := storageSizes[storage]
	if !ok || len(t.Packed)%size != 0 {
		return nil, fmt.Errorf("tensor %s: %d bytes of codes cannot be stored as %s", name, len(t.Packed), storage)
	}
	state := []byte(t.stateJSON())
	entries := []Entry{
		{name, storage, []int{len(t.Packed) / size, 1}, t.Packed},
		Float32Entry(name+keyQuantMap, t.Type.Values[:]),
		{name + keyQuantState + t.Type.Name, "U8", []int{len(state)}, state},
	}
	if t.Nested == nil {
		return append(entries, Float32Entry(name+keyAbsmax, t.Absmax)), nil
	}
	return append(entries,
		Entry{name + keyAbsmax, "U8", []int{len(t.Nested.Codes)}, t.Nested.Codes},
		Float32Entry(name+keyNestedAbsmax, t.Nested.Absmax),
		Float32Entry(name+keyNestedQuantMap, t.Nested.Map[:])), nil
}

// Float32Entry is a tensor of F32; without a shape it is a vector.
func Float32Entry(name string, x []float32, shape ...int) Entry {
	if len(shape) == 0 {
		shape = []int{len(x)}
	}
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return Entry{name, "F32", shape, b}
}

// stateJSON is what Python's json.dumps makes of bitsandbytes' state: its key order and its separators.
func (t *Tensor) stateJSON() string {
	var shape []string
	for _, d := range t.Shape {
		shape = append(shape, strconv.Itoa(d))
	}
	s := fmt.Sprintf(`{"quant_type": "%s", "blocksize": %d, "dtype": "%s", "shape": [%s]`,
		t.Type.Name, t.Blocksize, t.DType, strings.Join(shape, ", "))
	if t.Nested != nil {
		s += fmt.Sprintf(`, "%s": %d, "nested_dtype": "float32", "nested_offset": %s`,
			secondBlocksizeKey, NestedBlocksize, pythonFloat(float64(t.Nested.Offset)))
	}
	return s + "}"
}

// pythonFloat is Python's repr: the shortest digits that come back, with an exponent below 1e-4 and from 1e16 on.
func pythonFloat(x float64) string {
	if a := math.Abs(x); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(x, 'e', -1, 64)
	}
	s := strconv.FormatFloat(x, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// IsState says whether a tensor of a file is the state of a 4-bit weight, and of which.
func IsState(name string) (weight string, ok bool) {
	weight, _, ok = strings.Cut(name, keyQuantState)
	return weight, ok
}

// FromEntries reads a weight back from a file. get gives a tensor by its full name; the packed codes may have any type, for
// bitsandbytes stores the same bytes under quant_storage. The file's offset and nested map are used as they are. quant_map
// is not: as in bitsandbytes the type alone decides the values.
func FromEntries(name string, get func(name string) (Entry, error)) (*Tensor, error) {
	t, nested, err := parseState(name, get)
	if err != nil {
		return nil, err
	}
	blocks := (elements(t.Shape) + t.Blocksize - 1) / t.Blocksize
	packed, err := sized(get, name, "", (elements(t.Shape)+1)/2)
	if err != nil {
		return nil, err
	}
	t.Packed = packed
	if nested == nil {
		t.Absmax, err = floats(get, name+keyAbsmax, blocks)
		return t, err
	}
	if nested.Offset != nested.Offset || math.IsInf(float64(nested.Offset), 0) {
		return nil, fmt.Errorf("tensor %s: nested_offset is %v", name, nested.Offset)
	}
	if nested.Codes, err = sized(get, name+keyAbsmax, "U8", blocks); err != nil {
		return nil, err
	}
	if nested.Absmax, err = floats(get, name+keyNestedAbsmax, (blocks+NestedBlocksize-1)/NestedBlocksize); err != nil {
		return nil, err
	}
	values, err := floats(get, name+keyNestedQuantMap, 256)
	if err != nil {
		return nil, err
	}
	nested.Map = (*Map8)(values)
	t.Nested = nested
	return t, nil
}

// ReadState reads what a file records of a 4-bit weight, without its codes and scales.
func ReadState(name string, get func(name string) (Entry, error)) (*Tensor, error) {
	t, _, err := parseState(name, get)
	return t, err
}

// parseState finds and reads the JSON; nested is nil without double quantization.
func parseState(name string, get func(string) (Entry, error)) (t *Tensor, nested *Nested, err error) {
	for _, c := range []*Codebook{NF4, FP4} {
		e, err := get(name + keyQuantState + c.Name)
		if err != nil {
			continue
		}
		return c.parseState(e)
	}
	return nil, nil, fmt.Errorf("tensor %s: no %snf4 or fp4 beside it: not a bitsandbytes 4-bit weight", name, keyQuantState[1:])
}

func (c *Codebook) parseState(e Entry) (*Tensor, *Nested, error) {
	var s struct {
		QuantType       string   `json:"quant_type"`
		Blocksize       int      `json:"blocksize"`
		DType           string   `json:"dtype"`
		Shape           []int    `json:"shape"`
		NestedBlocksize *int     `json:"nested_blocksize"`
		NestedDType     string   `json:"nested_dtype"`
		NestedOffset    *float64 `json:"nested_offset"`
	}
	if err := json.Unmarshal(e.Bytes, &s); err != nil {
		return nil, nil, fmt.Errorf("tensor %s: %w", e.Name, err)
	}
	fail := func(format string, args ...any) (*Tensor, *Nested, error) {
		return nil, nil, fmt.Errorf("tensor %s: %s", e.Name, fmt.Sprintf(format, args...))
	}
	if s.QuantType != c.Name {
		return fail("quant_type is %q", s.QuantType)
	}
	if err := CheckBlocksize(s.Blocksize); err != nil {
		return fail("%v", err)
	}
	dtype, err := num.ParseDType(s.DType)
	if err != nil {
		return fail("%v", err)
	}
	if err := checkShape(s.Shape); err != nil {
		return fail("%v", err)
	}
	t := &Tensor{Type: c, Blocksize: s.Blocksize, DType: dtype, Shape: s.Shape}
	if s.NestedOffset == nil {
		return t, nil, nil
	}
	if s.NestedBlocksize == nil || *s.NestedBlocksize != NestedBlocksize || s.NestedDType != "float32" {
		return fail("nested_blocksize and nested_dtype must be %d and float32", NestedBlocksize)
	}
	return t, &Nested{Offset: float32(*s.NestedOffset)}, nil
}

// checkShape wants positive dimensions of which the product does not overflow.
func checkShape(shape []int) error {
	n := 1
	for _, d := range shape {
		if d < 1 || n > math.MaxInt32/d {
			return fmt.Errorf("shape %v: want positive sizes of at most 2^31 elements", shape)
		}
		n *= d
	}
	if len(shape) == 0 {
		return fmt.Errorf("shape is missing")
	}
	return nil
}

// sized gets a tensor's bytes; dtype "" accepts any.
func sized(get func(string) (Entry, error), name, dtype string, size int) ([]byte, error) {
	e, err := get(name)
	if err != nil {
		return nil, err
	}
	if dtype != "" && e.DType != dtype {
		return nil, fmt.Errorf("tensor %s is %s, want %s", name, e.DType, dtype)
	}
	if len(e.Bytes) != size {
		return nil, fmt.Errorf("tensor %s has %d bytes, its quant_state asks for %d", name, len(e.Bytes), size)
	}
	return e.Bytes, nil
}

// floats gets n values of F32, which must be finite: scales that are not would make whole blocks NaN.
func floats(get func(string) (Entry, error), name string, n int) ([]float32, error) {
	b, err := sized(get, name, "F32", 4*n)
	if err != nil {
		return nil, err
	}
	x := make([]float32, n)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	if err := CheckFinite(x); err != nil {
		return nil, fmt.Errorf("tensor %s: %w", name, err)
	}
	return x, nil
}
