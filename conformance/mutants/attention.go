package mutants

import (
	"fmt"
	"math"
	"slices"

	"qlora/conformance"
	"qlora/ref/num"
)

// attention is attention in parts: first those of forward and backward, then those of forward, then those of backward.
type attention struct {
	kvHead func(h, heads, kvHeads int) int
	sees   func(r attentionRow, j int) bool
	score  func(dot, scale, bias float32) float32

	largest func(s []float32, seen []bool) float32
	sum     func(e []float32, seen []bool) float32
	share   func(e, l float32, t num.DType) float32
	attend  func(a *attention, r *attended)

	rowSum func(p, dp, dy, y []float32) float32
	slope  func(p, dp, rowSum float32) float32           // dZ
	scaled func(dz, scale float32, t num.DType) float32  // dS
	inDV   func(p, e float32) float32                    // what dy is multiplied with
	inBias func(dz, ds float32) float32                  // what is added to dbias
	joins  func(there, sum float32, t num.DType) float32 // dq, dk and dv
	order  func(n int) []int                             // of heads and of queries
	heads  func(group []int) []int                       // those that are counted in dk and dv
}

// attentionRow is one query of one head.
type attentionRow struct {
	causal             bool
	window             int
	i, queries, keys   int
	q, stat, bias, kv  int
	stride, h, kvGroup int
}

// attended is what one query sees: scores and values in, its output and statistics out.
type attended struct {
	s    []float32
	seen []bool
	v    func(j int) []float32
	y    []float32
	m, l float32
	t    num.DType
}

func attentionParts(spoil func(a *attention)) *attention {
	a := &attention{
		kvHead:  func(h, heads, kvHeads int) int { return h / (heads / kvHeads) },
		sees:    seesUpTo(0, 0),
		score:   func(dot, scale, bias float32) float32 { return float32(dot*scale) + bias },
		largest: largestSeen,
		sum:     func(e []float32, _ []bool) float32 { return num.Sum(e) },
		share:   func(e, l float32, t num.DType) float32 { return t.Round(e / l) },
		attend:  attendTwoPasses,
		rowSum: func(p, dp, _, _ []float32) float32 {
			products := make([]float32, len(p))
			for j, v := range p {
				products[j] = v * dp[j]
			}
			return num.Sum(products)
		},
		slope:  func(p, dp, rowSum float32) float32 { return p * (dp - rowSum) },
		scaled: func(dz, scale float32, t num.DType) float32 { return t.Round(dz * scale) },
		inDV:   func(p, _ float32) float32 { return p },
		inBias: func(dz, _ float32) float32 { return dz },
		joins:  joined,
		order:  ascending,
		heads:  func(group []int) []int { return group },
	}
	spoil(a)
	return a
}

// seesUpTo is the mask: later keys are seen too, and the window is wider, by so many.
func seesUpTo(later, wider int) func(r attentionRow, j int) bool {
	return func(r attentionRow, j int) bool {
		to := r.keys
		if r.causal {
			to = r.keys - r.queries + r.i + 1 + later
		}
		return j < to && (r.window == 0 || j >= to-later-r.window-wider)
	}
}

func largestSeen(s []float32, seen []bool) float32 {
	m, any := float32(0), false
	for j, v := range s {
		if seen[j] && (!any || v > m) {
			m, any = v, true
		}
	}
	return m
}

// attendTwoPasses is softmax after all scores are known.
func attendTwoPasses(a *attention, r *attended) {
	r.m = a.largest(r.s, r.seen)
	e := make([]float32, len(r.s))
	for j, s := range r.s {
		if r.seen[j] {
			e[j] = num.Exp(s - r.m)
		}
	}
	r.l = a.sum(e, r.seen)
	for j := range e {
		if r.seen[j] {
			axpy(r.y, a.share(e[j], r.l, r.t), r.v(j))
		}
	}
}

func axpy(y []float32, a float32, x []float32) {
	for i := range y {
		y[i] += float32(a * x[i])
	}
}

