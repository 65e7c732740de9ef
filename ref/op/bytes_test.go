package op_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"qlora/ref/num"
	. "qlora/ref/op"
)

// bytesOf are SHA-256 digests of each operation's results and gradients. Every machine must come to them: continuous
// integration runs this test under GOAMD64=v1 and v3 and on arm64. They change when the specification changes.
var bytesOf = map[string]string{
	"embedding, float32":                         "2e48697ccb40abb7",
	"linear with bias, float32":                  "c6970e8b8c1da89e",
	"RMSNorm, float32":                           "d911e6f93e7e8d11",
	"RoPE, float32":                              "fda4aa4da8d10f31",
	"add, float32":                               "b391d3bbb59f0213",
	"dropout, float32":                           "3de6c48222749ce6",
	"head, float32":                              "7f28a72d35264b2b",
	"gate SiLU, float32":                         "9e9745f051346831",
	"gate GELU, float32":                         "90c6f90ae4c224d0",
	"gate ReLU, float32":                         "8f49fb95f88683bf",
	"attention causal, grouped, packed, float32": "7d79bbaf9b57b61d",
	"attention causal with a window, float32":    "1c91c51595f1bedc",
	"attention across segments of other lengths, float32":  "c3bc24f56491bf01",
	"attention with bias, float32":                         "fd36711f0ee1eb99",
	"attention behind a cache, float32":                    "08958aa3092f61e9",
	"linear with adapter, dropout 0, float32":              "8006d4ac5f0856f4",
	"linear with adapter, dropout 0.25, float32":           "2f39a90df4d09d4a",
	"embedding, bfloat16":                                  "27908f33f9aec763",
	"linear with bias, bfloat16":                           "18aea78d0a6335d8",
	"RMSNorm, bfloat16":                                    "a582238bbde8fe60",
	"RoPE, bfloat16":                                       "f10333fe16990f5c",
	"add, bfloat16":                                        "597a0758cc605151",
	"dropout, bfloat16":                                    "3b598a4a5070be87",
	"head, bfloat16":                                       "2cdea20499fe3012",
	"gate SiLU, bfloat16":                                  "0c0b0565543a41fb",
	"gate GELU, bfloat16":                                  "7b05c743ac9f0df3",
	"gate ReLU, bfloat16":                                  "03eefdb0dea1996a",
	"attention causal, grouped, packed, bfloat16":          "d1173db94dfee49f",
	"attention causal with a window, bfloat16":             "f5279b8bd22e7359",
	"attention across segments of other lengths, bfloat16": "9cde8f0177f15a9e",
	"attention with bias, bfloat16":                        "28633a37ae379667",
	"attention behind a cache, bfloat16":                   "b0278dee22487b03",
	"linear with adapter, dropout 0, bfloat16":             "bca9a9ccb0950d67",
	"linear with adapter, dropout 0.25, bfloat16":          "647bbacc6caa9987",
	"linear with adapter, dropout 0.25, 4-bit, float32":    "f6987018bfb264aa",
	"linear with adapter, dropout 0.25, 4-bit, bfloat16":   "c13e6ff8709dfb6f",
}

// TestBytes runs every operation in every type. Inputs are rounded to the type; gradients of parameters are float32.
func TestBytes(t *testing.T) {
	for _, compute := range []num.DType{num.Float32, num.BFloat16} {
		for _, o := range operations() {
			name := fmt.Sprintf("%s, %v", o.name, compute)
			if got := digest(t, o, compute); got != bytesOf[name] {
				t.Errorf("%q: %q,", name, got)
			}
		}
	}
}

// typed is a plain device of which activations and dense weights are of the compute type.
type typed struct {
	*Plain
	t num.DType
}

func (d typed) New(life Lifetime, name string, t num.DType, rows, cols int) *Tensor {
	switch name {
	case "x", "dy", "q", "k", "v", "gate", "up", "a", "b", "W":
		t = d.t
	}
	return d.Plain.New(life, name, t, rows, cols)
}

func digest(t *testing.T, o operation, compute num.DType) string {
	d := typed{NewPlain(0), compute}
	var x []*Tensor
	for i, in := range o.inputs {
		x = append(x, tensor(d, in.name, in.rows, in.cols, random(uint64(i), in.rows*in.cols)))
	}
	y, grads := o.run(d, x, func(y *Tensor) *Tensor { return tensor(d, "dy", y.Rows, y.Cols, random(99, y.Len())) })
	h := sha256.New()
	for _, v := range append([]*Tensor{y}, grads...) {
		for _, f := range read(t, d, v) {
			h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(f)))
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}
