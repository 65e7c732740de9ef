// Package quant is the storage of QLoRA (Dettmers et al., 2023, sections 2 and 3): 4-bit NormalFloat and its rivals,
// blockwise quantization in 4 and 8 bits, double quantization, and the state that bitsandbytes writes beside a 4-bit weight.
//
// Read codebook.go for the data types, blockwise4.go for how a block becomes codes and comes back, dynamic.go and
// blockwise8.go for the 8-bit type of the scales, nested.go for double quantization, state.go for the files. Quantization of
// v in a block with largest magnitude absmax is
//
//	r = 1/absmax,  x = v·r,  code = the number of thresholds below x
//
// each step rounded to float32; the way back is value(code)·absmax, rounded to float32 and once more to the output type.
// Thresholds are the float32 midpoints of neighbouring values, and a tie goes to the lower neighbour: this is NF4 as every
// CUDA kernel of bitsandbytes has it. What it differs in on CPUs is in profile.go, case by case.
package quant
