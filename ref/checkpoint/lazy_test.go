package checkpoint

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Tensors that are made when they are written make the same file, and none is made before it is written.
func TestWriteLazy(t *testing.T) {
	dir := t.TempDir()
	codes, floats := []byte{1, 2, 3}, []byte{0, 0, 128, 63, 0, 0, 0, 64}
	metadata := map[string]string{"step": "3"}
	if err := Write(filepath.Join(dir, "whole"), []Tensor{{Name: "a", DType: "U8", Shape: []int{3}, Bytes: codes}, {Name: "b", DType: "F32", Shape: []int{2, 1}, Bytes: floats}}, metadata); err != nil {
		t.Fatal(err)
	}
	var made []string
	lazy := []Lazy{
		{"a", "U8", []int{3}, func() ([]byte, error) { made = append(made, "a"); return codes, nil }},
		{"b", "F32", []int{2, 1}, func() ([]byte, error) { made = append(made, "b"); return floats, nil }},
	}
	if err := WriteLazy(filepath.Join(dir, "lazy"), lazy, metadata); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(dir, "whole"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "lazy")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if strings.Join(made, " ") != "b a" { // in the order of the file
		t.Errorf("made in the order %v", made)
	}
}

// What cannot be made, or is not as long as its shape says, leaves no file.
func TestWriteLazyFails(t *testing.T) {
	for want, bad := range map[string]Lazy{
		"tensor b: out of memory":                       {"b", "U8", []int{2}, func() ([]byte, error) { return nil, errors.New("out of memory") }},
		"tensor b has 3 bytes, U8 [2] takes 2":          {"b", "U8", []int{2}, func() ([]byte, error) { return make([]byte, 3), nil }},
		`tensor b: type "U7" is unknown`:                {"b", "U7", []int{2}, func() ([]byte, error) { return make([]byte, 2), nil }},
		"tensor b: shape [-2] is impossible":            {"b", "U8", []int{-2}, func() ([]byte, error) { return nil, nil }},
		"tensor b: shape [4294967296 8589934592 4] is ": {"b", "U8", []int{1 << 32, 1 << 33, 4}, func() ([]byte, error) { return nil, nil }},
	} {
		dir := t.TempDir()
		first := Lazy{"a", "U8", []int{1}, func() ([]byte, error) { return []byte{1}, nil }}
		if err := WriteLazy(filepath.Join(dir, "bad"), []Lazy{first, bad}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("%s: %v, %v", want, names, err)
		}
	}
}
