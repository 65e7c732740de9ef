// Package ref is the specification of qlora: plain Go, one goroutine, that says to the bit what every operation computes.
// It holds no code itself. Read its packages in this order, with the paper (Dettmers et al., 2023) at hand:
//
//  1. num: the arithmetic. Number formats, the canonical Sum, correctly rounded elementary functions, Philox.
//  2. quant: section 2 and 3 of the paper. NF4, blockwise quantization, double quantization, and what bitsandbytes does.
//  3. op: one operation a file, forward beside backward, and the Device interface that all of them stand behind.
//  4. lora: adapters, and how they begin; lora/peft: which modules have one.
//  5. llama: the decoder as a composition of operations, its backward pass, generation.
//  6. optim: AdamW in 32 and 8 bits, Lion, clipping, schedules, paging.
//  7. train: one training step, and a run that can be stopped and resumed without a trace.
//  8. checkpoint: the bytes on disk.
//
// # The rules of this folder
//
// The same bits everywhere need more than the same formulas. A Go compiler may fuse x*y + z into one rounding, and does on
// arm64 and under GOAMD64=v3; so every product of floats here is wrapped in a conversion, float32(x*y), which forbids it.
// Package math's exponentials and trigonometric functions differ between architectures; so none is called here. There are no
// goroutines, no unsafe, no assembly, and no imports from outside but the float16 conversion. ref_test.go enforces this.
package ref
