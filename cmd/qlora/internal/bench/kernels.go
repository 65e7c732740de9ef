package bench

import (
	"fmt"
	"math/rand/v2"
	"time"

	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

// sizes are the shapes that are measured, and how often.
type sizes struct {
	samples   int
	shortest  time.Duration // of a sample
	buffer    int           // bytes a thread that no cache holds
	rotated   int           // bytes that a kernel goes through before it sees the same data again
	tokens    []int
	width     int // of products
	matrix    int // rows and columns of a 4-bit matrix
	elements  int // of what goes through elementwise operations
	attention []int
	model     llama.Config
	steps     int // that are timed
	sweep     []int
}

var ordinary = sizes{
	samples: 9, shortest: 20 * time.Millisecond, buffer: 256 << 20, rotated: 256 << 20, tokens: []int{256, 512}, width: 2048, matrix: 4096, elements: 32 << 20,
	attention: []int{512, 2048}, model: smolLM2, steps: 3, sweep: []int{128, 256, 512, 1024, 2048},
}

// quick has everything of ordinary once, but small.
var quick = sizes{
	samples: 1, buffer: 1 << 20, rotated: 1 << 20, tokens: []int{16, 32}, width: 128, matrix: 256, elements: 1 << 16,
	attention: []int{16, 32}, model: small, steps: 1, sweep: []int{8, 16},
}

// smolLM2 is SmolLM2-135M.
var smolLM2 = llama.Config{
	HiddenSize: 576, IntermediateSize: 1536, NumHiddenLayers: 30, NumAttentionHeads: 9, NumKeyValueHeads: 3, HeadDim: 64,
	VocabSize: 49152, MaxPositionEmbeddings: 8192, RMSNormEps: 1e-5, RoPETheta: 100000, TieWordEmbeddings: true,
}

var small = llama.Config{
	HiddenSize: 64, IntermediateSize: 96, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadDim: 16,
	VocabSize: 256, MaxPositionEmbeddings: 64, RMSNormEps: 1e-5, RoPETheta: 10000, TieWordEmbeddings: true,
}

// spec is a kernel: how it is set up, and what binds it.
type spec struct {
	name, shape string
	against     limit // may be none
	setUp       func(m *machine) work
}

func kernels(s sizes) (all []spec) {
	for _, tokens := range s.tokens {
		shape := fmt.Sprintf("%dx%dx%d", tokens, s.width, s.width)
		bfloat16 := dense(num.BFloat16, tokens, s.width)
		all = append(all,
			spec{"product bfloat16", shape, peak, bfloat16},
			spec{"product NF4", shape, limit{"product bfloat16", 1, bfloat16}, quantized(tokens, s.width)},
			spec{"product float32", shape, peak, dense(num.Float32, tokens, s.width)})
	}
	matrix := fmt.Sprintf("%dx%d", s.matrix, s.matrix)
	all = append(all,
		spec{"matrix-vector NF4", matrix, limit{"read", bestOf, perCore(read.setUp)}, perCore(matVec)},
		spec{"dequantize NF4", matrix, copied, dequantize},
		spec{"quantize NF4", matrix, read, quantize})
	for _, tokens := range s.attention {
		shape := fmt.Sprintf("%dx%dx%d", tokens, s.model.NumAttentionHeads, s.model.HeadDim)
		all = append(all,
			spec{"attention", shape, peak, attention(tokens, false)},
			spec{"attention backward", shape, peak, attention(tokens, true)})
	}
	headShape := fmt.Sprintf("%dx%dx%d", s.tokens[len(s.tokens)-1], s.model.VocabSize, s.model.HiddenSize)
	elements := fmt.Sprintf("%dx%d", s.elements/s.width, s.width)
	return append(all,
		spec{"head", headShape, peak, head(false)},
		spec{"head backward", headShape, peak, head(true)},
		spec{"RMSNorm", elements, copied, norm},
		spec{"gate", elements, copied, gate},
		spec{"AdamW", elements, copied, adamW},
		spec{"exp", "in cache", limit{}, exp})
}

var here = op.At{Layer: num.NoLayer, Name: "bench"}

var nf4 = quant.Options{Type: quant.NF4, Blocksize: 64, DoubleQuant: true, DType: num.BFloat16}

// tensor is one of normal numbers.
func (m *machine) tensor(t num.DType, rows, cols int) *op.Tensor {
	x := m.device.New(op.Run, "bench/x", t, rows, cols)
	m.device.Write(x, normals(rows*cols, 1, rand.New(rand.NewPCG(uint64(rows), uint64(cols)))))
	return x
}

// zeros is a tensor to write to. It was written to, so that its pages are there.
func (m *machine) zeros(t num.DType, rows, cols int) *op.Tensor {
	y := m.device.New(op.Run, "bench/y", t, rows, cols)
	m.device.Zero(y)
	return y
}

func (m *machine) ints(x ...int32) *op.Ints {
	i := m.device.NewInts(op.Run, "bench/ints", len(x))
	m.device.WriteInts(i, x)
	return i
}

func normals(n int, scale float32, r *rand.Rand) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64()) * scale
	}
	return x
}

