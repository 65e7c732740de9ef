package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"qlora/ref/quant"
)

func file(header string, data ...byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func parse(b []byte) (*File, error) {
	return Parse(bytes.NewReader(b), int64(len(b)), "weights.safetensors")
}

// A file as the safetensors library writes it: the header padded to a multiple of 8, wide types first, then names.
func TestWriteIsTheLibrarysLayout(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	err := Write(path, []Tensor{
		{Name: "codes", DType: "U8", Shape: []int{3}, Bytes: []byte{1, 2, 3}},
		quant.Float32Entry("b", []float32{1, 2}, 2, 1),
		quant.Float32Entry("a", []float32{3}),
	}, map[string]string{"format": "pt"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const header = `{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},` +
		`"b":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]},"codes":{"dtype":"U8","shape":[3],"data_offsets":[12,15]}} `
	want := file(header, 0, 0, 64, 64, 0, 0, 128, 63, 0, 0, 0, 64, 1, 2, 3)
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
	f, err := Open(os.DirFS(filepath.Dir(path)), "a.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x, shape, err := f.Float32("b")
	if err != nil || !cmp.Equal(x, []float32{1, 2}) || !cmp.Equal(shape, []int{2, 1}) || f.Metadata["format"] != "pt" {
		t.Error(x, shape, f.Metadata, err)
	}
}

func TestWiden(t *testing.T) {
	f, err := parse(file(`{"b":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},"h":{"dtype":"F16","shape":[],"data_offsets":[2,4]},"i":{"dtype":"I32","shape":[1],"data_offsets":[4,8]}}`,
		0xc0, 0x3f, 0x00, 0x3e, 1, 0, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float32{"b": 1.5, "h": 1.5} {
		if x, _, err := f.Float32(name); err != nil || x[0] != want {
			t.Error(name, x, err)
		}
	}
	if _, _, err := f.Float32("i"); err == nil || !strings.Contains(err.Error(), "weights.safetensors: tensor i is I32") {
		t.Error(err)
	}
	if _, err := f.Tensor("none"); err == nil || !strings.Contains(err.Error(), "weights.safetensors: no tensor none") {
		t.Error(err)
	}
}

func TestBadFiles(t *testing.T) {
	const one = `"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}`
	for what, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":              {nil, "0 bytes"},
		"oversized header":   {binary.LittleEndian.AppendUint64(nil, 1<<62), "bytes 0 to 7"},
		"truncated header":   {file("{" + one + "}")[:20], "truncated"},
		"truncated data":     {file("{"+one+"}", 1, 2, 3), "need 4 bytes"},
		"more data":          {file("{"+one+"}", 1, 2, 3, 4, 5), "1 bytes after the last tensor"},
		"not JSON":           {file("hello"), "header"},
		"named twice":        {file("{"+one+","+one+"}", 1, 2, 3, 4), `"a" stands there twice`},
		"overlap":            {file("{"+one+`,"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}`, 1, 2, 3, 4, 5, 6), "tensor b begins at byte 2"},
		"hole":               {file("{"+one+`,"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}}`, 1, 2, 3, 4, 5, 6, 7, 8, 9), "a hole"},
		"wrong size":         {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 1, 2, 3, 4), "tensor a: F32 [2] takes 8 bytes"},
		"unknown type":       {file(`{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}`, 1, 2, 3, 4), `type "F31"`},
		"negative shape":     {file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 1, 2, 3, 4), "shape [-1] is impossible"},
		"overflowing shape":  {file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}`, 1, 2, 3, 4), "is impossible"},
		"backward":           {file(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[4,0]}}`), "tensor a"},
		"wrong header value": {file(`{"a":3}`), "tensor a"},
	} {
		if _, err := parse(c.b); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "weights.safetensors: ") {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}

// A write that fails leaves what was there, and nothing else.
func TestWriteFileIsAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	write := func(text string, failure error) error {
		return WriteFile(path, func(w io.Writer) error {
			if _, err := io.WriteString(w, text); err != nil {
				return err
			}
			return failure
		})
	}
	if err := write("first", nil); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left")
	if err := write("second", full); !errors.Is(err, full) || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	b, _ := os.ReadFile(path)
	entries, _ := os.ReadDir(dir)
	if string(b) != "first" || len(entries) != 1 {
		t.Errorf("%q, %v", b, entries)
	}
	if err := Write(filepath.Join(dir, "bad"), []Tensor{{Name: "a", DType: "F32", Shape: []int{2}, Bytes: []byte{1}}}, nil); err == nil || !strings.Contains(err.Error(), "tensor a") {
		t.Error(err)
	}
}

func TestModelConfig(t *testing.T) {
	const good = `{"model_type":"llama","hidden_size":64,"num_attention_heads":8}`
	read := func(text string) (ModelConfig, error) {
		return readConfig(fstest.MapFS{"config.json": {Data: []byte(text)}})
	}
	c, err := read(good)
	if err != nil || c.HeadDim != 8 || c.NumKeyValueHeads != 8 || c.RoPETheta != 10000 || c.HiddenAct != "silu" {
		t.Errorf("%+v %v", c, err)
	}
	if c, err := read(`{"model_type":"llama","rope_parameters":{"rope_theta":500000.0,"rope_type":"default"}}`); err != nil || c.RoPETheta != 500000 {
		t.Errorf("%+v %v", c, err)
	}
	for text, want := range map[string]string{
		`{`: "config.json",
		`{"model_type":"llama","quantization_config":{"quant_method":"gptq"}}`: "gptq",
		`{"model_type":"llama","hidden_size":"many"}`:                          "hidden_size",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := OpenModel(fstest.MapFS{"config.json": {Data: []byte(good)}}); err == nil || !strings.Contains(err.Error(), "model.safetensors") {
		t.Error(err)
	}
}

// A weight of the right size and the wrong shape is refused.
func TestModelShapes(t *testing.T) {
	m, err := OpenModel(fstest.MapFS{
		"config.json":       {Data: []byte(`{"model_type":"llama"}`)},
		"model.safetensors": {Data: file(`{"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}`, make([]byte, 8)...)},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if x, err := m.Float32("w", []int{1, 2}); err != nil || len(x) != 2 {
		t.Error(x, err)
	}
	if _, err := m.Float32("w", []int{2, 1}); err == nil || !strings.Contains(err.Error(), "model.safetensors: tensor w has shape [1 2], config.json asks for [2 1]") {
		t.Error(err)
	}
}

// Whatever the bytes, there is a File of which every tensor can be read, or an error.
func FuzzParse(f *testing.F) {
	f.Add(file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 1, 2, 3, 4))
	f.Add(file(`{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}`, 1, 2, 3, 4))
	f.Add(file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}`, 1, 2, 3, 4, 5, 6))
	f.Add(file(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		parsed, err := parse(b)
		if err != nil {
			return
		}
		total := 0
		for _, name := range parsed.Names() {
			tensor, err := parsed.Tensor(name)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			total += len(tensor.Bytes)
		}
		if total > len(b) {
			t.Errorf("%d bytes of tensors in a file of %d", total, len(b))
		}
	})
}
