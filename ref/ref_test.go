package ref_test

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// exactMath is what package math computes with the same bits on every architecture.
var exactMath = map[string]bool{
	"Abs": true, "Ceil": true, "Copysign": true, "FMA": true, "Float32bits": true, "Float32frombits": true, "Float64bits": true,
	"Float64frombits": true, "Floor": true, "Inf": true, "IsInf": true, "IsNaN": true, "NaN": true, "Nextafter32": true, "RoundToEven": true,
	"Signbit": true, "Sqrt": true, "Trunc": true,
}

// forbiddenImports would let in concurrency, unsafe memory, other people's random numbers, or the network.
var forbiddenImports = []string{"unsafe", "sync", "sync/atomic", "math/rand", "math/rand/v2", "math/cmplx", "C", "net", "os/exec", "plugin"}

func TestRulesOfThisFolder(t *testing.T) {
	for dir, files := range packages(t) {
		fset := token.NewFileSet()
		var parsed []*ast.File
		for _, name := range files {
			f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			parsed = append(parsed, f)
		}
		for _, problem := range violations(t, fset, dir, parsed) {
			t.Error(problem)
		}
	}
}

// TestRulesAreChecked shows that each rule can fail.
func TestRulesAreChecked(t *testing.T) {
	for name, source := range map[string]string{
		"product":          "package p; func f(a, b, c float32) float32 { return a*b + c }",
		"float64 product":  "package p; func f(a, b float64) float64 { return a * b }",
		"product in place": "package p; func f(a, b float32) float32 { a *= b; return a }",
		"math function":    "package p; import \"math\"; func f(a float64) float64 { return math.Exp(a) }",
		"goroutine":        "package p; func f() { go f() }",
		"import":           "package p; import _ \"unsafe\"",
	} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, source, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(violations(t, fset, "p", []*ast.File{f})) == 0 {
			t.Errorf("%s: not found in %s", name, source)
		}
	}
}

// packages lists the Go files, tests aside, of every folder below this one.
func packages(t *testing.T) map[string][]string {
	all := map[string][]string{}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			all[filepath.Dir(path)] = append(all[filepath.Dir(path)], path)
		} else if strings.HasSuffix(path, ".s") {
			t.Errorf("%s: assembly in ref", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func violations(t *testing.T, fset *token.FileSet, path string, files []*ast.File) (problems []string) {
	report := func(n ast.Node, what string) {
		problems = append(problems, fset.Position(n.Pos()).String()+": "+what)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: importer.ForCompiler(fset, "source", nil)}
	if _, err := conf.Check(path, fset, files, info); err != nil {
		t.Fatal(err)
	}
	isFloat := func(e ast.Expr) bool {
		tv := info.Types[e]
		if tv.Type == nil {
			return false
		}
		basic, ok := tv.Type.Underlying().(*types.Basic)
		return ok && basic.Info()&(types.IsFloat|types.IsComplex) != 0 && tv.Value == nil
	}
	wrapped := map[ast.Expr]bool{}
	for _, f := range files {
		for _, im := range f.Imports {
			if name, _ := strconv.Unquote(im.Path.Value); !allowedImport(name) {
				report(im, "import of "+name)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if tv := info.Types[n.Fun]; tv.IsType() && len(n.Args) == 1 {
					wrapped[ast.Unparen(n.Args[0])] = true
				}
			case *ast.BinaryExpr:
				if n.Op == token.MUL && isFloat(n) && !wrapped[n] {
					report(n, "a float product that is not wrapped in a conversion")
				}
			case *ast.AssignStmt:
				if n.Tok == token.MUL_ASSIGN && isFloat(n.Lhs[0]) {
					report(n, "a float product that is not wrapped in a conversion")
				}
			case *ast.SelectorExpr:
				if f, ok := info.Uses[n.Sel].(*types.Func); ok && f.Pkg() != nil && f.Pkg().Path() == "math" && !exactMath[f.Name()] {
					report(n, "math."+f.Name()+", whose bits depend on the architecture")
				}
			case *ast.GoStmt:
				report(n, "a goroutine")
			}
			return true
		})
	}
	return problems
}

func allowedImport(name string) bool {
	if slices.Contains(forbiddenImports, name) {
		return false
	}
	first, _, _ := strings.Cut(name, "/")
	return !strings.Contains(first, ".") && first != "qlora" || strings.HasPrefix(name, "qlora/ref/") || name == "github.com/x448/float16"
}

// TestWhoImportsWhom holds the module's parts to their order: kernels import nothing of ours, ref only ref, conformance only
// ref, and nothing but the program imports the program. Devices are tested by the suite.
func TestWhoImportsWhom(t *testing.T) {
	allowed := map[string][]string{
		"ref": {"ref"}, "shaders": {"shaders"}, "cuda": {"cuda"},
		"accel": {"accel", "ref", "shaders", "cuda"}, "conformance": {"conformance", "ref"},
		"cmd": {"cmd", "accel", "ref", "shaders", "cuda", "conformance"},
	}
	for part, may := range allowed {
		root := filepath.Join("..", part)
		if _, err := os.Stat(root); err != nil {
			continue // a part that does not exist yet imports nothing
		}
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, im := range f.Imports {
				if to, ours := strings.CutPrefix(strings.Trim(im.Path.Value, `"`), "qlora/"); ours {
					first, _, _ := strings.Cut(to, "/")
					judged := part == "accel" && first == "conformance" && strings.HasSuffix(path, "_test.go")
					if !slices.Contains(may, first) && !judged {
						t.Errorf("%s imports qlora/%s", path, to)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
