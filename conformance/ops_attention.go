package conformance

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"qlora/ref/op"
)

const attentionText = "q [tokens, heads·d], k and v [rows, kv_heads·d]; segments_q and segments_kv I32 [segments + 1] are bounds that ascend from 0 " +
	"(keys of rows behind the last bound are not seen); bias F32 [heads, queries, keys] or none, for one segment. " +
	"Query head h reads key-value head h/(heads/kv_heads). A query sees keys of its own segment: all, or, where causal, those up to its own position, " +
	"the last query standing at the last key, and of those that it sees the last window alone where window > 0, causal or not. " +
	"S_j = scale·(q·k_j) [+ bias]: q·k from +0, d ascending, products rounded; then scale, then bias, each rounded. "

func init() {
	register(&Operation{
		Name: "attention", Of: "op.Attention", Needs: "Attention",
		Formula: attentionText + "→ y like q, stats F32 [tokens, 2·heads]. m is the first S_j, or the next that is larger, and so on (NaN is not larger, and nothing than NaN), E_j = exp(S_j − m), l = Sum(E) " +
			"over all keys of the segment (those not seen are +0, so its runs and lanes count from the first key), P_j = round(E_j/l), y = round(Σ P_j·v_j), j ascending from +0. " +
			"stats holds m and l of each head; y, m and l of a query that sees no key, or is in no segment, are 0. Bounds that do not ascend from 0 or lie beyond the rows must be rejected.",
		Cases: attentionCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			if err := goodSegments(in); err != nil {
				return nil, err
			}
			y, stats := attend(in, attentionShape(c))
			return Tensors{"y": Floats(c.DType, y, in["q"].Shape...), "stats": stats}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			s := attentionShape(b.Case)
			q := b.Tensor("q", in["q"])
			y, stats := b.Result("y", b.Case.DType, q.Rows, q.Cols), b.Result("stats", F32, q.Rows, 2*s.Heads)
			b.Device.Attention(Place, y, stats, q, b.Tensor("k", in["k"]), b.Tensor("v", in["v"]),
				b.Ints("segments_q", in["segments_q"]), b.Ints("segments_kv", in["segments_kv"]), b.Optional("bias", in), s)
			return Tensors{"y": b.Read(y, in["q"].Shape...), "stats": b.Read(stats, q.Rows, 2*s.Heads)}
		},
	}, &Operation{
		Name: "attention_backward", Of: "op.AttentionBackward", Needs: "AttentionBackward",
		Formula: attentionText + "dy, dq like q; stats as forward gave them; dk, dv like k; dbias F32 like bias; each of the four or not → dq, dk, dv, dbias. P_j = round(exp(S_j − m)/l). dP_j = dy·v_j, d ascending; " +
			"dZ_j = P_j·(dP_j − Sum(P·dP)), lanes as in forward; dbias += dZ; dS_j = round(dZ_j·scale). dq = round(dq + round(Σ dS_j·k_j)), j ascending. " +
			"dk_j = round(dk_j + round(Σ dS_j·q)) and dv_j = round(dv_j + round(Σ P_j·dy)): heads of the group ascending, then queries. " +
			"All sums begin at +0; every product, quotient and difference is rounded to float32.",
		Cases: attentionBackwardCases, Optional: map[string]string{"dq": "q", "dk": "k", "dv": "v"},
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			if err := goodSegments(in); err != nil {
				return nil, err
			}
			out := copies(in, "dq", "dk", "dv", "dbias")
			op.AttentionBackward(out["dq"].F, out["dk"].F, out["dv"].F, out["dbias"].F, in["dy"].F, in["q"].F, in["k"].F, in["v"].F, in["stats"].F,
				in["segments_q"].I, in["segments_kv"].I, in["bias"].F, attentionShape(c))
			return out, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			g := b.gradients(in, "dq", "dk", "dv", "dbias")
			b.Device.AttentionBackward(Place, g["dq"], g["dk"], g["dv"], g["dbias"], b.Tensor("dy", in["dy"]),
				b.Tensor("q", in["q"]), b.Tensor("k", in["k"]), b.Tensor("v", in["v"]), b.Tensor("stats", in["stats"]),
				b.Ints("segments_q", in["segments_q"]), b.Ints("segments_kv", in["segments_kv"]), b.Optional("bias", in), attentionShape(b.Case))
			return b.readAll(g, in)
		},
	}, &Operation{
		Name: "cache_append", Of: "op.Device.CacheAppend", Needs: "CacheAppend",
		Formula:   "cache [rows, d], x [n, d], position I32 [1] → cache: x copied to the n rows that begin at position; the others stay. Where they are not all rows of cache, the input must be rejected.",
		Cases:     cacheCases,
		Reference: appended,
		Device: func(b *Bench, in Tensors) Tensors {
			cache := b.State("cache", in["cache"])
			b.Device.CacheAppend(Place, cache, b.Tensor("x", in["x"]), b.Ints("position", in["position"]))
			return Tensors{"cache": b.Read(cache, in["cache"].Shape...)}
		},
	})
}

