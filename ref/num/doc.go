// Package num is the arithmetic that everything else is specified in.
//
// float32 is IEEE 754 binary32: nearest, ties to even, one rounding an operation, subnormals kept. bfloat16 and float16 are
// storage formats: their values are widened, computed with in float32 and rounded once when they are stored. Sum is the one
// way to add many numbers. The payload of a NaN means nothing; a NaN stays a NaN.
//
// # Elementary functions
//
// Exp, Log, Tanh, Sigmoid and Rsqrt return the float32 nearest to the true value: the specification is the mathematics, so a
// device may compute them in any way that gets there, and conformance is equality of bytes. There is one exception: a result
// below 2^-126 in magnitude is a zero of its sign, so that devices which flush subnormals agree.
//
// With 2^32 inputs that claim can be tried out. go test tries all bfloat16 and float16 inputs, random and known hard ones
// against math/big, and
//
//	go test ./ref/num -run Exhaustive -exhaustive -v -timeout 2h
//
// tries all. On 23 November 2026, on an AMD EPYC with four cores (go1.26.8, linux/amd64, GOAMD64=v1), it took 92 seconds and
// found no result wrong among 5·2^32. Where package math's float64 value lay within 16 units of a midpoint of two float32,
// math/big decided; so many times:
//
//	exp        38
//	log       138
//	tanh        8
//	sigmoid   502
//	rsqrt     256
//
// SinCos, RoPEInvFreq and PowInt are for the host alone: no device computes them.
package num
