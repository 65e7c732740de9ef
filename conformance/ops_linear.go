package conformance

import (
	"maps"
	"math"
	"slices"

	"qlora/ref/op"
	"qlora/ref/quant"
)

const weightText = "W is the input w [n, k], or 4 bits: codes U8 of the flat W, absmax F32 [blocks of bs], or nested: absmax U8, absmax2 F32 [blocks of 256], " +
	"map F32 [256], offset F32 [1]. 4-bit values are rounded to float32, then to the case's type, before any product. "

func init() {
	register(&Operation{
		Name: "linear", Of: "op.Linear", Needs: "Linear",
		Formula: "x [m, k], W [n, k], bias [1, n] or none → y [m, n]. " + weightText +
			"y = round(Σ x·W + bias). The sum is one float32 accumulator that begins at +0 and takes the products in ascending k, each rounded to float32 " +
			"before it is added; bias is added to it in float32; one rounding to the type ends it.",
		Cases: linearCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			y, err := linear(c, in)
			return Tensors{"y": y}, err
		},
		Device: func(b *Bench, in Tensors) Tensors {
			l := layerOf(b.Case)
			y := b.Result("y", b.Case.DType, l.m, l.n)
			b.Device.Linear(Place, y, b.Tensor("x", in["x"]), b.weight(in), b.Optional("bias", in))
			return Tensors{"y": b.Read(y, l.m, l.n)}
		},
	}, &Operation{
		Name: "linear_backward", Of: "op.LinearBackward", Needs: "LinearBackward",
		Formula: "dy [m, n], x [m, k], W [n, k]; dx [m, k], dw F32 [n, k], dbias F32 [1, n], each of them or not → those that were given. " + weightText +
			"dx = round(dx + round(Σ dy·W)), from +0, n ascending. dw += dyᵀ·x and dbias += Σ dy: float32, onto the value that is there, " +
			"tokens (m) ascending, each product rounded before it is added.",
		Cases: linearBackwardCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			w, err := weightValues(c, in)
			l, out := layerOf(c), copies(in, "dx", "dw", "dbias")
			op.LinearBackward(out["dx"].F, out["dw"].F, out["dbias"].F, in["dy"].F, in["x"].F, w, l.m, l.n, l.k, floats[c.DType].num)
			return out, err
		},
		Device: func(b *Bench, in Tensors) Tensors {
			g := b.gradients(in, "dx", "dw", "dbias")
			b.Device.LinearBackward(Place, g["dx"], g["dw"], g["dbias"], b.Tensor("dy", in["dy"]), b.Tensor("x", in["x"]), b.weight(in))
			return b.readAll(g, in)
		},
	})
}

// linear is y of a case with x, W and, it may be, bias.
func linear(c *Case, in Tensors) (Tensor, error) {
	l := layerOf(c)
	w, err := weightValues(c, in)
	y := make([]float32, l.m*l.n)
	op.Linear(y, in["x"].F, w, in["bias"].F, l.m, l.n, l.k)
	return Floats(c.DType, y, l.m, l.n), err
}

// copies are those of the named inputs that there are, for an operation to add to.
func copies(in Tensors, names ...string) Tensors {
	out := Tensors{}
	for _, name := range names {
		if t, ok := in[name]; ok {
			out[name] = t.clone()
		}
	}
	return out
}

// gradients adds a case and, where it has ordinary values and is no smoke case, others that do not ask for one of the gradients each.
func (m *Maker) gradients(level Level, t DType, reason string, params []Param, names []string, make func(r *random) Tensors) {
	m.Add(level, t, reason, params, make)
	if reason != ordinary.reason || level != Quick {
		return
	}
	for _, name := range names {
		m.Add(Quick, t, "optional", append(slices.Clone(params), Text("without", name)), func(r *random) Tensors {
			in := make(r)
			delete(in, name)
			return in
		})
	}
}

