package conformance

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"qlora/ref/checkpoint"
)

// ExportOptions are the settings of an export.
type ExportOptions struct {
	Selection
	// Expected adds the reference's answers, so that one can compare without this program.
	Expected bool
	// Progress is called after every operation.
	Progress func(done, total int)
}

// Export writes the selected cases for an implementation in any language: to a folder, or, if the path ends in .zip, to an
// archive, neither of which may be there before. The same selection gives the same files. It says how many cases there are.
func Export(ctx context.Context, path string, o ExportOptions) (cases int, err error) {
	if o.Level == Exhaustive {
		return 0, fmt.Errorf("level exhaustive is not exported: its inputs are all that there are")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%s is there already", path)
	}
	list, err := o.list(ctx)
	if err != nil {
		return 0, err
	}
	if len(list) == 0 {
		return 0, ErrNoCase
	}
	dir, err := os.MkdirTemp(filepath.Dir(filepath.Clean(path)), "."+filepath.Base(path)+".*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return 0, err
	}
	if err := export(ctx, dir, list, o); err != nil {
		return 0, err
	}
	if strings.HasSuffix(path, ".zip") {
		return len(list), checkpoint.WriteFile(path, func(w io.Writer) error { return archive(w, dir) })
	}
	return len(list), os.Rename(dir, path)
}

// newManifest is a selection's manifest without the cases.
func newManifest(s Selection, list []work) manifest {
	m := manifest{Schema: Schema, Level: s.Level.String(), Max: s.MaxElements, Place: manifestPlace{int(Place.Layer), Place.Name}, Tables: tables(), Reasons: map[string]savedReason{}}
	if s.Only != nil {
		m.Only = s.Only.String()
	}
	for name, r := range Reasons {
		m.Reasons[name] = savedReason(r)
	}
	for part := range chunks(list) {
		o := part[0].o
		m.Operations = append(m.Operations, savedOperation{o.Name, o.Of, o.Formula})
	}
	return m
}

func export(ctx context.Context, dir string, list []work, o ExportOptions) error {
	m := newManifest(o.Selection, list)
	rejected := []string{}
	done := 0
	for part := range chunks(list) {
		op := part[0].o
		answers := answerAll(ctx, part)
		if err := ctx.Err(); err != nil {
			return err
		}
		var inputs, expected []checkpoint.Tensor
		told := !slices.ContainsFunc(answers, func(a answer) bool { return a.out == nil })
		for _, a := range answers {
			c, large := a.saved(told)
			m.Cases = append(m.Cases, c)
			inputs = append(inputs, large...)
			if a.rejected {
				rejected = append(rejected, c.Name)
			} else {
				expected = append(expected, inFileAll(c.Name, a.out.oneNaN())...)
			}
		}
		if err := writeTensors(dir, inputsDir, op, inputs); err != nil {
			return err
		}
		if o.Expected {
			if err := writeTensors(dir, expectedDir, op, expected); err != nil {
				return err
			}
		}
		if done++; o.Progress != nil {
			o.Progress(done, len(m.Operations))
		}
	}
	if o.Expected {
		if err := writeJSON(filepath.Join(dir, expectedDir, rejectedFile), rejected); err != nil {
			return err
		}
	}
	return writeManifest(filepath.Join(dir, manifestFile), m)
}

// answer is a case with the reference's outputs. For a case that must be rejected they only have the shapes that they would have
// had: its entry in the manifest looks like any other.
type answer struct {
	c        *Case
	in, out  Tensors
	rejected bool
}

// answerAll computes the outputs of an operation's cases.
func answerAll(ctx context.Context, list []work) []answer {
	answers := make([]answer, len(list))
	each(ctx, len(list), func(at int) {
		w := list[at]
		a := answer{c: w.c, in: w.c.Inputs()}
		out, err := w.o.Reference(w.c, a.in.clone())
		if a.rejected = err != nil; a.rejected {
			if out, err = safely(w.o.Reference, w.c, a.in.harmless()); err != nil {
				out = nil
			}
		}
		a.out = out
		answers[at] = a
	})
	return answers
}