// goodSegments says what is wrong with a case's segments.
func goodSegments(in Tensors) error {
	if err := ascend(in["segments_q"].I, in["q"].Rows()); err != nil {
		return fmt.Errorf("segments_q: %w", err)
	}
	if err := ascend(in["segments_kv"].I, in["k"].Rows()); err != nil {
		return fmt.Errorf("segments_kv: %w", err)
	}
	return nil
}

// ascend says what is wrong with bounds of segments.
func ascend(bounds []int32, rows int) error {
	before := int32(0)
	for i, v := range bounds {
		if v < before || int(v) > rows || i == 0 && v != 0 {
			return fmt.Errorf("bound %d at %d: want bounds that ascend from 0 to at most %d", v, i, rows)
		}
		before = v
	}
	return nil
}

// attend is forward: y, not rounded anew, and its statistics.
func attend(in Tensors, s op.AttentionShape) (y []float32, stats Tensor) {
	q := in["q"]
	y, m := make([]float32, q.Len()), make([]float32, 2*s.Heads*q.Rows())
	op.Attention(y, m, q.F, in["k"].F, in["v"].F, in["segments_q"].I, in["segments_kv"].I, in["bias"].F, s)
	return y, Floats(F32, m, q.Rows(), 2*s.Heads)
}

func attentionShape(c *Case) op.AttentionShape {
	return op.AttentionShape{Heads: c.Int("heads"), KVHeads: c.Int("kv_heads"), Dim: c.Int("d"), Scale: c.Float("scale"),
		Mask: op.Mask{Causal: c.Has("causal"), Window: c.Int("window")}, T: floats[c.DType].num}
}

// appended is the cache with x in it. Nothing is computed: the contract of op.Device alone defines it.
func appended(c *Case, in Tensors) (Tensors, error) {
	cache, x, first := in["cache"].clone(), in["x"], int(in["position"].I[0])
	if first < 0 || first+x.Rows() > cache.Rows() {
		return nil, fmt.Errorf("%d rows at %d do not fit a cache of %d", x.Rows(), first, cache.Rows())
	}
	copy(cache.F[first*cache.Cols():], x.F)
	return Tensors{"cache": cache}, nil
}

// heads is an attention's settings. queries and keys are those of each segment.
type heads struct {
	heads, kvHeads, d int
	causal            bool
	window            int
	queries, keys     []int
	spare             int // rows of k and v behind the last segment
	bias              bool
}

// alone is one segment, in which keys are as many as queries.
func alone(h, kvHeads, d, n int, causal bool) heads { return packed(h, kvHeads, d, causal, n) }

// packed is segments of which each has as many keys as queries.
func packed(h, kvHeads, d int, causal bool, n ...int) heads {
	return heads{heads: h, kvHeads: kvHeads, d: d, causal: causal, queries: n, keys: n}
}

// scale is 1/√d to four digits: no power of two.
func (h heads) scale() float64 { return math.Round(1e4/math.Sqrt(float64(h.d))) / 1e4 }

