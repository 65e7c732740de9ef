package tokenizer

// GGUFOf writes a SentencePiece model as a GGUF file's metadata, without its rules of normalization.
func GGUFOf(model []byte) (map[string]any, error) {
	s, err := parseProto(model)
	if err != nil {
		return nil, err
	}
	var texts []string
	var scores []float32
	var kinds []int32
	for _, p := range s.pieces {
		texts, scores, kinds = append(texts, p.text), append(scores, p.score), append(kinds, int32(p.kind))
	}
	kind := "llama"
	if s.unigram {
		kind = "t5"
	}
	return map[string]any{
		"tokenizer.ggml.model": kind, "tokenizer.ggml.tokens": texts, "tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": kinds,
		"tokenizer.ggml.add_space_prefix": s.dummyPrefix, "tokenizer.ggml.remove_extra_whitespaces": s.trim,
	}, nil
}
