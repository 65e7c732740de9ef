package conformance

import (
	"math"

	"qlora/ref/num"
	"qlora/ref/op"
)

// Bound says where the outputs of a case must lie on a device of an arithmetic: for each output and element a number and a
// radius. It is the operation's formula, written once more in approx numbers. bounds.md derives it.
type Bound func(c *Case, in Tensors, a arithmetic) map[string][]approx

// bounds are those of the operations that need not be exact on every device, by name. Data that is only moved, or drawn, or
// quantized has no bound: it is exact everywhere. So are AdamW and its states, by which runs are resumed, and Lion.
var bounds = map[string]Bound{
	"sum": boundSum, "grad_norm": boundGradNorm, "embedding_backward": boundEmbeddingBackward,
	"linear": boundLinear, "linear_backward": boundLinearBackward, "quantize_linear": boundQuantizeLinear,
	"lora_linear": boundLoRALinear, "lora_linear_backward": boundLoRALinearBackward,
	"rmsnorm": boundRMSNorm, "rmsnorm_backward": boundRMSNormBackward,
	"rope": boundRoPE, "rope_backward": boundRoPEBackward,
	"add": boundAdd, "gate": boundGate, "gate_backward": boundGateBackward, "noise": boundNoise,
	"attention": boundAttention, "attention_backward": boundAttentionBackward,
	"head_loss": boundHeadLoss, "head_loss_backward": boundHeadLossBackward,
}

// exactSums are the operations whose sums of integers come out the same in every order: the bound of such cases is 0.
var exactSums = map[string]bool{"sum": true, "embedding_backward": true, "linear": true, "linear_backward": true,
	"rope": true, "rope_backward": true}

// boundOf is the bound that holds for a case; nil where the bits must be the reference's.
func boundOf(c *Case, a op.Arithmetic) Bound {
	if a.Exact() || c.Reason == "integers" && exactSums[c.Op] && a.Unit <= 0x1p-23 {
		return nil
	}
	return bounds[c.Op]
}

func (c *Case) num() num.DType { return floats[c.DType].num }

// row is row i of a matrix of cols columns.
func row[T any](x []T, i, cols int) []T { return x[i*cols : (i+1)*cols] }

func boundSum(_ *Case, in Tensors, a arithmetic) map[string][]approx {
	return map[string][]approx{"y": {a.total(allExactly(in["x"].F))}}
}

func boundGradNorm(_ *Case, in Tensors, a arithmetic) map[string][]approx {
	var squares []approx
	for name, t := range in {
		if name[0] != 'g' {
			continue
		}
		squares = append(squares, a.dot(t.Len(), func(i int) (approx, approx) { return exactly(t.F[i]), exactly(t.F[i]) }))
	}
	return map[string][]approx{"norm": {a.function(a.total(squares), math.Sqrt)}}
}

func boundEmbeddingBackward(_ *Case, in Tensors, a arithmetic) map[string][]approx {
	d := in["dy"].Cols()
	sums := started(in["dtable"].F)
	for i, id := range in["ids"].I {
		for j, g := range row(in["dy"].F, i, d) {
			sums[int(id)*d+j].add(exactly(g), unity)
		}
	}
	return map[string][]approx{"dtable": a.results(sums)}
}

// started are accumulators that begin at gradients that are there.
func started(x []float32) []accumulator {
	c := make([]accumulator, len(x))
	for i, v := range x {
		c[i].add(exactly(v), unity)
	}
	return c
}

func (a arithmetic) results(c []accumulator) []approx {
	x := make([]approx, len(c))
	for i := range c {
		x[i] = a.result(c[i])
	}
	return x
}

// weightApprox is W as the device sees it: of 4 bits, rounded to the compute type or, where that is declared, not.
func weightApprox(c *Case, in Tensors, a arithmetic) []approx {
	values, err := weightValues(c, in)
	if err != nil {
		panic("conformance: " + err.Error()) // the reference had it, too
	}
	w := allExactly(values)
	if a.WeightUnrounded && quantizedWeight(c, in) != nil {
		for i := range w {
			w[i] = w[i].unrounded(c.num())
		}
	}
	return w
}

// products are rows of x times rows of w, [m, n].
func (a arithmetic) products(x, w []approx, m, n, k int) []approx {
	y := make([]approx, m*n)
	for i := range m {
		for j := range n {
			xi, wj := row(x, i, k), row(w, j, k)
			y[i*n+j] = a.dot(k, func(l int) (approx, approx) { return xi[l], wj[l] })
		}
	}
	return y
}

// transpose is x [·, cols] with rows and columns exchanged.
func transpose(x []approx, cols int) []approx {
	rows := len(x) / cols
	y := make([]approx, len(x))
	for i, v := range x {
		y[i%cols*rows+i/cols] = v
	}
	return y
}

