package kernel

func (s *Set) linesAVX2() {
	s.Prefetch = prefetchAVX2
	s.Lines = wholePanels(lines, map[int]moveLines[float32]{6: lines6AVX2, 12: lines12AVX2, 16: lines16AVX2, 32: lines32AVX2})
	s.LinesBFloat16 = wholePanels(linesBFloat16, map[int]moveLines[uint16]{
		6: linesBFloat16x6AVX2, 12: linesBFloat16x12AVX2, 16: linesBFloat16x16AVX2, 32: linesBFloat16x32AVX2})
}

type moveLines[T any] func(dst []float32, depth int, src []T, stride, rows, panels int)

// wholePanels leaves to rest a panel that is not whole, and widths that there is no kernel for.
func wholePanels[T any](rest func(dst []float32, width, depth int, src []T, stride, rows, lanes int), kernels map[int]moveLines[T]) func(
	dst []float32, width, depth int, src []T, stride, rows, lanes int) {
	return func(dst []float32, width, depth int, src []T, stride, rows, lanes int) {
		whole := 0
		if move := kernels[width]; move != nil {
			whole = lanes / width
			move(dst, depth, src, stride, rows, whole)
		}
		if lanes > whole*width {
			rest(dst[whole*depth*width:], width, depth, src[whole*width:], stride, rows, lanes-whole*width)
		}
	}
}