func (h heads) params() []Param {
	p := []Param{Int("heads", h.heads), Int("kv_heads", h.kvHeads), Int("d", h.d), Float("scale", h.scale()),
		Flag("causal", h.causal), Int("window", h.window), Text("queries", joined(h.queries)), Text("keys", joined(h.keys))}
	if h.spare > 0 {
		p = append(p, Int("spare", h.spare))
	}
	return append(p, Flag("bias", h.bias))
}

// joined are lengths of segments as the names of cases have them.
func joined(lengths []int) string {
	var s []string
	for _, n := range lengths {
		s = append(s, strconv.Itoa(n))
	}
	return strings.Join(s, "+")
}

// segmentBounds are those of segments of these lengths.
func segmentBounds(lengths []int) Tensor {
	bounds := []int32{0}
	for _, n := range lengths {
		bounds = append(bounds, bounds[len(bounds)-1]+int32(n))
	}
	return Ints(bounds)
}

// headsChange makes ordinary values into those that a case is about.
type headsChange func(r *random, h heads, v values)

// inputs draws q, k, v, bias and, of backward, gradients.
func (h heads) inputs(r *random, t DType, backward bool, changes ...headsChange) Tensors {
	bounds := map[string]Tensor{"q": segmentBounds(h.queries), "kv": segmentBounds(h.keys)}
	last := func(b Tensor) int { return int(b.I[len(b.I)-1]) }
	tokens, rows := last(bounds["q"]), last(bounds["kv"])+h.spare
	names := []string{"q", "k", "v"}
	if backward {
		names = append(names, "dy", "dq", "dk", "dv")
	}
	if h.bias {
		names = append(names, "bias")
		if backward {
			names = append(names, "dbias")
		}
	}
	shape := func(name string) []int {
		switch name {
		case "q", "dq", "dy":
			return []int{tokens, h.heads * h.d}
		case "k", "v", "dk", "dv":
			return []int{rows, h.kvHeads * h.d}
		}
		return []int{h.heads, tokens, rows}
	}
	v := values{}
	for _, name := range names {
		n := 1
		for _, d := range shape(name) {
			n *= d
		}
		v[name] = r.normal(n, 1)
	}
	for _, name := range []string{"k", "v"} { // what no query sees is large
		for i := last(bounds["kv"]) * h.kvHeads * h.d; i < len(v[name]); i++ {
			v[name][i] = 3e4
		}
	}
	for _, f := range changes {
		f(r, h, v)
	}
	in := Tensors{"segments_q": bounds["q"], "segments_kv": bounds["kv"]}
	for _, name := range names {
		full := t
		if strings.HasSuffix(name, "bias") {
			full = F32
		}
		in[name] = Floats(full, v[name], shape(name)...)
	}
	return in
}

