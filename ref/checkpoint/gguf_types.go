package checkpoint

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"qlora/ref/num"
)

// ggufFormat is how ggml holds a tensor's elements: blocks of so many elements in so many bytes.
type ggufFormat struct {
	name         string
	block, bytes int64
	dequantize   func(dst []float32, b []byte) // whole blocks
}

// ggufFormats are the formats that are read, by ggml's numbers. Scales d and minima m are float16. Products of a scale and a
// code are exact in float32, so that only Q4_1's sum and Q6_K's second product are rounded: the values are those of ggml and of gguf-py, to the bit.
var ggufFormats = map[uint32]ggufFormat{
	0:  {"F32", 1, 4, func(x []float32, b []byte) { widen(x, b, num.Float32) }},
	1:  {"F16", 1, 2, func(x []float32, b []byte) { widen(x, b, num.Float16) }},
	2:  {"Q4_0", 32, 18, dequantizeQ4_0},
	3:  {"Q4_1", 32, 20, dequantizeQ4_1},
	8:  {"Q8_0", 32, 34, dequantizeQ8_0},
	14: {"Q6_K", 256, 210, dequantizeQ6_K},
	30: {"BF16", 1, 2, func(x []float32, b []byte) { widen(x, b, num.BFloat16) }},
}

// dequantizeQ4_0: a block is d and 16 bytes, byte j with the code of element j in its low half and of element j+16 in its high
// half; x = d·(code − 8).
func dequantizeQ4_0(x []float32, b []byte) {
	for ; len(x) > 0; x, b = x[32:], b[18:] {
		d := num.FromFloat16(binary.LittleEndian.Uint16(b))
		for j, codes := range b[2:18] {
			x[j] = float32(d * (float32(codes&15) - 8))
			x[j+16] = float32(d * (float32(codes>>4) - 8))
		}
	}
}

// dequantizeQ4_1: a block is d, m and 16 bytes as in Q4_0; x = d·code + m.
func dequantizeQ4_1(x []float32, b []byte) {
	for ; len(x) > 0; x, b = x[32:], b[20:] {
		d, m := num.FromFloat16(binary.LittleEndian.Uint16(b)), num.FromFloat16(binary.LittleEndian.Uint16(b[2:]))
		for j, codes := range b[4:20] {
			x[j] = float32(d*float32(codes&15)) + m
			x[j+16] = float32(d*float32(codes>>4)) + m
		}
	}
}

// dequantizeQ8_0: a block is d and 32 codes of a signed byte; x = d·code.
func dequantizeQ8_0(x []float32, b []byte) {
	for ; len(x) > 0; x, b = x[32:], b[34:] {
		d := num.FromFloat16(binary.LittleEndian.Uint16(b))
		for j, code := range b[2:34] {
			x[j] = float32(d * float32(int8(code)))
		}
	}
}

// dequantizeQ6_K: a block is 128 bytes with the low four bits of its codes, 64 bytes with the high two, 16 scales of a signed byte,
// and d; x = (d·scale)·(code − 32). Files in Q4_0 have their head so. Of each half of 128 elements, element 32i + j has its low
// bits in byte 32·(i mod 2) + j of 64, in the lower half of the byte for i < 2, its high bits at bit 2i of byte j of 32, and
// scale 2i + j/16 of 8.
func dequantizeQ6_K(x []float32, b []byte) {
	for ; len(x) > 0; x, b = x[256:], b[210:] {
		d := num.FromFloat16(binary.LittleEndian.Uint16(b[208:]))
		for half := range 2 {
			low, high, scales := b[64*half:], b[128+32*half:], b[192+8*half:]
			for i := range 4 {
				for j := range 32 {
					code := low[32*(i%2)+j]>>(4*(i/2))&15 | high[j]>>(2*i)&3<<4
					scale := float32(d * float32(int8(scales[2*i+j/16])))
					x[128*half+32*i+j] = float32(scale * (float32(code) - 32))
				}
			}
		}
	}
}

// otherGGUFTypes are ggml's names for what is not read.
var otherGGUFTypes = map[uint32]string{
	6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS",
	17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32",
	27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}

func ggufTypeName(kind uint32) string {
	if name, ok := otherGGUFTypes[kind]; ok {
		return name
	}
	return fmt.Sprintf("number %d, which no version known here has,", kind)
}

func supportedGGUFTypes() string {
	var names []string
	for _, kind := range slices.Sorted(maps.Keys(ggufFormats)) {
		names = append(names, ggufFormats[kind].name)
	}
	return strings.Join(names, ", ")
}
