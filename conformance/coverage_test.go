package conformance

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// uncovered are exported functions of ref that no operation is about, with the reason why.
var uncovered = map[string]string{
	"num.DType.String": names, "num.ParseDType": names, "num.DType.Size": "a number of bytes",
	"num.DType.Round": "to_bfloat16 and to_float16", "num.DType.RoundAll": "to_bfloat16 and to_float16",
	"num.ULPDistance": "a measure, which computes no result", "num.Pow": "rope_table", "num.RoPEInvFreq": "rope_table",
	"num.RoPEAngle": "rope_table", "num.PowInt": "adamw_scalars",

	"quant.ParseCodebook": names, "quant.ParseProfile": names, "quant.Codebook.Code": "nf4_quantize and its like",
	"quant.Codebook.Ascending": "nf4_quantize and its like", "quant.Map8.Thresholds": "dynamic_quantize", "quant.CheckBlocksize": checks, "quant.CheckFinite": checks,
	"quant.Tensor.Scales": "nested_dequantize", "quant.Tensor.Bytes": memory, "quant.Options.Bytes": memory,
	"quant.AmbiguousCodes": "judges what CUDA kernels of bitsandbytes may give; it specifies nothing",
	"quant.Explain":        "shows the steps of nf4_quantize", "quant.Float32Entry": "bnb_write", "quant.IsState": names,
	"quant.ReadState": "bnb_read",

	"op.NewPlain": constructor, "op.Fill": "Write, but for devices that only account for memory", "op.Arena.Alloc": memory, "op.Arena.Mark": memory, "op.Mark.Lifetime": memory, "op.Arena.Release": memory,
	"op.Arena.Used": memory, "op.Arena.Peak": memory, "op.Arena.Parts": memory, "op.Arena.Table": memory, "op.Bytes": memory,
	"op.Lifetime.String": names, "op.At.String": names, "op.ParseActivation": names,
	"op.Arithmetic.Exact": "says whether a declaration is empty", "op.Tensor.View": "a part of a tensor",
	"op.Tensor.Len": "a number of elements", "op.Weight.Out": "a number of rows", "op.Weight.In": "a number of columns", "op.NoiseMagnitude": "noise",
	"op.MatMul": "linear", "op.MatMulInput": "linear_backward", "op.MatMulWeight": "linear_backward",

	"lora.Config.Of": "peft_choose", "lora.Config.Check": checks, "lora.New": constructor,
	"lora.Config.Saves": "read by llama alone, which says which tensors are trained",

	"peft.Names.UnmarshalJSON": "adapter_read", "peft.Names.MarshalJSON": "adapter_write",
	"peft.Layers.UnmarshalJSON": "adapter_read", "peft.Pattern.UnmarshalJSON": "adapter_read",
	"peft.Pattern.MarshalJSON": "adapter_write", "peft.Patterns.Check": checks, "peft.Patterns.Ranks": "peft_choose",
	"peft.Patterns.Chosen": "peft_choose",
	"peft.Patterns.Saves":  "read by llama alone, which says which tensors an adapter replaces",
	"peft.Names.Empty":     "says whether a field is there", "peft.Patterns.CheckUsed": "for what a person has typed",

	"op.Choice.Candidates": "choose", "op.Choice.Weights": "choose", "op.Pick": "choose", "optim.NewState8": constructor, "optim.State8.Bytes": memory, "optim.Clip": "clip_scale", "optim.Schedule.Check": checks, "optim.Pager.Used": "pager", "optim.Pager.Room": "pager",
	"op.NewPages": constructor, "op.PagesOf": memory, "op.Page.Here": memory, "op.Pages.New": constructor, "op.Pages.To": files, "op.Pages.With": memory,
	"op.Pages.Ahead": memory, "op.Pages.Close": files, "op.Arena.Keep": memory, "op.State8Bytes": memory,

	"checkpoint.Adapter.Close": files, "checkpoint.Adapter.Float32": "adapter_read", "checkpoint.Saved.Shape": "adapter_read",
	"checkpoint.NewAdapterConfig": constructor, "checkpoint.ParseAdapterConfig": "adapter_read",
	"checkpoint.ParseConfig": "config_shapes", "checkpoint.TokenIDs.UnmarshalJSON": "config_shapes", "checkpoint.Open": files,
	"checkpoint.File.Close": files, "checkpoint.File.Names": "safetensors_read", "checkpoint.File.Has": "safetensors_read", "checkpoint.File.Size": memory,
	"checkpoint.File.Tensor": "safetensors_read", "checkpoint.File.Float32": "safetensors_read",
	"checkpoint.Widen": "safetensors_read", "checkpoint.Narrow": "safetensors_write", "checkpoint.WriteFile": files, "checkpoint.WriteLazy": "safetensors_write",
	"checkpoint.WriteModel": folders, "checkpoint.CopyConfig": folders, "checkpoint.CopyConfigOf": folders, "checkpoint.CopyBesides": folders,
	"checkpoint.OpenModel": folders, "checkpoint.OpenGGUF": files, "checkpoint.GGUF.Close": files,
	"checkpoint.GGUF.Names": "gguf_read", "checkpoint.Model.Close": files, "checkpoint.Model.Forget": memory,
	"checkpoint.Model.InFourBits": folders, "checkpoint.Model.OwnName": names, "checkpoint.Model.Names": folders,
	"checkpoint.Model.Tensor": folders, "checkpoint.Model.Size": memory, "checkpoint.Model.Check": folders,
	"checkpoint.Model.Float32": "gguf_model and safetensors_read", "checkpoint.Model.Quantized": "bnb_read",
}

