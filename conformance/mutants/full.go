package mutants

import (
	"qlora/conformance"
	"qlora/ref/num"
	"qlora/ref/op"
)

// staleWeights never gives the model what the optimizer has moved.
type staleWeights struct{ op.Device }

func (staleWeights) Copy(op.At, *op.Tensor, *op.Tensor) {}

// overwritesTables replaces the embedding's gradient: of a batch in several micro-batches the last one counts.
type overwritesTables struct{ op.Device }

func (d overwritesTables) EmbeddingBackward(at op.At, dtable, dy *op.Tensor, ids *op.Ints) {
	d.Zero(dtable)
	d.Device.EmbeddingBackward(at, dtable, dy, ids)
}

var fullMutants = []Mutant{
	{
		Name: "stale weights", Bug: "The compute type's copies of the weights are not made again after a step.", Op: "full_training",
		Device: func(d op.Device) op.Device { return staleWeights{d} },
	},
	{
		Name: "embedding overwritten", Bug: "The embedding's gradient is that of the last micro-batch.", Op: "full_training",
		Device: func(d op.Device) op.Device { return overwritesTables{d} },
	},
}

var copyMutants = []Mutant{
	{
		Name: "copy cut to bfloat16", Bug: "The master is cut to the compute type, not rounded: weights drift towards zero.", Op: "copy",
		Func: spoiled("copy", func(c *Case, in, out Tensors) {
			for i, v := range in["x"].F {
				out["y"].F[i] = cutToBFloat16(v, compute(c))
			}
		}),
	},
	{
		Name: "copy flushes", Bug: "Subnormal values become zeros.", Op: "copy",
		Func: spoiled("copy", func(c *Case, in, out Tensors) {
			for i, v := range out["y"].F {
				if v < 0x1p-126 && v > -0x1p-126 {
					out["y"].F[i] = 0
				}
			}
		}),
	},
	{
		Name: "copy clamped", Bug: "What is too large for float16 becomes 65504.", Op: "copy",
		Func: spoiled("copy", func(c *Case, in, out Tensors) {
			for i, v := range in["x"].F {
				out["y"].F[i] = clampedFloat16(v, compute(c))
			}
		}),
	},
	{
		Name: "copy by way of bfloat16", Bug: "What is to be float16 is rounded to bfloat16 first.", Op: "copy",
		Func: spoiled("copy", func(c *Case, in, out Tensors) {
			if c.DType != conformance.F32 {
				for i, v := range in["x"].F {
					out["y"].F[i] = compute(c).Round(num.BFloat16.Round(v))
				}
			}
		}),
	},
}