func (a arithmetic) storeAll(x []approx, t num.DType) []approx {
	for i := range x {
		x[i] = a.store(x[i], t)
	}
	return x
}

func boundLinear(c *Case, in Tensors, a arithmetic) map[string][]approx {
	m, n, k := c.Int("m"), c.Int("n"), c.Int("k")
	y := a.products(allExactly(in["x"].F), weightApprox(c, in, a), m, n, k)
	if bias, ok := in["bias"]; ok {
		for i := range y {
			y[i] = a.add(y[i], exactly(bias.F[i%n]))
		}
	}
	return map[string][]approx{"y": a.storeAll(y, c.num())}
}

// boundQuantizeLinear: quantization is exact.
func boundQuantizeLinear(c *Case, in Tensors, a arithmetic) map[string][]approx {
	return boundLinear(c, linearOf(c, in), a)
}

func boundLinearBackward(c *Case, in Tensors, a arithmetic) map[string][]approx {
	m, n, k := c.Int("m"), c.Int("n"), c.Int("k")
	out := map[string][]approx{}
	dy := allExactly(in["dy"].F)
	if dx, ok := in["dx"]; ok {
		out["dx"] = a.products(dy, transpose(weightApprox(c, in, a), k), m, k, n)
		for i := range out["dx"] {
			out["dx"][i] = a.joined(exactly(dx.F[i]), out["dx"][i], c.num())
		}
	}
	if dw, ok := in["dw"]; ok {
		out["dw"] = a.weightGradient(dw.F, dy, allExactly(in["x"].F), m, n, k)
	}
	if dbias, ok := in["dbias"]; ok {
		sums := started(dbias.F)
		for i := range dy {
			sums[i%n].add(dy[i], unity)
		}
		out["dbias"] = a.results(sums)
	}
	return out
}

// weightGradient is there + dyᵀ·x, [n, k].
func (a arithmetic) weightGradient(there []float32, dy, x []approx, m, n, k int) []approx {
	sums := started(there)
	for i := range m {
		for j := range n {
			for l := range k {
				sums[j*k+l].add(dy[i*n+j], x[i*k+l])
			}
		}
	}
	return a.results(sums)
}

func boundRMSNorm(c *Case, in Tensors, a arithmetic) map[string][]approx {
	d, x, eps := in["w"].Len(), in["x"].F, c.Float("eps")
	var y, rs []approx
	for i := range len(x) / d {
		xi := row(x, i, d)
		squares := a.dot(d, func(j int) (approx, approx) { return exactly(xi[j]), exactly(xi[j]) })
		r := a.function(a.add(a.div(squares, approx{v: float64(d)}), exactly(eps)), func(v float64) float64 { return 1 / math.Sqrt(v) })
		rs = append(rs, r)
		for j, v := range xi {
			y = append(y, a.store(a.mul(exactly(in["w"].F[j]), a.store(a.mul(exactly(v), r), c.num())), c.num()))
		}
	}
	return map[string][]approx{"y": y, "r": rs}
}

func boundRMSNormBackward(c *Case, in Tensors, a arithmetic) map[string][]approx {
	d, x, dy, w := in["w"].Len(), in["x"].F, in["dy"].F, in["w"].F
	out := map[string][]approx{"dx": {}}
	var dw []accumulator
	if t, ok := in["dw"]; ok {
		dw = started(t.F)
	}
	for i, r := range a.inputs(in, "r") {
		g, n, products := make([]approx, d), make([]approx, d), make([]approx, d)
		for j := range d {
			g[j] = a.mul(exactly(dy[i*d+j]), exactly(w[j]))
			n[j] = a.mul(exactly(x[i*d+j]), r)
			products[j] = a.mul(g[j], n[j])
			if dw != nil {
				dw[j].add(exactly(dy[i*d+j]), a.store(n[j], c.num()))
			}
		}
		mean := a.div(a.total(products), approx{v: float64(d)})
		for j := range d {
			g := a.mul(r, a.sub(g[j], a.mul(n[j], mean)))
			if dx, ok := in["dx"]; ok {
				out["dx"] = append(out["dx"], a.joined(exactly(dx.F[i*d+j]), g, c.num()))
			}
		}
	}
	if dw != nil {
		out["dw"] = a.results(dw)
	}
	return out
}

