package conformance

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"qlora/ref/checkpoint"
	"qlora/ref/quant"
)

// Schema is the version of the format of exports and answers, which README.md specifies.
const Schema = "qlora-conformance/1"

// The files of an export and of what answers it.
const (
	manifestFile = "manifest.json"
	inputsDir    = "inputs"
	expectedDir  = "expected"
	answersDir   = "answers"
	rejectedFile = "rejected.json"
	declareFile  = "declare.json"
)

// inline is the most elements that stand in the manifest itself.
const inline = 64

type manifest struct {
	Schema     string                 `json:"schema"`
	Level      string                 `json:"level"`
	Only       string                 `json:"only"`
	Max        int                    `json:"max_elements"`
	Place      manifestPlace          `json:"place"`
	Tables     map[string]savedTensor `json:"tables"`
	Reasons    map[string]savedReason `json:"reasons"`
	Operations []savedOperation       `json:"operations"`
	Cases      []savedCase            `json:"cases"`
}

type manifestPlace struct {
	Layer int    `json:"layer"`
	Name  string `json:"name"`
}

type savedReason struct {
	Teaches string `json:"teaches"`
	Seen    string `json:"seen,omitempty"`
}

type savedOperation struct {
	Name    string `json:"name"`
	Of      string `json:"of"`
	Formula string `json:"formula"`
}

type savedCase struct {
	Name    string                     `json:"name"`
	Op      string                     `json:"op"`
	DType   DType                      `json:"dtype,omitempty"`
	Params  map[string]json.RawMessage `json:"params"`
	Reason  string                     `json:"reason"`
	Level   string                     `json:"level"`
	Inputs  map[string]savedTensor     `json:"inputs"`
	Outputs map[string]savedShape      `json:"outputs,omitempty"`
}

type savedShape struct {
	DType DType `json:"dtype"`
	Shape []int `json:"shape"`
}

// savedTensor is a tensor in the manifest: its values, or the safetensors file that has it under "case:input".
type savedTensor struct {
	DType  DType             `json:"dtype"`
	Shape  []int             `json:"shape"`
	Values []json.RawMessage `json:"values,omitzero"`
	File   string            `json:"file,omitempty"`
}

// tables are the constants of the specification that no short formula gives.
func tables() map[string]savedTensor {
	t := map[string]savedTensor{"dynamic_signed": inManifest(Floats(F32, quant.DynamicSigned[:])), "dynamic_unsigned": inManifest(Floats(F32, quant.DynamicUnsigned[:]))}
	for _, book := range quant.Codebooks {
		t[book.Name] = inManifest(Floats(F32, book.Values[:]))
	}
	return t
}

func savedParams(params []Param) map[string]json.RawMessage {
	m := map[string]json.RawMessage{}
	for _, p := range params {
		switch {
		case p.Name == "":
		case p.Value == "":
			m[p.Name] = json.RawMessage("true")
		case json.Valid([]byte(p.Value)) && p.Value[0] != '"':
			m[p.Name] = json.RawMessage(p.Value)
		default:
			m[p.Name], _ = json.Marshal(p.Value)
		}
	}
	return m
}

// hexText is a float32 as the format writes it: 0x1.8p-3, nan, -inf.
func hexText(v float32) string {
	text := strings.ToLower(strings.TrimPrefix(strconv.FormatFloat(float64(v), 'x', -1, 32), "+"))
	mantissa, exponent, ok := strings.Cut(text, "p")
	if !ok {
		return text
	}
	digits := strings.TrimLeft(exponent[1:], "0")
	if digits == "" {
		digits = "0"
	}
	return mantissa + "p" + exponent[:1] + digits
}

// inManifest is a tensor with its values.
func inManifest(t Tensor) savedTensor {
	s := savedTensor{DType: t.DType, Shape: t.Shape, Values: []json.RawMessage{}}
	for i := range t.Len() {
		text := ""
		switch t.DType {
		case U8:
			text = strconv.Itoa(int(t.B[i]))
		case I32:
			text = strconv.Itoa(int(t.I[i]))
		default:
			text = `"` + hexText(t.F[i]) + `"`
		}
		s.Values = append(s.Values, json.RawMessage(text))
	}
	return s
}

// tensor is the inverse of inManifest.
func (s savedTensor) tensor() (Tensor, error) {
	t, n := Tensor{DType: s.DType, Shape: s.Shape}, len(s.Values)
	if err := t.make(n); err != nil {
		return Tensor{}, err
	}
	for i, raw := range s.Values {
		var err error
		var text string
		switch s.DType {
		case U8:
			err = json.Unmarshal(raw, &t.B[i])
		case I32:
			err = json.Unmarshal(raw, &t.I[i])
		default:
			var v float64
			if err = json.Unmarshal(raw, &text); err == nil {
				v, err = strconv.ParseFloat(text, 32)
			}
			if t.F[i] = float32(v); err == nil && hexText(t.F[i]) != text {
				err = fmt.Errorf("want it as %s", hexText(t.F[i]))
			}
		}
		if err != nil {
			return Tensor{}, fmt.Errorf("value %d, %s: %w", i, raw, err)
		}
	}
	return t, nil
}

