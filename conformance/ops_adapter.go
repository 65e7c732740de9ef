package conformance

import (
	"math"

	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
)

// Adapters: how they begin, how they are scaled, and how they are merged.
func init() {
	register(
		&Operation{
			Name: "lora_init", Of: "lora.InitA",
			Formula: "name and layer (65535 outside of blocks) say which linear layer it is; r, in; seed → a F32 [r, in] = " +
				"(2u − 1)·round32(1/√in): uniform, each step rounded, " +
				"with purpose \"lora_A/\" + name, step 0, layer, element = index in a. B is zero.",
			Cases: loraInitCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				at := op.At{Layer: uint16(c.Int("layer")), Name: c.Param("name")}
				return Tensors{"a": Floats(F32, lora.InitA(at, c.Int("r"), c.Int("in"), c.seed()), c.Int("r"), c.Int("in"))}, nil
			},
		},
		&Operation{
			Name: "lora_scale", Of: "lora.Config.Scale",
			Formula: "r, alpha → scale F32 [1] = α/r, or with the flag rslora α/√r: in float64, rounded once.",
			Cases: func(m *Maker) {
				for _, r := range []int{1, 3, 7, 8, 16, 64, 100, 256} {
					for _, alpha := range []float64{0, 0.1, 1, 16, 32, 100} {
						for _, rs := range []bool{false, true} {
							level := Quick
							if r == 16 {
								level = Smoke
							}
							m.Add(level, "", "random", []Param{Int("r", r), Float("alpha", alpha), Flag("rslora", rs)}, func(*random) Tensors { return Tensors{} })
						}
					}
				}
			},
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				s := lora.Config{R: c.Int("r"), Alpha: c.float64("alpha"), RSLoRA: c.Has("rslora")}.Scale()
				return Tensors{"scale": Floats(F32, []float32{s})}, nil
			},
		},
		&Operation{
			Name: "lora_merge", Of: "lora.Merge",
			Formula: "w F32 [out, in], a F32 [r, in], b F32 [out, r], scale → w F32 = round32(w + round32(scale·(b·a))); b·a " +
				"from +0 over r ascending, each product rounded before it is added.",
			Cases: loraMergeCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				w := in["w"].clone()
				lora.Merge(w.F, in["a"].F, in["b"].F, c.Int("out"), c.Int("in"), c.Int("r"), c.Float("scale"))
				return Tensors{"w": w}, nil
			},
		})
}

func loraInitCases(m *Maker) {
	add := func(level Level, name string, layer, r, in int, key uint64, reason string) {
		m.Add(level, "", reason, []Param{Text("name", name), Int("layer", layer), Int("r", r), Int("in", in), seed(key)},
			func(*random) Tensors { return Tensors{} })
	}
	for _, in := range []int{1, 2, 3, 33, 64, 96, 576, 1000, 1536} {
		for _, r := range []int{1, 7, 16} {
			level := Quick
			if in == 96 {
				level = Smoke
			}
			add(level, "self_attn.q_proj", 3, r, in, 42, "random")
		}
	}
	add(Full, "mlp.down_proj", 31, 64, 11008, 42, "random")
	for _, place := range []struct {
		name  string
		layer int
	}{{"self_attn.q_proj", 0}, {"self_attn.q_proj", 1}, {"self_attn.k_proj", 1}, {"mlp.down_proj", 79}, {"lm_head", num.NoLayer}} {
		for _, key := range []uint64{0, 1, 1 << 32, math.MaxUint64} {
			add(Quick, place.name, place.layer, 4, 65, key, "place")
		}
	}
}

func loraMergeCases(m *Maker) {
	add := func(level Level, out, in, r int, scale float64, reason string, values func(r *random, n int) []float32) {
		params := []Param{Int("out", out), Int("in", in), Int("r", r), Float("scale", scale)}
		m.Add(level, "", reason, params, func(rnd *random) Tensors {
			matrix := func(rows, cols int) Tensor { return Floats(F32, values(rnd, rows*cols), rows, cols) }
			return Tensors{"w": matrix(out, in), "a": matrix(r, in), "b": matrix(out, r)}
		})
	}
	normal := func(r *random, n int) []float32 { return r.normal(n, 1) }
	for _, size := range [][3]int{{1, 1, 1}, {1, 33, 2}, {33, 1, 3}, {5, 7, 2}, {31, 65, 8}, {64, 64, 16}, {129, 127, 7}, {96, 160, 64}, {17, 300, 5}} {
		for _, scale := range []float64{1, 2, 0.25, 0.1} {
			level := Quick
			if size[2] == 8 {
				level = Smoke
			}
			add(level, size[0], size[1], size[2], scale, "random", normal)
			add(Quick, size[0], size[1], size[2], scale, "cancellation", (*random).cancelling)
		}
		add(Quick, size[0], size[1], size[2], 2, "integers", func(r *random, n int) []float32 { return r.integers(n, 15) })
		add(Quick, size[0], size[1], size[2], 0.5, "signed-zero", func(r *random, n int) []float32 { return signedZeros(r, n, F32) })
		add(Quick, size[0], size[1], size[2], 0.5, "subnormal", func(r *random, n int) []float32 { return r.normal(n, 0x1p-66) })
		add(Quick, size[0], size[1], size[2], 0.5, "sum-overflow", func(r *random, n int) []float32 { return r.normal(n, 0x1p63) })
		add(Quick, size[0], size[1], size[2], 1, "nan-inf", func(r *random, n int) []float32 { return nansAndInfinities(r, n, F32) })
	}
	add(Full, 1024, 1024, 64, 0.25, "random", normal)
}
