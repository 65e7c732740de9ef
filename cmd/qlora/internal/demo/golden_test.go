package demo_test

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/demo"
	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
)

// golden is what llama2.c computes with the model, in float32: the logits of a prompt, written with six digits.
type golden struct {
	Tokens    []int32
	Positions []struct {
		Logits []float64
		NLL    float64 `json:"nll_next"`
	}
}

func load(t *testing.T) (*base.Base, *llama.Model, op.Device) {
	t.Helper()
	b, err := base.Open(demo.Name)
	if err != nil {
		t.Fatal(err)
	}
	d := op.NewPlain(0)
	m, err := b.Load(d, llama.Options{Compute: num.Float32})
	if err != nil {
		t.Fatal(err)
	}
	return b, m, d
}

func readGolden(t *testing.T) (g golden) {
	t.Helper()
	b, err := os.ReadFile("testdata/logits_prompt.json")
	if err == nil {
		err = json.Unmarshal(b, &g)
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestLogitsOfLlama2c(t *testing.T) {
	_, m, d := load(t)
	g := readGolden(t)
	got, err := d.Read(m.Logits(m.NewCache(len(g.Tokens)), g.Tokens))
	if err != nil {
		t.Fatal(err)
	}
	worst := 0.0
	for i, p := range g.Positions {
		for j, want := range p.Logits {
			worst = max(worst, math.Abs(float64(got[i*m.VocabSize+j])-want))
		}
	}
	t.Logf("largest difference %.2g", worst)
	if !(worst <= 1e-4) {
		t.Errorf("a logit differs by %g, want at most 1e-4", worst)
	}
}

// The file ends in the newline that the program prints after the text.
func TestGreedyTextOfLlama2c(t *testing.T) {
	b, m, _ := load(t)
	want, err := os.ReadFile("testdata/greedy200.txt")
	if err != nil {
		t.Fatal(err)
	}
	var ids []int32
	err = m.Generate([]int32{b.Tokenizer.Start()}, 200, llama.Sampling{}, func(id int32) bool {
		ids = append(ids, id)
		return len(ids) < 200
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Tokenizer.Decode(ids) + "\n"; got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTokensOfLlama2c(t *testing.T) {
	b, _, _ := load(t)
	g := readGolden(t)
	text := b.Tokenizer.Decode(g.Tokens)
	if got := b.Tokenizer.Encode(text); !slices.Equal(got, g.Tokens[1:]) {
		t.Errorf("%q becomes %v, want %v", text, got, g.Tokens[1:])
	}
}