// gradients brings those of the named inputs to the device that there are.
func (b *Bench) gradients(in Tensors, names ...string) map[string]*op.Tensor {
	g := map[string]*op.Tensor{}
	for _, name := range names {
		if t, ok := in[name]; ok {
			g[name] = b.State(name, t)
		}
	}
	return g
}

// readAll reads tensors in the shapes of the inputs of their names.
func (b *Bench) readAll(g map[string]*op.Tensor, in Tensors) Tensors {
	out := Tensors{}
	for name, x := range g {
		out[name] = b.Read(x, in[name].Shape...)
	}
	return out
}

// layer is a linear layer's settings, with its adapter's where there is one.
type layer struct {
	m, n, k int
	weight  string
	bs      int
	rank    int // 0 is no adapter
	scale   float64
	float32 bool // the adapter's branch
	dropout dropoutSetting
	at      op.At
}

func layerOf(c *Case) layer {
	l := layer{m: c.Int("m"), n: c.Int("n"), k: c.Int("k"), weight: c.Param("w"), float32: c.Has("branch_f32"), at: c.at}
	if c.Has("bs") {
		l.bs = c.Int("bs")
	}
	if c.Has("r") {
		l.rank, l.scale = c.Int("r"), float64(c.Float("scale"))
	}
	if c.Has("p") {
		l.dropout = dropoutSetting{c.Float("p"), c.Int("seed"), c.Int("step"), c.Int("first")}
	}
	return l
}

func (l layer) params() []Param {
	p := []Param{Int("m", l.m), Int("n", l.n), Int("k", l.k), Text("w", l.weight)}
	if l.weight != dense {
		p = append(p, Int("bs", l.bs))
	}
	if l.rank > 0 {
		p = append(p, Int("r", l.rank), Float("scale", l.scale), Flag("branch_f32", l.float32))
	}
	if d := l.dropout; d.p > 0 {
		p = append(p, Text("p", shortest(d.p)), Int("seed", d.seed), Int("step", d.step), Int("first", d.first))
	}
	return p
}

// values are floating-point numbers by the names of inputs, before they are rounded to their types.
type values map[string][]float32

// change makes ordinary values into those that a case is about.
type change func(r *random, l layer, v values)

// parts of a layer: their shapes, whether they are float32 in every case, and the deviation of ordinary values.
func (l layer) part(name string) (rows, cols int, full bool, deviation float32) {
	switch name {
	case "x", "dx":
		return l.m, l.k, false, 1
	case "w", "dw":
		return l.n, l.k, name == "dw", 0.5
	case "bias", "dbias":
		return 1, l.n, name == "dbias", 1
	case "dy":
		return l.m, l.n, false, 1
	case "a", "da":
		return l.rank, l.k, true, 0.25
	case "b", "db":
		return l.n, l.rank, true, 0.5
	}
	panic("conformance: a layer has no " + name)
}

// inputs draws the named parts, normally distributed, and changes them.
func (l layer) inputs(r *random, t DType, names []string, changes ...change) Tensors {
	v := values{}
	for _, name := range names {
		rows, cols, _, deviation := l.part(name)
		v[name] = r.normal(rows*cols, deviation)
	}
	for _, f := range changes {
		f(r, l, v)
	}
	in := Tensors{}
	for _, name := range names {
		rows, cols, full, _ := l.part(name)
		switch {
		case name == "w":
			for part, tensor := range weightInputs(v[name], t, l.weight, l.n, l.k, l.bs) {
				in[part] = tensor
			}
		case full:
			in[name] = Floats(F32, v[name], rows, cols)
		default:
			in[name] = Floats(t, v[name], rows, cols)
		}
	}
	return in
}

