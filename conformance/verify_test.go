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
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"qlora/ref/checkpoint"
)

// some is a selection with rejected inputs, several types, and tensors in the manifest and beside it.
var some = Selection{Level: Quick, Only: regexp.MustCompile("^(add/.*/n=(1|33|257)|nf4_quantize/.*/bs=64|embedding)/.*#[12]$")}

// exported is an export of some with expected outputs: the same for all tests, of which each has a copy.
func exported(t testing.TB) string {
	t.Helper()
	files, err := exportOnce()
	dir := filepath.Join(t.TempDir(), "export")
	if err := errors.Join(err, os.CopyFS(dir, files)); err != nil {
		t.Fatal(err)
	}
	return dir
}

var exportOnce = sync.OnceValues(func() (fstest.MapFS, error) { return exportFiles(ExportOptions{Selection: some, Expected: true}) })

// exportFiles gives an export's files.
func exportFiles(o ExportOptions) (files fstest.MapFS, err error) {
	parent, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(parent)) }()
	dir := filepath.Join(parent, "export")
	if _, err := Export(context.Background(), dir, o); err != nil {
		return nil, err
	}
	files = fstest.MapFS{}
	return files, fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		files[name] = &fstest.MapFile{Data: b, Mode: 0o644}
		return err
	})
}