// attentionSettings goes over sizes, heads, masks, segments and caches: what forward and backward have in common.
func attentionSettings(t DType, add func(level Level, reason string, h heads, changes ...headsChange)) {
	for _, causal := range []bool{true, false} {
		for i, s := range [][4]int{
			{1, 1, 1, 1}, {1, 1, 2, 2}, {2, 1, 4, 3}, {2, 2, 8, 5}, {4, 2, 16, 17}, {3, 3, 5, 7}, {8, 2, 32, 9}, {6, 2, 64, 5}, {1, 1, 80, 33},
			{2, 1, 128, 31}, {4, 1, 33, 32}, {5, 5, 3, 63}, {1, 1, 96, 64}, {2, 2, 65, 65}, {1, 1, 16, 127}, {1, 1, 7, 129}, {1, 1, 256, 3}, {1, 1, 63, 40},
		} {
			add(smokeIf(causal && (i == 4 || i == 8)), "random", alone(s[0], s[1], s[2], s[3], causal))
		}
		for i, n := range [][]int{{3, 5}, {1, 1, 1}, {33, 2, 40}, {7, 64, 65, 1}, {31, 33, 37}, {100, 5}, {1, 130, 2}} {
			add(smokeIf(causal && i == 2), "packing", packed(2, 1, 8, causal, n...))
			add(Quick, "packing", packed(4, 2, 5, causal, n...))
		}
		for _, n := range [][]int{{5, 70}, {33, 65}, {1, 97}, {17, 40, 100}} {
			add(smokeIf(causal && len(n) == 3), "lanes", packed(1, 1, 4, causal, n...), func(r *random, h heads, v values) { multiply(v["q"], 2) })
			add(Quick, "lanes", packed(2, 2, 16, causal, n...))
			add(Quick, "lanes", packed(2, 1, 1, causal, n...), equalValues)
		}
		for i, s := range [][2]int{{1, 1}, {1, 33}, {1, 65}, {3, 40}, {5, 129}, {1, 1000}, {16, 17}, {32, 95}} {
			h := heads{heads: 4, kvHeads: 2, d: 8, causal: causal, queries: []int{s[0]}, keys: []int{s[1]}}
			add(smokeIf(causal && i == 3), "cache", h)
			h.spare = 1 + 37*(i%3)
			add(smokeIf(causal && i == 4), "cache", h)
		}
		add(Quick, "cache", heads{heads: 2, kvHeads: 1, d: 6, causal: causal, queries: []int{3, 1, 5}, keys: []int{10, 40, 5}, spare: 4})
		for _, n := range [][2][]int{{{3, 0, 4}, {3, 0, 4}}, {{0, 5}, {0, 5}}, {{5, 0, 0, 2}, {5, 0, 0, 2}}, {{0, 3}, {4, 3}}, {{2, 0}, {2, 40}}} {
			add(Quick, "empty-segment", heads{heads: 2, kvHeads: 1, d: 8, causal: causal, queries: n[0], keys: n[1]})
		}
		for _, s := range [][2]int{{5, 5}, {33, 33}, {4, 70}, {1, 9}} {
			h := heads{heads: 4, kvHeads: 2, d: 8, causal: causal, queries: s[:1], keys: s[1:], bias: true}
			add(smokeIf(causal && s[0] == 33), "attention-bias", h)
			add(Quick, "attention-bias", h, func(r *random, h heads, v values) { multiply(v["bias"], 1e3) })
		}
	}
	for _, s := range [][2]int{{8, 1}, {8, 4}, {6, 3}, {6, 2}, {12, 4}, {9, 3}, {32, 8}, {5, 5}} {
		add(smokeIf(s[1] == 4), "grouped", alone(s[0], s[1], 8, 6, true))
		add(Quick, "grouped", alone(s[0], s[1], 3, 35, false))
	}
	for _, window := range []int{1, 2, 3, 31, 32, 33, 64, 1000} {
		h := alone(2, 1, 8, 70, true)
		h.window = window
		add(smokeIf(window == 33), "window", h)
		h = packed(1, 1, 4, true, 5, 41, 100)
		h.window = window
		add(Quick, "window", h)
		add(Quick, "window", heads{heads: 2, kvHeads: 2, d: 4, causal: true, window: window, queries: []int{3}, keys: []int{90}, spare: 5})
	}
	add(Quick, "unseen", heads{heads: 2, kvHeads: 1, d: 8, causal: true, queries: []int{5}, keys: []int{3}})
	add(Quick, "unseen", heads{heads: 2, kvHeads: 1, d: 8, causal: true, queries: []int{1, 40}, keys: []int{1, 33}})
	add(Quick, "unseen", heads{heads: 1, kvHeads: 1, d: 8, queries: []int{3, 2}, keys: []int{0, 2}})
	attentionValues(t, add)
	for _, n := range []int{200, 513} {
		add(Full, "random", alone(8, 2, 64, n, true))
		add(Full, "packing", packed(4, 4, 32, true, n, 77, n/2))
	}
}

