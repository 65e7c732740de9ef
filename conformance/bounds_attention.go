package conformance

import "math"

// visible is one query of one head: where its row of q, of the statistics and of bias begins, where its segment's first key of
// its key-value head is and how far apart keys are, and which of them it sees.
type visible struct {
	q, stat, bias, kv, stride int
	from, to                  int
}

// eachVisible goes over segments, heads and queries.
func eachVisible(c *Case, in Tensors, f func(v visible)) {
	heads, kvHeads, d, window := c.Int("heads"), c.Int("kv_heads"), c.Int("d"), c.Int("window")
	q, k := in["segments_q"].I, in["segments_kv"].I
	for g := range len(q) - 1 {
		queries, keys := int(q[g+1]-q[g]), int(k[g+1]-k[g])
		for h := range heads {
			for i := range queries {
				token := int(q[g]) + i
				v := visible{q: (token*heads + h) * d, stat: (token*heads + h) * 2, bias: (h*queries + i) * keys,
					kv: (int(k[g])*kvHeads + h/(heads/kvHeads)) * d, stride: kvHeads * d, to: keys}
				if c.Has("causal") {
					v.to = max(0, keys-queries+i+1)
				}
				if window > 0 {
					v.from = max(0, v.to-window)
				}
				f(v)
			}
		}
	}
}

// scores are S of the keys that a query sees, by their index.
func (a arithmetic) scores(c *Case, in Tensors, v visible) []approx {
	d, scale := c.Int("d"), exactly(c.Float("scale"))
	q := in["q"].F[v.q : v.q+d]
	s := make([]approx, v.to)
	for j := v.from; j < v.to; j++ {
		k := in["k"].F[v.kv+j*v.stride:]
		s[j] = a.mul(a.dot(d, func(l int) (approx, approx) { return exactly(q[l]), exactly(k[l]) }), scale)
		if bias, ok := in["bias"]; ok {
			s[j] = a.add(s[j], exactly(bias.F[v.bias+j]))
		}
	}
	return s
}

// softmax gives E_j = exp(S_j − m), their sum l, and the largest radius of a score. m is taken as a number that is known:
// whichever m a device has, it cancels in E/l.
func (a arithmetic) softmax(s []approx, from int) (e []approx, m, l approx, worst float64) {
	m.v = math.Inf(-1)
	for _, x := range s[from:] {
		m.v, worst, m.over = max(m.v, x.v), max(worst, x.e), max(m.over, x.over)
	}
	e = make([]approx, len(s))
	for j := from; j < len(s); j++ {
		e[j] = a.function(a.sub(approx{v: s[j].v, over: s[j].over}, m), math.Exp)
	}
	return e, approx{m.v, worst, m.over}, a.total(e[from:]), worst
}

func boundAttention(c *Case, in Tensors, a arithmetic) map[string][]approx {
	d, t := c.Int("d"), c.num()
	y, stats := make([]approx, in["q"].Len()), make([]approx, in["q"].Len()/d*2)
	eachVisible(c, in, func(v visible) {
		s := a.scores(c, in, v)
		p, m, l, worst := a.softmax(s, v.from)
		// A device's m and scores may each be off by their radii: l by a factor of exp(2·worst) at most.
		stats[v.stat], stats[v.stat+1] = m, approx{l.v, l.e + (l.v+l.e)*math.Expm1(2*worst), l.over}
		for j := v.from; j < v.to; j++ {
			p[j] = a.div(p[j], l)
			p[j].e += (p[j].v + p[j].e) * math.Expm1(s[j].e+worst) // exp(S_j)/Σ exp(S): the radii of the scores
			p[j] = a.store(p[j], t)
		}
		for i := range d {
			y[v.q+i] = a.store(a.dot(v.to-v.from, func(j int) (approx, approx) {
				j += v.from
				return p[j], exactly(in["v"].F[v.kv+j*v.stride+i])
			}), t)
		}
	})
	return map[string][]approx{"y": y, "stats": stats}
}

func boundAttentionBackward(c *Case, in Tensors, a arithmetic) map[string][]approx {
	d, t, scale := c.Int("d"), c.num(), exactly(c.Float("scale"))
	dq := make([]approx, in["q"].Len())
	dk, dv := make([]accumulator, in["k"].Len()), make([]accumulator, in["v"].Len())
	out := map[string][]approx{}
	if bias, ok := in["dbias"]; ok {
		out["dbias"] = allExactly(bias.F)
	}
	eachVisible(c, in, func(v visible) {
		p := a.probabilities(c, in, v)
		dy, q := in["dy"].F[v.q:v.q+d], in["q"].F[v.q:v.q+d]
		dp, products := make([]approx, v.to), make([]approx, v.to)
		for j := v.from; j < v.to; j++ {
			row := in["v"].F[v.kv+j*v.stride:]
			dp[j] = a.dot(d, func(i int) (approx, approx) { return exactly(dy[i]), exactly(row[i]) })
			products[j] = a.mul(p[j], dp[j])
		}
		sum := a.total(products[v.from:])
		acc := make([]accumulator, d)
		for j := v.from; j < v.to; j++ {
			at := v.kv + j*v.stride
			dz := a.mul(p[j], a.sub(dp[j], sum))
			if out["dbias"] != nil {
				out["dbias"][v.bias+j] = a.add(out["dbias"][v.bias+j], dz)
			}
			ds := a.store(a.mul(dz, scale), t)
			for i := range d {
				acc[i].add(ds, exactly(in["k"].F[at+i]))
				dk[at+i].add(ds, exactly(q[i]))
				dv[at+i].add(p[j], exactly(dy[i]))
			}
		}
		for i := range d {
			dq[v.q+i] = a.joined(exactly(in["dq"].F[v.q+i]), a.result(acc[i]), t)
		}
	})
	out["dq"], out["dk"], out["dv"] = dq, a.results(dk), a.results(dv)
	for _, name := range []string{"dk", "dv"} {
		for i, x := range out[name] {
			out[name][i] = a.joined(exactly(in[name].F[i]), x, t)
		}
	}
	return out
}

// probabilities are P as backward has them: from the statistics that it is given.
func (a arithmetic) probabilities(c *Case, in Tensors, v visible) []approx {
	m, l := a.input(in, "stats", v.stat), a.input(in, "stats", v.stat+1)
	p := a.scores(c, in, v)
	for j := v.from; j < v.to; j++ {
		p[j] = a.store(a.div(a.function(a.sub(p[j], m), math.Exp), l), c.num())
	}
	return p
}