// answered is an export that is answered with what was expected.
func answered(t testing.TB, declare string) string {
	t.Helper()
	dir := exported(t)
	if err := os.Rename(filepath.Join(dir, expectedDir), filepath.Join(dir, answersDir)); err != nil {
		t.Fatal(err)
	}
	write(t, dir, answersDir+"/"+declareFile, declare)
	return dir
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestExportIsAnswered(t *testing.T) {
	dir := answered(t, `{"name":"copy","driver":"paper"}`)
	r, err := Verify(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil || len(r.Results) != len(casesOf(some)) || len(r.Notes) > 0 || r.Statement.Device != "copy" || r.Statement.Only != some.Only.String() {
		t.Error(err, len(r.Results), r.Notes, r.Statement)
	}
	rejected := 0
	for _, one := range r.Results {
		if one.Verdict != Passed {
			t.Error(one.Case.Name(), one.Verdict, one.Detail)
		}
		if one.Case.Reason == "not-finite" {
			rejected++
		}
	}
	if rejected == 0 {
		t.Error("no case had to be rejected")
	}
	if r, err = Verify(t.Context(), dir, Options{Selection: Selection{Only: regexp.MustCompile("^add/bf16")}}); err != nil || r.Total == 0 || r.Total >= len(casesOf(some)) {
		t.Error(err, r)
	}
	if _, err = Verify(t.Context(), dir, Options{Selection: Selection{Only: regexp.MustCompile("^rope")}}); !errors.Is(err, ErrNoCase) {
		t.Error(err)
	}
}

// answersOf reads an operation's answers, to change them.
func answersOf(t *testing.T, dir, o string) map[string]Tensor {
	t.Helper()
	f, err := checkpoint.Open(os.DirFS(dir), answersDir+"/"+o+".safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]Tensor{}
	for _, name := range f.Names() {
		if all[name], err = fromFile(f, name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestAnswersAreJudged(t *testing.T) {
	const add, quantize = "add/f32/n=33/random#1", "nf4_quantize/f32/n=64/bs=64/random#1"
	var bad string
	for _, c := range casesOf(some) {
		if c.Reason == "not-finite" {
			bad = c.Name()
		}
	}
	for name, test := range map[string]struct {
		declare string
		change  func(t *testing.T, dir string, add, quantize map[string]Tensor)
		failed  map[string]string // the only cases that may fail
		lacking int
		note    string
	}{
		"nothing": {},
		"one bit": {change: func(t *testing.T, _ string, a, _ map[string]Tensor) { a[add+":y"].F[7] += 1 }, failed: map[string]string{add: "y: 1 of 33 differ, the first at 7"}},
		"an answer is missing": {change: func(t *testing.T, _ string, a, _ map[string]Tensor) { delete(a, add+":y") },
			failed: map[string]string{add: `there is no answer: no tensor "add/f32/n=33/random#1":… in answers/add.safetensors`}},
		"an output is missing": {change: func(t *testing.T, _ string, _, q map[string]Tensor) { delete(q, quantize+":codes") },
			failed: map[string]string{quantize: "it gave [absmax], the outputs are [absmax codes]"}},
		"another type": {change: func(t *testing.T, _ string, a, _ map[string]Tensor) { a[add+":y"] = Ints(make([]int32, 33)) },
			failed: map[string]string{add: "y is I32 [33], want F32 [33]"}},
		"a good input is rejected": {change: func(t *testing.T, dir string, a, _ map[string]Tensor) {
			delete(a, add+":y")
			write(t, dir, "answers/rejected.json", rejectedAnd(t, dir, add))
		}, failed: map[string]string{add: "it rejected a good input"}},
		"rejected and answered": {change: func(t *testing.T, dir string, _, _ map[string]Tensor) {
			write(t, dir, "answers/rejected.json", rejectedAnd(t, dir, add))
		}, failed: map[string]string{add: "it is both in rejected.json and in add.safetensors"}},
		"a bad input is accepted": {change: func(t *testing.T, dir string, _, q map[string]Tensor) {
			q[bad+":codes"] = Bytes(make([]byte, 100))
			var left []string
			for _, name := range rejectedIn(t, dir) {
				if name != bad {
					left = append(left, name)
				}
			}
			write(t, dir, "answers/rejected.json", asJSON(t, left))
		}, failed: map[string]string{bad: "it accepted what must be rejected"}},
		"one type is not supported":     {declare: `{"name":"x","not_supported":{"add/bf16":"no bfloat16"}}`, lacking: count("add/bf16/"), note: "answer what is declared as not supported"},
		"an operation is not supported": {declare: `{"name":"x","not_supported":{"add":"none"}}`, lacking: count("add/"), note: "answer what is declared as not supported"},
		"an unknown case": {change: func(t *testing.T, _ string, a, _ map[string]Tensor) { a["add/f32/n=33/random#99:y"] = a[add+":y"] },
			note: "answers/add.safetensors: 1 tensors answer no case of that operation in the manifest: add/f32/n=33/random#99:y"},
		"an unknown file": {change: func(t *testing.T, dir string, _, _ map[string]Tensor) { write(t, dir, "answers/sub.safetensors", "?") },
			note: `"sub.safetensors" in answers/ is no operation's answers`},
		"an unknown case is rejected": {change: func(t *testing.T, dir string, _, _ map[string]Tensor) {
			write(t, dir, "answers/rejected.json", rejectedAnd(t, dir, "add/none#1"))
		}, note: "there is no case add/none#1"},
		"a bounded device": {declare: `{"name":"x","arithmetic":{"unit":1.1920928955078125e-07}}`, change: func(t *testing.T, _ string, a, q map[string]Tensor) {
			a[add+":y"].F[7] = math.Nextafter32(a[add+":y"].F[7], 9)
			q[quantize+":absmax"].F[0] = math.Nextafter32(q[quantize+":absmax"].F[0], 9)
		}, failed: map[string]string{quantize: "absmax: 1 of 1 differ"}},
	} {
		t.Run(name, func(t *testing.T) {
			if test.declare == "" {
				test.declare = `{"name":"x"}`
			}
			dir := answered(t, test.declare)
			if test.change != nil {
				a, q := answersOf(t, dir, "add"), answersOf(t, dir, "nf4_quantize")
				test.change(t, dir, a, q)
				for name, all := range map[string]map[string]Tensor{"add": a, "nf4_quantize": q} {
					var list []checkpoint.Tensor
					for tensor, v := range all {
						list = append(list, inFile(tensor, v))
					}
					if err := checkpoint.Write(filepath.Join(dir, answersDir, name+".safetensors"), list, nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			r, err := Verify(t.Context(), dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			failures, lacking := map[string]string{}, 0
			for _, one := range r.Results {
				switch one.Verdict {
				case Failed:
					failures[one.Case.Name()] = one.Detail
				case NotSupported:
					lacking++
				}
			}
			if !slices.Equal(slices.Sorted(maps.Keys(failures)), slices.Sorted(maps.Keys(test.failed))) || lacking != test.lacking {
				t.Errorf("failed %v, want %v; not supported %d, want %d", failures, test.failed, lacking, test.lacking)
			}
			for name, want := range test.failed {
				if !strings.Contains(failures[name], want) {
					t.Errorf("%s: %q, want %q", name, failures[name], want)
				}
			}
			if notes := strings.Join(r.Notes, "\n"); test.note == "" != (notes == "") || !strings.Contains(notes, test.note) {
				t.Errorf("notes %q, want %q", notes, test.note)
			}
		})
	}
}

// count is the number of exported cases whose names begin so.
func count(prefix string) (n int) {
	for _, c := range casesOf(some) {
		if strings.HasPrefix(c.Name(), prefix) {
			n++
		}
	}
	return n
}

func rejectedIn(t *testing.T, dir string) (list []string) {
	t.Helper()
	if err := readJSON(os.DirFS(dir), "answers/rejected.json", &list); err != nil {
		t.Fatal(err)
	}
	return list
}

func rejectedAnd(t *testing.T, dir, name string) string {
	return asJSON(t, append(rejectedIn(t, dir), name))
}

func asJSON(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What is wrong with the files is an error that names the file, and the case or tensor.
func TestVerifyRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T, dir string)
		want   []string
	}{
		"no manifest":   {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, manifestFile)) }, []string{"it is no export, for it has no " + manifestFile, "qlora conformance export DIR"}},
		"no JSON":       {func(t *testing.T, dir string) { write(t, dir, manifestFile, "{") }, []string{manifestFile, "unexpected end"}},
		"no version":    {func(t *testing.T, dir string) { write(t, dir, manifestFile, "{}") }, []string{manifestFile, `schema ""`, Schema}},
		"a newer one":   {replace(`"schema":"qlora-conformance/1"`, `"schema":"qlora-conformance/2"`), []string{`"qlora-conformance/2"`}},
		"a field more":  {replace(`"only":`, `"also":1,"only":`), []string{manifestFile, "also"}},
		"another level": {replace(`"level":"quick","only"`, `"level":"smoke","only"`), []string{"is none of its selection"}},
		"a level":       {replace(`"level":"quick","only"`, `"level":"slow","only"`), []string{"slow", "want smoke"}},
		"a case less": {func(t *testing.T, dir string) {
			edit(t, dir, func(s string) string {
				return regexp.MustCompile(`(?m)^\{"name":"add/f32/n=33/random#1".*\n`).ReplaceAllString(s, "")
			})
		}, []string{"case add/f32/n=33/random#1 is missing"}},
		"a case twice":      {replace(`"name":"add/f32/n=33/random#1"`, `"name":"add/f32/n=1/random#1"`), []string{`"add/f32/n=1/random#1" is there twice`}},
		"another parameter": {replace(`"n":33`, `"n":34`), []string{"case add/f32/n=33/random#1 has other settings here"}},
		"another reason":    {replace(`"reason":"random"`, `"reason":"odd"`), []string{"case add/f32/n=1/random#1 has other settings here"}},
		"another type":      {replace(`"dtype":"BF16","params"`, `"dtype":"F16","params"`), []string{"case add/bf16/n=1/random#1 has other settings here"}},
		"another formula":   {replace(`"name":"add","of":"`, `"name":"add","of":"my`), []string{`"operations" is not this suite's`}},
		"another table":     {replace(`"tables":{`, `"tables":{"mine":{"dtype":"U8","shape":[0],"values":[]},`), []string{`"tables" is not this suite's`}},
		"another lesson":    {replace(`"teaches":"`, `"teaches":"not `), []string{`"reasons" is not this suite's`}},
		"another place":     {replace(`"place":{"layer":3`, `"place":{"layer":4`), []string{`"place" is not this suite's`}},
		"an input more": {func(t *testing.T, dir string) {
			edit(t, dir, func(s string) string {
				return regexp.MustCompile(`("name":"add/f32/n=1/random#1".*?"inputs":\{)`).ReplaceAllString(s, `$1"z":{"dtype":"U8","shape":[0],"values":[]},`)
			})
		}, []string{`case add/f32/n=1/random#1: input "z" is one too many`}},
		"another shape of a file": {func(t *testing.T, dir string) {
			edit(t, dir, func(s string) string {
				return regexp.MustCompile(`"shape":\[257\],"file":"inputs/add`).ReplaceAllString(s, `"shape":[1,257],"file":"inputs/add`)
			})
		}, []string{"/n=257/random#1: input a: it is not what this version"}},
		"another value": {func(t *testing.T, dir string) {
			edit(t, dir, func(s string) string {
				return regexp.MustCompile(`("name":"add/f32/n=1/random#1".*?"values":\[)"[^"]*"`).ReplaceAllString(s, `$1"0x1.8p+1"`)
			})
		}, []string{"case add/f32/n=1/random#1: input a", "is not what this version"}},
		"a decimal": {func(t *testing.T, dir string) {
			edit(t, dir, func(s string) string {
				return regexp.MustCompile(`("name":"add/f32/n=1/random#1".*?"values":\[)"[^"]*"`).ReplaceAllString(s, `$1"1.5"`)
			})
		}, []string{"case add/f32/n=1/random#1: input a: value 0", "want it as 0x1.8p+0"}},
		"a path out":         {replace(`"inputs/nf4_quantize.safetensors"`, `"../nf4_quantize.safetensors"`), []string{manifestFile, `"../nf4_quantize.safetensors" is not in inputs/`}},
		"an absolute path":   {replace(`"inputs/nf4_quantize.safetensors"`, `"/etc/passwd"`), []string{`"/etc/passwd" is not in inputs/`}},
		"a path through":     {replace(`"inputs/nf4_quantize.safetensors"`, `"inputs/../../x"`), []string{`is not in inputs/`}},
		"no declaration":     {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "answers", declareFile)) }, []string{"answers/declare.json", "who answered"}},
		"no name":            {declaring(`{}`), []string{"answers/declare.json: name is empty"}},
		"an unknown setting": {declaring(`{"name":"x","arithmetic":{"units":1}}`), []string{"answers/declare.json", "units"}},
		"an impossible unit": {declaring(`{"name":"x","arithmetic":{"unit":0.004}}`), []string{"answers/declare.json: arithmetic: unit is 0.004: want 0 to 0.00390625"}},
		"a negative block":   {declaring(`{"name":"x","arithmetic":{"block":-1}}`), []string{"answers/declare.json: arithmetic: block"}},
		"a line more":        {declaring(`{"name":"x\ndeclares  exact"}`), []string{"answers/declare.json", `"x\ndeclares  exact"`, "do not print"}},
		"a driver's line":    {declaring(`{"name":"x","driver":"\u001b[2J"}`), []string{"answers/declare.json", "do not print"}},
		"a reason's line":    {declaring(`{"name":"x","not_supported":{"add":"no\ntotal"}}`), []string{"answers/declare.json: not_supported: add", "do not print"}},
		"a key twice":        {declaring(`{"name":"x","arithmetic":{"block":1,"unit":0,"block":2}}`), []string{"answers/declare.json", `the key "block" stands there twice`}},
		"a rejected line":    {func(t *testing.T, dir string) { write(t, dir, "answers/rejected.json", `["a\nb"]`) }, []string{"answers/rejected.json", "do not print"}},
		"a tensor's line": {func(t *testing.T, dir string) {
			if err := checkpoint.Write(filepath.Join(dir, "answers/add.safetensors"), []checkpoint.Tensor{inFile("a\nb", Bytes([]byte{1}))}, nil); err != nil {
				t.Fatal(err)
			}
		}, []string{"answers/add.safetensors", `"a\nb"`, "do not print"}},
		"a folder of answers": {func(t *testing.T, dir string) { os.Mkdir(filepath.Join(dir, "answers/gate.safetensors"), 0o755) },
			[]string{"answers/gate.safetensors: want a regular file"}},
		"an unknown operation": {declaring(`{"name":"x","not_supported":{"adds":"no"}}`), []string{"answers/declare.json", `"adds"`}},
		"an unknown type":      {declaring(`{"name":"x","not_supported":{"add/f64":"no"}}`), []string{"add/f64", "want f32, bf16 or f16"}},
		"no why":               {declaring(`{"name":"x","not_supported":{"add":""}}`), []string{"add: say why"}},
		"rejected of a kind":   {func(t *testing.T, dir string) { write(t, dir, "answers/rejected.json", `{"a":1}`) }, []string{"answers/rejected.json"}},
		"truncated answers":    {func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, "answers/add.safetensors"), 100) }, []string{"answers/add.safetensors", "truncated"}},
		"truncated inputs": {func(t *testing.T, dir string) {
			os.Truncate(filepath.Join(dir, "inputs/nf4_quantize.safetensors"), 100)
		},
			[]string{"inputs/nf4_quantize.safetensors", "truncated"}},
		"no inputs": {func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "inputs")) }, []string{"inputs/"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := answered(t, `{"name":"x"}`)
			test.change(t, dir)
			r, err := Verify(t.Context(), dir, Options{})
			if err == nil {
				t.Fatalf("it was judged: %v", r.Err())
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
			}
		})
	}
}