// attendOnline goes over the keys 16 at a time and rescales what it has when a larger score comes.
func attendOnline(_ *attention, r *attended) {
	m, l := float32(math.Inf(-1)), float32(0)
	for from := 0; from < len(r.s); from += 16 {
		block := m
		for j := from; j < min(from+16, len(r.s)); j++ {
			if r.seen[j] {
				block = max(block, r.s[j])
			}
		}
		if math.IsInf(float64(block), -1) {
			continue
		}
		rescale := num.Exp(m - block)
		m, l = block, float32(l*rescale)
		for i := range r.y {
			r.y[i] *= rescale
		}
		for j := from; j < min(from+16, len(r.s)); j++ {
			if r.seen[j] {
				e := num.Exp(r.s[j] - m)
				l += e
				axpy(r.y, r.t.Round(e), r.v(j))
			}
		}
	}
	if l == 0 {
		return
	}
	for i := range r.y {
		r.y[i] /= l
	}
	r.m, r.l = m, l
}

// eachRow goes over segments, heads and queries.
func (a *attention) eachRow(c *Case, in Tensors, f func(r attentionRow)) {
	heads, kvHeads, d := c.Int("heads"), c.Int("kv_heads"), c.Int("d")
	q, k := in["segments_q"].I, in["segments_kv"].I
	for g := range len(q) - 1 {
		queries, keys := int(q[g+1]-q[g]), int(k[g+1]-k[g])
		for _, h := range a.order(heads) {
			for _, i := range a.order(queries) {
				at, kv := (int(q[g])+i)*heads+h, a.kvHead(h, heads, kvHeads)
				f(attentionRow{causal: c.Has("causal"), window: c.Int("window"), i: i, queries: queries, keys: keys, q: at * d, stat: 2 * at,
					bias: (h*queries + i) * keys, kv: (int(k[g])*kvHeads + kv) * d, stride: kvHeads * d, h: h, kvGroup: kv})
			}
		}
	}
}

// scores are S of all keys of the segment, and which of them the query sees.
func (a *attention) scores(c *Case, in Tensors, r attentionRow) (s []float32, seen []bool) {
	d := c.Int("d")
	s, seen = make([]float32, r.keys), make([]bool, r.keys)
	for j := range s {
		if seen[j] = a.sees(r, j); seen[j] {
			var bias float32
			if b := in["bias"].F; b != nil {
				bias = b[r.bias+j]
			}
			s[j] = a.score(dot(in["q"].F[r.q:r.q+d], in["k"].F[r.kv+j*r.stride:]), c.Float("scale"), bias)
		}
	}
	return s, seen
}

// ascend says which segments do not.
func ascend(in Tensors) error {
	for name, rows := range map[string]int{"segments_q": in["q"].Rows(), "segments_kv": in["k"].Rows()} {
		if b := in[name].I; !slices.IsSorted(b) || b[0] != 0 || int(b[len(b)-1]) > rows {
			return fmt.Errorf("%s are %v", name, b)
		}
	}
	return nil
}

func (a *attention) forward(c *Case, in Tensors) (Tensors, error) {
	if err := ascend(in); err != nil {
		return nil, err
	}
	d, t := c.Int("d"), compute(c)
	y, stats := make([]float32, in["q"].Len()), make([]float32, in["q"].Len()/d*2)
	a.eachRow(c, in, func(r attentionRow) {
		s, seen := a.scores(c, in, r)
		one := attended{s: s, seen: seen, v: valuesOf(in["v"].F, r, d), y: y[r.q : r.q+d], t: t}
		a.attend(a, &one)
		t.RoundAll(one.y)
		stats[r.stat], stats[r.stat+1] = one.m, one.l
	})
	return Tensors{"y": {DType: c.DType, Shape: in["q"].Shape, F: y}, "stats": conformance.Floats(f32, stats, in["q"].Rows(), 2*c.Int("heads"))}, nil
}

