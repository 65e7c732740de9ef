package conformance

import (
	"strings"

	"qlora/ref/op"
)

// observer is the reference device, with someone who sees each operation that has a bound: as if it were a case, with the inputs that
// it had and the tensors that it has written. Bounds across operations are made of that.
type observer struct {
	*op.Plain
	see func(o *observed)
}

// observed is an operation that a model has made of a device.
type observed struct {
	*Case
	in   Tensors               // as they were before
	from map[string]*op.Tensor // what in was read from
	out  map[string]*op.Tensor // as they are now
}

func newObserver(see func(o *observed)) *observer {
	return &observer{op.NewPlain(0), see}
}

// bound is where the operation's outputs must lie.
func (o *observed) bound(a arithmetic) map[string][]approx { return bounds[o.Op](o.Case, o.in, a) }

// forward is the name of the operation whose backward this is, or its own.
func (o *observed) forward() string { return strings.TrimSuffix(o.Op, "_backward") }

// call is an operation that is about to be made.
type call struct {
	name    string
	at      op.At
	t       *op.Tensor // of the compute type
	params  []Param
	in, out map[string]*op.Tensor // nil for what is not there
	extra   Tensors               // inputs that are no tensors of the device
}

// through makes the call and shows it.
func (d *observer) through(c call, do func()) {
	o := &observed{Case: &Case{Op: c.name, DType: dtypes[c.t.DType], Params: c.params, at: c.at}, in: Tensors{}, from: c.in, out: map[string]*op.Tensor{}}
	for name, t := range c.in {
		if t != nil {
			o.in[name] = d.read(t)
		}
	}
	for name, t := range c.extra {
		o.in[name] = t
	}
	for name, t := range c.out {
		if t != nil {
			o.out[name] = t
		}
	}
	do()
	if d.Sync() == nil {
		d.see(o)
	}
}

func (d *observer) read(t *op.Tensor) Tensor {
	values, err := d.Read(t)
	if err != nil {
		values = make([]float32, t.Len()) // the error stays with the device
	}
	return Tensor{DType: dtypes[t.DType], Shape: []int{t.Rows, t.Cols}, F: values}
}

func (d *observer) ints(x *op.Ints) Tensor {
	values, err := d.ReadInts(x)
	if err != nil {
		values = make([]int32, x.Len)
	}
	return Ints(values)
}

// linear is a call of a linear layer, or of its backward.
func (d *observer) linear(name string, at op.At, x *op.Tensor, w op.Weight, in, out map[string]*op.Tensor) call {
	l := layer{m: x.Rows, n: w.Out(), k: w.In(), weight: dense}
	c := call{name: name, at: at, t: x, in: in, out: out}
	in["x"] = x
	if w.Quantized == nil {
		in["w"] = w.Dense
	} else if q, err := d.ReadQuantized(w.Quantized); err == nil {
		l.weight, l.bs, c.extra = q.Type.Name, q.Blocksize, quantizedInputs(q)
		if q.Nested != nil {
			l.weight += nested
		}
	}
	c.params = l.params()
	return c
}

func (d *observer) Linear(at op.At, y, x *op.Tensor, w op.Weight, bias *op.Tensor) {
	d.through(d.linear("linear", at, x, w, map[string]*op.Tensor{"bias": bias}, map[string]*op.Tensor{"y": y}), func() { d.Plain.Linear(at, y, x, w, bias) })
}

func (d *observer) LinearBackward(at op.At, dx, dw, dbias, dy, x *op.Tensor, w op.Weight) {
	g := map[string]*op.Tensor{"dx": dx, "dw": dw, "dbias": dbias}
	in := map[string]*op.Tensor{"dx": dx, "dw": dw, "dbias": dbias, "dy": dy}
	d.through(d.linear("linear_backward", at, x, w, in, g), func() { d.Plain.LinearBackward(at, dx, dw, dbias, dy, x, w) })
}

