package mutants

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

var update = flag.Bool("update", false, "look for the first case that finds each mutant, and write README.md")

// hopeless are the mutants that pass no case at all. All others must pass one: what is wrong everywhere teaches little about a suite.
var hopeless = []string{
	"offset added before scaling", "offset forgotten", "8 bits: map in float64", "codes of scales as scales", "no dx asked for",
	"begins within ±√(3/in)", "begins positive", "seven rounds", "uniform in (0, 1]", "normal by the sum of twelve", "philox: keys not moved",
	"no base_model prefix", "adapter's name written", "Q4_0: neighbours share a byte", "Q4_0: offset 7", "Q4_1: minimum scaled",
	"Q8_0: codes without sign", "Q6_K: high bits in order", "Q6_K: one scale for 32", "big-endian float32", "writes a row behind",
	"writes a row before", "relies on zeros", "boasts", "any order", "forgets the moments", "records values", "clears a half",
}

const (
	table   = "| mutant | what is wrong | seen | found, exact, by | found, rounding otherwise, by |\n|---|---|---|---|---|\n"
	allowed = "may be allowed"
)

// A row of README.md says which case finds a mutant that declares itself exact, and which one that declares Generous.
type found struct{ exact, generous string }

// TestMutants judges every mutant by the cases that README.md names. They are the first ones that find it, when -update is given.
func TestMutants(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	head, rows, _ := strings.Cut(string(text), table)
	by := parse(rows)
	var lock sync.Mutex
	t.Run("found", func(t *testing.T) {
		for _, m := range All {
			t.Run(m.Name, func(t *testing.T) {
				t.Parallel()
				if *update {
					passes(t, m)
					f := found{search(t, m, op.Arithmetic{}), allowed}
					if !m.Rounding {
						f.generous = search(t, m, Generous)
					}
					lock.Lock()
					defer lock.Unlock()
					by[m.Name] = f
					return
				}
				judge(t, m, op.Arithmetic{}, by[m.Name].exact)
				if !m.Rounding {
					judge(t, m, Generous, by[m.Name].generous)
				}
			})
		}
	})
	want := head + table + render(by)
	if *update {
		if err := os.WriteFile("README.md", []byte(want), 0o644); err != nil {
			t.Error(err)
		}
	} else if want != string(text) {
		t.Error("README.md is not up to date: go test ./conformance/mutants -run TestMutants -update -timeout 1h")
	}
}

