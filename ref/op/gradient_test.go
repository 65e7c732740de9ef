package op_test

import (
	"fmt"
	"math"
	"testing"

	"qlora/ref/num"
	. "qlora/ref/op"
	"qlora/ref/quant"
)

// Every backward operation is held against central differences of a forward operation written here in float64, from the
// formulas and not from the code under test: every operation, every input that has a gradient, on the plain device.

// operation is one case: its differentiable inputs, its forward in float64, and forward with backward on a device.
type operation struct {
	name    string
	inputs  []matrix
	forward func(x [][]float64) []float64
	// run computes y and the gradients, one for each input, for the gradient dy of y.
	run func(d Device, x []*Tensor, dy func(y *Tensor) *Tensor) (y *Tensor, grads []*Tensor)
}

type matrix struct {
	name       string
	rows, cols int
}

var here = At{Layer: 3, Name: "test"}

func TestGradients(t *testing.T) {
	for _, o := range operations() {
		t.Run(o.name, func(t *testing.T) { checkGradients(t, o) })
	}
}

func checkGradients(t *testing.T, o operation) {
	d := NewPlain(0)
	var x []*Tensor
	var x64 [][]float64
	for i, in := range o.inputs {
		v := random(uint64(i), in.rows*in.cols)
		x = append(x, tensor(d, in.name, in.rows, in.cols, v))
		x64 = append(x64, widen64(v))
	}
	var dy64 []float64
	y, grads := o.run(d, x, func(y *Tensor) *Tensor {
		v := random(99, y.Len())
		dy64 = widen64(v)
		return tensor(d, "dy", y.Rows, y.Cols, v)
	})
	close64(t, "y", read(t, d, y), o.forward(x64))
	for i, in := range o.inputs {
		want := make([]float64, len(x64[i]))
		for j := range want {
			want[j] = centralDifference(o.forward, x64, i, j, dy64)
		}
		close64(t, "d"+in.name, read(t, d, grads[i]), want)
	}
}

// centralDifference is ∂(dy·y)/∂x[i][j]. With h = 1e-5 its own error is about h² = 1e-10.
func centralDifference(f func([][]float64) []float64, x [][]float64, i, j int, dy []float64) float64 {
	const h = 1e-5
	at := x[i][j]
	side := func(v float64) (s float64) {
		x[i][j] = v
		for k, y := range f(x) {
			s += dy[k] * y
		}
		return s
	}
	diff := (side(at+h) - side(at-h)) / (2 * h)
	x[i][j] = at
	return diff
}

// close64 allows 64 roundings at the size of the largest value: sums here have at most about 30 terms, each rounded twice.
func close64(t *testing.T, what string, got []float32, want []float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s has %d elements, want %d", what, len(got), len(want))
	}
	largest := 1e-3
	for _, w := range want {
		largest = max(largest, math.Abs(w))
	}
	for i := range want {
		if diff := math.Abs(float64(got[i]) - want[i]); !(diff <= 64*largest/(1<<24)) {
			t.Fatalf("%s[%d] = %v, want %v", what, i, got[i], want[i])
		}
	}
}

func operations() []operation {
	ids := []int32{2, 0, 2, 4, 1}
	all := []operation{
		{
			name:   "embedding",
			inputs: []matrix{{"table", 5, 6}},
			forward: func(x [][]float64) (y []float64) {
				for _, id := range ids {
					y = append(y, x[0][id*6:id*6+6]...)
				}
				return y
			},
			run: func(d Device, x []*Tensor, dy func(*Tensor) *Tensor) (*Tensor, []*Tensor) {
				y, g, i := like(d, 5, 6), like(d, 5, 6), integers(d, "ids", ids...)
				d.Embedding(here, y, x[0], i)
				d.EmbeddingBackward(here, g, dy(y), i)
				return y, []*Tensor{g}
			},
		},
		{
			name:    "linear with bias",
			inputs:  []matrix{{"x", 5, 7}, {"w", 6, 7}, {"bias", 1, 6}},
			forward: func(x [][]float64) []float64 { return linear64(x[0], x[1], x[2], 5, 6, 7) },
			run: func(d Device, x []*Tensor, dy func(*Tensor) *Tensor) (*Tensor, []*Tensor) {
				y, g := like(d, 5, 6), gradients(d, x)
				d.Linear(here, y, x[0], Weight{Dense: x[1]}, x[2])
				d.LinearBackward(here, g[0], g[1], g[2], dy(y), x[0], Weight{Dense: x[1]})
				return y, g
			},
		},
		{
			name:   "RMSNorm",
			inputs: []matrix{{"x", 3, 10}, {"w", 1, 10}},
			forward: func(x [][]float64) (y []float64) {
				for i := range 3 {
					var square float64
					for j := range 10 {
						square += x[0][i*10+j] * x[0][i*10+j]
					}
					for j := range 10 {
						y = append(y, x[1][j]*x[0][i*10+j]/math.Sqrt(square/10+0.01))
					}
				}
				return y
			},
			run: func(d Device, x []*Tensor, dy func(*Tensor) *Tensor) (*Tensor, []*Tensor) {
				y, r, g := like(d, 3, 10), like(d, 3, 1), gradients(d, x)
				d.RMSNorm(here, y, r, x[0], x[1], 0.01)
				d.RMSNormBackward(here, g[0], g[1], dy(y), x[0], x[1], r)
				return y, g
			},
		},
		ropeOperation(),
		{
			name:   "add",
			inputs: []matrix{{"a", 2, 5}, {"b", 2, 5}},
			forward: func(x [][]float64) (y []float64) {
				for i, v := range x[0] {
					y = append(y, v+x[1][i])
				}
				return y
			},
			run: func(d Device, x []*Tensor, dy func(*Tensor) *Tensor) (*Tensor, []*Tensor) {
				y := like(d, 2, 5)
				d.Add(here, y, x[0], x[1])
				g := dy(y)
				return y, []*Tensor{g, g}
			},
		},
		dropoutOperation(),
		headOperation(),
	}
	all = append(all, gateOperations()...)
	all = append(all, attentionOperations()...)
	return append(all, loraOperation(0, false), loraOperation(0.25, false), loraOperation(0.25, true))
}