// denseSizes and packedSizes [m, n, k] are around the sizes of vectors and tiles; blocks of 64 go over the rows of most of the latter.
var (
	denseSizes = [][3]int{
		{1, 1, 1}, {1, 2, 3}, {2, 3, 5}, {3, 1, 2}, {1, 7, 64}, {1, 33, 129}, {2, 1, 1000}, {3, 31, 32}, {5, 17, 63}, {4, 64, 64},
		{7, 65, 127}, {8, 16, 16}, {9, 48, 33}, {16, 15, 17}, {17, 13, 255}, {33, 33, 33}, {64, 65, 66}, {8, 128, 256}, {65, 63, 31}, {129, 5, 128},
		{3, 129, 65}, {1, 256, 513}, {6, 100, 7}, {127, 3, 9}, {1, 1, 4097}, {2, 1030, 3}, {1030, 2, 3}, {31, 31, 1}, {1, 511, 8},
		{130, 260, 70}, {257, 129, 33}, {70, 200, 300},
	}
	packedSizes = [][3]int{
		{1, 1, 64}, {2, 1, 1}, {1, 3, 5}, {3, 10, 96}, {5, 7, 65}, {2, 9, 33}, {4, 12, 64}, {33, 17, 127}, {1, 128, 256}, {2, 5, 1000},
		{8, 64, 128}, {1, 33, 31}, {16, 16, 63}, {64, 3, 80}, {7, 130, 130}, {40, 131, 321}, {65, 66, 130},
	}
	weightKinds = []string{"nf4", "nf4_dq", "fp4"}
)

func smokeIf(yes bool) Level {
	if yes {
		return Smoke
	}
	return Quick
}

// layerSizes goes over sizes and kinds of weights.
func layerSizes(add func(level Level, reason string, l layer, changes ...change)) {
	for i, s := range denseSizes {
		add(smokeIf(i == 4 || i == 10), "random", layer{m: s[0], n: s[1], k: s[2], weight: dense})
	}
	for _, w := range weightKinds {
		for i, s := range packedSizes {
			add(smokeIf(i == 3), "random", layer{m: s[0], n: s[1], k: s[2], weight: w, bs: 64})
		}
	}
}

// packedWeights goes over what can be wrong with 4-bit weights alone. x is small, so that no sum hides a wrong value.
func packedWeights(add func(level Level, reason string, l layer, changes ...change)) {
	for _, w := range weightKinds {
		for _, bs := range blocksizes {
			add(Quick, "straddle", layer{m: 2, n: 11, k: bs + bs/4 + 1, weight: w, bs: bs})
		}
		add(Quick, "second-level", layer{m: 1, n: 131, k: 131, weight: w, bs: 64})
		add(Quick, "second-level", layer{m: 2, n: 64, k: 257, weight: w, bs: 32})
		for _, k := range []int{1, 3, 32, 33, 65} { // the product with the identity is W itself
			add(smokeIf(k == 33), "weight-rounded", layer{m: k, n: 40, k: k, weight: w, bs: 32}, identityTimes("x", "dy", 1))
			add(Quick, "weight-rounded", layer{m: 40, n: 40, k: k, weight: w, bs: 64}, identityTimes("x", "dy", 3))
		}
		add(Quick, "zero-block", layer{m: 3, n: 12, k: 48, weight: w, bs: 32}, func(r *random, l layer, v values) { clear(v["w"][64:128]) })
		add(Quick, "one-large", layer{m: 3, n: 9, k: 70, weight: w, bs: 64}, func(r *random, l layer, v values) { v["w"][r.below(l.n*l.k)] = 40 })
	}
}