func valuesOf(x []float32, r attentionRow, d int) func(j int) []float32 {
	return func(j int) []float32 { return x[r.kv+j*r.stride : r.kv+j*r.stride+d] }
}

func (a *attention) backward(c *Case, in Tensors) (Tensors, error) {
	if err := ascend(in); err != nil {
		return nil, err
	}
	d, t, scale, out := c.Int("d"), compute(c), c.Float("scale"), only(in, "dq", "dk", "dv", "dbias")
	dk, dv := make([]float32, in["k"].Len()), make([]float32, in["v"].Len())
	a.eachRow(c, in, func(r attentionRow) {
		s, seen := a.scores(c, in, r)
		m, l := in["stats"].F[r.stat], in["stats"].F[r.stat+1]
		k, v, q, dy := valuesOf(in["k"].F, r, d), valuesOf(in["v"].F, r, d), in["q"].F[r.q:r.q+d], in["dy"].F[r.q:r.q+d]
		e, p, dp := make([]float32, r.keys), make([]float32, r.keys), make([]float32, r.keys)
		dq, y := make([]float32, d), make([]float32, d)
		for j := range s {
			if seen[j] {
				e[j] = num.Exp(s[j] - m)
				p[j], dp[j] = a.share(e[j], l, t), dot(dy, v(j))
				axpy(y, p[j], v(j))
			}
		}
		sum := a.rowSum(p, dp, dy, rounded(y, t))
		counts := slices.Contains(a.heads(groupOf(c, r.kvGroup)), r.h)
		for j := range s {
			if !seen[j] {
				continue
			}
			dz := a.slope(p[j], dp[j], sum)
			ds := a.scaled(dz, scale, t)
			if dbias, ok := out["dbias"]; ok {
				dbias.F[r.bias+j] += a.inBias(dz, ds)
			}
			axpy(dq, ds, k(j))
			if counts {
				axpy(valuesOf(dk, r, d)(j), ds, q)
				axpy(valuesOf(dv, r, d)(j), a.inDV(p[j], e[j]), dy)
			}
		}
		for i := range dq {
			out["dq"].F[r.q+i] = a.joins(out["dq"].F[r.q+i], dq[i], t)
		}
	})
	for i := range dk {
		out["dk"].F[i], out["dv"].F[i] = a.joins(out["dk"].F[i], dk[i], t), a.joins(out["dv"].F[i], dv[i], t)
	}
	return out, nil
}

// groupOf are the query heads that read a key-value head.
func groupOf(c *Case, kv int) (heads []int) {
	for h := range c.Int("heads") {
		if h/(c.Int("heads")/c.Int("kv_heads")) == kv {
			heads = append(heads, h)
		}
	}
	return heads
}

func attentionWith(spoil func(a *attention)) Func         { return attentionParts(spoil).forward }
func attentionBackwardWith(spoil func(a *attention)) Func { return attentionParts(spoil).backward }

// oneSegment makes one of all.
func oneSegment(_ *Case, in Tensors) {
	for _, name := range []string{"segments_q", "segments_kv"} {
		if b := in[name].I; len(b) > 2 && in["bias"].F == nil {
			in[name] = conformance.Ints([]int32{0, b[len(b)-1]})
		}
	}
}

// byModulo is the grouping that tiling keys and values gives.
func byModulo(h, _, kvHeads int) int { return h % kvHeads }