// adapted adds an adapter to a call of a linear layer.
func (d *observer) adapted(c call, a *op.Adapter) call {
	c.in["a"], c.in["b"] = a.A, a.B
	c.params = append(c.params, Int("r", a.A.Rows), single("scale", a.Scale), Flag("branch_f32", a.Float32))
	if p := a.Dropout; p.P > 0 {
		clock := d.ints(p.Clock).I
		c.params = append(c.params, single("p", p.P), seed(p.Seed), Int("step", int(clock[op.ClockStep])), Int("first", int(clock[op.ClockFirstToken])))
	}
	return c
}

func (d *observer) LoRALinear(at op.At, y, u, x *op.Tensor, w op.Weight, bias *op.Tensor, a *op.Adapter) {
	c := d.linear("lora_linear", at, x, w, map[string]*op.Tensor{"bias": bias}, map[string]*op.Tensor{"y": y, "u": u})
	d.through(d.adapted(c, a), func() { d.Plain.LoRALinear(at, y, u, x, w, bias, a) })
}

func (d *observer) LoRALinearBackward(at op.At, dx, dy, u, x *op.Tensor, w op.Weight, a *op.Adapter) {
	in := map[string]*op.Tensor{"dx": dx, "da": a.GradA, "db": a.GradB, "dy": dy, "u": u}
	c := d.linear("lora_linear_backward", at, x, w, in, map[string]*op.Tensor{"dx": dx, "da": a.GradA, "db": a.GradB})
	d.through(d.adapted(c, a), func() { d.Plain.LoRALinearBackward(at, dx, dy, u, x, w, a) })
}

func (d *observer) RMSNorm(at op.At, y, r, x, w *op.Tensor, eps float32) {
	d.through(call{name: "rmsnorm", at: at, t: x, params: []Param{single("eps", eps)}, in: map[string]*op.Tensor{"x": x, "w": w},
		out: map[string]*op.Tensor{"y": y, "r": r}}, func() { d.Plain.RMSNorm(at, y, r, x, w, eps) })
}

func (d *observer) RMSNormBackward(at op.At, dx, dw, dy, x, w, r *op.Tensor) {
	d.through(call{name: "rmsnorm_backward", at: at, t: x, in: map[string]*op.Tensor{"dx": dx, "dw": dw, "dy": dy, "x": x, "w": w, "r": r},
		out: map[string]*op.Tensor{"dx": dx, "dw": dw}}, func() { d.Plain.RMSNormBackward(at, dx, dw, dy, x, w, r) })
}

func (d *observer) RoPE(at op.At, y, x, cos, sin *op.Tensor, positions *op.Ints) {
	d.through(call{name: "rope", at: at, t: x, in: map[string]*op.Tensor{"x": x, "cos": cos, "sin": sin}, out: map[string]*op.Tensor{"y": y},
		extra: Tensors{"positions": d.ints(positions)}}, func() { d.Plain.RoPE(at, y, x, cos, sin, positions) })
}

func (d *observer) RoPEBackward(at op.At, dx, dy, cos, sin *op.Tensor, positions *op.Ints) {
	d.through(call{name: "rope_backward", at: at, t: dy, in: map[string]*op.Tensor{"dx": dx, "dy": dy, "cos": cos, "sin": sin}, out: map[string]*op.Tensor{"dx": dx},
		extra: Tensors{"positions": d.ints(positions)}}, func() { d.Plain.RoPEBackward(at, dx, dy, cos, sin, positions) })
}

// attended is a call of attention, or of its backward.
func (d *observer) attended(name string, at op.At, in, out map[string]*op.Tensor, segmentsQ, segmentsKV *op.Ints, s op.AttentionShape) call {
	return call{name: name, at: at, t: in["q"], in: in, out: out, extra: Tensors{"segments_q": d.ints(segmentsQ), "segments_kv": d.ints(segmentsKV)}, params: []Param{
		Int("heads", s.Heads), Int("kv_heads", s.KVHeads), Int("d", s.Dim), single("scale", s.Scale), Flag("causal", s.Mask.Causal), Int("window", s.Mask.Window)}}
}