// givenWeights have codes and scales as files may have them, beyond what quantization makes. The product with the identity shows them as
// they are, but for rows with an infinity and the sign of zero.
func givenWeights(m *Maker) {
	for _, t := range []DType{F32, BF16, F16} {
		add := func(level Level, kind, reason string, n, k, bs int, codes, scales func(r *random) Tensor) {
			l := layer{m: k, n: n, k: k, weight: kind, bs: bs}
			m.Add(level, t, reason, l.params(), func(r *random) Tensors {
				x := values{"x": make([]float32, k*k)}
				identityTimes("x", "", 1)(r, l, x)
				in := Tensors{"x": Floats(t, x["x"], k, k), "codes": codes(r)}
				if _, double := weightKind(kind); !double {
					in["absmax"] = scales(r)
					return in
				}
				maps.Copy(in, nestedAbsmax(r, (n*k+bs-1)/bs))
				if change := nestedChange[reason]; change != nil {
					change(r, in, in["absmax"].B)
				}
				return in
			})
		}
		every := func(*random) Tensor { return Bytes(everyByte()) }
		for _, book := range quant.Codebooks {
			for _, reason := range []string{"every-code", "subnormal-scale", "huge-scale"} {
				level := smokeIf(reason == "every-code" && t == BF16 && book == quant.NF4)
				add(level, book.Name, reason, 16, 32, 64, every, func(*random) Tensor { return Floats(F32, eightScales[reason]) })
			}
			add(Quick, book.Name, "straddle", 7, 33, 32, func(r *random) Tensor { return Bytes(r.nibbles(7 * 33)) },
				func(r *random) Tensor { return Floats(F32, r.scales(8)) })
			if t != F32 {
				add(Quick, book.Name, "table-rounded", 32, 32, 64, func(r *random) Tensor { return Bytes(r.nibbles(1024)) },
					func(r *random) Tensor { return Floats(F32, r.scales(16)) })
				add(Quick, book.Name, "rounded-twice", 16, 32, 64, func(*random) Tensor { return Bytes(sixteenCodes(512)) },
					func(r *random) Tensor { return Floats(F32, roundedTwice(r, book, floats[t].num, 8)) })
			}
		}
		for _, kind := range []string{"nf4_dq", "fp4_dq"} {
			for _, reason := range []string{"every-code", "file-map", "offset", "fused"} {
				add(Quick, kind, reason, 16, 32, 32, every, nil)
			}
			add(Quick, kind, "second-level", 300, 33, 32, func(r *random) Tensor { return Bytes(r.nibbles(300 * 33)) }, nil)
		}
	}
}

// identityTimes makes the named ones that there are by·identity, as far as it goes.
func identityTimes(x, dy string, by float32) change {
	return func(r *random, l layer, v values) {
		for name, cols := range map[string]int{x: l.k, dy: l.n} {
			clear(v[name])
			for i := range len(v[name]) / cols {
				v[name][i*cols+i%cols] = by
			}
		}
	}
}

// wholeNumbers makes everything small whole numbers, with which every order of summation is exact; 4-bit weights are −4, 0 or 4.
func wholeNumbers(top int) change {
	return func(r *random, l layer, v values) {
		for _, name := range []string{"x", "w", "bias", "dy", "dx", "dw", "dbias"} {
			if v[name] != nil {
				v[name] = r.integers(len(v[name]), top)
			}
		}
		if l.weight != dense && v["w"] != nil {
			v["w"] = r.integers(l.n*l.k, 1)
			for i := range v["w"] {
				v["w"][i] *= 4
			}
		}
	}
}

// opposites overwrites products that are summed over the k columns of a [·, k] and b [·, k] so that all cancel, in pairs of columns
// that lie anywhere; of 4-bit weights, in neighbours, which share a byte. What is left of the sum is what its order made of its
// rounding errors. Terms are of many sizes, by apart, so that few sums are exact.
func opposites(r *random, a, b []float32, k int, neighbours bool, by float32) {
	order := make([]int, k)
	for i := range order {
		order[i] = i
	}
	if !neighbours {
		for i := range order {
			j := i + r.below(k-i)
			order[i], order[j] = order[j], order[i]
		}
	}
	for i := 0; i+1 < k; i += 2 {
		p, q := order[i], order[i+1]
		for row := 0; row < len(a); row += k {
			a[row+p] *= by * float32(math.Ldexp(1, r.below(13)-6))
			a[row+q] = -a[row+p]
		}
		for row := 0; row < len(b); row += k {
			b[row+q] = b[row+p]
		}
	}
	if k%2 == 1 {
		for row := 0; row < len(a); row += k {
			a[row+order[k-1]] = 0
		}
	}
}

