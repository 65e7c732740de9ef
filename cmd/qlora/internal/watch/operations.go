package watch

import "qlora/ref/op"

// Each operation of op.Device that computes floating-point numbers, with its results and its inputs.

func (d *Device) Dequantize(at op.At, y *op.Tensor, w *op.Quantized) {
	d.see(at, "dequantize", func() { d.Device.Dequantize(at, y, w) }, d.tensors("y", y), d.weight(op.Weight{Quantized: w}))
}

func (d *Device) Embedding(at op.At, y, table *op.Tensor, ids *op.Ints) {
	d.see(at, "embedding", func() { d.Device.Embedding(at, y, table, ids) }, d.tensors("y", y), d.tensor("table", table))
}

func (d *Device) EmbeddingBackward(at op.At, dtable, dy *op.Tensor, ids *op.Ints) {
	d.see(at, "embedding_backward", func() { d.Device.EmbeddingBackward(at, dtable, dy, ids) }, d.tensors("dtable", dtable), d.tensor("dy", dy))
}

func (d *Device) Linear(at op.At, y, x *op.Tensor, w op.Weight, bias *op.Tensor) {
	d.see(at, "linear", func() { d.Device.Linear(at, y, x, w, bias) }, d.tensors("y", y),
		d.tensor("x", x), d.weight(w), d.tensor("bias", bias))
}

func (d *Device) LinearBackward(at op.At, dx, dw, dbias, dy, x *op.Tensor, w op.Weight) {
	d.see(at, "linear_backward", func() { d.Device.LinearBackward(at, dx, dw, dbias, dy, x, w) }, d.tensors("dx dw dbias", dx, dw, dbias),
		d.tensor("dy", dy), d.tensor("x", x), d.weight(w))
}

func (d *Device) LoRALinear(at op.At, y, u, x *op.Tensor, w op.Weight, bias *op.Tensor, a *op.Adapter) {
	d.see(at, "lora_linear", func() { d.Device.LoRALinear(at, y, u, x, w, bias, a) }, d.tensors("u y", u, y),
		d.tensor("x", x), d.weight(w), d.tensor("bias", bias), d.tensor("a", a.A), d.tensor("b", a.B))
}

func (d *Device) LoRALinearBackward(at op.At, dx, dy, u, x *op.Tensor, w op.Weight, a *op.Adapter) {
	d.see(at, "lora_linear_backward", func() { d.Device.LoRALinearBackward(at, dx, dy, u, x, w, a) }, d.tensors("dx da db", dx, a.GradA, a.GradB),
		d.tensor("dy", dy), d.tensor("u", u), d.tensor("x", x), d.weight(w), d.tensor("a", a.A), d.tensor("b", a.B))
}

func (d *Device) RMSNorm(at op.At, y, r, x, w *op.Tensor, eps float32) {
	d.see(at, "rmsnorm", func() { d.Device.RMSNorm(at, y, r, x, w, eps) }, d.tensors("r y", r, y), d.tensor("x", x), d.tensor("w", w))
}

func (d *Device) RMSNormBackward(at op.At, dx, dw, dy, x, w, r *op.Tensor) {
	d.see(at, "rmsnorm_backward", func() { d.Device.RMSNormBackward(at, dx, dw, dy, x, w, r) }, d.tensors("dx dw", dx, dw),
		d.tensor("dy", dy), d.tensor("x", x), d.tensor("w", w), d.tensor("r", r))
}

func (d *Device) RoPE(at op.At, y, x, cos, sin *op.Tensor, positions *op.Ints) {
	d.see(at, "rope", func() { d.Device.RoPE(at, y, x, cos, sin, positions) }, d.tensors("y", y), d.tensor("x", x))
}

func (d *Device) RoPEBackward(at op.At, dx, dy, cos, sin *op.Tensor, positions *op.Ints) {
	d.see(at, "rope_backward", func() { d.Device.RoPEBackward(at, dx, dy, cos, sin, positions) }, d.tensors("dx", dx), d.tensor("dy", dy))
}

func (d *Device) Attention(at op.At, y, stats, q, k, v *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) {
	d.see(at, "attention", func() { d.Device.Attention(at, y, stats, q, k, v, segmentsQ, segmentsKV, bias, s) }, d.tensors("stats y", stats, y),
		d.tensor("q", q), d.tensor("k", k), d.tensor("v", v), d.tensor("bias", bias))
}

func (d *Device) AttentionBackward(at op.At, dq, dk, dv, dbias, dy, q, k, v, stats *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) {
	call := func() {
		d.Device.AttentionBackward(at, dq, dk, dv, dbias, dy, q, k, v, stats, segmentsQ, segmentsKV, bias, s)
	}
	d.see(at, "attention_backward", call, d.tensors("dq dk dv dbias", dq, dk, dv, dbias),
		d.tensor("dy", dy), d.tensor("q", q), d.tensor("k", k), d.tensor("v", v), d.tensor("stats", stats), d.tensor("bias", bias))
}

