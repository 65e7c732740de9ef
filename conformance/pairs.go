package conformance

import "fmt"

// pairs is how many values of a 16-bit type one case multiplies by all 65,536.
const pairs = 64

// eachPairs goes over all values of the 16-bit types, so many at a time.
func eachPairs(f func(t DType, first Param, values []float32)) {
	for _, t := range []DType{BF16, F16} {
		all := everyHalf(t)
		for first := 0; first < len(all); first += pairs {
			f(t, Text("first", fmt.Sprintf("%#04x", first)), all[first:first+pairs])
		}
	}
}

// everyProduct is y = x·wᵀ of columns: each product rounded to the type.
func everyProduct(m *Maker) {
	l := layer{m: pairs, n: 1 << 16, k: 1, weight: dense}
	eachPairs(func(t DType, first Param, values []float32) {
		m.Add(Exhaustive, t, "every-pair", append(l.params(), first), func(*random) Tensors {
			return Tensors{"x": Tensor{DType: t, Shape: []int{l.m, 1}, F: values}, "w": Tensor{DType: t, Shape: []int{l.n, 1}, F: everyHalf(t)}}
		})
	})
}

// everyProductInFull is dw = dyᵀ·x of rows: each product in float32.
func everyProductInFull(m *Maker) {
	l := layer{m: 1, n: pairs, k: 1 << 16, weight: dense}
	eachPairs(func(t DType, first Param, values []float32) {
		m.Add(Exhaustive, t, "every-pair", append(l.params(), Flag("dw", true), first), func(*random) Tensors {
			return Tensors{
				"dy": Tensor{DType: t, Shape: []int{1, l.n}, F: values}, "x": Tensor{DType: t, Shape: []int{1, l.k}, F: everyHalf(t)},
				"w": Floats(t, make([]float32, l.n*l.k), l.n, l.k), "dw": Floats(F32, make([]float32, l.n*l.k), l.n, l.k),
			}
		})
	})
}
