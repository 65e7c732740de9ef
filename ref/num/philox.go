package num

import "hash/fnv"

// Counter says which random number is meant. There is no generator state: any element can be computed alone, on any device,
// in any order (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
type Counter struct {
	Purpose uint32 // what the number is for: see Purpose
	Step    uint32 // optimizer step, counted from 0
	Layer   uint16 // decoder block; NoLayer outside the blocks
	Element uint64 // position within the tensor, counted from the whole batch's first token; below 2^50
}

// NoLayer is the Counter.Layer of what stands outside the blocks.
const NoLayer = 0xffff

// Purpose turns a name such as "dropout/self_attn.q_proj" into a Counter.Purpose: FNV-1a, 32 bits.
func Purpose(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return h.Sum32()
}

// Bits gives the 32 random bits at c under seed: word Element mod 4 of the Philox 4x32-10 block whose counter is
// (low half of Element/4, Layer<<16 | high part of Element/4, Step, Purpose) and whose key is the seed, low word first.
func Bits(seed uint64, c Counter) uint32 {
	block := c.Element / 4
	ctr := [4]uint32{uint32(block), uint32(c.Layer)<<16 | uint32(block>>32), c.Step, c.Purpose}
	return Philox(ctr, [2]uint32{uint32(seed), uint32(seed >> 32)})[c.Element%4]
}

// Uniform gives a float32 in [0, 1): the upper 24 bits of Bits times 2^-24, exact.
func Uniform(seed uint64, c Counter) float32 {
	return float32(float32(Bits(seed, c)>>8) * 0x1p-24)
}

// Philox is Philox 4x32-10: ten rounds of two multiplications, each splitting a product into its halves.
func Philox(ctr [4]uint32, key [2]uint32) [4]uint32 {
	for range 10 {
		p0 := uint64(ctr[0]) * 0xD2511F53
		p1 := uint64(ctr[2]) * 0xCD9E8D57
		ctr = [4]uint32{uint32(p1>>32) ^ ctr[1] ^ key[0], uint32(p1), uint32(p0>>32) ^ ctr[3] ^ key[1], uint32(p0)}
		key[0] += 0x9E3779B9
		key[1] += 0xBB67AE85
	}
	return ctr
}
