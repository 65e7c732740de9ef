package kernel

func (s *Set) productsAVX2() {
	s.MR, s.NR, s.RowWidth = 6, 16, 64
	s.Tile, s.TileFused = tileAVX2, tileFusedAVX2
	s.Row, s.RowFused = rowAVX2, rowFusedAVX2
	s.MatVec4, s.MatVec4Rounded, s.MatVecRows = matVec4AVX2, matVec4RoundedAVX2, 32
}

func (s *Set) productsAVX512() {
	s.MR, s.NR, s.RowWidth = 12, 32, 128
	s.Tile, s.TileFused = tileAVX512, tileFusedAVX512
	s.Row, s.RowFused = rowAVX512, rowFusedAVX512
	s.MatVec4, s.MatVec4Rounded, s.MatVecRows = matVec4AVX512, matVec4RoundedAVX512, 32
}
