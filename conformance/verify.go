package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"

	"qlora/ref/checkpoint"
	"qlora/ref/op"
)

// declaration is what a client says of itself.
type declaration struct {
	Name         string            `json:"name"`
	Driver       string            `json:"driver"`
	Arithmetic   Arithmetic        `json:"arithmetic"`
	NotSupported map[string]string `json:"not_supported"` // by operation, or operation/type
}

// answers are what a client left in an export's folder.
type answers struct {
	declaration
	rejected    map[string]bool
	safetensors                     // by operation
	names       map[string][]string // of each file's tensors, sorted
	notes       []string

	lock  sync.Mutex
	stale error // an input that is not this suite's
}

// Verify judges the answers found in the folder of an export, by the same rules as Run. Of o, Only selects among the cases
// that were exported, and Level is the export's. What is wrong with the files themselves, and no answer's fault, is an error.
func Verify(ctx context.Context, dir string, o Options) (*Report, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() { // and a pipe would be waited for
		return nil, fmt.Errorf("%s: want the folder of an export; an archive must be unpacked first", dir)
	}
	root, err := os.OpenRoot(dir) // no name, and no link, leads out of it
	if err != nil {
		return nil, err
	}
	defer root.Close()
	r, err := verify(ctx, root.FS(), o)
	if err != nil && !errors.Is(err, ErrNoCase) {
		err = fmt.Errorf("%s: %w", dir, err)
	}
	return r, err
}

func verify(ctx context.Context, fsys fs.FS, o Options) (*Report, error) {
	s, err := o.check()
	if err != nil {
		return nil, err
	}
	m, err := readManifest(fsys)
	if err != nil {
		return nil, err
	}
	selection, err := m.selection()
	if err != nil {
		return nil, err
	}
	own, err := selection.list(ctx)
	if err != nil {
		return nil, err
	}
	exported, err := m.cases(newManifest(selection, own), own)
	if err != nil {
		return nil, err
	}
	s.Level, s.MaxElements = selection.Level, selection.MaxElements
	s.list = slices.DeleteFunc(own, func(w work) bool { return s.Only != nil && !s.Only.MatchString(w.c.Name()) })
	if len(s.list) == 0 {
		return nil, ErrNoCase
	}
	a, err := readAnswers(fsys)
	if err != nil {
		return nil, err
	}
	defer a.close()
	inputs, err := openInputs(fsys, exported)
	if err != nil {
		return nil, err
	}
	defer inputs.close()
	a.note(exported)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r := a.implementation(func(c *Case, in Tensors) {
		if err := inputs.compare(exported[c.Name()], in); err != nil {
			a.lock.Lock()
			a.stale = err
			a.lock.Unlock()
			stop()
		}
	}).run(ctx, s)
	if a.stale != nil {
		return nil, a.stale
	}
	if m.Only != "" && o.Only == nil {
		r.Statement.Only = m.Only
	}
	r.Notes = append(r.Notes, a.notes...)
	return r, nil
}

// selection is what was exported.
func (m *manifest) selection() (s Selection, err error) {
	s.MaxElements = m.Max
	if s.Level, err = ParseLevel(m.Level); err != nil {
		return s, fmt.Errorf("%s: %w", manifestFile, err)
	}
	if m.Only != "" {
		if s.Only, err = regexp.Compile(m.Only); err != nil {
			return s, fmt.Errorf("%s: only: %w", manifestFile, err)
		}
	}
	return s, nil
}

// cases gives the manifest's cases by name. They, and the parts before them, must be those that this suite selects and writes; inputs
// are compared when they are used.
func (m *manifest) cases(want manifest, own []work) (map[string]*savedCase, error) {
	fail := func(format string, v ...any) (map[string]*savedCase, error) {
		return nil, fmt.Errorf("%s: %s: it was changed, or made by another version of the suite; export again", manifestFile, fmt.Sprintf(format, v...))
	}
	exported := map[string]*savedCase{}
	for i := range m.Cases {
		c := &m.Cases[i]
		if exported[c.Name] != nil {
			return fail("case %q is there twice", c.Name)
		}
		exported[c.Name] = c
	}
	for _, w := range own {
		c := exported[w.c.Name()]
		if c == nil {
			return fail("case %s is missing, which its selection has", w.c.Name())
		}
		found := *c
		found.Inputs, found.Outputs = nil, nil
		if !sameJSON(found, w.c.saved()) {
			return fail("case %s has other settings here", c.Name)
		}
	}
	if len(own) != len(exported) {
		for _, w := range own {
			delete(exported, w.c.Name())
		}
		return fail("case %q is none of its selection", slices.Min(slices.Collect(maps.Keys(exported))))
	}
	for _, part := range []struct {
		name        string
		found, want any
	}{{"place", m.Place, want.Place}, {"tables", m.Tables, want.Tables}, {"reasons", m.Reasons, want.Reasons}, {"operations", m.Operations, want.Operations}} {
		if !sameJSON(part.found, part.want) {
			return fail("%q is not this suite's", part.name)
		}
	}
	return exported, nil
}

func sameJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// safetensors are open files.
type safetensors struct {
	files map[string]*checkpoint.File
}

func openInputs(fsys fs.FS, exported map[string]*savedCase) (s safetensors, err error) {
	s = safetensors{map[string]*checkpoint.File{}}
	for _, c := range exported {
		for name, t := range c.Inputs {
			if t.File == "" || s.files[t.File] != nil {
				continue
			}
			if path.Dir(t.File) != inputsDir || !fs.ValidPath(t.File) {
				s.close()
				return s, fmt.Errorf("%s: case %s: input %s: file %q is not in %s/", manifestFile, c.Name, name, t.File, inputsDir)
			}
			if s.files[t.File], err = openTensors(fsys, t.File); err != nil {
				delete(s.files, t.File)
				s.close()
				return s, err
			}
		}
	}
	return s, nil
}

func (s safetensors) close() {
	for _, f := range s.files {
		f.Close()
	}
}

// compare says which of a case's inputs in the export is not the one that this suite makes.
func (s safetensors) compare(c *savedCase, in Tensors) error {
	for _, name := range slices.Sorted(maps.Keys(c.Inputs)) {
		if _, ok := in[name]; !ok {
			return fmt.Errorf("%s: case %s: input %q is one too many", manifestFile, c.Name, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		saved, ok := c.Inputs[name]
		var t Tensor
		var err error
		switch {
		case !ok:
			err = errors.New("it is missing")
		case saved.File != "":
			t, err = fromFile(s.files[saved.File], c.Name+":"+name)
		default:
			t, err = saved.tensor()
		}
		if err == nil && (saved.DType != t.DType || !slices.Equal(saved.Shape, t.Shape) || !same(Tensors{name: in[name]}, Tensors{name: t})) {
			err = errors.New("it is not what this version of the suite makes; export again")
		}
		if err != nil {
			return fmt.Errorf("%s: case %s: input %s: %w", manifestFile, c.Name, name, err)
		}
	}
	return nil
}

func readAnswers(fsys fs.FS) (a *answers, err error) {
	a = &answers{safetensors: safetensors{map[string]*checkpoint.File{}}, names: map[string][]string{}, rejected: map[string]bool{}}
	if err := readJSON(fsys, path.Join(answersDir, declareFile), &a.declaration); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: it says who answered, and how it computes", err)
		}
		return nil, err
	}
	if err := a.declaration.check(); err != nil {
		return nil, fmt.Errorf("%s/%s: %w", answersDir, declareFile, err)
	}
	var rejected []string
	if err := readJSON(fsys, path.Join(answersDir, rejectedFile), &rejected); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, name := range rejected {
		if !printable(name) {
			return nil, fmt.Errorf("%s/%s: %q has characters that do not print", answersDir, rejectedFile, name)
		}
		a.rejected[name] = true
	}
	entries, err := fs.ReadDir(fsys, answersDir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, isTensors := strings.CutSuffix(e.Name(), ".safetensors")
		if _, err := Lookup(name); err != nil || !isTensors {
			if e.Name() != declareFile && e.Name() != rejectedFile {
				a.notes = append(a.notes, fmt.Sprintf("%q in %s/ is no operation's answers", e.Name(), answersDir))
			}
			continue
		}
		if err := a.open(fsys, name); err != nil {
			a.close()
			return nil, err
		}
	}
	return a, nil
}

// open opens an operation's answers.
func (a *answers) open(fsys fs.FS, name string) error {
	f, err := openTensors(fsys, path.Join(answersDir, name+".safetensors"))
	if err != nil {
		return err
	}
	a.files[name], a.names[name] = f, f.Names()
	for _, tensor := range a.names[name] {
		if !printable(tensor) {
			return fmt.Errorf("%s: the name of tensor %q has characters that do not print", f.Name, tensor)
		}
	}
	return nil
}

