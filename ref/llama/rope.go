package llama

import (
	"fmt"
	"math"

	"qlora/ref/num"
	"qlora/ref/op"
)

// RoPEScaling stretches the angles of rotary embeddings beyond the context of pretraining, as transformers does
// (modeling_rope_utils.py); every step is rounded to float32, as there.
type RoPEScaling struct {
	Type                          string // "" or default, linear, dynamic, llama3
	Factor                        float64
	LowFreqFactor, HighFreqFactor float64   // llama3
	OriginalMaxPosition           int       // llama3
	Factors                       []float32 // GGUF's form of llama3: a divisor for each frequency
}

func (s RoPEScaling) check(headDim int) error {
	switch s.Type {
	case "", "default":
	case "linear", "dynamic", "llama3":
		if !(s.Factor >= 1) || math.IsInf(s.Factor, 0) {
			return fmt.Errorf("rope_scaling: factor is %v: want at least 1", s.Factor)
		}
	default:
		return fmt.Errorf("rope_scaling: type %q is not supported: want default, linear, dynamic or llama3", s.Type)
	}
	if s.Type == "llama3" && !(s.OriginalMaxPosition > 0 && s.LowFreqFactor > 0 && s.HighFreqFactor > s.LowFreqFactor) {
		return fmt.Errorf("rope_scaling: llama3 needs original_max_position_embeddings and 0 < low_freq_factor < high_freq_factor, found %d, %v, %v",
			s.OriginalMaxPosition, s.LowFreqFactor, s.HighFreqFactor)
	}
	if s.Type == "dynamic" && headDim < 4 {
		return fmt.Errorf("rope_scaling: dynamic needs a head_dim of at least 4")
	}
	if n := len(s.Factors); n != 0 && n != headDim/2 {
		return fmt.Errorf("rope_freqs has %d factors, a head_dim of %d needs %d", n, headDim, headDim/2)
	}
	return nil
}

// InvFreq gives the head_dim/2 frequencies for sequences of at most length tokens; the length matters to dynamic alone.
func (c Config) InvFreq(length int) []float32 {
	s := c.RoPEScaling
	if s.Type == "dynamic" && length > c.MaxPositionEmbeddings {
		return num.RoPEInvFreq(s.dynamicBase(c, length), c.HeadDim)
	}
	f := num.RoPEInvFreq(c.RoPETheta, c.HeadDim)
	for i := range f {
		switch s.Type {
		case "linear":
			f[i] /= float32(s.Factor)
		case "llama3":
			f[i] = s.llama3(f[i])
		}
		if s.Factors != nil {
			f[i] /= s.Factors[i]
		}
	}
	return f
}

// dynamicBase is base·(factor·length/max − (factor − 1))^(d/(d−2)), of the "NTK-aware" kind.
func (s RoPEScaling) dynamicBase(c Config, length int) float64 {
	ratio := float32(float32(s.Factor)*float32(length)) / float32(c.MaxPositionEmbeddings)
	exponent := float32(float64(c.HeadDim) / float64(c.HeadDim-2))
	power := num.Pow(float64(ratio-float32(s.Factor-1)), float64(exponent))
	return float64(float32(float32(c.RoPETheta) * power))
}

// llama3 divides low frequencies by factor, leaves high ones, and goes over between them (Llama 3.1).
func (s RoPEScaling) llama3(f float32) float32 {
	factor := float32(s.Factor)
	original := float64(s.OriginalMaxPosition)
	wavelength := float32(float32(2*math.Pi) * (1 / f))
	switch {
	case wavelength > float32(original/s.LowFreqFactor):
		return f / factor
	case wavelength < float32(original/s.HighFreqFactor):
		return f
	}
	smooth := (float32(float32(original)*(1/wavelength)) - float32(s.LowFreqFactor)) / float32(s.HighFreqFactor-s.LowFreqFactor)
	return float32(float32((1-smooth)*f)/factor) + float32(smooth*f)
}

// tables are cosine and sine of every position's angles, [positions, head_dim/2], from the host.
type tables struct{ cos, sin *op.Tensor }

func newTables(d op.Device, life op.Lifetime, c Config, positions int) tables {
	half := c.HeadDim / 2
	t := tables{d.New(life, "tables/cos", num.Float32, positions, half), d.New(life, "tables/sin", num.Float32, positions, half)}
	var sines []float32
	op.Fill(d, t.cos, func() (cosines []float32) {
		cosines, sines = c.angles(positions)
		return cosines
	})
	op.Fill(d, t.sin, func() []float32 { return sines })
	return t
}

// angles are cosine and sine of every position's angles.
func (c Config) angles(positions int) (cosines, sines []float32) {
	invFreq := c.InvFreq(positions)
	n := positions * len(invFreq)
	cosines, sines = make([]float32, 0, n), make([]float32, 0, n)
	for p := range positions {
		for _, f := range invFreq {
			sine, cosine := num.SinCos(num.RoPEAngle(p, f))
			cosines, sines = append(cosines, cosine), append(sines, sine)
		}
	}
	return cosines, sines
}

// tablesFor are the model's own, or, where dynamic scaling makes the angles depend on the length, those of the length.
func (m *Model) tablesFor(life op.Lifetime, length int) tables {
	if m.RoPEScaling.Type == "dynamic" && length > m.MaxPositionEmbeddings {
		return newTables(m.device, life, m.Config, length)
	}
	return m.tables
}

// MaxContext is the longest sequence that the model can be given.
func (c Config) MaxContext() int {
	if c.RoPEScaling.Type == "dynamic" {
		return int(min(c.RoPEScaling.Factor, 1<<20) * float64(c.MaxPositionEmbeddings))
	}
	return c.MaxPositionEmbeddings
}