var attentionMutants = []Mutant{
	{
		Name: "sees the next token", Bug: "The causal mask is off by one: each query sees the key behind its own.", Op: "attention",
		Func: attentionWith(func(a *attention) { a.sees = seesUpTo(1, 0) }),
	},
	{
		Name: "does not see itself", Bug: "The causal mask is off by one: < in place of ≤.", Op: "attention",
		Func: attentionWith(func(a *attention) { a.sees = seesUpTo(-1, 0) }),
	},
	{
		Name: "causal from the start", Bug: "The first query stands at the first key, also behind a cache.",
		Seen: "flash-attention before 2.1 (#282, #402); PyTorch's is_causal", Op: "attention",
		Func: attentionWith(func(a *attention) {
			a.sees = func(r attentionRow, j int) bool {
				return (!r.causal || j <= r.i) && (r.window == 0 || j > r.i-r.window)
			}
		}),
	},
	{
		Name: "mask forgotten", Bug: "causal is not looked at.", Op: "attention",
		Func: asked("attention", func(c *Case, _ Tensors) { unset(c, "causal") }),
	},
	{
		Name: "packing leaks", Bug: "Segments are not looked at: sequences of a batch see those before them.",
		Seen: "trl #805, #1230", Op: "attention",
		Func: asked("attention", oneSegment),
	},
	{
		Name: "all rows of the cache", Bug: "Keys behind the last bound, which were never written, are seen.", Op: "attention",
		Func: asked("attention", func(_ *Case, in Tensors) {
			b := in["segments_kv"].I
			b[len(b)-1] = int32(in["k"].Rows())
		}),
	},
	{
		Name: "window one too wide", Bug: "The window has its size of keys and the query's own besides.",
		Seen: "Megatron-Bridge PR #2656 (Mistral, Gemma)", Op: "attention",
		Func: attentionWith(func(a *attention) { a.sees = seesUpTo(0, 1) }),
	},
	{
		Name: "window one too narrow", Bug: "A key fewer than the window's size is seen.", Op: "attention",
		Func: attentionWith(func(a *attention) { a.sees = seesUpTo(0, -1) }),
	},
	{
		Name: "window forgotten", Bug: "The window is not looked at.", Seen: "candle #1789", Op: "attention",
		Func: asked("attention", func(c *Case, _ Tensors) { set(c, conformance.Int("window", 0)) }),
	},
	{
		Name: "heads grouped by modulo", Bug: "Query head h reads key-value head h mod kv_heads: tiled, not repeated.",
		Seen: "onnx PR #7274; axlearn PR #842; jax-js PR #180", Op: "attention",
		Func: attentionWith(func(a *attention) { a.kvHead = byModulo }),
	},
	{
		Name: "attention not scaled", Bug: "S = q·k.", Op: "attention",
		Func: attentionWith(func(a *attention) { a.score = func(dot, _, bias float32) float32 { return dot + bias } }),
	},
	{
		Name: "attention scaled twice", Bug: "q is scaled when it is projected, and the product again.", Op: "attention",
		Func: attentionWith(func(a *attention) {
			a.score = func(dot, scale, bias float32) float32 { return float32(float32(dot*scale)*scale) + bias }
		}),
	},
	{
		Name: "bias scaled", Bug: "The bias is added before the scale is multiplied.", Op: "attention",
		Func: attentionWith(func(a *attention) { a.score = func(dot, scale, bias float32) float32 { return (dot + bias) * scale } }),
	},
	{
		Name: "attention bias forgotten", Bug: "The bias is not added.", Op: "attention",
		Func: attentionWith(func(a *attention) { a.score = func(dot, scale, _ float32) float32 { return dot * scale } }),
	},
	{
		Name: "softmax without the maximum", Bug: "exp(S) without taking the largest score away: it overflows.", Op: "attention",
		Func: attentionWith(func(a *attention) { a.largest = func([]float32, []bool) float32 { return 0 } }),
	},
	{
		Name: "maximum from 0", Bug: "The search for the largest score begins at 0: where all are far below, every exp underflows.", Op: "attention",
		Func: attentionWith(func(a *attention) {
			a.largest = func(s []float32, seen []bool) float32 { return max(0, largestSeen(s, seen)) }
		}),
	},
	{
		Name: "unseen rows NaN", Bug: "A query that sees no key divides 0 by 0.", Seen: "rten PR #1321", Op: "attention",
		Func: attentionWith(func(a *attention) {
			a.attend = func(a *attention, r *attended) {
				attendTwoPasses(a, r)
				for i := range r.y {
					if !slices.Contains(r.seen, true) {
						r.y[i] = r.l / r.l
					}
				}
			}
		}),
	},
	{
		Name: "unseen rows the mean", Bug: "Masked scores are a large negative number, not −∞: a query that sees no key gets the mean of all values.",
		Op: "attention",
		Func: attentionWith(func(a *attention) {
			a.attend = func(a *attention, r *attended) {
				for j := range r.s {
					if !r.seen[j] {
						r.s[j], r.seen[j] = -1e4, true
					}
				}
				attendTwoPasses(a, r)
			}
		}),
	},
	{
		Name: "online softmax", Bug: "Sums are rescaled when a larger score comes.", Seen: "flash attention, by design", Op: "attention",
		Func: attentionWith(func(a *attention) { a.attend = attendOnline }), Rounding: true,
	},
	{
		Name: "softmax in the type", Bug: "Scores are rounded to the compute type before exp.", Op: "attention",
		Func: attentionWith(func(a *attention) {
			a.attend = func(a *attention, r *attended) {
				r.t.RoundAll(r.s)
				attendTwoPasses(a, r)
			}
		}),
	},
	{
		Name: "P not rounded", Bug: "Probabilities stay float32 as they meet the values.", Op: "attention",
		Func: attentionWith(func(a *attention) { a.share = func(e, l float32, _ num.DType) float32 { return e / l } }), Rounding: true,
	},
	{
		Name: "denominator in plain order", Bug: "The sum of exp goes from key to key, not in 32 lanes.", Op: "attention",
		Func: attentionWith(func(a *attention) { a.sum = func(e []float32, _ []bool) float32 { return plainSum(e) } }), Rounding: true,
	},
	{
		Name: "lanes from the first seen key", Bug: "The lanes of the sum begin at the window's first key, not at the segment's.", Op: "attention",
		Func: attentionWith(func(a *attention) {
			a.sum = func(e []float32, seen []bool) float32 { return num.Sum(e[max(0, slices.Index(seen, true)):]) }
		}),
		Rounding: true,
	},
	{
		Name: "denominator over unseen keys", Bug: "Masked keys count in the denominator with exp of their scores.", Op: "attention",
		Func: attentionWith(func(a *attention) {
			a.sum = func(e []float32, seen []bool) float32 {
				all := slices.Clone(e)
				for j := range all {
					if !seen[j] {
						all[j] = 1
					}
				}
				return num.Sum(all)
			}
		}),
	},
	{
		Name: "bounds not checked", Bug: "Segments that end beyond the rows are cut off in place of an error.", Op: "attention",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			in = copied(in)
			for name, rows := range map[string]int{"segments_q": in["q"].Rows(), "segments_kv": in["k"].Rows()} {
				for i, b := range in[name].I {
					in[name].I[i] = min(b, int32(rows))
				}
			}
			return reference("attention", c, in)
		},
	},
}