func edit(t *testing.T, dir string, f func(string) string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		t.Fatal(err)
	}
	s := f(string(b))
	if s == string(b) {
		t.Fatal("nothing was replaced")
	}
	write(t, dir, manifestFile, s)
}

func replace(old, new string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		edit(t, dir, func(s string) string { return strings.ReplaceAll(s, old, new) })
	}
}

func declaring(text string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { write(t, dir, "answers/"+declareFile, text) }
}

// What is no regular file is not opened: a pipe would be waited for.
func TestRegular(t *testing.T) {
	fsys := fstest.MapFS{"a.safetensors": {Mode: fs.ModeNamedPipe}, manifestFile: {Mode: fs.ModeDevice}}
	if _, err := openTensors(fsys, "a.safetensors"); err == nil || err.Error() != "a.safetensors: want a regular file" {
		t.Error(err)
	}
	if _, err := readManifest(fsys); err == nil || err.Error() != manifestFile+": want a regular file" {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "export.zip")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), file, Options{}); err == nil || !strings.Contains(err.Error(), "unpacked") {
		t.Error(err)
	}
}

// An answer that no memory holds fails its case; a file with holes claims it for nothing.
func TestHugeAnswer(t *testing.T) {
	dir := answered(t, `{"name":"x"}`)
	const c, size = "add/f32/n=33/random#1", 200 << 30
	name := filepath.Join(dir, answersDir, "add.safetensors")
	write(t, dir, "answers/add.safetensors", string(rawFile(fmt.Sprintf(`{"%s:y":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}`, c, size/4, size))))
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, info.Size()+size); err != nil {
		return // a system without holes
	}
	r, err := Verify(t.Context(), dir, Options{Selection: Selection{Only: regexp.MustCompile("^" + c + "$")}})
	if err != nil {
		t.Fatal(err)
	}
	if one := r.Results[0]; one.Verdict != Failed || !strings.Contains(one.Detail, "answers/add.safetensors: tensor "+c+":y has 214748364800 bytes") {
		t.Error(one.Verdict, one.Detail)
	}
}