func (d *Device) CacheAppend(at op.At, cache, x *op.Tensor, position *op.Ints) {
	d.see(at, "cache_append", func() { d.Device.CacheAppend(at, cache, x, position) }, d.tensors("cache", cache), d.tensor("x", x))
}

func (d *Device) Gate(at op.At, y, gate, up *op.Tensor, act op.Activation) {
	d.see(at, "gate", func() { d.Device.Gate(at, y, gate, up, act) }, d.tensors("y", y), d.tensor("gate", gate), d.tensor("up", up))
}

func (d *Device) GateBackward(at op.At, dgate, dup, dy, gate, up *op.Tensor, act op.Activation) {
	d.see(at, "gate_backward", func() { d.Device.GateBackward(at, dgate, dup, dy, gate, up, act) }, d.tensors("dgate dup", dgate, dup),
		d.tensor("dy", dy), d.tensor("gate", gate), d.tensor("up", up))
}

func (d *Device) Add(at op.At, y, a, b *op.Tensor) {
	d.see(at, "add", func() { d.Device.Add(at, y, a, b) }, d.tensors("y", y), d.tensor("a", a), d.tensor("b", b))
}

func (d *Device) Copy(at op.At, y, x *op.Tensor) {
	d.see(at, "copy", func() { d.Device.Copy(at, y, x) }, d.tensors("y", y), d.tensor("x", x))
}

func (d *Device) Dropout(at op.At, y, x *op.Tensor, p op.Dropout) {
	d.see(at, "dropout", func() { d.Device.Dropout(at, y, x, p) }, d.tensors("y", y), d.tensor("x", x))
}

func (d *Device) DropoutBackward(at op.At, dx, dy *op.Tensor, p op.Dropout) {
	d.see(at, "dropout_backward", func() { d.Device.DropoutBackward(at, dx, dy, p) }, d.tensors("dx", dx), d.tensor("dy", dy))
}

func (d *Device) Noise(at op.At, y, x *op.Tensor, segments *op.Ints, n op.Noise) {
	d.see(at, "noise", func() { d.Device.Noise(at, y, x, segments, n) }, d.tensors("y", y), d.tensor("x", x))
}

func (d *Device) HeadLoss(at op.At, loss, lse, x *op.Tensor, w op.Weight, labels *op.Ints) {
	d.see(at, "head_loss", func() { d.Device.HeadLoss(at, loss, lse, x, w, labels) }, d.tensors("lse loss", lse, loss), d.tensor("x", x), d.weight(w))
}

func (d *Device) HeadLossBackward(at op.At, dx, dw, lse, x *op.Tensor, w op.Weight, labels *op.Ints, g *op.Tensor) {
	d.see(at, "head_loss_backward", func() { d.Device.HeadLossBackward(at, dx, dw, lse, x, w, labels, g) }, d.tensors("dx dw", dx, dw),
		d.tensor("lse", lse), d.tensor("x", x), d.weight(w), d.tensor("g", g))
}

func (d *Device) GradNorm(at op.At, norm *op.Tensor, grads []*op.Tensor) {
	var inputs []values
	for _, g := range grads {
		inputs = append(inputs, d.tensor("g", g))
	}
	d.see(at, "grad_norm", func() { d.Device.GradNorm(at, norm, grads) }, d.tensors("norm", norm), inputs...)
}

func (d *Device) AdamW(at op.At, p, m, v, g, scalars, norm *op.Tensor) {
	d.see(at, "adamw", func() { d.Device.AdamW(at, p, m, v, g, scalars, norm) }, d.tensors("m v p", m, v, p),
		d.tensor("g", g), d.tensor("scalars", scalars), d.tensor("norm", norm))
}

func (d *Device) AdamW8(at op.At, p *op.Tensor, s *op.State8, g, scalars, norm *op.Tensor) {
	d.see(at, "adamw8", func() { d.Device.AdamW8(at, p, s, g, scalars, norm) }, append(d.tensors("p", p), d.scales(s)),
		d.tensor("g", g), d.tensor("scalars", scalars), d.tensor("norm", norm))
}

func (d *Device) Lion(at op.At, p, m, g, scalars, norm *op.Tensor) {
	d.see(at, "lion", func() { d.Device.Lion(at, p, m, g, scalars, norm) }, d.tensors("m p", m, p),
		d.tensor("g", g), d.tensor("scalars", scalars), d.tensor("norm", norm))
}
