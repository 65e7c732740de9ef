package op

// Embedding copies row ids[i] of table [vocab, d] to row i of y [tokens, d].
func Embedding(y, table []float32, ids []int32, d int) {
	for i, id := range ids {
		copy(y[i*d:(i+1)*d], table[int(id)*d:int(id)*d+d])
	}
}

// EmbeddingBackward adds row i of dy to row ids[i] of dtable, tokens ascending.
func EmbeddingBackward(dtable, dy []float32, ids []int32, d int) {
	for i, id := range ids {
		row := dtable[int(id)*d : int(id)*d+d]
		for j, g := range dy[i*d : (i+1)*d] {
			row[j] += g
		}
	}
}