// A link does not lead out of the folder.
func TestVerifyStaysInside(t *testing.T) {
	dir := answered(t, `{"name":"x"}`)
	outside := filepath.Join(t.TempDir(), "add.safetensors")
	inside := filepath.Join(dir, "answers/add.safetensors")
	if err := os.Rename(inside, outside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, inside); err != nil {
		return // a system, or a user, without links
	}
	if _, err := Verify(t.Context(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "add.safetensors") {
		t.Error(err)
	}
}

// An export whose cases must be rejected looks like any other: the same outputs are asked for.
func TestExportTellsNothing(t *testing.T) {
	m, err := readManifest(os.DirFS(exported(t)))
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]bool{}
	for _, c := range m.Cases {
		if c.Op == "nf4_quantize" {
			n, _ := json.Number(c.Params["n"]).Int64()
			blocks := (n + 63) / 64
			if c.Param("bs") == "64" && (!slices.Equal(c.Outputs["codes"].Shape, []int{int(n+1) / 2}) || !slices.Equal(c.Outputs["absmax"].Shape, []int{int(blocks)})) {
				t.Error(c.Name, c.Outputs)
			}
			asked[c.Reason] = true
		}
	}
	if !asked["not-finite"] || !asked["random"] {
		t.Error(asked)
	}
}

