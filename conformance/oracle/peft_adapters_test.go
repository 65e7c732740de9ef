package oracle

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/lora/peft"
	"qlora/ref/num"
	"qlora/ref/op"
)

var writeAdapters = flag.String("write-adapters", "", "folder for the adapters that TestAdapters has read and written again")

// TestAdapters holds adapters of every kind that PEFT writes against what PEFT computes with them: logits, loss and gradients
// within TestLlama's bound. Read and written again, their tensors have the same bytes and their configurations mean the same.
func TestAdapters(t *testing.T) {
	folders, err := filepath.Glob("vectors/adapters/*/adapter_config.json")
	if err != nil || len(folders) == 0 {
		t.Fatal("no vectors", err)
	}
	again := *writeAdapters
	if again == "" {
		again = t.TempDir()
	}
	for _, config := range folders {
		dir := filepath.Dir(config)
		name := filepath.Base(dir)
		t.Run(name, func(t *testing.T) {
			checkPEFTAdapter(t, dir, filepath.Join("vectors/architectures", name[:strings.LastIndexByte(name, '.')]))
			checkAgain(t, dir, filepath.Join(again, name))
		})
	}
}

func checkPEFTAdapter(t *testing.T, dir, baseDir string) {
	base, err := checkpoint.OpenModel(os.DirFS(baseDir))
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	c, err := llama.ConfigOf(base.Config)
	if err != nil {
		t.Fatal(err)
	}
	f, err := checkpoint.Open(os.DirFS(dir), "expected.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, d := vectors{t, f}, op.NewPlain(0)
	m, err := llama.New(d, c, llama.Options{Adapter: openAdapter(t, dir)}, base)
	if err != nil {
		t.Fatal(err)
	}
	report := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	u := float64(c.NumHiddenLayers) * 512 / (1 << 24)
	ids := v.ints("ids")
	loss, counted := backward(d, m, ids, v.ints("labels"))
	report("loss", within([]float32{num.Sum(read(t, d, loss)) / counted}, v.floats("loss"), u))
	report("logits", within(read(t, d, m.Logits(m.NewCache(len(ids)), ids)), v.floats("logits"), u))
	for module, a := range m.Adapters() {
		report(module+" lora_A", within(read(t, d, a.GradA), v.floats("gradient/"+module+".lora_A.weight"), u))
		report(module+" lora_B", within(read(t, d, a.GradB), v.floats("gradient/"+module+".lora_B.weight"), u))
	}
	for _, name := range f.Names() {
		module, ok := strings.CutSuffix(strings.TrimPrefix(name, "gradient/"), ".lora_A.weight")
		if ok && m.Adapters()[module] == nil {
			t.Errorf("PEFT adapts %s, we do not", module)
		}
	}
}

func openAdapter(t *testing.T, dir string) checkpoint.Adapter {
	t.Helper()
	a, err := checkpoint.OpenAdapter(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// checkAgain writes an adapter that was read and compares the files.
func checkAgain(t *testing.T, dir, again string) {
	if err := os.MkdirAll(again, 0o755); err != nil {
		t.Fatal(err)
	}
	a := openAdapter(t, dir)
	if err := checkpoint.WriteAdapter(again, a); err != nil {
		t.Fatal(err)
	}
	if b := openAdapter(t, again); !reflect.DeepEqual(a.Config, b.Config) {
		t.Errorf("the configuration comes back as %+v, was %+v", b.Config, a.Config)
	}
	old, written := adapterFile(t, dir), adapterFile(t, again)
	if len(old.Names()) != len(written.Names()) {
		t.Errorf("%d tensors come back as %d", len(old.Names()), len(written.Names()))
	}
	for _, name := range old.Names() {
		want, err := old.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := written.Tensor(strings.Replace(name, ".default.", ".", 1))
		if err != nil || got.DType != want.DType || !reflect.DeepEqual(got.Shape, want.Shape) || !bytes.Equal(got.Bytes, want.Bytes) {
			t.Errorf("tensor %s comes back otherwise: %v", name, err)
		}
	}
}

func adapterFile(t *testing.T, dir string) *checkpoint.File {
	t.Helper()
	f, err := checkpoint.Open(os.DirFS(dir), "adapter_model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestPatterns holds the choice of modules, ranks and α against PEFT's functions. What Go cannot evaluate is an error that says so.
func TestPatterns(t *testing.T) {
	b, err := os.ReadFile("vectors/adapters/patterns.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Modules []string
		Cases   []struct {
			Config  json.RawMessage
			Adapted map[string][2]float64
		}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, c := range v.Cases {
		config, err := checkpoint.ParseAdapterConfig(c.Config)
		if err != nil {
			t.Errorf("%s: %v", c.Config, err)
			continue
		}
		got, err := config.Choose(v.Modules)
		if errors.Is(err, peft.ErrPython) {
			refused++
			continue
		}
		want := map[string]peft.Rank{}
		for m, r := range c.Adapted {
			want[m] = peft.Rank{R: int(r[0]), Alpha: r[1]}
		}
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: %v, %v; PEFT has %v", c.Config, got, err, want)
		}
	}
	if refused != 16 {
		t.Errorf("%d of %d configurations were refused as Python's, want the last 16", refused, len(v.Cases))
	}
}