// turned is x [·, cols] with rows and columns exchanged.
func turned(x []float32, cols int) []float32 {
	rows := len(x) / cols
	y := make([]float32, len(x))
	for i, v := range x {
		y[i%cols*rows+i/cols] = v
	}
	return y
}

// cancelForward lets Σ_k x·W cancel.
func cancelForward(r *random, l layer, v values) {
	opposites(r, v["x"], v["w"], l.k, l.weight != dense, 1)
}

// Underflow: below 2^-134 the product of two bfloat16 is not exact in float32. Here the last product is 2^-150, which rounds to
// zero alone; fused, it takes the sum over the middle between two bfloat16. Products that flush make all of it zero.
var underflow = []float32{0x1.8p-63, -0x1p-79, 0x1p-80}

const underflowFactor = 0x1p-70

// Overflow: the second product is an infinity; fused, the sum is finite.
var overflow = []float32{-0x1.8p99, 0x1p100}

const overflowFactor = 0x1p28

// Order of overflow: the second term takes the sum to infinity, from which the others cannot bring it back.
var sumOverflow = []float32{0x1.8p127, 0x1.8p126, -0x1.8p127, -0x1.8p126}

// along places terms, in their order, at random columns of rows of a [·, k], and zeros beside them; b [·, k] is factor or −factor,
// alternating by rows. Unless all is set, every other row of a stays ordinary: a device that looks at its operands before it chooses
// how to multiply is to look at all.
func along(terms []float32, factor float32, all bool) func(r *random, a, b []float32, k int) {
	return func(r *random, a, b []float32, k int) {
		for row := range len(a) / k {
			if row%2 == 0 && !all && len(a) > k {
				for i := range k {
					a[row*k+i] /= factor
				}
				continue
			}
			clear(a[row*k : (row+1)*k])
			at := 0
			for i, t := range terms {
				at += r.below(k - at - (len(terms) - 1 - i))
				a[row*k+at] = t
				at++
			}
		}
		for i := range b {
			b[i] = factor
			if i/k%2 == 1 {
				b[i] = -factor
			}
		}
	}
}

// forwardTerms is along for Σ_k x·W. A bias is zero.
func forwardTerms(terms []float32, factor float32, all bool) change {
	return func(r *random, l layer, v values) {
		along(terms, factor, all)(r, v["x"], v["w"], l.k)
		clear(v["bias"])
	}
}

func negative(n int) []float32 { return repeated(n, float32(math.Copysign(0, -1))) }

func linearCases(m *Maker) {
	linearAdversaries(m)
	everyProduct(m)
	for _, t := range []DType{F32, BF16, F16} {
		for _, bias := range []bool{false, true} {
			names := []string{"x", "w"}
			if bias {
				names = append(names, "bias")
			}
			add := func(level Level, reason string, l layer, changes ...change) {
				if t == F16 || bias {
					level = max(level, Quick)
				}
				m.Add(level, t, reason, append(l.params(), Flag("bias", bias)), func(r *random) Tensors {
					return l.inputs(r, t, names, changes...)
				})
			}
			layerSizes(add)
			if !bias {
				packedWeights(add)
			}
			linearSums(t, add)
			linearSpecials(t, add)
			for _, s := range [][3]int{{64, 256, 512}, {200, 300, 400}, {1, 1000, 2048}, {300, 40, 1111}} {
				add(Full, "random", layer{m: s[0], n: s[1], k: s[2], weight: dense})
				add(Full, "random", layer{m: s[0], n: s[1], k: s[2], weight: "nf4_dq", bs: 64})
			}
			add(Full, "cancellation", layer{m: 2, n: 5, k: 20001, weight: dense}, cancelForward)
		}
	}
	givenWeights(m)
}