func (c savedCase) Param(name string) string { return string(c.Params[name]) }

// Two exports have the same bytes, as folders and as archives.
func TestExportTwice(t *testing.T) {
	a, err := exportOnce()
	if err != nil {
		t.Fatal(err)
	}
	b, err := exportFiles(ExportOptions{Selection: some, Expected: true})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, b, a)
	dir := exported(t)
	var zips [2]bytes.Buffer
	for i := range zips {
		if err := archive(&zips[i], dir); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(zips[0].Bytes(), zips[1].Bytes()) {
		t.Error("the archives differ")
	}
	if _, err := Export(t.Context(), dir, ExportOptions{Selection: some}); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Error(err)
	}
	if _, err := Export(t.Context(), dir+"2", ExportOptions{Selection: Selection{Level: Exhaustive}}); err == nil {
		t.Error("all inputs that there are were written")
	}
}

// equal compares files by their names.
func equal(t *testing.T, got, want fstest.MapFS) {
	t.Helper()
	for name := range got {
		if want[name] == nil {
			t.Errorf("%s is one too many", name)
		}
	}
	for name := range want {
		if got[name] == nil || !bytes.Equal(got[name].Data, want[name].Data) {
			t.Errorf("%s differs", name)
		}
	}
}

// archived is what smoke.zip holds.
var archived = ExportOptions{Selection: Selection{Level: Smoke, MaxElements: 1000}, Expected: true}

