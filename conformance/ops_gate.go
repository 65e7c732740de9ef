package conformance

import (
	"math"

	"qlora/ref/op"
)

// acts are the names that activations of gated MLPs have in parameters.
var (
	acts        = []string{"silu", "gelu_tanh", "relu"}
	activations = map[string]op.Activation{"silu": op.SiLU, "gelu_tanh": op.GELUTanh, "relu": op.ReLU}
)

func init() {
	register(&Operation{
		Name: "gate", Of: "op.Gate", Needs: "Gate",
		Formula: "gate, up [n] → y [n]. y = round(round(act(gate))·up). silu(x) = x·sigmoid(x); gelu_tanh(x) = x/2·(1 + tanh(√(2/π)·(x + 0.044715·((x·x)·x)))), " +
			"its constants and every step rounded to float32; relu(x) = x above 0, else +0. sigmoid and tanh are correctly rounded.",
		Cases: gateCases,
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			y := make([]float32, in["gate"].Len())
			op.Gate(y, in["gate"].F, in["up"].F, activations[c.Param("act")], floats[c.DType].num)
			return Tensors{"y": Floats(c.DType, y, in["gate"].Shape...)}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			gate := b.Tensor("gate", in["gate"])
			y := b.Result("y", in["gate"].DType, gate.Rows, gate.Cols)
			b.Device.Gate(Place, y, gate, b.Tensor("up", in["up"]), activations[b.Case.Param("act")])
			return Tensors{"y": b.Read(y, in["gate"].Shape...)}
		},
	}, &Operation{
		Name: "gate_backward", Of: "op.GateBackward", Needs: "GateBackward",
		Formula: "dy, gate, up, dgate, dup [n] → dgate, dup. dgate = round(dgate + round((dy·up)·act'(gate))), dup = round(dup + round(dy·round(act(gate)))). " +
			"silu'(x) = s·(1 + x·(1 − s)) with s = sigmoid(x). gelu_tanh'(x) = (0.5·(1 + t)) + (x/2)·((1 − t·t)·(√(2/π)·(1 + 0.134145·(x·x)))) with its t = tanh(…). " +
			"relu'(x) = 1 above 0, else 0. Every step is rounded to float32. Either gradient may not be asked for.",
		Cases: gateBackwardCases, Optional: map[string]string{"dgate": "gate", "dup": "up"},
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			dgate, dup := in["dgate"].clone(), in["dup"].clone()
			op.GateBackward(dgate.F, dup.F, in["dy"].F, in["gate"].F, in["up"].F, activations[c.Param("act")], floats[c.DType].num)
			return Tensors{"dgate": dgate, "dup": dup}, nil
		},
		Device: func(b *Bench, in Tensors) Tensors {
			g := b.gradients(in, "dgate", "dup")
			b.Device.GateBackward(Place, g["dgate"], g["dup"], b.Tensor("dy", in["dy"]), b.Tensor("gate", in["gate"]), b.Tensor("up", in["up"]),
				activations[b.Case.Param("act")])
			return b.readAll(g, in)
		},
	})
}