// linearSums looks at the order of sums and at their rounding.
func linearSums(t DType, add func(level Level, reason string, l layer, changes ...change)) {
	for i, k := range []int{6, 16, 31, 64, 100, 257, 1025, 3001, 8203} {
		l := layer{m: 3, n: 5, k: k, weight: dense}
		add(smokeIf(i == 4), "cancellation", l, cancelForward)
		add(Quick, "cancellation", layer{m: 5, n: 17, k: k / 2 * 2, weight: "nf4", bs: 64}, cancelForward)
	}
	for _, l := range []layer{
		{m: 4, n: 33, k: 65, weight: dense}, {m: 33, n: 9, k: 128, weight: dense}, {m: 1, n: 65, k: 300, weight: dense},
		{m: 5, n: 31, k: 63, weight: "nf4", bs: 64}, {m: 2, n: 16, k: 96, weight: "fp4", bs: 32},
	} {
		add(smokeIf(l.m == 4), "integers", l, wholeNumbers(15))
		add(Quick, "integers", l, wholeNumbers(100))
	}
}

// linearSpecials looks at the ends of the range of numbers.
func linearSpecials(t DType, add func(level Level, reason string, l layer, changes ...change)) {
	sizes := []layer{
		{m: 1, n: 1, k: 4, weight: dense}, {m: 1, n: 33, k: 9, weight: dense}, {m: 5, n: 17, k: 40, weight: dense}, {m: 9, n: 64, k: 65, weight: dense},
		{m: 17, n: 6, k: 128, weight: dense}, {m: 3, n: 8, k: 64, weight: "nf4", bs: 64}, {m: 2, n: 5, k: 33, weight: "fp4", bs: 32},
	}
	for i, l := range sizes {
		level := smokeIf(i == 3)
		if t != F16 {
			add(level, "product-underflow", l, forwardTerms(underflow, underflowFactor, false))
			add(Quick, "product-underflow", l, forwardTerms(underflow, underflowFactor, true))
			add(Quick, "product-overflow", l, forwardTerms(overflow, overflowFactor, false))
			add(Quick, "sum-overflow", l, forwardTerms(sumOverflow, 1, false))
			add(Quick, "subnormal", l, func(r *random, l layer, v values) { v["x"] = subnormals(r, len(v["x"]), t) })
			add(Quick, "subnormal", l, func(r *random, l layer, v values) {
				v["x"], v["w"] = r.normal(len(v["x"]), 0x1p-50), r.normal(len(v["w"]), 0x1p-78)
			})
		}
		add(Quick, "store-overflow", l, forwardTerms(storeOverflow[t][i%2], 1, true))
		add(Quick, "signed-zero", l, func(r *random, l layer, v values) {
			v["x"], v["bias"] = negative(len(v["x"])), negative(len(v["bias"]))
		})
		if l.weight == dense {
			add(Quick, "subnormal", l, func(r *random, l layer, v values) { v["w"] = subnormals(r, len(v["w"]), t) })
			add(Quick, "nan-inf", l, func(r *random, l layer, v values) {
				x := v["x"]
				x[r.below(l.k)] = float32(math.NaN())
				x[len(x)-1-r.below(l.k)] = float32(math.Inf(1))
				v["w"][len(v["w"])-1] = 0
			})
		}
	}
	add(Quick, "empty", layer{m: 0, n: 3, k: 5, weight: dense})
}

// storeOverflow are sums that lie just below, and at, the middle between a type's largest number and the next that there would be.
// Of float32 it is its largest number and half a unit, which is an infinity.
var storeOverflow = map[DType][2][]float32{
	F16:  {{65504, 15}, {65504, 16}},
	BF16: {{0x1.fep127, 0x1.fep118}, {0x1.fep127, 0x1p119}},
	F32:  {{0x1.fffffep127, 0x1.fffffep102}, {0x1.fffffep127, 0x1p103}},
}

