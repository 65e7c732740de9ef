// Package kernel holds the inner loops of the CPU device, each in plain Go and, where it pays, in AVX2 with fused multiply-add and
// in AVX-512. Every implementation of a kernel gives the same bits, those of the loop in its comment, which is the loop of ref.
//
// TilePairs alone has bits of its own: it is for `--math fast`, and nil where the processor lacks AVX512-BF16.
//
// A Set is one implementation of all kernels. Sets lists those that this processor can run; the device takes the last of them, or
// the one that the environment variable QLORA_CPU names.
//
// The assembly is written by the program in folder asm, a module of its own so that users of this one need nothing but Go:
//
//	go generate ./accel/cpu/kernel
package kernel

//go:generate sh asm/generate.sh
