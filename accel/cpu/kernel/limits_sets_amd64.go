package kernel

// peakRegisters is how many registers the loops of peak add to (asm/limits.go).
const peakRegisters = 12

func (s *Set) limitsAVX2() {
	s.Peak = func(rounds int) int {
		peakAVX2(rounds)
		return rounds * peakRegisters * 2 * 8
	}
	s.Read = readAVX2
}

func (s *Set) limitsAVX512() {
	s.Peak = func(rounds int) int {
		peakAVX512(rounds)
		return rounds * peakRegisters * 2 * 16
	}
	s.Read = readAVX512
}
