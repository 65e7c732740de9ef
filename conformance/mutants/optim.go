package mutants

import (
	"fmt"
	"math"

	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

// stepping is a step of AdamW in parts. s are the scalars, in the order of the operation adamw_scalars.
type stepping struct {
	clip     func(norm, maxNorm float32) float32
	gradient func(g, p float32, s []float32) float32 // after clipping
	decayed  func(p float32, s []float32) float32    // before the update
	first    func(m, g float32, s []float32) float32
	second   func(v, g float32, s []float32) float32
	root     func(v float32, s []float32) float32 // what the update is divided by
	update   func(m, root float32, s []float32) float32
	finished func(p float32, s []float32) float32 // after the update
	skips    func(g float32) bool
}

const (
	decay = iota
	beta1
	oneMinusBeta1
	beta2
	oneMinusBeta2
	rootBias2
	eps
	stepSize
	maxNorm
)

func steppingParts(spoil func(a *stepping)) stepping {
	a := stepping{
		clip: func(norm, most float32) float32 {
			if most == 0 {
				return 1
			}
			return min(1, most/(norm+1e-6))
		},
		gradient: func(g, _ float32, _ []float32) float32 { return g },
		decayed:  func(p float32, s []float32) float32 { return p * s[decay] },
		first:    func(m, g float32, s []float32) float32 { return float32(m*s[beta1]) + float32(g*s[oneMinusBeta1]) },
		second: func(v, g float32, s []float32) float32 {
			return float32(v*s[beta2]) + float32(float32(g*s[oneMinusBeta2])*g)
		},
		root:     func(v float32, s []float32) float32 { return sqrt(v)/s[rootBias2] + s[eps] },
		update:   func(m, root float32, s []float32) float32 { return float32(m*s[stepSize]) / root },
		finished: func(p float32, _ []float32) float32 { return p },
		skips:    func(float32) bool { return false },
	}
	spoil(&a)
	return a
}

func sqrt(x float32) float32 { return float32(math.Sqrt(float64(x))) }

func (a stepping) step(p, m, v, g, s []float32, norm float32) {
	clip := a.clip(norm, s[maxNorm])
	for i := range p {
		if a.skips(g[i]) {
			continue
		}
		gi := a.gradient(g[i]*clip, p[i], s)
		p[i] = a.decayed(p[i], s)
		m[i], v[i] = a.first(m[i], gi, s), a.second(v[i], gi, s)
		p[i] = a.finished(p[i]+a.update(m[i], a.root(v[i], s), s), s)
	}
}

func adamW(spoil func(a *stepping)) Func {
	a := steppingParts(spoil)
	return func(_ *Case, in Tensors) (Tensors, error) {
		out := only(in, "p", "m", "v")
		a.step(out["p"].F, out["m"].F, out["v"].F, in["g"].F, in["scalars"].F, in["norm"].F[0])
		return out, nil
	}
}

// stepping8 is AdamW with 8-bit moments in parts.
type stepping8 struct {
	stepping
	quantizer quantizer8
	mapM      *quant.Map8
	mapV      *quant.Map8
	code      func(code byte, m float32) byte // of m, after it is quantized
	late      bool                            // p takes the moments after they are quantized
	stale     bool                            // the scales of before are kept
}

func adamW8(spoil func(a *stepping8)) Func {
	a := stepping8{
		stepping: steppingParts(func(*stepping) {}), quantizer: newQuantizer8(func(*quantizer8) {}),
		mapM: quant.DynamicSigned, mapV: quant.DynamicUnsigned, code: func(code byte, _ float32) byte { return code },
	}
	spoil(&a)
	return func(_ *Case, in Tensors) (Tensors, error) {
		const bs = optim.Blocksize8
		p, n := copyOf(in["p"]), in["p"].Len()
		m, v := make([]float32, n), make([]float32, n)
		quant.Dequantize8(m, in["codes_m"].B, in["absmax_m"].F, a.mapM, bs)
		quant.Dequantize8(v, in["codes_v"].B, in["absmax_v"].F, a.mapV, bs)
		a.step(p.F, m, v, in["g"].F, in["scalars"].F, in["norm"].F[0])
		qm, qv := a.quantizer, a.quantizer
		qm.book, qv.book = func(bool) *quant.Map8 { return a.mapM }, func(bool) *quant.Map8 { return a.mapV }
		codesM, absmaxM := qm.quantize(m, true, bs)
		codesV, absmaxV := qv.quantize(v, false, bs)
		for i := range codesM {
			codesM[i] = a.code(codesM[i], m[i])
		}
		if a.late {
			quant.Dequantize8(m, codesM, absmaxM, a.mapM, bs)
			quant.Dequantize8(v, codesV, absmaxV, a.mapV, bs)
			for i, s := range in["p"].F {
				p.F[i] = float32(s*in["scalars"].F[decay]) + a.update(m[i], a.root(v[i], in["scalars"].F), in["scalars"].F)
			}
		}
		if a.stale {
			absmaxM, absmaxV = copyOf(in["absmax_m"]).F, copyOf(in["absmax_v"]).F
		}
		return Tensors{"p": p, "codes_m": conformance.Bytes(codesM), "codes_v": conformance.Bytes(codesV),
			"absmax_m": conformance.Floats(f32, absmaxM), "absmax_v": conformance.Floats(f32, absmaxV)}, nil
	}
}

// gradNorm is the norm of all gradients in parts.
func gradNorm(sum func([]float32) float32, norm func(sums []float32) float32) Func {
	return func(c *Case, in Tensors) (Tensors, error) {
		var sums []float32
		for i := range c.Int("tensors") {
			var squares []float32
			for _, v := range in[fmt.Sprintf("g%d", i)].F {
				squares = append(squares, v*v)
			}
			sums = append(sums, sum(squares))
		}
		return Tensors{"norm": conformance.Floats(f32, []float32{norm(sums)})}, nil
	}
}

func rightNorm(sums []float32) float32 { return sqrt(num.Sum(sums)) }

var optimMutants = []Mutant{
	{
		Name: "coupled decay", Bug: "Decay goes through the gradient, as in Adam with L2.",
		Seen: "bitsandbytes' Lion (#1992, PR #1993, #2001)", Op: "adamw",
		Func: adamW(func(a *stepping) {
			a.decayed = func(p float32, _ []float32) float32 { return p }
			a.gradient = func(g, p float32, s []float32) float32 { return g + float32((1-s[decay])*p) }
		}),
	},
	{
		Name: "decay after the update", Bug: "The update is decayed, too.", Seen: "bitsandbytes on CUDA (#2010, PR #2040)", Op: "adamw",
		Func: adamW(func(a *stepping) { a.decayed, a.finished = a.finished, a.decayed }),
	},
	{
		Name: "decay without the learning rate", Bug: "p·(1 − wd), not p·(1 − lr·wd): here the decay is squared.", Op: "adamw",
		Func: adamW(func(a *stepping) {
			a.decayed = func(p float32, s []float32) float32 { return float32(p*s[decay]) * s[decay] }
		}),
	},
	{
		Name: "ε inside the root", Bug: "√(v/bias + ε).", Op: "adamw",
		Func: adamW(func(a *stepping) {
			a.root = func(v float32, s []float32) float32 { return sqrt(v/float32(s[rootBias2]*s[rootBias2]) + s[eps]) }
		}),
	},
	{
		Name: "ε before the bias correction", Bug: "(√v + ε)/√(1 − β2^t): ε is far larger at first.",
		Seen: "PyTorch PR #22628; nanochat #304", Op: "adamw",
		Func: adamW(func(a *stepping) {
			a.root = func(v float32, s []float32) float32 { return (sqrt(v) + s[eps]) / s[rootBias2] }
		}),
	},
	{
		Name: "second moment not corrected", Bug: "v is not divided by 1 − β2^t.", Op: "adamw",
		Func: adamW(func(a *stepping) { a.root = func(v float32, s []float32) float32 { return sqrt(v) + s[eps] } }),
	},
	{
		Name: "no root", Bug: "The update is divided by v, not by its root.", Op: "adamw",
		Func: adamW(func(a *stepping) { a.root = func(v float32, s []float32) float32 { return v/s[rootBias2] + s[eps] } }),
	},
	{
		Name: "betas exchanged", Bug: "β1 is for the squares and β2 for the gradients.", Op: "adamw",
		Func: asked("adamw", func(_ *Case, in Tensors) {
			s := in["scalars"].F
			s[beta1], s[beta2], s[oneMinusBeta1], s[oneMinusBeta2] = s[beta2], s[beta1], s[oneMinusBeta2], s[oneMinusBeta1]
		}),
	},
	{
		Name: "1 − β from float32", Bug: "1 − β is taken from the rounded β: 0.0010000467 for 0.001.", Seen: "bitsandbytes on CUDA", Op: "adamw",
		Func: adamW(func(a *stepping) {
			a.second = func(v, g float32, s []float32) float32 {
				return float32(v*s[beta2]) + float32(float32(g*(1-s[beta2]))*g)
			}
		}),
	},
	{
		Name: "square first", Bug: "(1 − β2)·(g·g) for ((1 − β2)·g)·g.", Seen: "bitsandbytes' 32-bit kernels", Op: "adamw",
		Func: adamW(func(a *stepping) {
			a.second = func(v, g float32, s []float32) float32 {
				return float32(v*s[beta2]) + float32(s[oneMinusBeta2]*float32(g*g))
			}
		}),
		Rounding: true,
	},
	{
		Name: "first moment by lerp", Bug: "m + (g − m)·(1 − β1).", Seen: "PyTorch, by design", Op: "adamw",
		Func: adamW(func(a *stepping) {
			a.first = func(m, g float32, s []float32) float32 { return m + float32((g-m)*s[oneMinusBeta1]) }
		}),
		Rounding: true,
	},
	{
		Name: "zero gradients skipped", Bug: "Where the gradient is zero nothing moves: no decay, no momentum.",
		Seen: "bitsandbytes, skip_zeros", Op: "adamw",
		Func: adamW(func(a *stepping) { a.skips = func(g float32) bool { return g == 0 } }),
	},
	{
		Name: "sign of the gradient", Bug: "The parameter goes up the gradient.", Op: "adamw",
		Func: adamW(func(a *stepping) {
			a.update = func(m, root float32, s []float32) float32 { return -float32(m*s[stepSize]) / root }
		}),
	},
	{
		Name: "not clipped", Bug: "The norm is not looked at.", Op: "adamw",
		Func: adamW(func(a *stepping) { a.clip = func(_, _ float32) float32 { return 1 } }),
	},
	{
		Name: "scaled to the largest norm", Bug: "Gradients that are smaller than the largest norm are scaled up to it.", Op: "adamw",
		Func: adamW(func(a *stepping) {
			right := a.clip
			a.clip = func(norm, most float32) float32 {
				if most == 0 {
					return right(norm, most)
				}
				return most / (norm + 1e-6)
			}
		}),
	},
	{
		Name: "a largest norm of 0 clips", Bug: "0 is taken for a norm, not for none: nothing moves.", Op: "adamw",
		Func: adamW(func(a *stepping) { a.clip = func(norm, most float32) float32 { return min(1, most/(norm+1e-6)) } }),
	},
	{
		Name: "moments in 65,536 bins", Bug: "8-bit moments go through 65,536 equal bins: second moments of zero do not stay zero.",
		Seen: "bitsandbytes 0.50 on CPUs, PR #1901", Op: "adamw8",
		Func: adamW8(func(a *stepping8) { a.quantizer.code = binned }),
	},
	{
		Name: "moments divided", Bug: "m/absmax for m·(1/absmax) when the moments are quantized.",
		Seen: "bitsandbytes on CUDA, fdividef", Op: "adamw8",
		Func: adamW8(func(a *stepping8) { a.quantizer.scaled = func(v, m float32, _ bool) float32 { return v / m } }),
	},
	{
		Name: "sign mended", Bug: "A small negative m that has the code of 0 gets the one below.", Seen: "bitsandbytes on CUDA", Op: "adamw8",
		Func: adamW8(func(a *stepping8) {
			a.code = func(code byte, m float32) byte {
				if math.Signbit(float64(m)) && code == 127 {
					return 126
				}
				return code
			}
		}),
	},
	{
		Name: "signed map for the second moment", Bug: "v goes by the signed map and loses a bit.", Op: "adamw8",
		Func: adamW8(func(a *stepping8) { a.mapV = quant.DynamicSigned }),
	},
	{
		Name: "parameters take quantized moments", Bug: "p moves by the moments as they are after quantization.", Op: "adamw8",
		Func: adamW8(func(a *stepping8) { a.late = true }),
	},
	{
		Name: "scales of the step before", Bug: "absmax is not updated with the codes.", Op: "adamw8",
		Func: adamW8(func(a *stepping8) { a.stale = true }),
	},
	{
		Name: "8 bits: decay after the update", Bug: "The update is decayed, too.", Seen: "bitsandbytes on CUDA (#2010, PR #2040)", Op: "adamw8",
		Func: adamW8(func(a *stepping8) { a.decayed, a.finished = a.finished, a.decayed }),
	},
	{
		Name: "zero block of moments is code 0", Bug: "A block of zero moments has the lowest code of the signed map.",
		Seen: "bitsandbytes on CPUs", Op: "adamw8",
		Func: adamW8(func(a *stepping8) { a.quantizer.zero = func(float32) bool { return false } }),
	},
	{
		Name: "norm of the last tensor", Bug: "The norm is that of the last tensor alone.", Op: "grad_norm",
		Func: gradNorm(num.Sum, func(sums []float32) float32 { return sqrt(sums[len(sums)-1]) }),
	},
	{
		Name: "largest norm of a tensor", Bug: "Each tensor has a norm of its own; the largest counts.",
		Seen: "transformers PR #614; keras #13575: norms by group, by tensor", Op: "grad_norm",
		Func: gradNorm(num.Sum, func(sums []float32) float32 { return sqrt(largestOf(sums)) }),
	},
	{
		Name: "sum of norms", Bug: "The norms are added, not their squares.", Op: "grad_norm",
		Func: gradNorm(num.Sum, func(sums []float32) float32 {
			var s float32
			for _, v := range sums {
				s += sqrt(v)
			}
			return s
		}),
	},
	{
		Name: "norm without root", Bug: "The square of the norm.", Op: "grad_norm",
		Func: gradNorm(num.Sum, num.Sum),
	},
	{
		Name: "mean of squares", Bug: "The root of the mean of the tensors' squares.", Op: "grad_norm",
		Func: gradNorm(num.Sum, func(sums []float32) float32 { return sqrt(num.Sum(sums) / float32(len(sums))) }),
	},
	{
		Name: "norm in plain order", Bug: "Squares are summed one after the other.", Op: "grad_norm",
		Func: gradNorm(plainSum, rightNorm), Rounding: true,
	},
	{
		Name: "norm in float64", Bug: "Squares are summed in float64.", Op: "grad_norm",
		Func: gradNorm(wideSum, rightNorm), Rounding: true,
	},
}
