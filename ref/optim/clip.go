package optim

import (
	"math"

	"qlora/ref/num"
)

// Norm is the Euclidean norm of all gradients: the Sum of each tensor's squares, the Sum of those, the root. The tensors'
// order matters to the last bit; ours is that of their names.
func Norm(grads [][]float32) float32 {
	squares := make([]float32, len(grads))
	for i, g := range grads {
		square := make([]float32, len(g))
		for j, v := range g {
			square[j] = float32(v * v)
		}
		squares[i] = num.Sum(square)
	}
	return float32(math.Sqrt(float64(num.Sum(squares))))
}

// ClipScale is what gradients are multiplied by so that their norm does not exceed maxNorm: maxNorm/(norm + 1e-6), at most 1,
// as torch.nn.utils.clip_grad_norm_ has it. A maxNorm of 0 does not clip.
func ClipScale(norm, maxNorm float32) float32 {
	if maxNorm == 0 {
		return 1
	}
	return min(1, maxNorm/(norm+1e-6))
}

// Clip is ClipScale for a step's scalars.
func Clip(scalars []float32, norm float32) float32 { return ClipScale(norm, scalars[scalarMaxNorm]) }
