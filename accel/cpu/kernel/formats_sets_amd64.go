package kernel

func (s *Set) formatsAVX2() {
	s.WidenBFloat16 = sixteens(widenBFloat16AVX2, s.WidenBFloat16)
	s.NarrowBFloat16 = sixteens(narrowBFloat16AVX2, s.NarrowBFloat16)
	s.RoundBFloat16 = sixteensInPlace(roundBFloat16AVX2, s.RoundBFloat16)
	s.WidenFloat16 = sixteens(widenFloat16AVX2, s.WidenFloat16)
	s.NarrowFloat16 = sixteens(narrowFloat16AVX2, s.NarrowFloat16)
	s.RoundFloat16 = sixteensInPlace(roundFloat16AVX2, s.RoundFloat16)
	s.Magnitudes = magnitudesSixteens
	s.Transpose = transposeEights
}

// sixteens leaves to rest what is beyond the last block of 16 elements.
func sixteens[D, S any](blocks, rest func(dst []D, src []S)) func(dst []D, src []S) {
	return func(dst []D, src []S) {
		n := len(dst) &^ 15
		blocks(dst[:n], src[:n])
		rest(dst[n:], src[n:])
	}
}

func sixteensInPlace(blocks func(dst, src []float32), rest func(x []float32)) func(x []float32) {
	return func(x []float32) {
		n := len(x) &^ 15
		blocks(x[:n], x[:n])
		rest(x[n:])
	}
}

func magnitudesSixteens(x []float32) (least, greatest uint32) {
	n := len(x) &^ 15
	least, greatest = magnitudesAVX2(x[:n])
	l, g := magnitudes(x[n:])
	return min(least, l), max(greatest, g)
}

// transposeColumns is how many columns go through all rows before the next do, so that the lines that they write stay in the cache.
const transposeColumns = 64

func transposeEights(dst []float32, width int, src []float32, stride, rows, cols int) {
	for j := 0; j < cols; j += transposeColumns {
		n := min(transposeColumns, cols-j)
		for i := 0; i < rows; i += 8 {
			m := min(8, rows-i)
			block := src[i*stride+j : (i+m-1)*stride+j+n]
			transposeEight(dst[j*width+i:], width, block, stride, m, n, width-i)
		}
	}
}

// transposeEight is transpose of at most 8 rows, of which a line may have room. What is written beyond it is in the lines that follow,
// which are written later, unless there are other rows before these: those lines are theirs too.
func transposeEight(dst []float32, width int, src []float32, stride, rows, cols, room int) {
	kernel, lanes := transpose8AVX2, 8
	if rows <= 4 {
		kernel, lanes = transpose4AVX2, 4
	}
	quads := cols / 4
	if lanes > room && room < width {
		quads = 0
	}
	for quads > 0 && (4*quads-1)*width+lanes > len(dst) {
		quads--
	}
	kernel(dst, width, src, stride, rows, quads)
	if n := 4 * quads; n < cols {
		transpose(dst[n*width:], width, src[n:], stride, rows, cols-n)
	}
}
