package kernel

import "golang.org/x/sys/cpu"

func (s *Set) pairsAVX2() { s.Interleave = interleaveSixteens }

func (s *Set) pairsAVX512() {
	if cpu.X86.HasAVX512BF16 {
		s.TilePairs = tilePairsAVX512
	}
}

func interleaveSixteens(dst []uint32, a, b []uint16) {
	n := len(dst) &^ 15
	interleaveAVX2(dst[:n], a[:n], b[:n])
	interleave(dst[n:], a[n:], b[n:])
}