// turns is how many sets of data of so many bytes take turns.
func (m *machine) turns(bytes int) int { return m.sizes.rotated/bytes + 1 }

// perCore divides an amount among threads.
func perCore(setUp func(m *machine) work) func(m *machine) work {
	return func(m *machine) work {
		w := setUp(m)
		return work{w.unit + "/core", w.amount / float64(m.threads), w.call}
	}
}

func dense(t num.DType, tokens, width int) func(m *machine) work {
	return func(m *machine) work { return m.product(t, tokens, op.Weight{Dense: m.tensor(t, width, width)}) }
}

func quantized(tokens, width int) func(m *machine) work {
	return func(m *machine) work {
		w := m.device.Quantize(here, "bench/w", m.tensor(num.BFloat16, width, width), nf4)
		return m.product(num.BFloat16, tokens, op.Weight{Quantized: w})
	}
}

func (m *machine) product(t num.DType, tokens int, w op.Weight) work {
	x, y, d := m.tensor(t, tokens, w.In()), m.zeros(t, tokens, w.Out()), m.device
	return work{"GFLOP/s", 2 * float64(tokens) * float64(w.In()) * float64(w.Out()), func(int) { d.Linear(here, y, x, w, nil) }}
}

// matVec counts the bytes of the codes.
func matVec(m *machine) work {
	n, d := m.sizes.matrix, m.device
	weights := m.matrices(m.turns(n * n / 2))
	x, y := m.tensor(num.BFloat16, 1, n), m.zeros(num.BFloat16, 1, n)
	return work{"GB/s", float64(n * n / 2), func(i int) { d.Linear(here, y, x, op.Weight{Quantized: weights[i%len(weights)]}, nil) }}
}

// matrices are copies of a 4-bit matrix.
func (m *machine) matrices(count int) (all []*op.Quantized) {
	n := m.sizes.matrix
	all = append(all, m.device.Quantize(here, "bench/w", m.tensor(num.BFloat16, n, n), nf4))
	for len(all) < count {
		q, err := m.device.ReadQuantized(all[0])
		if err != nil {
			break // Sync has it, too
		}
		c, nested := *q, *q.Nested
		c.Packed, nested.Codes = append([]byte(nil), q.Packed...), append([]byte(nil), nested.Codes...)
		c.Nested = &nested
		all = append(all, m.device.NewQuantized("bench/w", &c))
	}
	return all
}

// dequantize counts what it reads and what it writes.
func dequantize(m *machine) work {
	n, d := m.sizes.matrix, m.device
	moved := n*n/2 + n*n/nf4.Blocksize + 2*n*n
	weights := m.matrices(m.turns(moved))
	y := make([]*op.Tensor, len(weights))
	for i := range y {
		y[i] = m.zeros(num.BFloat16, n, n)
	}
	return work{"GB/s", float64(moved), func(i int) { d.Dequantize(here, y[i%len(y)], weights[i%len(y)]) }}
}

// quantize counts what it reads. Its result is new memory each time, as it is where a model is loaded.
func quantize(m *machine) work {
	n, d := m.sizes.matrix, m.device
	x := make([]*op.Tensor, m.turns(2*n*n))
	for i := range x {
		x[i] = m.tensor(num.BFloat16, n, n)
	}
	return work{"GB/s", float64(2 * n * n), func(i int) {
		mark := d.Mark(op.Run)
		d.Quantize(here, "bench/w", x[i%len(x)], nf4)
		d.Release(mark)
	}}
}