// printable says whether a client's text may stand in a report: a newline in it would write lines of its own.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func (d *declaration) check() error {
	if d.Name == "" {
		return errors.New("name is empty")
	}
	if !printable(d.Name) || !printable(d.Driver) {
		return fmt.Errorf("name %q or driver %q has characters that do not print", d.Name, d.Driver)
	}
	for _, what := range slices.Sorted(maps.Keys(d.NotSupported)) {
		o, short, _ := strings.Cut(what, "/")
		if _, err := Lookup(o); err != nil {
			return fmt.Errorf("not_supported: %w", err)
		}
		if !slices.Contains([]string{"", "f32", "bf16", "f16"}, short) {
			return fmt.Errorf("not_supported: %s: type %q: want f32, bf16 or f16", what, short)
		}
		if d.NotSupported[what] == "" {
			return fmt.Errorf("not_supported: %s: say why", what)
		}
		if !printable(d.NotSupported[what]) {
			return fmt.Errorf("not_supported: %s: %q has characters that do not print", what, d.NotSupported[what])
		}
	}
	return d.Arithmetic.check()
}

// lacks says why an operation is not supported, "" if it is.
func (d *declaration) lacks(o string, t DType) string {
	if why := d.NotSupported[o]; why != "" || t == "" {
		return why
	}
	return d.NotSupported[o+"/"+floats[t].short]
}

// note names answers to what was not asked, and those that the declaration says are not there.
func (a *answers) note(exported map[string]*savedCase) {
	for _, o := range slices.Sorted(maps.Keys(a.names)) {
		unknown, lacking := []string{}, []string{}
		for _, tensor := range a.names[o] {
			c := exported[tensor[:max(0, strings.LastIndexByte(tensor, ':'))]]
			switch {
			case c == nil || c.Op != o:
				unknown = append(unknown, tensor)
			case a.lacks(o, c.DType) != "":
				lacking = append(lacking, tensor)
			}
		}
		a.noteTensors(o, unknown, "answer no case of that operation in the manifest")
		a.noteTensors(o, lacking, "answer what is declared as not supported, and are not judged")
	}
	for _, name := range slices.Sorted(maps.Keys(a.rejected)) {
		if exported[name] == nil {
			a.notes = append(a.notes, fmt.Sprintf("%s/%s: there is no case %s in the manifest", answersDir, rejectedFile, name))
		}
	}
}

func (a *answers) noteTensors(o string, tensors []string, what string) {
	if n := len(tensors); n > 0 {
		a.notes = append(a.notes, fmt.Sprintf("%s/%s.safetensors: %d tensors %s: %s", answersDir, o, n, what, strings.Join(tensors[:min(n, 3)], ", ")))
	}
}

// implementation looks answers up. before sees each case's inputs.
func (a *answers) implementation(before func(c *Case, in Tensors)) *Implementation {
	return &Implementation{
		Name: a.Name, Driver: a.Driver, Arithmetic: op.Arithmetic(a.Arithmetic), Parallel: true,
		Do: func(o *Operation, t DType) (Func, error) {
			if why := a.lacks(o.Name, t); why != "" {
				return nil, errors.New(why)
			}
			return func(c *Case, in Tensors) (Tensors, error) {
				before(c, in)
				return a.find(c)
			}, nil
		},
	}
}

// find gives a case's answer. What cannot be read is no rejection of the input.
func (a *answers) find(c *Case) (Tensors, error) {
	name := c.Name()
	out := Tensors{}
	all := a.names[c.Op]
	at, _ := slices.BinarySearch(all, name+":")
	for _, tensor := range all[at:] {
		output, ok := strings.CutPrefix(tensor, name+":")
		if !ok {
			break
		}
		t, err := fromFile(a.files[c.Op], tensor)
		if err != nil {
			return nil, &broken{err.Error()}
		}
		out[output] = t
	}
	switch {
	case a.rejected[name] && len(out) > 0:
		return nil, &broken{fmt.Sprintf("it is both in %s and in %s.safetensors", rejectedFile, c.Op)}
	case a.rejected[name]:
		return nil, errors.New("it is in " + rejectedFile)
	case len(out) == 0:
		return nil, &broken{fmt.Sprintf("there is no answer: no tensor %q:… in %s/%s.safetensors, and the case is not in %s", name, answersDir, c.Op, rejectedFile)}
	}
	return out, nil
}