func linear64(x, w, bias []float64, m, n, k int) []float64 {
	y := make([]float64, m*n)
	for i := range m {
		for j := range n {
			if bias != nil {
				y[i*n+j] = bias[j]
			}
			for l := range k {
				y[i*n+j] += x[i*k+l] * w[j*k+l]
			}
		}
	}
	return y
}

// ropeOperation has two heads of six elements at positions that are not the rows' own.
func ropeOperation() operation {
	positions := []int32{4, 0, 3}
	angle := func(p int32, i int) float64 { return float64(p) * math.Pow(100, -float64(2*i)/6) }
	return operation{
		name:   "RoPE",
		inputs: []matrix{{"x", 3, 12}},
		forward: func(x [][]float64) []float64 {
			y := make([]float64, 36)
			for token, p := range positions {
				for h := range 2 {
					for i := range 3 {
						lo, hi := token*12+h*6+i, token*12+h*6+i+3
						s, c := math.Sincos(angle(p, i))
						y[lo], y[hi] = x[0][lo]*c-x[0][hi]*s, x[0][hi]*c+x[0][lo]*s
					}
				}
			}
			return y
		},
		run: func(d Device, x []*Tensor, dy func(*Tensor) *Tensor) (*Tensor, []*Tensor) {
			var cos, sin []float32
			for p := range int32(5) {
				for i := range 3 {
					s, c := math.Sincos(angle(p, i))
					cos, sin = append(cos, float32(c)), append(sin, float32(s))
				}
			}
			ct, st := tensor(d, "cos", 5, 3, cos), tensor(d, "sin", 5, 3, sin)
			y, g, pos := like(d, 3, 12), gradients(d, x), integers(d, "positions", positions...)
			d.RoPE(here, y, x[0], ct, st, pos)
			d.RoPEBackward(here, g[0], dy(y), ct, st, pos)
			return y, g
		},
	}
}

func dropoutOperation() operation {
	const seed, step, firstToken, p = 7, 5, 11, 0.25
	return operation{
		name:   "dropout",
		inputs: []matrix{{"x", 4, 8}},
		forward: func(x [][]float64) (y []float64) {
			for i, v := range x[0] {
				y = append(y, v*mask64(p, seed, step, here, firstToken*8+i))
			}
			return y
		},
		run: func(d Device, x []*Tensor, dy func(*Tensor) *Tensor) (*Tensor, []*Tensor) {
			drop := Dropout{P: p, Seed: seed, Clock: integers(d, "clock", step, firstToken)}
			y, g := like(d, 4, 8), gradients(d, x)
			d.Dropout(here, y, x[0], drop)
			d.DropoutBackward(here, g[0], dy(y), drop)
			return y, g
		},
	}
}

// mask64 is what dropout multiplies an element by.
func mask64(p float32, seed uint64, step uint32, at At, element int) float64 {
	c := num.Counter{Purpose: num.Purpose("dropout/" + at.Name), Layer: at.Layer, Step: step, Element: uint64(element)}
	if num.Uniform(seed, c) < p {
		return 0
	}
	return 1 / (1 - float64(p))
}

