package conformance

import "qlora/ref/num"

// Random numbers: functions of a seed and a counter, without state.
func init() {
	register(
		&Operation{
			Name: "philox", Of: "num.Philox",
			Formula: "counters I32 [n, 4], keys I32 [n, 2], their bits as uint32 → bits I32 [n, 4]: Philox 4x32-10 (Salmon " +
				"et al., 2011). Ten rounds of " +
				"(c0, c1, c2, c3) → (high(M1·c2) ^ c1 ^ k0, low(M1·c2), high(M0·c0) ^ c3 ^ k1, low(M0·c0)), M0 = 0xD2511F53, " +
				"M1 = 0xCD9E8D57; between rounds k0 += 0x9E3779B9, k1 += 0xBB67AE85.",
			Cases: philoxCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				var bits []int32
				for i := range in["keys"].Rows() {
					ctr, key := in["counters"].I[4*i:], in["keys"].I[2*i:]
					counter := [4]uint32{uint32(ctr[0]), uint32(ctr[1]), uint32(ctr[2]), uint32(ctr[3])}
					for _, word := range num.Philox(counter, [2]uint32{uint32(key[0]), uint32(key[1])}) {
						bits = append(bits, int32(word))
					}
				}
				return Tensors{"bits": Ints(bits, len(bits)/4, 4)}, nil
			},
		},
		&Operation{
			Name: "random_bits", Of: "num.Bits",
			Formula: counterFormula + "bits I32 [n].",
			Cases:   func(m *Maker) { counterCases(m, false) },
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				var bits []int32
				for _, counter := range counters(in) {
					bits = append(bits, int32(num.Bits(c.seed(), counter)))
				}
				return Tensors{"bits": Ints(bits)}, nil
			},
		},
		drawn("uniform", "num.Uniform", "y F32 [n] = (bits >> 8)·2^-24, in [0, 1), exact.", num.Uniform, false),
		drawn("normal", "num.Normal", "y F32 [n]: the quantile of (k + 1/2)·2^-23, k = bits >> 9, of the normal distribution, "+
			"by the approximations PPND7 of Wichura's AS 241 (1988), every step in float32. k' = k + 0.5, q = k'·2^-23 − 0.5. "+
			"For |q| ≤ 0.425: r = 0.180625 − q², y = round(q·P)/Q, P and Q of r with the coefficients, the highest first, "+
			"59.109374720 159.29113202 50.434271938 3.3871327179 and 67.187563600 78.757757664 17.895169469 1. "+
			"Else r = √(−log(min(k', 2^23 − k')·2^-23)) − 1.6, log and √ correctly rounded, and y = P/Q with the sign of q, coefficients "+
			"0.17023821103 1.3067284816 2.7568153900 1.4234372777 and 0.12021132975 0.73700164250 1. "+
			"Polynomials by Horner's rule, each product rounded before the sum.", num.Normal, true),
		&Operation{
			Name: "purpose", Of: "num.Purpose",
			Formula: "name U8 [any length], UTF-8 → purpose I32 [1]: FNV-1a, 32 bits: h = 0x811c9dc5; for each byte h = (h ^ " +
				"byte)·0x01000193.",
			Cases: func(m *Maker) {
				for _, name := range []string{"dropout/self_attn.q_proj", "choose", "lora_A/mlp.down_proj", "", "a", "weights/§"} {
					m.Add(Smoke, "", "random", []Param{Int("n", len(name))}, func(*random) Tensors { return Tensors{"name": text(name)} })
				}
			},
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				return Tensors{"purpose": Ints([]int32{int32(num.Purpose(string(in["name"].B)))})}, nil
			},
		})
}

const counterFormula = "seed, 64 bits; counters I32 [n, 5], their bits as uint32: purpose, step, layer (16 bits), element, low and high half. " +
	"Word element mod 4 of philox with counter (low half of element/4, layer << 16 | high half of element/4, step, purpose) " +
	"and key (low half of seed, high half). Of these bits, "

func drawn(name, of, formula string, f func(uint64, num.Counter) float32, tails bool) *Operation {
	return &Operation{
		Name: name, Of: of, Formula: counterFormula + formula,
		Cases: func(m *Maker) { counterCases(m, tails) },
		Reference: func(c *Case, in Tensors) (Tensors, error) {
			var y []float32
			for _, counter := range counters(in) {
				y = append(y, f(c.seed(), counter))
			}
			return Tensors{"y": Floats(F32, y)}, nil
		},
	}
}