// attentionValues goes over kinds of values.
func attentionValues(t DType, add func(level Level, reason string, h heads, changes ...headsChange)) {
	for _, n := range []int{3, 33, 64, 100} {
		add(smokeIf(n == 33), "all-equal", alone(2, 1, 8, n, false), func(r *random, h heads, v values) { clear(v["q"]) })
		add(Quick, "one-large", alone(2, 1, 8, n, false), func(r *random, h heads, v values) { multiply(v["q"], 30) })
		add(Quick, "signed-zero", alone(1, 1, 4, n, true), func(r *random, h heads, v values) {
			for _, name := range []string{"v", "dy", "dq", "dk", "dv"} {
				v[name] = negative(len(v[name]))
			}
		})
		// One column: S is scale·k. exp(S − m) goes from 1 to where it is zero, below 2^-126, and past 2^-149.
		add(Quick, "exp-underflow", alone(1, 1, 1, n, false), func(r *random, h heads, v values) {
			copy(v["q"], repeated(n, 1))
			for i := range v["k"] {
				v["k"][i] = float32(-86 - 20*float64(i)/float64(n))
			}
			top := r.below(n)
			v["k"][top] = 0
			if t != F16 { // what is kept in place of a zero is seen
				multiply(v["v"], 0x1p100)
				v["v"][top] = 0
			}
		})
	}
	// More keys than one run of Sum: the sum is cut in two, at a key that is counted from the segment's first, seen or not.
	for _, h := range []heads{
		{heads: 2, kvHeads: 1, d: 1, queries: []int{2}, keys: []int{65537}},
		{heads: 2, kvHeads: 1, d: 2, causal: true, queries: []int{2}, keys: []int{100001}},
		{heads: 2, kvHeads: 1, d: 1, causal: true, window: 70000, queries: []int{2}, keys: []int{100001}},
		{heads: 2, kvHeads: 1, d: 1, queries: []int{1, 2}, keys: []int{50001, 50000}},
		{heads: 1, kvHeads: 1, d: 1, causal: true, window: 70000, queries: []int{1}, keys: []int{100001}, bias: true},
	} {
		if t != F16 {
			add(Quick, "long-sum", h)
			add(Quick, "long-sum", h, equalValues)
		}
	}
	cancelKeys := func(r *random, h heads, v values) { // P is uniform, v cancels over keys, in pairs
		clear(v["q"])
		x := turned(v["v"], h.kvHeads*h.d)
		opposites(r, x, nil, h.keys[0], false, 1)
		v["v"] = turned(x, h.keys[0])
	}
	for _, d := range []int{1, 8, 17} {
		for _, n := range []int{2, 8, 32, 64, 150} {
			add(smokeIf(n == 32 && d == 8), "cancellation", alone(2, 1, d, n, false), cancelKeys)
		}
		for _, n := range []int{300, 3001, 8203} {
			add(Quick, "cancellation", heads{heads: 2, kvHeads: 1, d: d, queries: []int{2}, keys: []int{n}}, cancelKeys)
		}
	}
	if t == F16 {
		return
	}
	for _, n := range []int{5, 40} {
		h := alone(2, 1, 6, n, true)
		h.bias = true
		add(Quick, "product-underflow", h, func(r *random, h heads, v values) {
			for _, name := range []string{"q", "k", "v", "dy"} {
				multiply(v[name], 0x1p-68)
			}
			clear(v["bias"])
		}, withoutGradients)
		h = alone(1, 1, 1, n, false)
		h.bias = true
		add(smokeIf(n == 40), "product-underflow", h, tinyProbabilities, tinyValues, withoutGradients)
		add(Quick, "product-underflow", h, tinyProbabilities, tinyScores, withoutGradients)
		add(Quick, "subnormal", alone(1, 1, 6, n, true), func(r *random, h heads, v values) { v["v"] = subnormals(r, len(v["v"]), t) })
	}
}

// equalValues makes dP the same for all keys: what is left of dP − Sum(P·dP) is the rounding of that sum.
func equalValues(_ *random, _ heads, v values) {
	copy(v["v"], repeated(len(v["v"]), 1))
	clear(v["dbias"])
}

func withoutGradients(_ *random, _ heads, v values) {
	for _, name := range []string{"dq", "dk", "dv", "dbias"} {
		clear(v[name])
	}
}