func (d *observer) Attention(at op.At, y, stats, q, k, v *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) {
	in := map[string]*op.Tensor{"q": q, "k": k, "v": v, "bias": bias}
	d.through(d.attended("attention", at, in, map[string]*op.Tensor{"y": y, "stats": stats}, segmentsQ, segmentsKV, s),
		func() { d.Plain.Attention(at, y, stats, q, k, v, segmentsQ, segmentsKV, bias, s) })
}

func (d *observer) AttentionBackward(at op.At, dq, dk, dv, dbias, dy, q, k, v, stats *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) {
	g := map[string]*op.Tensor{"dq": dq, "dk": dk, "dv": dv, "dbias": dbias}
	in := map[string]*op.Tensor{"dq": dq, "dk": dk, "dv": dv, "dbias": dbias, "dy": dy, "q": q, "k": k, "v": v, "stats": stats, "bias": bias}
	d.through(d.attended("attention_backward", at, in, g, segmentsQ, segmentsKV, s),
		func() {
			d.Plain.AttentionBackward(at, dq, dk, dv, dbias, dy, q, k, v, stats, segmentsQ, segmentsKV, bias, s)
		})
}

// activation is a parameter of gates.
func activation(act op.Activation) []Param {
	for name, a := range activations {
		if a == act {
			return []Param{Text("act", name)}
		}
	}
	panic("conformance: there are no cases of the activation")
}

func (d *observer) Gate(at op.At, y, gate, up *op.Tensor, act op.Activation) {
	d.through(call{name: "gate", at: at, t: gate, params: activation(act), in: map[string]*op.Tensor{"gate": gate, "up": up}, out: map[string]*op.Tensor{"y": y}},
		func() { d.Plain.Gate(at, y, gate, up, act) })
}

func (d *observer) GateBackward(at op.At, dgate, dup, dy, gate, up *op.Tensor, act op.Activation) {
	d.through(call{name: "gate_backward", at: at, t: gate, params: activation(act),
		in:  map[string]*op.Tensor{"dgate": dgate, "dup": dup, "dy": dy, "gate": gate, "up": up},
		out: map[string]*op.Tensor{"dgate": dgate, "dup": dup}}, func() { d.Plain.GateBackward(at, dgate, dup, dy, gate, up, act) })
}

func (d *observer) Add(at op.At, y, a, b *op.Tensor) {
	d.through(call{name: "add", at: at, t: y, in: map[string]*op.Tensor{"a": a, "b": b}, out: map[string]*op.Tensor{"y": y}}, func() { d.Plain.Add(at, y, a, b) })
}

// headed is a call of the head, or of its backward.
func (d *observer) headed(name string, at op.At, in, out map[string]*op.Tensor, labels *op.Ints) call {
	return call{name: name, at: at, t: in["x"], in: in, out: out, extra: Tensors{"labels": d.ints(labels)}, params: []Param{
		Int("tokens", labels.Len), Int("vocab", in["w"].Rows), Int("d", in["w"].Cols)}}
}

func (d *observer) HeadLoss(at op.At, loss, lse, x *op.Tensor, w op.Weight, labels *op.Ints) {
	d.through(d.headed("head_loss", at, map[string]*op.Tensor{"x": x, "w": w.Dense}, map[string]*op.Tensor{"loss": loss, "lse": lse}, labels),
		func() { d.Plain.HeadLoss(at, loss, lse, x, w, labels) })
}

func (d *observer) HeadLossBackward(at op.At, dx, dw, lse, x *op.Tensor, w op.Weight, labels *op.Ints, g *op.Tensor) {
	in := map[string]*op.Tensor{"dx": dx, "dw": dw, "lse": lse, "x": x, "w": w.Dense, "g": g}
	d.through(d.headed("head_loss_backward", at, in, map[string]*op.Tensor{"dx": dx, "dw": dw}, labels),
		func() { d.Plain.HeadLossBackward(at, dx, dw, lse, x, w, labels, g) })
}
