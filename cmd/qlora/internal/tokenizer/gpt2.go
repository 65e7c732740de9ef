package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
)

const endOfText = "<|endoftext|>"

// parseGPT2 reads GPT-2's vocab.json and merges.txt, of which the first line may be a version.
func parseGPT2(vocabJSON, mergesText []byte) (*Tokenizer, error) {
	var vocab map[string]int32
	if err := json.Unmarshal(vocabJSON, &vocab); err != nil {
		return nil, fmt.Errorf("vocab.json: %w", err)
	}
	var merges [][2]string
	for i, line := range strings.Split(string(mergesText), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" || i == 0 && strings.HasPrefix(line, "#version") {
			continue
		}
		left, right, ok := strings.Cut(line, " ")
		if !ok || strings.Contains(right, " ") {
			return nil, fmt.Errorf("merges.txt: line %d is %q: want two tokens with a space between them", i+1, line)
		}
		merges = append(merges, [2]string{left, right})
	}
	m, err := newBPE(vocab, merges)
	if err != nil {
		return nil, fmt.Errorf("vocab.json with merges.txt: %w", err)
	}
	var added []addedToken
	id, ok := vocab[endOfText]
	if ok {
		added = append(added, addedToken{id: id, text: endOfText, special: true})
	}
	t := byteLevelTokenizer(m, nil, byteLevel(false, true), added)
	if ok {
		t.bos, t.EOS = id, id
	}
	return t, nil
}

// byteLevelTokenizer is the pipeline of GPT-2 and its like. Without a normalizer, text stays as it is.
func byteLevelTokenizer(m *bpe, normalize normalizer, split splitter, tokens []addedToken) *Tokenizer {
	if normalize == nil {
		normalize = identity
	}
	t := &Tokenizer{EOS: -1, bos: -1, normalize: normalize, split: split, model: m, added: newAdded(tokens, identity)}
	t.newDecoder = func() Decoder { return &chain{t: t, steps: []decodeStep{&decodeByteLevel{}}} }
	return t
}
