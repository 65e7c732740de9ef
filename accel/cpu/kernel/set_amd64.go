package kernel

import "golang.org/x/sys/cpu"

func accelerated() (list []*Set) {
	x := cpu.X86
	if !x.HasAVX2 || !x.HasFMA {
		return nil
	}
	list = append(list, avx2())
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ {
		list = append(list, avx512())
	}
	return list
}

// avx2 needs AVX2, FMA and F16C, which no processor with AVX2 lacks.
func avx2() *Set {
	s := portable()
	s.Name = "avx2"
	s.productsAVX2()
	s.pairsAVX2()
	s.linesAVX2()
	s.formatsAVX2()
	s.dequantizeAVX2()
	s.quantizeAVX2()
	s.elementwiseAVX2()
	s.elementaryAVX2()
	s.limitsAVX2()
	return s
}

func avx512() *Set {
	s := avx2()
	s.Name = "avx512"
	s.productsAVX512()
	s.pairsAVX512()
	s.dequantizeAVX512()
	s.elementaryAVX512()
	s.limitsAVX512()
	return s
}
