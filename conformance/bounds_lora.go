package conformance

func boundLoRALinear(c *Case, in Tensors, a arithmetic) map[string][]approx {
	l := layerOf(c)
	t, r := c.num(), floats[l.branch(c.DType)].num
	y := boundLinear(c, in, a)["y"]
	x, ar, br := a.branch(c, in)
	u := a.storeAll(a.products(x, ar, l.m, l.rank, l.k), r)
	scale := exactly(float32(l.scale))
	for i, v := range a.products(u, br, l.m, l.n, l.rank) {
		y[i] = a.joined(y[i], a.store(a.mul(scale, a.store(v, r)), r), t)
	}
	return map[string][]approx{"y": y, "u": u}
}

// branch is what the adapter's branch computes with: x after dropout, and A and B rounded to its type.
func (a arithmetic) branch(c *Case, in Tensors) (x, ar, br []approx) {
	l := layerOf(c)
	r := l.branch(c.DType)
	return allExactly(l.dropped(in["x"].F, c.DType)), allExactly(Floats(r, in["a"].F).F), allExactly(Floats(r, in["b"].F).F)
}

func boundLoRALinearBackward(c *Case, in Tensors, a arithmetic) map[string][]approx {
	l := layerOf(c)
	t, r := c.num(), floats[l.branch(c.DType)].num
	out := boundLinearBackward(c, in, a)
	x, ar, br := a.branch(c, in)
	dv := make([]approx, l.m*l.n)
	for i, g := range in["dy"].F {
		dv[i] = a.store(a.mul(exactly(float32(l.scale)), exactly(g)), r)
	}
	du := a.storeAll(a.products(dv, transpose(br, l.rank), l.m, l.rank, l.n), r)
	out["da"] = a.weightGradient(in["da"].F, du, x, l.m, l.rank, l.k)
	out["db"] = a.weightGradient(in["db"].F, dv, a.inputs(in, "u"), l.m, l.n, l.rank)
	if dx, ok := out["dx"]; ok {
		branch := a.storeAll(a.products(du, transpose(ar, l.k), l.m, l.k, l.rank), r)
		for i, kept := range l.dropped(ones(l.m*l.k), F32) { // 0 or 1/(1 − p)
			if kept == 0 {
				branch[i] = approx{}
			} else if l.dropout.p > 0 {
				branch[i] = a.store(a.mul(branch[i], exactly(kept)), r)
			}
			dx[i] = a.joined(dx[i], branch[i], t)
		}
	}
	return out
}

func ones(n int) []float32 { return repeated(n, 1) }