// make gives a tensor of n elements its memory, if its type is known and its shape holds them.
func (t *Tensor) make(n int) error {
	product := 1
	for _, d := range t.Shape {
		if d < 0 || d > 0 && product > (1<<40)/d {
			return fmt.Errorf("shape %v is impossible", t.Shape)
		}
		product *= d
	}
	if product != n {
		return fmt.Errorf("shape %v does not hold %d values", t.Shape, n)
	}
	switch t.DType {
	case U8:
		t.B = make([]byte, n)
	case I32:
		t.I = make([]int32, n)
	case F32, BF16, F16:
		t.F = make([]float32, n)
	default:
		return fmt.Errorf("type %q: want F32, BF16, F16, I32 or U8", t.DType)
	}
	return nil
}

// inFile is a tensor as safetensors hold it.
func inFile(name string, t Tensor) checkpoint.Tensor {
	c := checkpoint.Tensor{Name: name, DType: string(t.DType), Shape: t.Shape, Bytes: t.B}
	switch t.DType {
	case U8:
	case I32:
		c.Bytes = make([]byte, 0, 4*len(t.I))
		for _, v := range t.I {
			c.Bytes = binary.LittleEndian.AppendUint32(c.Bytes, uint32(v))
		}
	default:
		c = checkpoint.Narrow(name, t.Shape, t.F, floats[t.DType].num)
	}
	return c
}

// maxTensor is the largest tensor that is read, in bytes: a file with holes may claim what no memory holds.
const maxTensor = 1 << 30

func openTensors(fsys fs.FS, name string) (*checkpoint.File, error) {
	if _, err := regular(fsys, name); err != nil {
		return nil, err
	}
	return checkpoint.Open(fsys, name)
}

// fromFile is the inverse of inFile; the error names file and tensor.
func fromFile(f *checkpoint.File, name string) (Tensor, error) {
	if size := f.Size(name); size > maxTensor {
		return Tensor{}, fmt.Errorf("%s: tensor %s has %d bytes: at most %d are read", f.Name, name, size, maxTensor)
	}
	c, err := f.Tensor(name)
	if err != nil {
		return Tensor{}, err
	}
	fail := func(err error) (Tensor, error) {
		return Tensor{}, fmt.Errorf("%s: tensor %s: %w", f.Name, name, err)
	}
	t := Tensor{DType: DType(c.DType), Shape: c.Shape}
	size := map[DType]int{U8: 1, I32: 4, F32: 4, BF16: 2, F16: 2}[t.DType]
	if err := t.make(len(c.Bytes) / max(1, size)); err != nil {
		return fail(err)
	}
	switch t.DType {
	case U8:
		t.B = c.Bytes
	case I32:
		for i := range t.I {
			t.I[i] = int32(binary.LittleEndian.Uint32(c.Bytes[4*i:]))
		}
	default:
		if t.F, err = checkpoint.Widen(c); err != nil {
			return fail(err)
		}
	}
	return t, nil
}

// readManifest reads and checks a manifest, but not its cases against this suite.
func readManifest(fsys fs.FS) (*manifest, error) {
	b, err := readLimited(fsys, manifestFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("it is no export, for it has no %s: `qlora conformance export DIR` makes one", manifestFile)
	}
	if err != nil {
		return nil, err
	}
	var version struct {
		Schema string `json:"schema"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, fmt.Errorf("%s: %w", manifestFile, err)
	}
	if version.Schema != Schema {
		return nil, fmt.Errorf("%s: schema %q: this program knows %s", manifestFile, version.Schema, Schema)
	}
	m := &manifest{}
	if err := decode(b, m); err != nil {
		return nil, fmt.Errorf("%s: %w", manifestFile, err)
	}
	return m, nil
}

// readJSON reads a small file strictly.
func readJSON(fsys fs.FS, name string, into any) error {
	b, err := readLimited(fsys, name)
	if err == nil {
		if err = decode(b, into); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	return err
}

// maxJSON is the largest JSON file that is read.
const maxJSON = 1 << 30

func readLimited(fsys fs.FS, name string) ([]byte, error) {
	size, err := regular(fsys, name)
	if err != nil {
		return nil, err
	}
	if size > maxJSON {
		return nil, fmt.Errorf("%s: %d bytes, want at most %d", name, size, maxJSON)
	}
	return fs.ReadFile(fsys, name)
}

// regular gives a file's size. A pipe or a device is refused before it is opened: it might be waited for without end.
func regular(fsys fs.FS, name string) (size int64, err error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s: want a regular file", name)
	}
	return info.Size(), nil
}
