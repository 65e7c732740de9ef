package conformance

import (
	"fmt"
	"math"
	"strconv"

	"qlora/ref/llama"
	"qlora/ref/num"
)

// The tables of rotary embeddings, which the host computes once.
func init() {
	register(
		&Operation{
			Name: "rope_table", Of: "llama.Config.InvFreq",
			Formula: "positions I32 [n]; dim, base; type of scaling default, linear, dynamic or llama3 with its settings; " +
				"length, the longest sequence → inv_freq F32 [dim/2], cos and sin F32 [n, dim/2]. " +
				"inv_freq[i] = 1/round32(base^round32(2i/dim)), the power correctly rounded, the quotient rounded. linear: " +
				"divided by factor. " +
				"dynamic, for length > max: base is base·(factor·length/max − (factor − 1))^(dim/(dim−2)), each step in float32. " +
				"llama3: with wavelength w = round32(2π)·(1/f): f/factor above original/low, f below original/high, else s = " +
				"(original·(1/w) − low)/(high − low) and (1−s)·f/factor + s·f. " +
				"angle = round32(float32(position)·inv_freq); cos and sin are correctly rounded of that float32, but zeros " +
				"below 2^-126.",
			Cases:     ropeTableCases,
			Reference: ropeTable,
		},
		&Operation{
			Name: "sin_cos", Of: "num.SinCos",
			Formula: "x F32 [n], angles in radians → sin, cos F32 [n]: correctly rounded, but a result below 2^-126 in " +
				"magnitude is a zero of its sign; NaN for |x| ≥ 2^18 and for NaN; sin(±0) = ±0.",
			Cases: sinCosCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				sin, cos := make([]float32, in["x"].Len()), make([]float32, in["x"].Len())
				for i, x := range in["x"].F {
					sin[i], cos[i] = num.SinCos(x)
				}
				return Tensors{"sin": Floats(F32, sin), "cos": Floats(F32, cos)}, nil
			},
		})
}

func ropeTable(c *Case, in Tensors) (Tensors, error) {
	config := llama.Config{HeadDim: c.Int("dim"), RoPETheta: c.float64("base"), MaxPositionEmbeddings: c.Int("max")}
	s := &config.RoPEScaling
	s.Type = c.Param("type")
	if s.Type != "default" {
		s.Factor = c.float64("factor")
	}
	if s.Type == "llama3" {
		s.LowFreqFactor, s.HighFreqFactor, s.OriginalMaxPosition = c.float64("low"), c.float64("high"), c.Int("original")
	}
	freq := config.InvFreq(c.Int("length"))
	var cos, sin []float32
	for _, p := range in["positions"].I {
		for _, f := range freq {
			y, x := num.SinCos(num.RoPEAngle(int(p), f))
			sin, cos = append(sin, y), append(cos, x)
		}
	}
	n := in["positions"].Len()
	return Tensors{"inv_freq": Floats(F32, freq), "cos": Floats(F32, cos, n, len(freq)), "sin": Floats(F32, sin, n, len(freq))}, nil
}

// float64 is a parameter as exactly as its text.
func (c *Case) float64(name string) float64 {
	x, err := strconv.ParseFloat(c.Param(name), 64)
	if err != nil {
		panic(fmt.Sprintf("conformance: %s has no number %s", c.Name(), name))
	}
	return x
}

func ropeTableCases(m *Maker) {
	add := func(level Level, dim int, base float64, max, length int, reason string, positions []int32, scaling ...Param) {
		params := append([]Param{Int("dim", dim), Float("base", base), Int("max", max), Int("length", length), Int("n", len(positions))}, scaling...)
		m.Add(level, "", reason, params, func(*random) Tensors { return Tensors{"positions": Ints(positions)} })
	}
	first, far := make([]int32, 16), []int32{127, 128, 1023, 2047, 4095, 8191, 32767, 65535, 131070, 131071}
	for i := range first {
		first[i] = int32(i)
	}
	ordinary := Text("type", "default")
	for _, base := range []float64{10000, 100000, 500000, 1e6, 8e6} {
		for _, dim := range []int{2, 4, 16, 64, 80, 96, 128, 256} {
			level := Quick
			if dim == 64 && base <= 500000 {
				level = Smoke
			}
			add(level, dim, base, 2048, 2048, "random", first, ordinary)
			add(Quick, dim, base, 131072, 131072, "far-position", far, ordinary)
		}
	}
	for _, factor := range []float64{1, 2, 2.5, 4, 8, 32} {
		for _, dim := range []int{64, 128} {
			linear := []Param{Text("type", "linear"), Float("factor", factor)}
			add(Quick, dim, 10000, 4096, 4096, "scaling", append(first, far...), linear...)
			for _, length := range []int{100, 2048, 2049, 3000, 4096, 16384} {
				add(Quick, dim, 10000, 2048, length, "scaling", first, Text("type", "dynamic"), Float("factor", factor))
			}
			for _, s := range []struct {
				low, high float64
				original  int
			}{{1, 4, 8192}, {1, 2, 2048}, {0.5, 32, 4096}} {
				add(Quick, dim, 500000, 131072, 131072, "scaling", append(first, far...), Text("type", "llama3"), Float("factor", factor),
					Float("low", s.low), Float("high", s.high), Int("original", s.original))
			}
		}
	}
}

func sinCosCases(m *Maker) {
	add := func(level Level, reason string, values []float32) {
		m.Add(level, "", reason, []Param{Int("n", len(values))}, func(*random) Tensors { return Tensors{"x": Floats(F32, values)} })
	}
	for _, scale := range []float32{1, 7, 1000, 1 << 17} {
		level := Quick
		if scale <= 7 {
			level = Smoke
		}
		m.Add(level, "", "random", []Param{Int("n", 1000), Float("scale", float64(scale))}, func(r *random) Tensors {
			return Tensors{"x": Floats(F32, r.normal(1000, scale/4))}
		})
	}
	var multiples []float32 // of π/2: sine or cosine is near 0, and all of its bits come from the reduction
	for k := 1; k < 1<<17; k += 1 + k/64 {
		multiples = append(multiples, float32(float64(k)*math.Pi/2), -float32(float64(k)*math.Pi/2))
	}
	add(Quick, "hard", multiples)
	add(Quick, "limit", around([]float32{1 << 18, -1 << 18}, 20))
	add(Smoke, "special", specialValues)
	add(Quick, "binade", binades())
	add(Full, "all-bf16", everyHalf(BF16))
	everyFloat32(m)
}