// gradientSets are what LinearBackward may be asked for.
var gradientSets = [][]string{{"dx"}, {"dx", "dw", "dbias"}, {"dw"}, {"dbias"}, {"dx", "dbias"}}

func linearBackwardCases(m *Maker) {
	weightGradientAdversaries(m, BF16)
	everyProductInFull(m)
	for _, t := range []DType{F32, BF16, F16} {
		for i, gradients := range gradientSets {
			names := append([]string{"dy", "x", "w"}, gradients...)
			add := func(level Level, reason string, l layer, changes ...change) {
				if l.weight != dense && i != 0 { // a frozen weight has no gradient
					return
				}
				if i == 0 {
					level = max(level, smokeIf(l.weight != dense))
				}
				params := l.params()
				for _, g := range gradients {
					params = append(params, Flag(g, true))
				}
				m.Add(level, t, reason, params, func(r *random) Tensors { return l.inputs(r, t, names, changes...) })
			}
			switch {
			case i > 1:
				add(Quick, "optional", layer{m: 5, n: 33, k: 17, weight: dense})
				add(Quick, "optional", layer{m: 33, n: 7, k: 65, weight: dense})
			case t != F16:
				layerSizes(add)
				packedWeights(add)
				backwardSums(i == 1, add)
				backwardSpecials(t, i == 1, add)
				for _, s := range [][3]int{{64, 256, 512}, {200, 300, 400}, {300, 40, 1111}} {
					add(Full, "random", layer{m: s[0], n: s[1], k: s[2], weight: dense})
					add(Full, "random", layer{m: s[0], n: s[1], k: s[2], weight: "nf4_dq", bs: 64})
				}
			default:
				for _, s := range denseSizes[:12] {
					add(Quick, "random", layer{m: s[0], n: s[1], k: s[2], weight: dense})
				}
				add(Quick, "random", layer{m: 5, n: 33, k: 65, weight: "nf4", bs: 64})
			}
		}
	}
}

// onColumns hands on dy [m, n] and Wᵀ [k, n], which are summed over n.
func onColumns(f func(r *random, a, b []float32, k int)) change {
	return func(r *random, l layer, v values) {
		w := turned(v["w"], l.k)
		f(r, v["dy"], w, l.n)
		v["w"] = turned(w, l.n)
	}
}

// onTokens hands on dyᵀ [n, m] and xᵀ [k, m], which are summed over tokens.
func onTokens(f func(r *random, a, b []float32, k int)) change {
	return func(r *random, l layer, v values) {
		dy, x := turned(v["dy"], l.n), turned(v["x"], l.k)
		f(r, dy, x, l.m)
		v["dy"], v["x"] = turned(dy, l.m), turned(x, l.m)
	}
}

// without makes the named ones zero.
func without(names ...string) change {
	return func(r *random, l layer, v values) {
		for _, name := range names {
			clear(v[name])
		}
	}
}

