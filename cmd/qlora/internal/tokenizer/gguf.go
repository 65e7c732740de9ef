package tokenizer

import (
	"fmt"
	"strings"
)

// metadata is a GGUF file's.
type metadata map[string]any

// FromGGUF makes the tokenizer that a GGUF file's metadata describes. Of the kinds of llama.cpp there are "llama" (SentencePiece
// BPE), "t5" (Unigram) and "gpt2" (byte-level BPE).
func FromGGUF(meta map[string]any) (*Tokenizer, error) {
	m := metadata(meta)
	kind, _ := m["tokenizer.ggml.model"].(string)
	make, ok := map[string]func(metadata) (*Tokenizer, error){"llama": ggufLLaMA, "t5": ggufT5, "gpt2": ggufGPT2}[kind]
	if !ok {
		return nil, fmt.Errorf("tokenizer.ggml.model %q is not supported: want gpt2, llama, t5", kind)
	}
	t, err := make(m)
	if err != nil {
		return nil, fmt.Errorf("tokenizer.ggml: %w", err)
	}
	t.bos, t.EOS = m.id("bos_token_id", t.bos), m.id("eos_token_id", t.EOS)
	t.before = around(m.flag("add_bos_token", kind == "llama" || m.llama3()), t.bos)
	t.after = around(m.flag("add_eos_token", kind == "t5"), t.EOS)
	return t, nil
}

// llama3 says that words are split as in LLaMA 3, which also has other settings then.
func (m metadata) llama3() bool {
	pre, _ := m["tokenizer.ggml.pre"].(string)
	return strings.HasPrefix(pre, "llama")
}

func (m metadata) flag(name string, otherwise bool) bool {
	if v, ok := m["tokenizer.ggml."+name].(bool); ok {
		return v
	}
	return otherwise
}

func (m metadata) id(name string, otherwise int32) int32 {
	n := int64(-1)
	switch v := m["tokenizer.ggml."+name].(type) {
	case uint32:
		n = int64(v)
	case int32:
		n = int64(v)
	case uint64:
		n = int64(v)
	default:
		return otherwise
	}
	if tokens, _ := m["tokenizer.ggml.tokens"].([]string); n < 0 || n >= int64(len(tokens)) {
		return -1
	}
	return int32(n)
}

// kinds gives each token its kind, which are SentencePiece's.
func (m metadata) kinds(n int) ([]int32, error) {
	kinds, ok := m["tokenizer.ggml.token_type"].([]int32)
	if !ok || len(kinds) != n {
		return nil, fmt.Errorf("token_type has %d entries, tokens %d", len(kinds), n)
	}
	return kinds, nil
}

func (m metadata) sentencePiece() (*sentencePiece, error) {
	tokens, _ := m["tokenizer.ggml.tokens"].([]string)
	scores, _ := m["tokenizer.ggml.scores"].([]float32)
	kinds, err := m.kinds(len(tokens))
	if err != nil {
		return nil, err
	}
	if len(scores) != len(tokens) {
		return nil, fmt.Errorf("scores has %d entries, tokens %d", len(scores), len(tokens))
	}
	s := &sentencePiece{bos: -1, eos: -1, escape: true,
		dummyPrefix: m.flag("add_space_prefix", true), trim: m.flag("remove_extra_whitespaces", false)}
	for i, text := range tokens {
		kind := uint64(kinds[i])
		if kind == kindUnused {
			kind = kindControl
		}
		s.pieces = append(s.pieces, piece{text, scores[i], kind})
		s.byteFallback = s.byteFallback || kind == kindByte
	}
	return s, nil
}

func ggufLLaMA(m metadata) (*Tokenizer, error) {
	s, err := m.sentencePiece()
	if err != nil {
		return nil, err
	}
	return m.withControls(s)
}

// withControls lets a text name the control tokens and <unk>, as transformers and llama.cpp do and SentencePiece itself does not.
func (m metadata) withControls(s *sentencePiece) (*Tokenizer, error) {
	t, err := s.tokenizer()
	if err != nil {
		return nil, err
	}
	var tokens []addedToken
	for i, kind := range m["tokenizer.ggml.token_type"].([]int32) { // checked by kinds
		if kind == kindControl || kind == kindUnknown {
			tokens = append(tokens, addedToken{id: int32(i), text: s.pieces[i].text})
		}
	}
	t.added = newAdded(tokens, identity)
	return t, nil
}

func ggufT5(m metadata) (*Tokenizer, error) {
	s, err := m.sentencePiece()
	if err != nil {
		return nil, err
	}
	s.unigram = true
	if b, ok := m["tokenizer.ggml.precompiled_charsmap"].([]uint8); ok && len(b) > 0 {
		if s.rules, err = parseCharsmap(b); err != nil {
			return nil, err
		}
	}
	return m.withControls(s)
}

// normalizeOf is what the models' own tokenizers do, and llama.cpp leaves out.
var normalizeOf = map[string]normalizer{"qwen2": forms["NFC"].normalize}

// splitters are llama.cpp's names for ways of splitting, as far as they are known here.
var splitters = map[string]func() splitter{
	"gpt-2":     func() splitter { return byteLevel(false, true) },
	"gpt2":      func() splitter { return byteLevel(false, true) },
	"smollm":    func() splitter { return splitAll([]splitter{digits(true), byteLevel(false, true)}) },
	"llama-bpe": func() splitter { return splitByteLevel(llama3Pattern) },
	"llama3":    func() splitter { return splitByteLevel(llama3Pattern) },
	"llama-v3":  func() splitter { return splitByteLevel(llama3Pattern) },
	"qwen2":     func() splitter { return splitByteLevel(qwen2Pattern) },
}

func splitByteLevel(pattern string) splitter {
	find, _ := regex(pattern) // one of those that are known by hand
	return splitAll([]splitter{splitAt(find, behaviours["Isolated"], false), byteLevel(false, false)})
}

func digits(individual bool) splitter {
	behaviour := "Contiguous"
	if individual {
		behaviour = "Isolated"
	}
	return splitAt(each(isDigit), behaviours[behaviour], false)
}

func ggufGPT2(m metadata) (*Tokenizer, error) {
	pre, _ := m["tokenizer.ggml.pre"].(string)
	split, ok := splitters[pre]
	if !ok {
		return nil, unsupported("pre", pre, splitters)
	}
	tokens, _ := m["tokenizer.ggml.tokens"].([]string)
	lines, _ := m["tokenizer.ggml.merges"].([]string)
	kinds, err := m.kinds(len(tokens))
	if err != nil {
		return nil, err
	}
	vocab := map[string]int32{}
	var added []addedToken
	for i, text := range tokens {
		vocab[text] = int32(i)
		if kinds[i] == kindControl || kinds[i] == kindUserDefined {
			added = append(added, addedToken{id: int32(i), text: text, special: kinds[i] == kindControl})
		}
	}
	var merges [][2]string
	for i, line := range lines {
		left, right, ok := strings.Cut(line, " ")
		if !ok {
			return nil, fmt.Errorf("merges: number %d is %q: want two tokens with a space between them", i, line)
		}
		merges = append(merges, [2]string{left, right})
	}
	model, err := newBPE(vocab, merges)
	if err != nil {
		return nil, err
	}
	model.ignoreMerges = m.llama3()
	return byteLevelTokenizer(model, normalizeOf[pre], split(), added), nil
}
