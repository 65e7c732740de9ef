package op

import "qlora/ref/num"

// Mask says which keys of its segment a query sees. Positions are aligned at the segment's end: the last query stands at
// the last key, as it does when earlier keys come from a cache.
type Mask struct {
	Causal bool
	Window int // of the keys that it would see, a query sees the last Window: its own and those before it; 0 is no window
}

// AttentionShape is grouped-query attention over packed sequences: q [tokens, Heads·Dim], k and v [keys, KVHeads·Dim];
// query head h reads key-value head h/(Heads/KVHeads).
type AttentionShape struct {
	Heads, KVHeads, Dim int
	Scale               float32
	Mask                Mask
	T                   num.DType
}

// Attention computes, for each query i of a segment and each head,
//
//	S_j = scale·(q_i·k_j) [+ bias_ij]   float32, d ascending, over the visible keys j of its segment
//	m = max S, E_j = exp(S_j − m), l = Sum(E), lanes counted from the segment's first key (unseen keys are +0)
//	P_j = round(E_j/l)
//	y_i = round(Σ_j P_j·v_j), j ascending
//
// segmentsQ and segmentsKV are the bounds of the segments, n+1 each. bias is nil or [Heads, queries, keys] for a single
// segment. stats [tokens, 2·Heads] keeps m and l for backward. Never rescaled online: that would change bits.
func Attention(y, stats, q, k, v []float32, segmentsQ, segmentsKV []int32, bias []float32, s AttentionShape) {
	var scratch []float32
	s.eachRow(segmentsQ, segmentsKV, func(r attentionRow) {
		p := zeros(&scratch, r.keys)
		m := s.scores(p, q, k, bias, r)
		l := softmaxParts(p, m, r)
		stats[r.stat], stats[r.stat+1] = m, l
		s.divide(p, l, r)
		s.weighted(y[r.q:r.q+s.Dim], p, v, r)
		s.T.RoundAll(y[r.q : r.q+s.Dim])
	})
}

// AttentionBackward adds to dq, dk, dv (rounding to T) and, where it is not nil, to dbias. P is computed again from m and l.
//
//	dP_j = dy_i·v_j                                     float32
//	dZ_j = P_j·(dP_j − Sum(P·dP)),  dS_j = round(scale·dZ_j)
//	dq_i += Σ_j dS_j·k_j    j ascending
//	dk_j += Σ   dS_j·q_i    the group's heads ascending, then queries ascending
//	dv_j += Σ   P_j·dy_i    likewise
//	dbias += dZ
func AttentionBackward(dq, dk, dv, dbias, dy, q, k, v, stats []float32, segmentsQ, segmentsKV []int32, bias []float32, s AttentionShape) {
	sumK, sumV := make([]float32, len(dk)), make([]float32, len(dv))
	acc := make([]float32, s.Dim)
	var scratch [3][]float32
	s.eachRow(segmentsQ, segmentsKV, func(r attentionRow) {
		p, dp, z := zeros(&scratch[0], r.keys), zeros(&scratch[1], r.keys), zeros(&scratch[2], r.keys)
		s.scores(p, q, k, bias, r)
		softmaxParts(p, stats[r.stat], r)
		s.divide(p, stats[r.stat+1], r)
		dyi := dy[r.q : r.q+s.Dim]
		r.dots(dp, dyi, v)
		for j := r.from; j < r.to; j++ {
			z[j] = float32(p[j] * dp[j])
		}
		rowSum := num.Sum(z)
		clear(acc)
		for j := r.from; j < r.to; j++ {
			at := r.kv + j*r.stride
			dz := float32(p[j] * (dp[j] - rowSum))
			if dbias != nil {
				dbias[r.bias+j] += dz
			}
			ds := s.T.Round(float32(dz * s.Scale))
			axpy(acc, ds, k[at:at+s.Dim])
			axpy(sumK[at:at+s.Dim], ds, q[r.q:r.q+s.Dim])
			axpy(sumV[at:at+s.Dim], p[j], dyi)
		}
		addRounded(dq[r.q:r.q+s.Dim], acc, s.T)
	})
	addRounded(dk, sumK, s.T)
	addRounded(dv, sumV, s.T)
}