var attentionBackwardMutants = []Mutant{
	{
		Name: "softmax' without the row sum", Bug: "dZ = P·dP: what a score takes from the others is left out.", Op: "attention_backward",
		Func: attentionBackwardWith(func(a *attention) { a.rowSum = func(_, _, _, _ []float32) float32 { return 0 } }),
	},
	{
		Name: "dv of the numerators", Bug: "dv takes exp(S − m), which is not divided by the sum.", Op: "attention_backward",
		Func: attentionBackwardWith(func(a *attention) { a.inDV = func(_, e float32) float32 { return e } }),
	},
	{
		Name: "dS not scaled", Bug: "dq and dk lack the scale.", Op: "attention_backward",
		Func: attentionBackwardWith(func(a *attention) { a.scaled = func(dz, _ float32, t num.DType) float32 { return t.Round(dz) } }),
	},
	{
		Name: "dbias scaled", Bug: "dbias takes dS, which has the scale.", Op: "attention_backward",
		Func: attentionBackwardWith(func(a *attention) { a.inBias = func(_, ds float32) float32 { return ds } }),
	},
	{
		Name: "row sum of dy·y", Bug: "The row sum is dy·y with the rounded output.", Seen: "flash attention, by design", Op: "attention_backward",
		Func:     attentionBackwardWith(func(a *attention) { a.rowSum = func(_, _, dy, y []float32) float32 { return dot(dy, y) } }),
		Rounding: true,
	},
	{
		Name: "dS not rounded", Bug: "dS stays float32.", Op: "attention_backward",
		Func:     attentionBackwardWith(func(a *attention) { a.scaled = func(dz, scale float32, _ num.DType) float32 { return dz * scale } }),
		Rounding: true,
	},
	{
		Name: "dk and dv of one head", Bug: "Of the query heads that share a key-value head only the last counts.", Op: "attention_backward",
		Func: attentionBackwardWith(func(a *attention) { a.heads = func(group []int) []int { return group[len(group)-1:] } }),
	},
	{
		Name: "backward by modulo", Bug: "Backward groups heads by modulo, forward by division.", Op: "attention_backward",
		Func: attentionBackwardWith(func(a *attention) { a.kvHead = byModulo }),
	},
	{
		Name: "heads from the last", Bug: "dk and dv add heads and queries from the last to the first.", Op: "attention_backward",
		Func: attentionBackwardWith(func(a *attention) { a.order = descending }), Rounding: true,
	},
	{
		Name: "attention_backward: overwrites", Bug: "dq, dk and dv replace what is there.", Op: "attention_backward",
		Func: attentionBackwardWith(func(a *attention) { a.joins = overwritten }),
	},
	{
		Name: "backward sees the next token", Bug: "Backward's mask is off by one, forward's is right.", Op: "attention_backward",
		Func: attentionBackwardWith(func(a *attention) { a.sees = seesUpTo(1, 0) }),
	},
	{
		Name: "backward leaks", Bug: "Backward does not look at segments.", Op: "attention_backward",
		Func: asked("attention_backward", oneSegment),
	},
	{
		Name: "dP·P twice", Bug: "dZ = P·P·(dP − sum).", Op: "attention_backward",
		Func: attentionBackwardWith(func(a *attention) {
			a.slope = func(p, dp, rowSum float32) float32 { return float32(p*p) * (dp - rowSum) }
		}),
	},
}