// harmless are tensors of the same shapes that nothing is wrong with: no NaN, no infinity, no integer out of range.
func (ts Tensors) harmless() Tensors {
	c := Tensors{}
	for name, t := range ts {
		t.F, t.I, t.B = make([]float32, len(t.F)), make([]int32, len(t.I)), make([]byte, len(t.B))
		for i := range t.F {
			t.F[i] = 1
		}
		c[name] = t
	}
	return c
}

// saved is the manifest's entry, with the inputs that go to a file. The outputs' shapes are told for all cases of an operation or for
// none, so that they do not tell what must be rejected.
func (a answer) saved(told bool) (s savedCase, large []checkpoint.Tensor) {
	s = a.c.saved()
	s.Inputs = map[string]savedTensor{}
	for name, t := range a.in {
		if t.Len() <= inline {
			s.Inputs[name] = inManifest(t)
			continue
		}
		s.Inputs[name] = savedTensor{DType: t.DType, Shape: t.Shape, File: inputsDir + "/" + s.Op + ".safetensors"}
		large = append(large, inFile(s.Name+":"+name, t))
	}
	if told {
		s.Outputs = map[string]savedShape{}
		for name, t := range a.out {
			s.Outputs[name] = savedShape{t.DType, t.Shape}
		}
	}
	return s, large
}

// saved is the manifest's entry without inputs and outputs.
func (c *Case) saved() savedCase {
	return savedCase{Name: c.Name(), Op: c.Op, DType: c.DType, Params: savedParams(c.Params), Reason: c.Reason, Level: c.Level.String()}
}

func inFileAll(prefix string, ts Tensors) (list []checkpoint.Tensor) {
	for name, t := range ts {
		list = append(list, inFile(prefix+":"+name, t))
	}
	return list
}

func writeTensors(dir, folder string, o *Operation, tensors []checkpoint.Tensor) error {
	if len(tensors) == 0 {
		return nil
	}
	dir = filepath.Join(dir, folder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return checkpoint.Write(filepath.Join(dir, o.Name+".safetensors"), tensors, nil)
}

// writeManifest writes a line for each operation and each case, so that a person can read it and compare two.
func writeManifest(path string, m manifest) error {
	operations, cases := m.Operations, m.Cases
	m.Operations, m.Cases = nil, nil
	return checkpoint.WriteFile(path, func(w io.Writer) error {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(m); err != nil {
			return err
		}
		head, found := bytes.CutSuffix(b.Bytes(), []byte(`"operations":null,"cases":null}`+"\n"))
		if !found {
			return fmt.Errorf("the manifest's lists are not at its end")
		}
		if _, err := fmt.Fprintf(w, "%s\n\"operations\":[", head); err != nil {
			return err
		}
		if err := writeLines(w, operations); err != nil {
			return err
		}
		if _, err := io.WriteString(w, "],\n\"cases\":["); err != nil {
			return err
		}
		if err := writeLines(w, cases); err != nil {
			return err
		}
		_, err := io.WriteString(w, "]}\n")
		return err
	})
}

func writeLines[T any](w io.Writer, list []T) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for i, v := range list {
		b.Reset()
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
		if err := e.Encode(v); err != nil {
			return err
		}
		if _, err := w.Write(bytes.TrimRight(b.Bytes(), "\n")); err != nil {
			return err
		}
	}
	return nil
}

func writeJSON(name string, v any) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return checkpoint.WriteFile(name, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", " ")
		return e.Encode(v)
	})
}

// archive writes a folder's files by name, without times.
func archive(w io.Writer, dir string) error {
	z := zip.NewWriter(w)
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		to, err := z.CreateHeader(&zip.FileHeader{Name: path.Clean(name), Method: zip.Deflate})
		if err != nil {
			return err
		}
		from, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		defer from.Close()
		_, err = io.Copy(to, from)
		return err
	})
	return errors.Join(err, z.Close())
}