// attentionRow is one query of one head: where it stands in q, its keys' first element and stride in k and v, the number of
// keys in the segment, and those it sees.
type attentionRow struct {
	q, stat, bias  int
	kv, stride     int
	keys, from, to int
}

// eachRow goes over segments, heads, queries, all ascending: the order in which dk and dv are summed.
func (s AttentionShape) eachRow(segmentsQ, segmentsKV []int32, f func(attentionRow)) {
	group := s.Heads / s.KVHeads
	for g := range len(segmentsQ) - 1 {
		q0, q1 := int(segmentsQ[g]), int(segmentsQ[g+1])
		k0, keys := int(segmentsKV[g]), int(segmentsKV[g+1]-segmentsKV[g])
		for h := range s.Heads {
			for i := range q1 - q0 {
				r := attentionRow{
					q: ((q0+i)*s.Heads + h) * s.Dim, stat: ((q0+i)*s.Heads + h) * 2, bias: (h*(q1-q0) + i) * keys,
					kv: (k0*s.KVHeads + h/group) * s.Dim, stride: s.KVHeads * s.Dim,
					keys: keys, to: keys,
				}
				if s.Mask.Causal {
					r.to = max(0, keys-(q1-q0)+i+1)
				}
				if s.Mask.Window > 0 {
					r.from = max(0, r.to-s.Mask.Window)
				}
				f(r)
			}
		}
	}
}

// dots sets y[j] to the product of x with row j of rows, for the keys that the row sees, d ascending.
func (r attentionRow) dots(y, x, rows []float32) {
	j := r.from
	for ; j+4 <= r.to; j += 4 {
		y[j], y[j+1], y[j+2], y[j+3] = dot4(x, rows[r.kv+j*r.stride:], r.stride)
	}
	for ; j < r.to; j++ {
		at := r.kv + j*r.stride
		y[j] = dot(x, rows[at:at+len(x)])
	}
}

// zeros are n zeros in scratch memory that lasts from call to call.
func zeros(scratch *[]float32, n int) []float32 {
	if cap(*scratch) < n {
		*scratch = make([]float32, n)
	}
	x := (*scratch)[:n]
	clear(x)
	return x
}

// scores sets p to S on the keys the row sees and returns the largest.
func (s AttentionShape) scores(p, q, k, bias []float32, r attentionRow) (m float32) {
	r.dots(p, q[r.q:r.q+s.Dim], k)
	for j := r.from; j < r.to; j++ {
		p[j] = float32(p[j] * s.Scale)
		if bias != nil {
			p[j] += bias[r.bias+j]
		}
		if j == r.from || p[j] > m {
			m = p[j]
		}
	}
	return m
}

func softmaxParts(p []float32, m float32, r attentionRow) float32 {
	for j := r.from; j < r.to; j++ {
		p[j] = num.Exp(p[j] - m)
	}
	return num.Sum(p)
}

func (s AttentionShape) divide(p []float32, l float32, r attentionRow) {
	for j := r.from; j < r.to; j++ {
		p[j] /= l
	}
	s.T.RoundAll(p[r.from:r.to])
}

func (s AttentionShape) weighted(y, p, v []float32, r attentionRow) {
	clear(y)
	for j := r.from; j < r.to; j++ {
		at := r.kv + j*r.stride
		axpy(y, p[j], v[at:at+s.Dim])
	}
}

// axpy computes y += a·x.
func axpy(y []float32, a float32, x []float32) {
	x = x[:len(y)]
	for i, v := range x {
		y[i] += float32(a * v)
	}
}

// addRounded computes y = round(y + round(x)): a gradient joins those that are already there.
func addRounded(y, x []float32, t num.DType) {
	for i, v := range x {
		y[i] = t.Round(y[i] + t.Round(v))
	}
}