// headOperation's output is the sum of the losses, for every token's loss has the same gradient.
func headOperation() operation {
	labels := []int32{1, IgnoredLabel, 8, 0}
	return operation{
		name:   "head",
		inputs: []matrix{{"x", 4, 5}, {"w", 9, 5}},
		forward: func(x [][]float64) []float64 {
			var total float64
			z := linear64(x[0], x[1], nil, 4, 9, 5)
			for i, label := range labels {
				var sum float64
				for _, v := range z[i*9 : i*9+9] {
					sum += math.Exp(v)
				}
				if label != IgnoredLabel {
					total += math.Log(sum) - z[i*9+int(label)]
				}
			}
			return []float64{total}
		},
		run: func(d Device, x []*Tensor, dy func(*Tensor) *Tensor) (*Tensor, []*Tensor) {
			loss, lse, g, lab := like(d, 4, 1), like(d, 4, 1), gradients(d, x), integers(d, "labels", labels...)
			d.HeadLoss(here, loss, lse, x[0], Weight{Dense: x[1]}, lab)
			losses, _ := d.Read(loss)
			total := tensor(d, "total", 1, 1, []float32{num.Sum(losses)})
			d.HeadLossBackward(here, g[0], g[1], lse, x[0], Weight{Dense: x[1]}, lab, dy(total))
			return total, g
		},
	}
}

func gateOperations() (all []operation) {
	activations := []struct {
		name string
		act  Activation
		f    func(float64) float64
	}{
		{"SiLU", SiLU, func(x float64) float64 { return x / (1 + math.Exp(-x)) }},
		{"GELU", GELUTanh, func(x float64) float64 {
			return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
		}},
		{"ReLU", ReLU, func(x float64) float64 { return max(x, 0) }},
	}
	for _, a := range activations {
		all = append(all, operation{
			name:   "gate " + a.name,
			inputs: []matrix{{"gate", 4, 9}, {"up", 4, 9}},
			forward: func(x [][]float64) (y []float64) {
				for i, g := range x[0] {
					y = append(y, a.f(g)*x[1][i])
				}
				return y
			},
			run: func(d Device, x []*Tensor, dy func(*Tensor) *Tensor) (*Tensor, []*Tensor) {
				y, g := like(d, 4, 9), gradients(d, x)
				d.Gate(here, y, x[0], x[1], a.act)
				d.GateBackward(here, g[0], g[1], dy(y), x[0], x[1], a.act)
				return y, g
			},
		})
	}
	return all
}

func attentionOperations() []operation {
	packed := []int32{0, 3, 3, 7}
	return []operation{
		attentionOperation("attention causal, grouped, packed", packed, packed, false, Mask{Causal: true}),
		attentionOperation("attention causal with a window", packed, packed, false, Mask{Causal: true, Window: 2}),
		attentionOperation("attention across segments of other lengths", []int32{0, 2, 4}, []int32{0, 5, 8}, false, Mask{}),
		attentionOperation("attention with bias", []int32{0, 3}, []int32{0, 5}, true, Mask{}),
		attentionOperation("attention behind a cache", []int32{0, 2}, []int32{0, 6}, false, Mask{Causal: true}),
	}
}

// attentionOperation has four heads on two key-value heads of three elements.
func attentionOperation(name string, segmentsQ, segmentsKV []int32, biased bool, mask Mask) operation {
	const heads, kvHeads, dim, scale = 4, 2, 3, 0.5
	queries, keys := int(segmentsQ[len(segmentsQ)-1]), int(segmentsKV[len(segmentsKV)-1])
	inputs := []matrix{{"q", queries, heads * dim}, {"k", keys, kvHeads * dim}, {"v", keys, kvHeads * dim}}
	if biased {
		inputs = append(inputs, matrix{"bias", heads, queries * keys})
	}
	visible := func(g, i, j int) bool {
		q, k := int(segmentsQ[g+1]-segmentsQ[g]), int(segmentsKV[g+1]-segmentsKV[g])
		distance := k - q + i - j
		return !mask.Causal || distance >= 0 && (mask.Window == 0 || distance < mask.Window)
	}
	return operation{
		name: name, inputs: inputs,
		forward: func(x [][]float64) []float64 {
			y := make([]float64, queries*heads*dim)
			for g := range len(segmentsQ) - 1 {
				for h := range heads {
					for i := range int(segmentsQ[g+1] - segmentsQ[g]) {
						row := (int(segmentsQ[g])+i)*heads*dim + h*dim
						var total float64
						for j := range int(segmentsKV[g+1] - segmentsKV[g]) {
							if !visible(g, i, j) {
								continue
							}
							at := (int(segmentsKV[g])+j)*kvHeads*dim + h/2*dim
							var s float64
							for c := range dim {
								s += scale * x[0][row+c] * x[1][at+c]
							}
							if biased {
								s += x[3][(h*queries+i)*keys+j]
							}
							e := math.Exp(s)
							total += e
							for c := range dim {
								y[row+c] += e * x[2][at+c]
							}
						}
						for c := range dim {
							y[row+c] /= total
						}
					}
				}
			}
			return y
		},
		run: func(d Device, x []*Tensor, dy func(*Tensor) *Tensor) (*Tensor, []*Tensor) {
			y, stats, g := like(d, queries, heads*dim), like(d, queries, 2*heads), gradients(d, x)
			sq, skv := integers(d, "segments", segmentsQ...), integers(d, "segments", segmentsKV...)
			var bias, dbias *Tensor
			if biased {
				bias, dbias = x[3], g[3]
			}
			s := AttentionShape{Heads: heads, KVHeads: kvHeads, Dim: dim, Scale: scale, Mask: mask}
			d.Attention(here, y, stats, x[0], x[1], x[2], sq, skv, bias, s)
			d.AttentionBackward(here, g[0], g[1], g[2], dbias, dy(y), x[0], x[1], x[2], stats, sq, skv, bias, s)
			return y, g
		},
	}
}