func backwardSums(weights bool, add func(level Level, reason string, l layer, changes ...change)) {
	cancel := func(r *random, a, b []float32, k int) { opposites(r, a, b, k, false, 1) }
	for i, n := range []int{6, 16, 31, 64, 100, 257, 1025, 3001, 8203} {
		add(smokeIf(i == 4), "cancellation", layer{m: 3, n: n, k: 5, weight: dense}, onColumns(cancel), without("dx"))
		if weights {
			add(Quick, "token-order", layer{m: n, n: 3, k: 5, weight: dense}, onTokens(cancel), without("dw", "dbias"))
			add(smokeIf(i == 4), "token-order", layer{m: n, n: 3, k: 5, weight: dense})
		}
	}
	for _, w := range []string{"nf4", "nf4_dq", "fp4"} {
		for _, bs := range []int{32, 64} { // each row of W is equal to its neighbour, block by block
			add(Quick, "cancellation", layer{m: 3, n: 34, k: 2 * bs, weight: w, bs: bs}, func(r *random, l layer, v values) {
				for j := 1; j < l.n; j += 2 {
					copy(v["w"][j*l.k:(j+1)*l.k], v["w"][(j-1)*l.k:])
					for i := range l.m {
						v["dy"][i*l.n+j] = -v["dy"][i*l.n+j-1]
					}
				}
			}, without("dx"))
		}
	}
	for _, l := range []layer{
		{m: 4, n: 33, k: 65, weight: dense}, {m: 33, n: 9, k: 128, weight: dense}, {m: 1, n: 65, k: 30, weight: dense},
		{m: 5, n: 31, k: 63, weight: "nf4", bs: 64}, {m: 2, n: 16, k: 96, weight: "fp4", bs: 32},
	} {
		add(smokeIf(l.m == 4), "integers", l, wholeNumbers(15))
		add(Quick, "integers", l, wholeNumbers(100))
	}
	// What is there is as large as what is added: rounding once in place of twice is seen, and so is a sum that is made apart.
	for i, s := range [][3]int{{1, 1, 65}, {3, 8, 64}, {17, 33, 31}, {64, 5, 129}} {
		add(smokeIf(i == 1), "adds", layer{m: s[0], n: s[1], k: s[2], weight: dense}, func(r *random, l layer, v values) {
			for _, name := range []string{"dx", "dw", "dbias"} {
				for i := range v[name] {
					v[name][i] *= 4
				}
			}
		})
		add(Quick, "adds", layer{m: s[0], n: s[1], k: s[2], weight: "nf4", bs: 64})
	}
}

func backwardSpecials(t DType, weights bool, add func(level Level, reason string, l layer, changes ...change)) {
	for i, l := range []layer{
		{m: 4, n: 4, k: 1, weight: dense}, {m: 5, n: 9, k: 33, weight: dense}, {m: 8, n: 40, k: 17, weight: dense}, {m: 65, n: 64, k: 6, weight: dense},
	} {
		for _, c := range []struct {
			reason string
			terms  []float32
			factor float32
		}{{"product-underflow", underflow, underflowFactor}, {"product-overflow", overflow, overflowFactor}, {"sum-overflow", sumOverflow, 1}} {
			add(smokeIf(i == 2), c.reason, l, onColumns(along(c.terms, c.factor, false)), without("dx", "dw", "dbias"))
			if weights {
				add(Quick, c.reason, l, onTokens(along(c.terms, c.factor, false)), without("dx", "dw", "dbias"))
			}
		}
		add(Quick, "product-underflow", l, func(r *random, l layer, v values) {
			v["dy"], v["x"], v["w"] = r.normal(l.m*l.n, 0x1p-68), r.normal(l.m*l.k, 0x1p-68), r.normal(l.n*l.k, 0x1p-68)
		}, without("dx", "dw", "dbias"))
		add(Quick, "subnormal", l, func(r *random, l layer, v values) { v["dy"] = subnormals(r, l.m*l.n, t) })
		add(Quick, "signed-zero", l, func(r *random, l layer, v values) {
			v["dy"] = negative(l.m * l.n)
			for _, name := range []string{"x", "w"} {
				for i := range v[name] {
					v[name][i] = float32(math.Abs(float64(v[name][i])))
				}
			}
			for _, name := range []string{"dx", "dw", "dbias"} {
				v[name] = negative(len(v[name]))
			}
		})
		add(Quick, "nan-inf", l, func(r *random, l layer, v values) {
			v["dy"][r.below(l.m*l.n)] = float32(math.NaN())
			v["dy"][r.below(l.m*l.n)] = float32(math.Inf(-1))
		})
	}
}
