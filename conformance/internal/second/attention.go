package second

import (
	"fmt"

	"qlora/ref/num"
	"qlora/ref/op"
)

// attention is a call's operands, widened, and what each query sees.
type attention struct {
	op.AttentionShape
	q, k, v matrix
	bias    matrix // [heads·queries, keys], or empty
	sights  []sight
}

// sight is what a query sees: keys from ≤ j < to. Lanes of its sums count from its segment's first key, up to its last.
type sight struct{ first, last, from, to int }

func attentionShapes(at op.At, q, k, v, stats *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) {
	want(s.KVHeads > 0 && s.Heads%s.KVHeads == 0, "%v: %d heads over %d", at, s.Heads, s.KVHeads)
	want(segmentsQ.Len > 0 && segmentsQ.Len == segmentsKV.Len, "%v: %d bounds of queries, %d of keys", at, segmentsQ.Len, segmentsKV.Len)
	shaped(at, q.Rows, s.Heads*s.Dim, q)
	shaped(at, k.Rows, s.KVHeads*s.Dim, k, v)
	shaped(at, q.Rows, 2*s.Heads, stats)
	shaped(at, s.Heads*q.Rows, k.Rows, bias)
	full(at, stats, bias)
}

func (d *Device) newAttention(q, k, v *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) (attention, error) {
	s.T = q.DType
	a := attention{s, d.widen(q, s.T), d.widen(k, s.T), d.widen(v, s.T), d.widen(bias, num.Float32), make([]sight, q.Rows)}
	if err := ascending(segmentsQ, q.Rows); err != nil {
		return a, err
	}
	if err := ascending(segmentsKV, k.Rows); err != nil {
		return a, err
	}
	queries, keys := ints(segmentsQ), ints(segmentsKV)
	for n := range queries[1:] {
		for i := queries[n]; i < queries[n+1]; i++ {
			a.sights[i] = look(s.Mask, int(keys[n]), int(keys[n+1]), int(queries[n+1]-i))
		}
	}
	return a, nil
}

// ascending is an error unless bounds ascend from 0 to no more than rows.
func ascending(x *op.Ints, rows int) error {
	before := int32(0)
	for i, v := range ints(x) {
		if v < before || int(v) > rows || i == 0 && v != 0 {
			return fmt.Errorf("%s: bound %d at %d does not ascend from 0 to at most %d", x.Name, v, i, rows)
		}
		before = v
	}
	return nil
}

// look is what a query sees of keys first ≤ j < last. The last query of a segment stands at its last key; this one is the back-th
// from the end.
func look(m op.Mask, first, last, back int) sight {
	s := sight{first, last, first, last}
	if m.Causal {
		s.to = max(first, last-back+1)
	}
	if m.Window > 0 {
		s.from = max(first, s.to-m.Window)
	}
	return s
}

// head gives head h's columns of row i of a matrix of heads.
func (a *attention) head(x matrix, i, h int) []float32 { return x.row(i)[h*a.Dim : (h+1)*a.Dim] }

// kv is the key-value head that head h reads.
func (a *attention) kv(h int) int { return h / (a.Heads / a.KVHeads) }

// score is scale·(q·k) + bias.
func (a *attention) score(i, h, j int) float32 {
	s := float32(a.Scale * dot(a.head(a.q, i, h), a.head(a.k, j, a.kv(h))))
	if a.bias.v != nil {
		s += a.bias.row(h*a.q.rows + i)[j]
	}
	return s
}

func dot(x, y []float32) (s float32) {
	for c, v := range x {
		s += float32(v * y[c])
	}
	return s
}

// overKeys is Σ w·x over the keys that a query sees, in column c of the head that it reads.
func (a *attention) overKeys(w []float32, x matrix, i, h, c int) (sum float32) {
	for n, v := range w {
		sum += float32(v * a.head(x, a.sights[i].from+n, a.kv(h))[c])
	}
	return sum
}

// eachHead calls f for every head of every query.
func (d *Device) eachHead(a *attention, f func(i, h int)) {
	queries := len(a.sights)
	d.each(a.Heads*queries, func(n int) { f(n%queries, n/queries) })
}

func (d *Device) Attention(at op.At, y, stats, q, k, v *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) {
	attentionShapes(at, q, k, v, stats, segmentsQ, segmentsKV, bias, s)
	shaped(at, q.Rows, q.Cols, y)
	d.do(at, func() error {
		a, err := d.newAttention(q, k, v, segmentsQ, segmentsKV, bias, s)
		if err != nil {
			return err
		}
		to, kept := of(y), of(stats)
		d.eachHead(&a, func(i, h int) {
			p, m, l := a.attend(i, h)
			for c := range a.Dim {
				to.put((i*a.Heads+h)*a.Dim+c, a.overKeys(p, a.v, i, h, c))
			}
			kept.put((i*a.Heads+h)*2, m)
			kept.put((i*a.Heads+h)*2+1, l)
		})
		return nil
	})
}