// loraOperation differentiates by x, A and B; W is frozen, dense or in 4 bits.
func loraOperation(p float32, quantized bool) operation {
	const tokens, out, in, rank, scale, seed, step, firstToken = 5, 6, 7, 3, 2, 1, 2, 3
	name, frozen := fmt.Sprintf("linear with adapter, dropout %v", p), random(50, out*in)
	var q *quant.Tensor
	if quantized {
		name += ", 4-bit"
		q = nf4(frozen, out, in)
		if err := q.Dequantize(frozen, num.Float32); err != nil {
			panic(err)
		}
	}
	return operation{
		name:   name,
		inputs: []matrix{{"x", tokens, in}, {"A", rank, in}, {"B", out, rank}},
		forward: func(x [][]float64) []float64 {
			y := linear64(x[0], widen64(frozen), nil, tokens, out, in)
			dropped := append([]float64(nil), x[0]...)
			for i := range dropped {
				if p > 0 {
					dropped[i] *= mask64(p, seed, step, here, firstToken*in+i)
				}
			}
			u := linear64(dropped, x[1], nil, tokens, rank, in)
			for i, v := range linear64(u, x[2], nil, tokens, out, rank) {
				y[i] += scale * v
			}
			return y
		},
		run: func(d Device, x []*Tensor, dy func(*Tensor) *Tensor) (*Tensor, []*Tensor) {
			y, u, g := like(d, tokens, out), like(d, tokens, rank), gradients(d, x)
			w := Weight{Dense: tensor(d, "W", out, in, frozen)}
			if quantized {
				w = Weight{Quantized: d.NewQuantized("W", q)}
			}
			a := &Adapter{A: x[1], B: x[2], GradA: g[1], GradB: g[2], Scale: scale,
				Dropout: Dropout{P: p, Seed: seed, Clock: integers(d, "clock", step, firstToken)}}
			d.LoRALinear(here, y, u, x[0], w, nil, a)
			d.LoRALinearBackward(here, g[0], dy(y), u, x[0], w, a)
			return y, g
		},
	}
}

// The small tools.

func nf4(x []float32, rows, cols int) *quant.Tensor {
	q, err := quant.Quantize(x, []int{rows, cols}, quant.Options{Type: quant.NF4, Blocksize: 32, DoubleQuant: true})
	if err != nil {
		panic(err)
	}
	return q
}

func random(stream uint64, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = 2*num.Uniform(1, num.Counter{Purpose: num.Purpose("test"), Step: uint32(stream), Element: uint64(i)}) - 1
	}
	return x
}

func widen64(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func tensor(d Device, name string, rows, cols int, x []float32) *Tensor {
	t := d.New(Run, name, num.Float32, rows, cols)
	if x != nil {
		d.Write(t, x)
	}
	return t
}

func like(d Device, rows, cols int) *Tensor { return tensor(d, "zeros", rows, cols, nil) }

func gradients(d Device, x []*Tensor) (g []*Tensor) {
	for _, t := range x {
		g = append(g, like(d, t.Rows, t.Cols))
	}
	return g
}

func integers(d Device, name string, x ...int32) *Ints {
	t := d.NewInts(Run, name, len(x))
	d.WriteInts(t, x)
	return t
}

func read(t *testing.T, d Device, x *Tensor) []float32 {
	t.Helper()
	v, err := d.Read(x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