// turned is each pair of x turned by its position's angles, or back.
func (a arithmetic) turned(in Tensors, x []float32, back bool) []approx {
	cos, sin, half := in["cos"].F, in["sin"].F, in["cos"].Cols()
	y := make([]approx, len(x))
	heads := len(x) / max(1, len(in["positions"].I)) / (2 * half)
	for token, p := range in["positions"].I {
		for h := range heads {
			at := (token*heads + h) * 2 * half
			for i := range half {
				lo, hi := exactly(x[at+i]), exactly(x[at+half+i])
				c, s := exactly(cos[int(p)*half+i]), exactly(sin[int(p)*half+i])
				if back {
					s.v = -s.v
				}
				y[at+i] = a.sub(a.mul(lo, c), a.mul(hi, s))
				y[at+half+i] = a.add(a.mul(hi, c), a.mul(lo, s))
			}
		}
	}
	return y
}

func boundRoPE(c *Case, in Tensors, a arithmetic) map[string][]approx {
	return map[string][]approx{"y": a.storeAll(a.turned(in, in["x"].F, false), c.num())}
}

func boundRoPEBackward(c *Case, in Tensors, a arithmetic) map[string][]approx {
	dx := a.turned(in, in["dy"].F, true)
	for i := range dx {
		dx[i] = a.joined(exactly(in["dx"].F[i]), dx[i], c.num())
	}
	return map[string][]approx{"dx": dx}
}

func boundAdd(c *Case, in Tensors, a arithmetic) map[string][]approx {
	y := make([]approx, in["a"].Len())
	for i := range y {
		y[i] = a.store(a.add(exactly(in["a"].F[i]), exactly(in["b"].F[i])), c.num())
	}
	return map[string][]approx{"y": y}
}

// boundNoise: the random numbers are exact, what is made of them is not.
func boundNoise(c *Case, in Tensors, a arithmetic) map[string][]approx {
	x, bounds, d := in["x"].F, in["segments"].I, in["x"].Cols()
	y, counter, alpha := allExactly(x), noiseCounter(c), exactly(c.Float("alpha"))
	if alpha.v == 0 {
		return map[string][]approx{"y": y}
	}
	for s := 1; s < len(bounds); s++ {
		first, last := int(bounds[s-1]), int(bounds[s])
		size := a.mul(exactly(float32(last-first)), exactly(float32(d)))
		m := a.div(alpha, a.function(size, math.Sqrt))
		for i := first * d; i < last*d; i++ {
			counter.Element = uint64(c.Int("first")*d + i)
			u := exactly(float32(2*num.Uniform(c.seed(), counter)) - 1)
			y[i] = a.store(a.add(y[i], a.store(a.mul(m, u), c.num())), c.num())
		}
	}
	return map[string][]approx{"y": y}
}

// activated is act(x) and act'(x), as op.Activation has them.
func (a arithmetic) activated(act op.Activation, v float32) (y, slope approx) {
	x := exactly(v)
	switch act {
	case op.SiLU:
		s := a.function(x, func(v float64) float64 { return 1 / (1 + math.Exp(-v)) })
		return a.mul(x, s), a.mul(s, a.add(unity, a.mul(x, a.sub(unity, s))))
	case op.GELUTanh:
		scale, cubic := exactly(0.7978845608028654), exactly(0.044715)
		square := a.mul(x, x)
		th := a.function(a.mul(scale, a.add(x, a.mul(cubic, a.mul(square, x)))), math.Tanh)
		inner := a.mul(scale, a.add(unity, a.mul(exactly(3*0.044715), square)))
		half := a.mul(exactly(0.5), x)
		left := a.mul(exactly(0.5), a.add(unity, th))
		return a.mul(half, a.add(unity, th)), a.add(left, a.mul(half, a.mul(a.sub(unity, a.mul(th, th)), inner)))
	}
	if v > 0 {
		return x, unity
	}
	return approx{}, approx{}
}

func boundGate(c *Case, in Tensors, a arithmetic) map[string][]approx {
	act := activations[c.Param("act")]
	y := make([]approx, in["gate"].Len())
	for i, g := range in["gate"].F {
		v, _ := a.activated(act, g)
		y[i] = a.store(a.mul(a.store(v, c.num()), exactly(in["up"].F[i])), c.num())
	}
	return map[string][]approx{"y": y}
}

func boundGateBackward(c *Case, in Tensors, a arithmetic) map[string][]approx {
	act := activations[c.Param("act")]
	n := in["gate"].Len()
	dgate, dup := make([]approx, n), make([]approx, n)
	for i, g := range in["gate"].F {
		v, slope := a.activated(act, g)
		dy := exactly(in["dy"].F[i])
		dgate[i] = a.joined(exactly(in["dgate"].F[i]), a.mul(a.mul(dy, exactly(in["up"].F[i])), slope), c.num())
		dup[i] = a.joined(exactly(in["dup"].F[i]), a.mul(dy, a.store(v, c.num())), c.num())
	}
	return map[string][]approx{"dgate": dgate, "dup": dup}
}
