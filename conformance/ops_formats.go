package conformance

import (
	"math"

	"qlora/ref/num"
)

// Conversions between float32 and the 16-bit types.
func init() {
	for _, f := range []struct {
		t      DType
		name   string
		short  string // of the function
		narrow func(float32) uint16
		widen  func(uint16) float32
		bits   string
	}{
		{BF16, "bfloat16", "BFloat16", num.ToBFloat16, num.FromBFloat16, "the upper half of float32's bits"},
		{F16, "float16", "Float16", num.ToFloat16, num.FromFloat16, "IEEE 754 binary16: 1 sign, 5 exponent and 10 fraction bits, subnormals kept"},
	} {
		register(
			&Operation{
				Name: "to_" + f.name, Of: "num.To" + f.short, Needs: "Write",
				Formula: "x F32 [n] → y " + string(f.t) + " [n], " + f.bits + ": to nearest, ties to even; what is too large " +
					"becomes an infinity, NaN stays a NaN.",
				Cases: func(m *Maker) { narrowCases(m, f.t) },
				Reference: func(c *Case, in Tensors) (Tensors, error) {
					y := make([]float32, in["x"].Len())
					for i, x := range in["x"].F {
						y[i] = f.widen(f.narrow(x))
					}
					return Tensors{"y": Tensor{DType: f.t, Shape: in["x"].Shape, F: y}}, nil
				},
				Device: func(b *Bench, in Tensors) Tensors {
					x := in["x"]
					x.DType = f.t
					return Tensors{"y": b.Read(b.State("y", x), x.Shape...)}
				},
			},
			&Operation{
				Name: "from_" + f.name, Of: "num.From" + f.short, Needs: "Read",
				Formula: "x " + string(f.t) + " [n], " + f.bits + " → y F32 [n], exactly.",
				Cases:   func(m *Maker) { widenCases(m, f.t) },
				Reference: func(c *Case, in Tensors) (Tensors, error) {
					y := make([]float32, in["x"].Len())
					for i, x := range in["x"].F {
						y[i] = f.widen(f.narrow(x))
					}
					return Tensors{"y": Floats(F32, y)}, nil
				},
				Device: func(b *Bench, in Tensors) Tensors {
					y := b.Read(b.State("x", in["x"]), in["x"].Shape...)
					y.DType = F32
					return Tensors{"y": y}
				},
			})
	}
}

func narrowCases(m *Maker, t DType) {
	add := func(level Level, reason string, values []float32) {
		m.Add(level, "", reason, []Param{Int("n", len(values))}, func(*random) Tensors {
			return Tensors{"x": Tensor{DType: F32, Shape: []int{len(values)}, F: values}}
		})
	}
	for _, n := range []int{1, 31, 33, 1000} {
		for _, k := range finite {
			level := Quick
			if k.reason == ordinary.reason {
				level = Smoke
			}
			m.Add(level, "", k.reason, []Param{Int("n", n)}, func(r *random) Tensors { return Tensors{"x": Floats(F32, k.values(r, n, F32))} })
		}
	}
	ties, beside := midpointsOf(t)
	add(Quick, "half", ties)
	add(Quick, "beside-half", beside)
	add(Smoke, "special", specialValues)
	add(Smoke, "nan-payload", nansOfEveryPayload())
	large := map[DType][]float32{BF16: {0x1.fep127, 0x1.ffp127, -0x1.ffp127}, F16: {65504, 65520, -65520, 65536}}
	add(Quick, "limit", around(large[t], 64))
	small := map[DType][]float32{BF16: {0x1p-133, 0x1p-134, 0x1p-126, -0x1p-134}, F16: {0x1p-24, 0x1p-25, 0x1p-14, 0x1.8p-24, -0x1p-25}}
	add(Quick, "subnormal", around(small[t], 64))
	add(Quick, "binade", binades())
	for _, half := range []DType{BF16, F16} {
		m.Add(Quick, "", "all-"+floats[half].short, []Param{Int("n", 1<<16)}, func(*random) Tensors { return Tensors{"x": Floats(F32, everyHalf(half))} })
	}
	everyFloat32(m)
}

// midpointsOf are the float32 half-way between neighbours of t, and those just beside them, of either sign.
func midpointsOf(t DType) (ties, beside []float32) {
	for bits := range uint16(0x7fff) {
		lo, hi := widened(bits, t), widened(bits+1, t)
		if hi-hi != 0 {
			break
		}
		middle := float32((float64(lo) + float64(hi)) / 2)
		ties = append(ties, middle, -middle)
		beside = append(beside, math.Nextafter32(middle, 0), math.Nextafter32(middle, hi))
	}
	return ties, beside
}

// nansOfEveryPayload have one bit of the fraction each, of either sign, and all of those below it.
func nansOfEveryPayload() (x []float32) {
	for bit := range 23 {
		for _, payload := range []uint32{1 << bit, 1<<(bit+1) - 1} {
			x = append(x, math.Float32frombits(0x7f800000|payload), math.Float32frombits(0xff800000|payload))
		}
	}
	return x
}

func widenCases(m *Maker, t DType) {
	m.Add(Smoke, "", "all-"+floats[t].short, []Param{Int("n", 1<<16)}, func(*random) Tensors {
		return Tensors{"x": Tensor{DType: t, Shape: []int{1 << 16}, F: everyHalf(t)}}
	})
	for _, n := range []int{1, 2, 3, 31, 33, 65, 1000} {
		for _, k := range everything {
			level := Quick
			if n == 33 {
				level = Smoke
			}
			m.Add(level, "", k.reason, []Param{Int("n", n)}, func(r *random) Tensors { return Tensors{"x": Floats(t, k.values(r, n, t))} })
		}
	}
}
