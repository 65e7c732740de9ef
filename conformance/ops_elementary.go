package conformance

import (
	"fmt"
	"math"
	"strconv"

	"qlora/ref/num"
)

// The functions that are correctly rounded: the specification is the mathematics.
func init() {
	for _, f := range []struct {
		name, of, formula string
		f                 func(float32) float32
		edges             []float32
	}{
		{"exp", "num.Exp", "e^x; +Inf from 128·ln 2 on", num.Exp, []float32{88.72283, -87.33654, -103.97208, 89, -88}},
		{"log", "num.Log", "ln x; of ±0 it is −Inf, of negative x NaN", num.Log, []float32{1, 2, 0x1p-126, 2.7182817}},
		{"tanh", "num.Tanh", "tanh x; of ±0 it is x", num.Tanh, []float32{9.010913, -9.010913, 0.03125, 0x1p-13, 0x1p-12, 20}},
		{"sigmoid", "num.Sigmoid", "1/(1 + e^-x)", num.Sigmoid, []float32{17.32868, -87.33654, -103.97208, 88, -88}},
		{"rsqrt", "num.Rsqrt", "1/√x; of a zero it is the infinity of its sign, of negative x NaN", num.Rsqrt, []float32{1, 2, 3, 4, 0.25}},
	} {
		register(&Operation{
			Name: f.name, Of: f.of,
			Formula: "x F32 [n] → y F32 [n] = " + f.formula + ". y is the float32 nearest to the true value, ties to even, " +
				"but a result below 2^-126 in magnitude is a zero of its sign. NaN gives NaN.",
			Cases: func(m *Maker) { elementaryCases(m, f.edges) },
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				y := make([]float32, in["x"].Len())
				for i, x := range in["x"].F {
					y[i] = f.f(x)
				}
				return Tensors{"y": Floats(F32, y)}, nil
			},
		})
	}
}

func elementaryCases(m *Maker, edges []float32) {
	add := func(level Level, reason string, values []float32) {
		m.Add(level, "", reason, []Param{Int("n", len(values))}, func(*random) Tensors { return Tensors{"x": Floats(F32, values)} })
	}
	drawn := func(level Level, n int, values func(r *random, i int) float32) {
		m.Add(level, "", "random", []Param{Int("n", n)}, func(r *random) Tensors {
			x := make([]float32, n)
			for i := range x {
				x[i] = values(r, i)
			}
			return Tensors{"x": Floats(F32, x)}
		})
	}
	uniform := func(lo, hi float32) func(r *random, i int) float32 {
		return func(r *random, _ int) float32 { return lo + float32((hi-lo)*num.Uniform(r.seed, r.next())) }
	}
	for _, n := range []int{1, 33, 1000} {
		drawn(Smoke, n, uniform(-8, 8))
		drawn(Quick, n, uniform(0, 1))
		drawn(Quick, n, uniform(-110, 110))
		drawn(Quick, n, func(r *random, _ int) float32 { return r.bits(1)[0] })
	}
	drawn(Quick, 1<<16, uniform(-16, 16))
	drawn(Quick, 1<<16, func(r *random, _ int) float32 { return r.bits(1)[0] })
	drawn(Full, 1<<21, uniform(-16, 16))
	add(Smoke, "special", specialValues)
	add(Smoke, "limit", around(edges, 64))
	add(Quick, "zero-result", around([]float32{-87.33654, -88.02969, -103.2789, -103.97208, -0x1p-126, 0x1p-126, 0x1p-127, 0x1p-149}, 256))
	add(Smoke, "hard", hardInputs)
	add(Quick, "binade", binades())
	for _, t := range []DType{BF16, F16} {
		m.Add(Quick, "", "all-"+floats[t].short, []Param{Int("n", 1<<16)}, func(*random) Tensors { return Tensors{"x": Floats(F32, everyHalf(t))} })
	}
	everyFloat32(m)
}

// specialValues are those that every function on float32 must have right.
var specialValues = func() []float32 {
	inf := float32(math.Inf(1))
	x := []float32{float32(math.NaN()), math.Float32frombits(0x7f800001), math.Float32frombits(0xffffffff)}
	for _, v := range []float32{0, 1, 0.5, 2, math.MaxFloat32, 0x1p-126, 0x1.fffffcp-127, 0x1p-149, inf} {
		x = append(x, v, -v)
	}
	return append(x, float32(math.Copysign(0, -1)))
}()

// around are values with the n float32 on either side of each.
func around(values []float32, n int) (x []float32) {
	for _, v := range values {
		x = append(x, v)
		for _, towards := range []float32{math.MaxFloat32, -math.MaxFloat32} {
			for y, i := v, 0; i < n; i++ {
				y = math.Nextafter32(y, towards)
				x = append(x, y)
			}
		}
	}
	return x
}

// binades are all powers of two with their neighbours.
func binades() (x []float32) {
	for e := -149; e <= 127; e++ {
		v := float32(math.Ldexp(1, e))
		for _, y := range []float32{math.Nextafter32(v, 0), v, math.Nextafter32(v, math.MaxFloat32)} {
			x = append(x, y, -y)
		}
	}
	return x
}

// everyHalf are all values of a 16-bit type.
func everyHalf(t DType) []float32 {
	x := make([]float32, 1<<16)
	for i := range x {
		x[i] = widened(uint16(i), t)
	}
	return x
}

// chunk is how many of all float32 one case has.
const chunk = 1 << 22

// everyFloat32 adds all 2^32 float32, and every 4099th.
func everyFloat32(m *Maker) {
	m.Add(Full, "", "every-float32", []Param{Int("n", 1<<32/4099), Int("stride", 4099)}, func(*random) Tensors { return float32s(0, 4099, 1<<32/4099) })
	for first := 0; first < 1<<32; first += chunk {
		m.Add(Exhaustive, "", "every-float32", []Param{Int("n", chunk), Text("first", fmt.Sprintf("%#08x", first))},
			func(*random) Tensors { return float32s(first, 1, chunk) })
	}
}

func float32s(first, stride, n int) Tensors {
	x := make([]float32, n)
	for i := range x {
		x[i] = math.Float32frombits(uint32(first + i*stride))
	}
	return Tensors{"x": Tensor{DType: F32, Shape: []int{n}, F: x}}
}

// hardInputs are those whose result under one of the five functions lies nearest to the middle of two float32, within 2^-23 of
// the distance of these: found by trying all of them in float64.
var hardInputs = parseHard(hardBits)

func parseHard(text []string) (x []float32) {
	for _, s := range text {
		bits, err := strconv.ParseUint(s, 16, 32)
		if err != nil {
			panic(err)
		}
		x = append(x, math.Float32frombits(uint32(bits)))
	}
	return x
}