const (
	names       = "a name, no number"
	checks      = "an error for bad settings, computes nothing"
	constructor = "zeros, or defaults"
	memory      = "counts memory"
	files       = "opens, closes or renames a file"
	folders     = "finds tensors in a folder of files, each of which is another operation"
)

// specified are the packages of ref whose functions are operations; those above them compose these.
var specified = []string{"num", "quant", "op", "lora", "optim", "checkpoint"}

// TestEveryFunctionHasCases: each exported function of the packages that specify is what some operation is Of, or is excused, as are the
// reference device's methods and its checks.
func TestEveryFunctionHasCases(t *testing.T) {
	of := map[string]bool{}
	for _, o := range Operations() {
		of[o.Of] = true
	}
	found := map[string]bool{}
	for _, dir := range append(specified, "lora/peft") {
		for _, name := range exportedNames(t, filepath.Join("..", "ref", dir)) {
			found[name] = true
			if reason, excused := uncovered[name]; of[name] && excused {
				t.Errorf("%s has an operation, yet is excused: %s", name, reason)
			} else if !of[name] && !excused && !strings.HasPrefix(name, "op.Plain.") && !strings.HasPrefix(name, "op.Check") {
				t.Errorf("no operation is about %s", name)
			}
		}
	}
	for _, method := range deviceMethods(t) {
		found["op.Device."+method] = true
	}
	for name := range uncovered {
		if !found[name] {
			t.Errorf("%s is excused, but there is no such function", name)
		}
	}
	for name := range of {
		pkg, _, _ := strings.Cut(name, ".")
		if slices.Contains(specified, pkg) && !found[name] && name != "quant.DynamicSigned" { // a variable
			t.Errorf("an operation is about %s, which there is not", name)
		}
	}
}

// TestEveryMethodOfDeviceHasCases: each method that computes, which is one that says where it stands, is needed by an operation.
func TestEveryMethodOfDeviceHasCases(t *testing.T) {
	needs := map[string]bool{}
	for _, o := range Operations() {
		if o.Device != nil {
			needs[o.Needs] = true
		}
	}
	for _, method := range deviceMethods(t) {
		if !needs[method] {
			t.Errorf("no operation needs op.Device's %s", method)
		}
	}
}

// deviceMethods are those of op.Device whose first parameter is an At.
func deviceMethods(t *testing.T) (names []string) {
	for _, f := range parsed(t, "../ref/op") {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || spec.Name.Name != "Device" {
				return true
			}
			for _, method := range spec.Type.(*ast.InterfaceType).Methods.List {
				params := method.Type.(*ast.FuncType).Params.List
				if len(params) == 0 {
					continue
				}
				if first, ok := params[0].Type.(*ast.Ident); ok && first.Name == "At" {
					names = append(names, method.Names[0].Name)
				}
			}
			return false
		})
	}
	return names
}

