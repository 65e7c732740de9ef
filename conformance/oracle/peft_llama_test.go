package oracle

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
)

// within reports the largest distance, which may be u relative to the largest value.
func within(got, want []float32, u float64) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d values, want %d", len(got), len(want))
	}
	largest, worst := 0.0, 0.0
	for i, w := range want {
		largest = max(largest, math.Abs(float64(w)))
		worst = max(worst, math.Abs(float64(got[i])-float64(w)))
	}
	if !(worst <= u*largest) {
		return fmt.Errorf("a distance of %.3g, %.2g of the largest value; want at most %.2g", worst, worst/largest, u)
	}
	return nil
}

// TestLlama holds logits, loss and gradients against transformers. Its gradients are those of the weights W; an adapter's
// follow from them. With B = 0, dB = s·dW·Aᵀ; with A = 0, dA = s·Bᵀ·dW. The libraries add
// in other orders: each layer adds at most 512 roundings, the longest sum, to what comes through it.
func TestLlama(t *testing.T) {
	for name, c := range map[string]llama.Config{
		"llama_demo": {HiddenSize: 64, IntermediateSize: 172, NumHiddenLayers: 5, NumAttentionHeads: 8, NumKeyValueHeads: 4, HeadDim: 8,
			VocabSize: 512, MaxPositionEmbeddings: 512, RMSNormEps: 1e-5, RoPETheta: 10000, TieWordEmbeddings: true},
		"llama_tiny": {HiddenSize: 24, IntermediateSize: 40, NumHiddenLayers: 2, NumAttentionHeads: 6, NumKeyValueHeads: 2, HeadDim: 8,
			VocabSize: 50, MaxPositionEmbeddings: 32, RMSNormEps: 1e-5, RoPETheta: 10000},
	} {
		var description any
		v := open(t, name, &description)
		weights := func(key string, _ []int) ([]float32, error) {
			x, _, err := v.Float32("weight/" + key)
			return x, err
		}
		if name == "llama_demo" {
			f, err := checkpoint.Open(os.DirFS("../../cmd/qlora/internal/demo/stories260k"), "model.safetensors")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			weights = func(key string, _ []int) ([]float32, error) {
				x, _, err := f.Float32(key)
				return x, err
			}
		}
		for _, zeroA := range []bool{false, true} {
			checkLlama(t, name, v, c, weights, zeroA, float64(c.NumHiddenLayers)*512/(1<<24))
		}
	}
}

func checkLlama(t *testing.T, name string, v vectors, c llama.Config, weights func(string, []int) ([]float32, error), zeroA bool, u float64) {
	d := op.NewPlain(0)
	m, err := llama.New(d, c, llama.Options{LoRA: &lora.Config{R: 4, Alpha: 6}}, llama.WeightsFunc(weights))
	if err != nil {
		t.Fatal(err)
	}
	for module, a := range m.Adapters() {
		if zeroA {
			d.Zero(a.A)
			d.Write(a.B, normal(module, a.B.Len()))
		}
	}
	ids := v.ints("ids")
	loss, counted := backward(d, m, ids, v.ints("labels"))
	report := func(what string, err error) {
		if err != nil {
			t.Errorf("%s, %s: %v", name, what, err)
		}
	}
	report("loss", within([]float32{num.Sum(read(t, d, loss)) / counted}, v.floats("loss"), u))
	report("logits", within(read(t, d, m.Logits(m.NewCache(len(ids)), ids)), v.floats("logits"), u))
	for module, a := range m.Adapters() {
		dw := v.floats("gradient/" + module + ".weight")
		out, in := a.B.Rows, a.A.Cols
		if zeroA {
			report(module+" lora_A", within(read(t, d, a.GradA), gradA(read(t, d, a.B), dw, out, in), u))
		} else {
			report(module+" lora_B", within(read(t, d, a.GradB), gradB(read(t, d, a.A), dw, out, in), u))
		}
	}
}

// gradA is s·Bᵀ·dW and gradB s·dW·Aᵀ, in float64, s = 6/4.
func gradA(b, dw []float32, out, in int) []float32 {
	g := make([]float32, 4*in)
	for r := range 4 {
		for i := range in {
			sum := 0.0
			for o := range out {
				sum += float64(b[o*4+r]) * float64(dw[o*in+i])
			}
			g[r*in+i] = float32(1.5 * sum)
		}
	}
	return g
}

func gradB(a, dw []float32, out, in int) []float32 {
	g := make([]float32, out*4)
	for o := range out {
		for r := range 4 {
			sum := 0.0
			for i := range in {
				sum += float64(a[r*in+i]) * float64(dw[o*in+i])
			}
			g[o*4+r] = float32(1.5 * sum)
		}
	}
	return g
}

func normal(purpose string, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = num.Normal(1, num.Counter{Purpose: num.Purpose(purpose), Element: uint64(i)})
	}
	return x
}

func read(t *testing.T, d op.Device, x *op.Tensor) []float32 {
	t.Helper()
	v, err := d.Read(x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// ints reads a tensor of I32.
func (v vectors) ints(name string) []int32 {
	v.t.Helper()
	b := v.bytes(name)
	x := make([]int32, len(b)/4)
	for i := range x {
		x[i] = int32(b[4*i]) | int32(b[4*i+1])<<8 | int32(b[4*i+2])<<16 | int32(b[4*i+3])<<24
	}
	return x
}

// TestPEFT holds a linear layer with an adapter against PEFT in its modes. In float32 the orders of the sums differ, in
// bfloat16 a sum near a rounding boundary goes to either side: one unit of bfloat16 is 2^-8, and two roundings may follow.
func TestPEFT(t *testing.T) {
	var description any
	v := open(t, "peft_lora", &description)
	const tokens, out, in, rank = 11, 20, 30, 4
	for mode, c := range map[string]struct {
		compute num.DType
		branch  bool // in float32
		u       float64
	}{
		"float32":                  {num.Float32, true, 64.0 / (1 << 24)},
		"bfloat16, float32 branch": {num.BFloat16, true, 2.0 / (1 << 8)},
		"bfloat16":                 {num.BFloat16, false, 2.0 / (1 << 8)},
	} {
		d := op.NewPlain(0)
		tensor := func(part string, t num.DType, rows, cols int) *op.Tensor {
			x := d.New(op.Run, part, t, rows, cols)
			if !strings.HasPrefix(part, "zero") {
				d.Write(x, v.floats(mode+"/"+part))
			}
			return x
		}
		branch := c.compute
		if c.branch {
			branch = num.Float32
		}
		x, w, dy := tensor("x", c.compute, tokens, in), op.Weight{Dense: tensor("w", c.compute, out, in)}, tensor("dy", c.compute, tokens, out)
		a := &op.Adapter{A: tensor("a", num.Float32, rank, in), B: tensor("b", num.Float32, out, rank),
			GradA: tensor("zero", num.Float32, rank, in), GradB: tensor("zero", num.Float32, out, rank), Scale: 1.5, Float32: c.branch}
		y, u, dx := tensor("zero", c.compute, tokens, out), tensor("zero", branch, tokens, rank), tensor("zero", c.compute, tokens, in)
		at := op.At{Name: "lin"}
		d.LoRALinear(at, y, u, x, w, nil, a)
		d.LoRALinearBackward(at, dx, dy, u, x, w, a)
		for part, got := range map[string]*op.Tensor{"y": y, "dx": dx, "da": a.GradA, "db": a.GradB} {
			if err := within(read(t, d, got), v.floats(mode+"/"+part), c.u); err != nil {
				t.Errorf("%s, %s: %v", mode, part, err)
			}
		}
	}
}