// appending is an append to a cache in parts.
func appending(first func(position, n, rows int) (int, error)) Func {
	return func(_ *Case, in Tensors) (Tensors, error) {
		cache, x := copyOf(in["cache"]), in["x"]
		at, err := first(int(in["position"].I[0]), x.Rows(), cache.Rows())
		if err != nil {
			return nil, err
		}
		copy(cache.F[at*cache.Cols():], x.F)
		return Tensors{"cache": cache}, nil
	}
}

// checkedPosition is where the rows go.
func checkedPosition(position, n, rows int) (int, error) {
	if position < 0 || position+n > rows {
		return 0, fmt.Errorf("%d rows at %d of %d", n, position, rows)
	}
	return position, nil
}

var cacheMutants = []Mutant{
	{
		Name: "append at the next row", Bug: "The first row that is written is the one behind the position.", Op: "cache_append",
		Func: appending(func(position, n, rows int) (int, error) {
			at, err := checkedPosition(position, n, rows)
			return min(at+1, rows-n), err
		}),
	},
	{
		Name: "append at 0", Bug: "The position is not looked at.", Op: "cache_append",
		Func: appending(func(position, n, rows int) (int, error) { _, err := checkedPosition(position, n, rows); return 0, err }),
	},
	{
		Name: "append wraps around", Bug: "Beyond the last row it begins at the first again, in place of an error.", Op: "cache_append",
		Func: appending(func(position, n, rows int) (int, error) { return ((position % rows) + rows) % rows, nil }),
	},
	{
		Name: "append cut off", Bug: "Rows that do not fit are dropped in silence.", Op: "cache_append",
		Func: appending(func(position, n, rows int) (int, error) { return max(0, min(position, rows-n)), nil }),
	},
}