// exportedNames lists a package's exported functions and methods, as package.Function or package.Type.Method.
func exportedNames(t *testing.T, dir string) (names []string) {
	for _, f := range parsed(t, dir) {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !fn.Name.IsExported() {
				continue
			}
			name := f.Name.Name + "."
			if fn.Recv != nil {
				receiver := fn.Recv.List[0].Type
				if star, ok := receiver.(*ast.StarExpr); ok {
					receiver = star.X
				}
				id, ok := receiver.(*ast.Ident)
				if !ok || !id.IsExported() {
					continue
				}
				name += id.Name + "."
			}
			names = append(names, name+fn.Name.Name)
		}
	}
	return names
}

func parsed(t *testing.T, dir string) (all []*ast.File) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatal(dir, err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return all
}

// TestCasesAreWellFormed: names are unique and the same at each listing, cases of equal settings and reason are numbered from 1, every
// operation says what it computes and has smoke cases.
func TestCasesAreWellFormed(t *testing.T) {
	seen, operation := map[string]bool{}, map[string]bool{}
	for _, o := range Operations() {
		if operation[o.Name] {
			t.Errorf("there are two operations %s", o.Name)
		}
		operation[o.Name] = true
		if len(o.Formula) < 40 {
			t.Errorf("%s: its formula is %q", o.Name, o.Formula)
		}
		if n := len(o.List(Smoke)); n < 3 {
			t.Errorf("%s: %d cases in smoke", o.Name, n)
		}
		all, again := o.List(Exhaustive), o.List(Exhaustive)
		last := map[string]int{}
		for i, c := range all {
			name := c.Name()
			if seen[name] {
				t.Errorf("two cases are called %s", name)
			}
			seen[name] = true
			if again[i].Name() != name {
				t.Errorf("%s is %s in another listing", name, again[i].Name())
			}
			if key, _, _ := strings.Cut(name, "#"); c.Number != last[key]+1 {
				t.Errorf("%s comes after number %d", name, last[key])
			} else {
				last[key]++
			}
			if strings.ContainsAny(name, " \t\n\"'\\") {
				t.Errorf("%q cannot be typed as one word", name)
			}
		}
		for level := Smoke; level < Exhaustive; level++ {
			if got, want := o.List(level), slices.DeleteFunc(slices.Clone(all), func(c *Case) bool { return c.Level > level }); len(got) != len(want) {
				t.Errorf("%s: %d cases in %v, want %d", o.Name, len(got), level, len(want))
			}
		}
	}
}

// TestReasons: each reason teaches something and has a case. (Maker.Add wants each case's reason to be one.)
func TestReasons(t *testing.T) {
	used := map[string]bool{}
	for _, o := range Operations() {
		for _, c := range o.List(Exhaustive) {
			used[c.Reason] = true
		}
	}
	for name, r := range Reasons {
		if !used[name] {
			t.Errorf("no case has the reason %q", name)
		}
		if len(r.Teaches) < 20 || !strings.HasSuffix(r.Teaches, ".") {
			t.Errorf("%s: %q is no sentence", name, r.Teaches)
		}
	}
}

// TestBadFilesAreRejected: the reference refuses what is there to be refused, and nothing else.
func TestBadFilesAreRejected(t *testing.T) {
	bad := strings.Fields("overlap hole key-twice lying-size truncated trailing not-json missing outside not-computed " +
		"impossible-shape unknown wrong-type too-large not-finite")
	mixed := []string{"storage", "rank-pattern", "layers", "targets"} // both are in them
	for _, o := range Operations() {
		cases := o.List(Quick)
		if o.Device != nil || !slices.ContainsFunc(cases, func(c *Case) bool { return slices.Contains(bad, c.Reason) }) {
			continue
		}
		for _, c := range cases {
			if slices.Contains(mixed, c.Reason) {
				continue
			}
			if _, err := o.Reference(c, c.Inputs()); (err != nil) != slices.Contains(bad, c.Reason) {
				t.Errorf("%s: %v", c.Name(), err)
			}
		}
	}
}