// tinyProbabilities makes P 1 for the first key and 2^-70 for the others, by the bias, as long as q·k is tiny; v of the first is 0.
func tinyProbabilities(_ *random, h heads, v values) {
	n := h.keys[0]
	for i := range v["bias"] {
		v["bias"][i] = -70 * math.Ln2
		if i%n == 0 {
			v["bias"][i] = 0
		}
	}
	for _, name := range []string{"q", "k"} {
		multiply(v[name], 0x1p-70)
	}
	v["v"][0] = 0
}

// tinyValues makes the products P·v and P·dy, summed over keys and queries, those of underflow.
func tinyValues(r *random, h heads, v values) {
	along(underflow, underflowFactor, true)(r, v["v"][1:], nil, h.keys[0]-1)
	along(underflow, underflowFactor, true)(r, v["dy"], nil, h.queries[0])
}

// tinyScores makes dS 2^-70 for all keys but the first, and the products dS·k and dS·q those of underflow.
func tinyScores(r *random, h heads, v values) {
	copy(v["v"][1:], repeated(h.keys[0]-1, 1))
	copy(v["dy"], repeated(h.queries[0], 1))
	v["k"][0] = 0
	along(underflow, underflowFactor, true)(r, v["k"][1:], nil, h.keys[0]-1)
	along(underflow, underflowFactor, true)(r, v["q"], nil, h.queries[0])
}

func multiply(x []float32, by float32) {
	for i := range x {
		x[i] *= by
	}
}

func attentionCases(m *Maker) {
	for _, t := range []DType{F32, BF16, F16} {
		add := func(level Level, reason string, h heads, changes ...headsChange) {
			if t == F16 {
				level = max(level, Quick)
			}
			m.Add(level, t, reason, h.params(), func(r *random) Tensors { return h.inputs(r, t, false, changes...) })
		}
		attentionSettings(t, add)
		add(Quick, "empty", alone(2, 1, 8, 0, true))
		badSegments(m, t, false)
		h := alone(2, 1, 4, 6, true)
		m.Add(smokeIf(t == F32), t, "no-segment", h.params(), func(r *random) Tensors {
			in := h.inputs(r, t, false)
			in["segments_q"], in["segments_kv"] = Ints([]int32{0, 4}), Ints([]int32{0, 5})
			return in
		})
		for _, name := range []string{"q", "k", "v"} {
			m.Add(Quick, t, "nan-inf", append(h.params(), Text("in", name)), func(r *random) Tensors {
				in := h.inputs(r, t, false)
				in[name] = Floats(t, nansAndInfinities(r, in[name].Len(), t), in[name].Shape...)
				return in
			})
		}
	}
}

// badSegments must be rejected, forward and backward.
func badSegments(m *Maker, t DType, backward bool) {
	h := alone(1, 1, 4, 6, true)
	for _, name := range []string{"segments_q", "segments_kv"} {
		for i, bounds := range [][]int32{{0, 3, 7}, {1, 3, 6}, {0, 4, 3}, {0, -1, 6}} {
			m.Add(smokeIf(i == 0), t, "out-of-range", h.params(), func(r *random) Tensors {
				in := h.inputs(r, t, backward)
				if backward {
					in["stats"] = Floats(F32, repeated(2*in["q"].Rows(), 1), in["q"].Rows(), 2)
				}
				in["segments_q"], in["segments_kv"] = Ints([]int32{0, 3, 6}), Ints([]int32{0, 3, 6})
				in[name] = Ints(bounds)
				return in
			})
		}
	}
}