// attend gives the weights P of the keys that a query sees, the largest score and the sum of exponentials.
func (a *attention) attend(i, h int) (p []float32, m, l float32) {
	s := a.sights[i]
	if s.from == s.to {
		return nil, 0, 0
	}
	e := make([]float32, s.last-s.first)
	p = e[s.from-s.first : s.to-s.first]
	m = a.score(i, h, s.from)
	for n := range p {
		if p[n] = a.score(i, h, s.from+n); p[n] > m { // which NaN is not
			m = p[n]
		}
	}
	for n := range p {
		p[n] = num.Exp(p[n] - m)
	}
	l = sum(e)
	for n := range p {
		p[n] = a.T.Round(p[n] / l)
	}
	return p, m, l
}

func (d *Device) AttentionBackward(at op.At, dq, dk, dv, dbias, dy, q, k, v, stats *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) {
	attentionShapes(at, q, k, v, stats, segmentsQ, segmentsKV, bias, s)
	shaped(at, q.Rows, q.Cols, dq, dy)
	shaped(at, k.Rows, k.Cols, dk, dv)
	shaped(at, s.Heads*q.Rows, k.Rows, dbias)
	full(at, dbias)
	d.do(at, func() error {
		a, err := d.newAttention(q, k, v, segmentsQ, segmentsKV, bias, s)
		if err != nil {
			return err
		}
		g := backward{attention: a, dy: d.widen(dy, dy.DType), p: make([][]float32, s.Heads*q.Rows), ds: make([][]float32, s.Heads*q.Rows)}
		d.eachHead(&a, func(i, h int) { g.weights(i, h, of(stats), dbias) })
		if dq != nil {
			d.eachHead(&a, func(i, h int) { g.query(i, h, of(dq)) })
		}
		d.each(s.KVHeads*k.Rows, func(n int) { g.key(n%k.Rows, n/k.Rows, dk, dv) })
		return nil
	})
}

// backward has, of each query of each head, in rows of heads·queries, the weights P and the gradients dS of the keys it sees.
type backward struct {
	attention
	dy    matrix
	p, ds [][]float32
}

// weights computes P again, dS, and adds dZ to dbias.
func (g *backward) weights(i, h int, stats values, dbias *op.Tensor) {
	s, n := g.sights[i], h*len(g.sights)+i
	m, l := stats.at((i*g.Heads+h)*2), stats.at((i*g.Heads+h)*2+1)
	dy, both := g.head(g.dy, i, h), make([]float32, s.last-s.first)
	p, dp := make([]float32, s.to-s.from), make([]float32, s.to-s.from)
	for j := range p {
		p[j] = g.T.Round(num.Exp(g.score(i, h, s.from+j)-m) / l)
		dp[j] = dot(dy, g.head(g.v, s.from+j, g.kv(h)))
		both[s.from-s.first+j] = float32(p[j] * dp[j])
	}
	mean := sum(both)
	for j := range p {
		dz := float32(p[j] * (dp[j] - mean))
		if dbias != nil {
			of(dbias).add(n*dbias.Cols+s.from+j, dz)
		}
		dp[j] = g.T.Round(float32(dz * g.Scale))
	}
	g.p[n], g.ds[n] = p, dp
}

// query adds Σ dS·k to dq.
func (g *backward) query(i, h int, dq values) {
	for c := range g.Dim {
		dq.add((i*g.Heads+h)*g.Dim+c, g.overKeys(g.ds[h*len(g.sights)+i], g.k, i, h, c))
	}
}

// key adds Σ dS·q to dk and Σ P·dy to dv, of one key of one key-value head: the heads that read it, and of each the queries that see
// the key, in their order.
func (g *backward) key(j, kv int, dk, dv *op.Tensor) {
	sumK, sumV := make([]float32, g.Dim), make([]float32, g.Dim)
	group := g.Heads / g.KVHeads
	for h := kv * group; h < (kv+1)*group; h++ {
		for i, s := range g.sights {
			if j < s.from || j >= s.to {
				continue
			}
			n := h*len(g.sights) + i
			ds, p, q, dy := g.ds[n][j-s.from], g.p[n][j-s.from], g.head(g.q, i, h), g.head(g.dy, i, h)
			for c := range g.Dim {
				sumK[c] += float32(ds * q[c])
				sumV[c] += float32(p * dy[c])
			}
		}
	}
	for c := range g.Dim {
		at := (j*g.KVHeads+kv)*g.Dim + c
		if dk != nil {
			of(dk).add(at, sumK[c])
		}
		if dv != nil {
			of(dv).add(at, sumV[c])
		}
	}
}