// TestBytesOfArchive holds the committed archive against what Export writes: the files in it, for compressors differ.
func TestBytesOfArchive(t *testing.T) {
	z, err := zip.OpenReader("smoke.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	got := fstest.MapFS{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			t.Fatal(f.Name, err)
		}
		got[f.Name] = &fstest.MapFile{Data: b}
	}
	want, err := exportFiles(archived)
	if err != nil {
		t.Fatal(err)
	}
	if equal(t, got, want); t.Failed() {
		t.Log("the cases have changed: make smoke.zip again, as README.md says")
	}
}

// TestHexText: the text of every value is that value, in Go and in C's and Python's readers, which take 0x1.8p-3.
func TestHexText(t *testing.T) {
	for v, want := range map[float32]string{0: "0x0p+0", 1: "0x1p+0", -1.5: "-0x1.8p+0", 0.1875: "0x1.8p-3", 0x1p-149: "0x1p-149", math.MaxFloat32: "0x1.fffffep+127", 1024: "0x1p+10",
		float32(math.Inf(1)): "inf", float32(math.Inf(-1)): "-inf", float32(math.Copysign(0, -1)): "0x0p+0"} {
		if got := hexText(v); got != want && got != "-"+want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	if hexText(float32(math.Copysign(0, -1))) != "-0x0p+0" || hexText(float32(math.NaN())) != "nan" {
		t.Error("−0 or NaN")
	}
	x := newRandom("hex").bits(1000)
	for _, want := range []Tensor{Floats(F32, x), Floats(BF16, x, 10, 100), Ints([]int32{math.MinInt32, -1, 0, math.MaxInt32}), Bytes([]byte{0, 255}), Floats(F32, nil, 3, 0)} {
		got, err := inManifest(want).tensor()
		if err != nil || !same(Tensors{"": got}, Tensors{"": want}) {
			t.Error(err, want.DType)
		}
	}
}

// TestClient runs the worked example, where there is a Python, on an export, and judges its answers.
func TestClient(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Log("no python3 here: the example is not run")
		return
	}
	dir := filepath.Join(t.TempDir(), "export")
	s := Selection{Level: Quick, Only: regexp.MustCompile("^(nf4_quantize|nf4_dequantize|fp4_quantize|dynamic_quantize|linear)/(bf16/)?(m=3/|n=(96|200|300)/)"), MaxElements: 500}
	if _, err := Export(t.Context(), dir, ExportOptions{Selection: s}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), python, "example/client.py", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r, err := Verify(t.Context(), dir, Options{Require: []string{"nf4_quantize", "nf4_dequantize", "linear"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil || len(r.Notes) > 0 {
		var b bytes.Buffer
		t.Error(err, r.Print(&b), b.String())
	}
}

// FuzzManifest: no bytes make the reader panic, and no inputs but the suite's own are taken.
func FuzzManifest(f *testing.F) {
	files, err := exportOnce()
	if err != nil {
		f.Fatal(err)
	}
	c := casesOf(Selection{Level: Smoke, Only: regexp.MustCompile("^add/f32/n=33/random#1$")})[0]
	in := c.Inputs()
	f.Add(files[manifestFile].Data[:2000])
	for _, input := range []string{`"values":["0x1p+0"]`, `"file":"inputs/add.safetensors"`, `"file":"../add"`, `"values":[1]`} {
		f.Add([]byte(`{"schema":"qlora-conformance/1","level":"smoke","only":"","max_elements":0,"place":{"layer":3,"name":""},"tables":{},"reasons":{},"operations":[],` +
			`"cases":[{"name":"add/f32/n=33/random#1","op":"add","params":{},"reason":"random","level":"smoke","inputs":{"a":{"dtype":"F32","shape":[1],` + input + `}}}]}`))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fsys := fstest.MapFS{manifestFile: {Data: b}, inputsDir + "/add.safetensors": {Data: []byte("\x02\x00\x00\x00\x00\x00\x00\x00{}")}}
		m, err := readManifest(fsys)
		if err != nil {
			return
		}
		exported := map[string]*savedCase{}
		for i := range m.Cases {
			exported[m.Cases[i].Name] = &m.Cases[i]
		}
		inputs, err := openInputs(fsys, exported)
		if err != nil {
			return
		}
		defer inputs.close()
		for _, c := range exported {
			if err := inputs.compare(c, in); err == nil {
				t.Errorf("%s has the inputs of another case", c.Name)
			}
		}
	})
}

// FuzzAnswers: nothing that a client leaves behind makes the reader panic, and what it reads is whole.
func FuzzAnswers(f *testing.F) {
	files, err := exportOnce()
	if err != nil {
		f.Fatal(err)
	}
	list := casesOf(Selection{Level: Smoke, Only: regexp.MustCompile("^embedding/")})
	f.Add(files[expectedDir+"/embedding.safetensors"].Data[:300], []byte(`{"name":"x","arithmetic":{"unit":1e-7},"not_supported":{"add":"no"}}`), files[expectedDir+"/"+rejectedFile].Data)
	for _, tensor := range []string{`{"dtype":"F64","shape":[0],"data_offsets":[0,0]}`, `{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}`} {
		header := fmt.Sprintf("%-128s", `{"`+list[0].Name()+`:y":`+tensor+`}`)
		f.Add([]byte("\x80\x00\x00\x00\x00\x00\x00\x00"+header+"abcd"), []byte(`{"name":"x"}`), []byte(`["`+list[0].Name()+`"]`))
	}
	f.Fuzz(func(t *testing.T, tensors, declare, rejected []byte) {
		a, err := readAnswers(fstest.MapFS{answersDir + "/embedding.safetensors": {Data: tensors}, answersDir + "/" + declareFile: {Data: declare},
			answersDir + "/" + rejectedFile: {Data: rejected}})
		if err != nil {
			return
		}
		defer a.close()
		a.note(map[string]*savedCase{})
		for _, c := range list[:2] {
			out, err := a.find(c)
			if err == nil && len(out) == 0 {
				t.Error("nothing was found, and no error")
			}
			for name, x := range out {
				if err := x.whole(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	})
}