// gateBothCases hands on values of the gate; those of the other inputs are normal.
func gateBothCases(t DType, add func(level Level, act, reason string, n int, gate, up func(r *random, n int) []float32)) {
	for _, act := range acts {
		for _, n := range []int{1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 256, 257, 1000} {
			level := Quick
			if n == 33 || n == 257 {
				level = Smoke
			}
			add(level, act, "random", n, scaled(1), scaled(1))
			add(Quick, act, "random", n, scaled(4), scaled(0.1))
		}
		// From where sigmoid and tanh still bend to where they are 0 or 1.
		for _, wide := range []float32{0x1p-20, 0x1p-8, 16, 60, 100, 1000, 30000} {
			add(Quick, act, "saturation", 300, func(r *random, n int) []float32 {
				x := make([]float32, n)
				for i := range x {
					x[i] = float32(wide * (float32(float32(i)*float32(2)/float32(n-1)) - 1))
				}
				return x
			}, scaled(1))
		}
		for _, k := range finite[1:3] {
			add(Quick, act, k.reason, 200, func(r *random, n int) []float32 { return k.values(r, n, t) }, scaled(1))
			add(Quick, act, k.reason, 200, scaled(1), func(r *random, n int) []float32 { return k.values(r, n, t) })
		}
		if t != F16 {
			add(Quick, act, "tiny-product", 300, scaled(0x1p-66), scaled(0x1p-66))
			add(Quick, act, "tiny-product", 300, scaled(0x1p-70), scaled(0x1p-66))
			add(Quick, act, "near-overflow", 300, scaled(0x1p50), scaled(0x1p78))
		}
		add(Quick, act, "near-overflow", 200, func(r *random, n int) []float32 { return nearOverflow(r, n, t) }, scaled(0x1p-8))
		if t != F32 {
			add(Quick, act, "every-input", 1<<16, func(*random, int) []float32 { return everyValue(t) }, func(_ *random, n int) []float32 { return repeated(n, 1) })
		}
	}
	add(Quick, "silu", "empty", 0, scaled(1), scaled(1))
}

// everyValue is all values of a 16-bit type up to 2^60, beyond which x³ is an infinity and nothing new happens; 0 for the others.
func everyValue(t DType) []float32 {
	x := make([]float32, 1<<16)
	for i := range x {
		if v := widened(uint16(i), t); math.Abs(float64(v)) <= 0x1p60 {
			x[i] = v
		}
	}
	return x
}

func gateCases(m *Maker) {
	for _, t := range []DType{F32, BF16, F16} {
		add := func(level Level, act, reason string, n int, gate, up func(r *random, n int) []float32) {
			m.Add(level, t, reason, []Param{Int("n", n), Text("act", act)}, func(r *random) Tensors {
				return Tensors{"gate": Floats(t, gate(r, n)), "up": Floats(t, up(r, n))}
			})
		}
		gateBothCases(t, add)
		for _, act := range acts {
			add(Quick, act, "nan-inf", 100, scaled(1), func(r *random, n int) []float32 { return nansAndInfinities(r, n, t) })
		}
		for _, act := range []string{"silu", "gelu_tanh"} {
			add(Quick, act, "nan-inf", 100, func(r *random, n int) []float32 { return nansAndInfinities(r, n, t) }, scaled(1))
		}
	}
	everyGate(m, false)
}

// everyGate is all 2^32 float32, a part at a time; backward, dgate is the slope alone.
func everyGate(m *Maker, backward bool) {
	const part = 1 << 20
	for _, act := range []string{"silu", "gelu_tanh"} {
		for from := 0; from < 1<<32; from += part {
			m.Add(Exhaustive, F32, "every-input", []Param{Int("n", part), Text("act", act), Int("from", from)}, func(*random) Tensors {
				x := make([]float32, part)
				for i := range x {
					x[i] = math.Float32frombits(uint32(from + i))
				}
				in := Tensors{"gate": Floats(F32, x), "up": Floats(F32, repeated(part, 1))}
				if backward {
					in["dy"], in["dgate"], in["dup"] = in["up"], Floats(F32, make([]float32, part)), Floats(F32, make([]float32, part))
				}
				return in
			})
		}
	}
}

func gateBackwardCases(m *Maker) {
	everyGate(m, true)
	for _, t := range []DType{F32, BF16} {
		gateBothCases(t, func(level Level, act, reason string, n int, gate, up func(r *random, n int) []float32) {
			m.gradients(level, t, reason, []Param{Int("n", n), Text("act", act)}, []string{"dgate", "dup"}, func(r *random) Tensors {
				in := Tensors{"gate": Floats(t, gate(r, n)), "up": Floats(t, up(r, n))}
				for _, name := range []string{"dy", "dgate", "dup"} {
					x := r.normal(n, 1)
					if reason == "every-input" {
						x = repeated(n, map[string]float32{"dy": 1}[name])
					}
					in[name] = Floats(t, x)
				}
				return in
			})
		})
	}
}