// attention counts the products of what a query sees: two forward, five backward.
func attention(tokens int, backward bool) func(m *machine) work {
	return func(m *machine) work {
		const t = num.BFloat16
		c, d := m.sizes.model, m.device
		cols, kvCols := c.NumAttentionHeads*c.HeadDim, c.NumKeyValueHeads*c.HeadDim
		q, k, v := m.tensor(t, tokens, cols), m.tensor(t, tokens, kvCols), m.tensor(t, tokens, kvCols)
		y, stats := m.zeros(t, tokens, cols), m.zeros(num.Float32, tokens, 2*c.NumAttentionHeads)
		segments := m.ints(0, int32(tokens))
		shape := op.AttentionShape{Heads: c.NumAttentionHeads, KVHeads: c.NumKeyValueHeads, Dim: c.HeadDim, Scale: 0.125, Mask: op.Mask{Causal: true}}
		product := float64(c.NumAttentionHeads) * float64(c.HeadDim) * float64(tokens) * float64(tokens+1) // 2 a pair of which half is seen
		d.Attention(here, y, stats, q, k, v, segments, segments, nil, shape)
		if !backward {
			return work{"GFLOP/s", 2 * product, func(int) { d.Attention(here, y, stats, q, k, v, segments, segments, nil, shape) }}
		}
		dy, dq, dk, dv := m.tensor(t, tokens, cols), m.zeros(t, tokens, cols), m.zeros(t, tokens, kvCols), m.zeros(t, tokens, kvCols)
		return work{"GFLOP/s", 5 * product, func(int) {
			d.AttentionBackward(here, dq, dk, dv, nil, dy, q, k, v, stats, segments, segments, nil, shape)
		}}
	}
}

// head counts the products: logits, and backward logits again and the gradient of x, for the head is frozen.
func head(backward bool) func(m *machine) work {
	return func(m *machine) work {
		const t = num.BFloat16
		c, d, tokens := m.sizes.model, m.device, m.sizes.tokens[len(m.sizes.tokens)-1]
		x, w := m.tensor(t, tokens, c.HiddenSize), op.Weight{Dense: m.tensor(t, c.VocabSize, c.HiddenSize)}
		loss, lse, labels := m.zeros(num.Float32, tokens, 1), m.zeros(num.Float32, tokens, 1), m.ints(make([]int32, tokens)...)
		product := 2 * float64(tokens) * float64(c.HiddenSize) * float64(c.VocabSize)
		if !backward {
			return work{"GFLOP/s", product, func(int) { d.HeadLoss(here, loss, lse, x, w, labels) }}
		}
		d.HeadLoss(here, loss, lse, x, w, labels)
		dx, g := m.zeros(t, tokens, c.HiddenSize), m.tensor(num.Float32, 1, 1)
		return work{"GFLOP/s", 2 * product, func(int) { d.HeadLossBackward(here, dx, nil, lse, x, w, labels, g) }}
	}
}

func norm(m *machine) work {
	rows, cols, d := m.sizes.elements/m.sizes.width, m.sizes.width, m.device
	x, y, r, w := m.tensor(num.BFloat16, rows, cols), m.zeros(num.BFloat16, rows, cols), m.zeros(num.Float32, rows, 1), m.tensor(num.Float32, 1, cols)
	return work{"GB/s", float64(2 * 2 * rows * cols), func(int) { d.RMSNorm(here, y, r, x, w, 1e-5) }}
}

func gate(m *machine) work {
	rows, cols, d := m.sizes.elements/m.sizes.width, m.sizes.width, m.device
	y, a, b := m.zeros(num.BFloat16, rows, cols), m.tensor(num.BFloat16, rows, cols), m.tensor(num.BFloat16, rows, cols)
	return work{"GB/s", float64(3 * 2 * rows * cols), func(int) { d.Gate(here, y, a, b, op.SiLU) }}
}

// adamW reads p, m, v and g, and writes the first three.
func adamW(m *machine) work {
	rows, cols, d := m.sizes.elements/m.sizes.width, m.sizes.width, m.device
	p, g := m.tensor(num.Float32, rows, cols), m.tensor(num.Float32, rows, cols)
	m1, m2, norm := m.zeros(num.Float32, rows, cols), m.zeros(num.Float32, rows, cols), m.tensor(num.Float32, 1, 1)
	scalars := m.zeros(num.Float32, 1, optim.NumScalars)
	d.Write(scalars, optim.NewScalars(optim.AdamWConfig{LR: 1e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, 0, 1))
	return work{"GB/s", float64(7 * 4 * rows * cols), func(int) { d.AdamW(here, p, m1, m2, g, scalars, norm) }}
}

// exp is the loop under softmax.
func exp(m *machine) work {
	const n, passes = 2048, 100
	x := normals(n, 1, rand.New(rand.NewPCG(1, 2)))
	y := make([][]float32, m.threads)
	for t := range y {
		y[t] = make([]float32, n)
	}
	return work{"Gexp/s", float64(n * passes * m.threads), func(int) {
		m.each(func(t int) {
			for range passes {
				m.set.ExpMinus(y[t], x, 1)
			}
		})
	}}
}
