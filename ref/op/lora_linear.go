package op

import "qlora/ref/num"

// LoRAShape is what the arithmetic of a linear layer with an adapter needs to know: x [Tokens, In], W [Out, In],
// A [Rank, In], B [Out, Rank], and the scale s = α/r (or α/√r).
//
// T is the compute type, to which results are rounded. R is the type of the adapter's branch: T in the paper's code under
// autocast, float32 in PEFT without it.
type LoRAShape struct {
	Tokens, Out, In, Rank int
	Scale                 float32
	T, R                  num.DType
}

// LoRAForward adds the adapter's branch to y, which holds round(x·Wᵀ):
//
//	u = round_R(x'·round_R(A)ᵀ)
//	y = round_T(y + round_T(round_R(s·round_R(u·round_R(B)ᵀ))))
//
// x' is x after dropout. u [Tokens, Rank] is kept for backward.
func LoRAForward(y, u, x, a, b []float32, s LoRAShape) {
	MatMul(u, x, rounded(a, s.R), s.Tokens, s.Rank, s.In)
	s.R.RoundAll(u)
	v := make([]float32, s.Tokens*s.Out)
	MatMul(v, u, rounded(b, s.R), s.Tokens, s.Out, s.Rank)
	for i, x := range v {
		y[i] = s.T.Round(y[i] + s.T.Round(s.R.Round(float32(s.Scale*s.R.Round(x)))))
	}
}

// LoRABackward adds to dA and dB in float32, tokens ascending, and sets dx' [Tokens, In], rounded to R:
//
//	dv = round_R(s·dy)
//	dB += dvᵀ·u
//	du = round_R(dv·round_R(B))
//	dA += duᵀ·x'
//	dx' = round_R(du·round_R(A))
func LoRABackward(dx, da, db, dy, u, x, a, b []float32, s LoRAShape) {
	dv := make([]float32, s.Tokens*s.Out)
	for i, g := range dy {
		dv[i] = s.R.Round(float32(s.Scale * g))
	}
	MatMulWeight(db, dv, u, s.Tokens, s.Out, s.Rank)
	du := make([]float32, s.Tokens*s.Rank)
	MatMulInput(du, dv, rounded(b, s.R), s.Tokens, s.Out, s.Rank)
	s.R.RoundAll(du)
	MatMulWeight(da, du, x, s.Tokens, s.Rank, s.In)
	MatMulInput(dx, du, rounded(a, s.R), s.Tokens, s.Rank, s.In)
	s.R.RoundAll(dx)
}

// rounded is a rounded copy; x itself where nothing is to be rounded.
func rounded(x []float32, t num.DType) []float32 {
	if t == num.Float32 {
		return x
	}
	y := make([]float32, len(x))
	copy(y, x)
	t.RoundAll(y)
	return y
}