func counters(in Tensors) (all []num.Counter) {
	for x := in["counters"].I; len(x) > 0; x = x[5:] {
		element := uint64(uint32(x[3])) | uint64(uint32(x[4]))<<32
		all = append(all, num.Counter{Purpose: uint32(x[0]), Step: uint32(x[1]), Layer: uint16(x[2]), Element: element})
	}
	return all
}

func philoxCases(m *Maker) {
	add := func(level Level, reason string, words func(r *random) [][6]uint32, n int) {
		m.Add(level, "", reason, []Param{Int("n", n)}, func(r *random) Tensors {
			var ctr, key []int32
			for _, w := range words(r) {
				for i, v := range w {
					if i < 4 {
						ctr = append(ctr, int32(v))
					} else {
						key = append(key, int32(v))
					}
				}
			}
			return Tensors{"counters": Ints(ctr, n, 4), "keys": Ints(key, n, 2)}
		})
	}
	const all = 0xffffffff
	for _, w := range [][6]uint32{ // kat_vectors of Random123
		{}, {all, all, all, all, all, all}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0},
	} {
		add(Smoke, "known-answer", func(*random) [][6]uint32 { return [][6]uint32{w} }, 1)
	}
	for _, n := range []int{1, 33, 1000} {
		add(Smoke, "random", func(r *random) (words [][6]uint32) {
			for range n {
				var w [6]uint32
				for i := range w {
					w[i] = num.Bits(r.seed, r.next())
				}
				words = append(words, w)
			}
			return words
		}, n)
	}
	add(Quick, "one-bit", func(*random) (words [][6]uint32) { // each bit of counter and key has its place
		for bit := range 6 * 32 {
			var w [6]uint32
			w[bit/32] = 1 << (bit % 32)
			words = append(words, w)
		}
		return words
	}, 6*32)
}

// counterCases has runs of elements, as dropout takes them, and counters that need every bit of their fields.
func counterCases(m *Maker, tails bool) {
	add := func(level Level, n int, key uint64, reason string, counter func(r *random, i int) num.Counter) {
		m.Add(level, "", reason, []Param{Int("n", n), seed(key)}, func(r *random) Tensors {
			x := make([]int32, 0, 5*n)
			for i := range n {
				c := counter(r, i)
				x = append(x, int32(c.Purpose), int32(c.Step), int32(c.Layer), int32(uint32(c.Element)), int32(c.Element>>32))
			}
			return Tensors{"counters": Ints(x, n, 5)}
		})
	}
	for _, key := range []uint64{0, 1, 42, 1 << 32, 1<<64 - 1} {
		for _, n := range []int{1, 33, 1024} {
			level := Quick
			if key == 42 {
				level = Smoke
			}
			add(level, n, key, "random", func(r *random, i int) num.Counter {
				return num.Counter{Purpose: num.Purpose("dropout/self_attn.q_proj"), Step: 7, Layer: 3, Element: uint64(i)}
			})
			add(Quick, n, key, "one-bit", func(r *random, i int) num.Counter {
				bits := func() uint32 { return num.Bits(r.seed, r.next()) }
				element := uint64(r.below(1<<18))<<32 | uint64(bits())
				return num.Counter{Purpose: bits(), Step: bits(), Layer: uint16(r.below(1 << 16)), Element: element}
			})
		}
		add(Quick, 16, key, "carry", func(r *random, i int) num.Counter { // element/4 goes over 32 bits
			return num.Counter{Purpose: num.Purpose("conformance"), Layer: num.NoLayer, Element: 1<<34 - 8 + uint64(i)}
		})
	}
	add(Full, 1<<20, 5, "random", func(r *random, i int) num.Counter {
		return num.Counter{Purpose: num.Purpose("conformance"), Element: uint64(i)}
	})
	if tails {
		add(Smoke, len(rareNormals), 1, "tails", func(r *random, i int) num.Counter {
			return num.Counter{Purpose: num.Purpose("conformance"), Element: rareNormals[i]}
		})
	}
}

// rareNormals are elements that have, under seed 1, the four smallest and largest k, those on either side of the two places where
// the approximations meet, and those in the middle; found by trying 2^26.
var rareNormals = []uint64{
	16689073, 18713303, 10181062, 11583866, 11507606, 15715896, 23017761, 24348333, 11843509, 17329973, 12398582, 12411324, 15334458, 1542258,
	21775447, 12671221, 4526442, 1054455, 13038451, 11906077, 11650875, 11676201, 17328743, 48570421,
}