// passes wants a case that the mutant passes.
func passes(t *testing.T, m Mutant) {
	o, err := conformance.Lookup(m.Op)
	if err != nil {
		t.Fatal(err)
	}
	i, err := m.implementation(op.Arithmetic{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(cases(m.Op), func(c *Case) bool { return i.Judge(o, c).Verdict == conformance.Passed }) && !slices.Contains(hopeless, m.Name) {
		t.Error("it passes no case at all")
	}
}

// search gives the first case that finds a mutant.
func search(t *testing.T, m Mutant, a op.Arithmetic) string {
	r, ok, err := m.Kill(conformance.Quick, a)
	switch {
	case err != nil:
		t.Fatal(err)
	case !ok:
		t.Fatalf("no case of %s finds it, declaring %+v", m.Op, a)
	}
	return r.Case.Name()
}

// judge holds a mutant against the case that is to find it.
func judge(t *testing.T, m Mutant, a op.Arithmetic, name string) {
	o, err := conformance.Lookup(m.Op)
	if err != nil {
		t.Fatal(err)
	}
	i, err := m.implementation(a)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases(m.Op) {
		if named := c.Name() == name; named || m.Device != nil { // which may depend on what it did before
			r := i.Judge(o, c)
			if failed := r.Verdict == conformance.Failed; failed != named {
				t.Errorf("%s, declaring %+v: %v %s", c.Name(), a, r.Verdict, r.Detail)
			}
			if named {
				return
			}
		}
	}
	t.Errorf("there is no case %q that finds it, declaring %+v: run with -update", name, a)
}

var (
	listed     = map[string][]*Case{}
	listedLock sync.Mutex
)

// cases are those of an operation.
func cases(operation string) []*Case {
	listedLock.Lock()
	defer listedLock.Unlock()
	if listed[operation] == nil {
		o, err := conformance.Lookup(operation)
		if err != nil {
			panic(err)
		}
		listed[operation] = smokeFirst(o.List(conformance.Quick))
	}
	return listed[operation]
}

func parse(rows string) map[string]found {
	by := map[string]found{}
	for _, row := range strings.Split(rows, "\n") {
		if cells := strings.Split(strings.Trim(row, "| "), " | "); len(cells) == 5 {
			by[cells[0]] = found{strings.Trim(cells[3], "`"), strings.Trim(cells[4], "`")}
		}
	}
	return by
}

func render(by map[string]found) string {
	var b strings.Builder
	code := func(name string) string {
		if name == allowed {
			return name
		}
		return "`" + name + "`"
	}
	for _, m := range All {
		seen := m.Seen
		if seen == "" {
			seen = "–"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", m.Name, m.Bug, seen, code(by[m.Name].exact), code(by[m.Name].generous))
	}
	return b.String()
}

// TestCatalogue looks at what is said of the mutants.
func TestCatalogue(t *testing.T) {
	names := map[string]bool{}
	for _, m := range All {
		if names[m.Name] {
			t.Errorf("two mutants are called %s", m.Name)
		}
		names[m.Name] = true
		if (m.Func == nil) == (m.Device == nil) {
			t.Errorf("%s: want an operation or a device", m.Name)
		}
		if !strings.HasSuffix(m.Bug, ".") || strings.ContainsAny(m.Name+m.Bug+m.Seen, "|\n") {
			t.Errorf("%s: %q, seen %q", m.Name, m.Bug, m.Seen)
		}
	}
}

// honest are the operations in parts of which none is wrong.
var honest = map[string]Func{
	"nf4_quantize": quantizing(quant.NF4, func(*quantizer) {}), "fp4_quantize": quantizing(quant.FP4, func(*quantizer) {}),
	"int4_quantize": quantizing(quant.Int4, func(*quantizer) {}), "e2m1_quantize": quantizing(quant.E2M1, func(*quantizer) {}),
	"nf4_dequantize": dequantizing(quant.NF4, func(*dequantizer) {}), "fp4_dequantize": dequantizing(quant.FP4, func(*dequantizer) {}),
	"int4_dequantize":  dequantizing(quant.Int4, func(*dequantizer) {}),
	"dynamic_quantize": quantizing8(func(*quantizer8) {}), "nested_quantize": nestingWith(func(*nesting) {}),
	"nested_dequantize": unnestingWith(func(*unnesting) {}),
	"linear":            layerWith(func(*layer) {}), "linear_backward": gradientsWith(func(*gradients) {}),
	"lora_linear": loraForward(func(*lora) {}), "lora_linear_backward": loraBackward(func(*lora) {}),
	"lora_merge": mergingWith(func(*merging) {}), "lora_init": beginningWith(func(*beginning) {}),
	"dropout": dropout(func(*dropping) {}), "dropout_backward": dropoutBackward(func(*dropping) {}, joined), "noise": noiseWith(func(*noising) {}),
	"attention": attentionWith(func(*attention) {}), "attention_backward": attentionBackwardWith(func(*attention) {}),
	"cache_append": appending(checkedPosition),
	"rmsnorm":      normWith(func(*norm) {}), "rmsnorm_backward": normBackwardWith(func(*norm) {}),
	"rope": rope(func(*rotation) {}), "rope_backward": ropeBackward(func(*rotation) {}), "rope_table": tables(rightFreq, rightAngle),
	"gate": gateWith(func(*gating) {}), "gate_backward": gateBackwardWith(func(*gating) {}),
	"embedding": embedding(func(*lookup) {}), "embedding_backward": embeddingBackward(func(*lookup) {}),
	"head_loss": headWith(func(*heading) {}), "head_loss_backward": headBackwardWith(func(*heading) {}),
	"adamw": adamW(func(*stepping) {}), "adamw8": adamW8(func(*stepping8) {}), "grad_norm": gradNorm(num.Sum, rightNorm),
	"learning_rate": schedule(optim.Schedule.LR), "clip_scale": clipping(optim.ClipScale), "pager": paging(touched, leaveAtOnce, true),
	"lion":   lion(func(*lionParts) {}),
	"choose": choosingWith(func(*choosing) {}), "penalize": penalizingWith(func(*penalizing) {}), "random_bits": drawing(rightly, nil),
	"gguf_q6_k_dequantize": q6(func(b byte, i int) byte { return b >> (2 * i) & 3 }, func(i, j int) int { return 2*i + j/16 }),
}

// TestHonest judges the operations that mutants are made from, without what is wrong.
func TestHonest(t *testing.T) {
	for name, f := range honest {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, err := conformance.Lookup(name)
			if err != nil {
				t.Fatal(err)
			}
			i := &conformance.Implementation{Do: func(*conformance.Operation, conformance.DType) (Func, error) { return o.Whole(f), nil }}
			list := cases(name)
			smoke := slices.IndexFunc(list, func(c *Case) bool { return c.Level > conformance.Smoke })
			for n, c := range list {
				if n < smoke || n%9 == 0 {
					if r := i.Judge(o, c); r.Verdict != conformance.Passed {
						t.Errorf("%s: %v: %s", c.Name(), r.Verdict, r.Detail)
					}
				}
			}
		})
	}
}