func attentionBackwardCases(m *Maker) {
	for _, t := range []DType{F32, BF16} {
		add := func(level Level, reason string, h heads, changes ...headsChange) {
			m.gradients(level, t, reason, h.params(), []string{"dq", "dk", "dv"}, func(r *random) Tensors {
				in := h.inputs(r, t, true, changes...)
				_, in["stats"] = attend(in, op.AttentionShape{Heads: h.heads, KVHeads: h.kvHeads, Dim: h.d, Scale: float32(h.scale()),
					Mask: op.Mask{Causal: h.causal, Window: h.window}, T: floats[t].num})
				return in
			})
		}
		attentionSettings(t, add)
		badSegments(m, t, true)
		for _, n := range []int{4, 16, 40, 66} {
			for _, s := range [][2]int{{1, 1}, {4, 2}, {6, 1}} {
				add(smokeIf(n == 16 && s[0] == 4), "order-of-heads", alone(s[0], s[1], 8, n, false), mirroredQueries)
				add(Quick, "cancellation", alone(s[0], s[1], 8, n, false), pairedKeys)
				add(Quick, "cancellation", heads{heads: s[0], kvHeads: s[1], d: 2, queries: []int{2}, keys: []int{100 * n}}, pairedKeys)
				add(Quick, "adds", alone(s[0], s[1], 5, n, true), func(r *random, h heads, v values) {
					for _, name := range []string{"dq", "dk", "dv"} {
						multiply(v[name], 4)
					}
				})
			}
			h := alone(2, 1, 4, n, true)
			h.bias = true
			add(Quick, "attention-bias", h)
		}
	}
}

// mirroredQueries makes P uniform, by k = 0, and the query of the last token and last head of a group the opposite of that of the
// first, and so on: dk and dv cancel but for what the order of heads and queries makes of the rounding errors.
func mirroredQueries(r *random, h heads, v values) {
	for _, name := range []string{"k", "dk", "dv"} {
		clear(v[name])
	}
	group, tokens := h.heads/h.kvHeads, len(v["q"])/(h.heads*h.d)
	at := func(i, head int) int { return (i*h.heads + head) * h.d }
	for i := range tokens / 2 {
		for head := range h.heads {
			from, to := at(i, head), at(tokens-1-i, head/group*group+group-1-head%group)
			copy(v["q"][to:to+h.d], v["q"][from:])
			multiply(v["dy"][from:from+h.d], float32(math.Ldexp(1, r.below(13)-6)))
			for c := range h.d {
				v["dy"][to+c] = -v["dy"][from+c]
			}
		}
	}
}

// pairedKeys makes P uniform, by q = 0, and pairs of keys opposite, with equal values: dS is equal, and dq cancels.
func pairedKeys(r *random, h heads, v values) {
	clear(v["q"])
	clear(v["dq"])
	n, width := h.keys[0], h.kvHeads*h.d
	k, values := turned(v["k"], width), turned(v["v"], width)
	opposites(r, k, values, n, false, 1)
	v["k"], v["v"] = turned(k, n), turned(values, n)
}

func cacheCases(m *Maker) {
	for _, t := range []DType{F32, BF16, F16} {
		add := func(level Level, k kind, reason string, rows, n, d, position int) {
			m.Add(level, t, reason, []Param{Int("rows", rows), Int("n", n), Int("d", d), Int("position", position)}, func(r *random) Tensors {
				cache, x := k.values(r, rows*d, t), k.values(r, n*d, t)
				return Tensors{"cache": Floats(t, cache, rows, d), "x": Floats(t, x, n, d), "position": Ints([]int32{int32(position)})}
			})
		}
		for i, d := range []int{1, 3, 8, 33, 64, 129} {
			add(smokeIf(i == 3), ordinary, "append", 9, 1, d, 4)
			add(smokeIf(i == 3), ordinary, "append", 40, 7, d, 13)
			add(Quick, ordinary, "first-and-last", 9, 4, d, 0)
			add(Quick, ordinary, "first-and-last", 9, 4, d, 5)
			add(Quick, ordinary, "first-and-last", 33, 33, d, 0)
			add(Quick, ordinary, "first-and-last", 1, 1, d, 0)
		}
		add(Quick, ordinary, "append", 300, 257, 5, 31)
		add(Quick, ordinary, "empty", 5, 0, 4, 2)
		for _, p := range [][2]int{{1, 9}, {4, 6}, {1, -1}, {9, 1}, {3, 1 << 30}} {
			add(smokeIf(p[0] == 4), ordinary, "out-of-range", 9, p[0], 6, p[1])
		}
		for _, k := range everything[1:] {
			add(Quick, k, k.reason, 9, 3, 10, 2)
		}
		add(Full, ordinary, "append", 4096, 512, 1024, 3000)
	}
}
