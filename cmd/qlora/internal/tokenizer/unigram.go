package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// unigram is the unigram language model (Kudo, 2018): the cut of a word into pieces whose scores, logarithms of probabilities,
// have the largest sum, by Viterbi's algorithm. Of equal sums the one with the earlier, longer last piece wins.
type unigram struct {
	pieces       []unigramPiece
	all          map[string]int32 // ids
	starts       trie
	unknown      int32
	unknownScore float64
	byteFallback bool
	round        func(float64) float64 // SentencePiece adds in float32, Hugging Face in float64
}

type unigramPiece struct {
	text  string
	score float64
}

// longestPiece bounds the time for each character.
const longestPiece = 1 << 10

// unknownPenalty is how much worse than the worst piece a character is that is in none.
const unknownPenalty = 10

func newUnigram(pieces []unigramPiece, unknown int32, round func(float64) float64, wanted func(id int) bool) (*unigram, error) {
	if unknown < 0 || int(unknown) >= len(pieces) {
		return nil, fmt.Errorf("unk_id is %d: want one of the %d pieces", unknown, len(pieces))
	}
	m := &unigram{pieces: pieces, all: make(map[string]int32, len(pieces)), unknown: unknown, round: round}
	worst, any := 0.0, false
	for id, p := range pieces {
		m.all[p.text] = int32(id)
		if len(p.text) > longestPiece {
			return nil, fmt.Errorf("piece %d has %d bytes: want at most %d", id, len(p.text), longestPiece)
		}
		if math.IsNaN(p.score) || math.IsInf(p.score, 0) {
			return nil, fmt.Errorf("piece %d, %q, has the score %v", id, p.text, p.score)
		}
		if !wanted(id) {
			continue
		}
		if !any || p.score < worst {
			worst, any = p.score, true
		}
		if p.text != "" {
			m.starts.add(p.text, int32(id))
		}
	}
	m.unknownScore = round(worst - unknownPenalty)
	return m, nil
}

func (m *unigram) token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(m.pieces) {
		return "", false
	}
	return m.pieces[id].text, true
}

func (m *unigram) id(token string) (int32, bool) {
	id, ok := m.all[token]
	return id, ok
}

func (m *unigram) count() int { return len(m.pieces) }
func (m *unigram) size() int  { return len(m.pieces) }

// place is the best way to a place in the word.
type place struct {
	score float64
	from  int // −1 where there is none yet
	id    int32
}

func (m *unigram) encode(ids []int32, word string) []int32 {
	best := make([]place, len(word)+1)
	for i := range best[1:] {
		best[i+1].from = -1
	}
	for at := 0; at < len(word); {
		_, n := utf8.DecodeRuneInString(word[at:])
		single := false
		m.starts.prefixes(word[at:], func(length int, id int32) {
			m.reach(best, at, at+length, id, m.pieces[id].score)
			single = single || length == n
		})
		if !single {
			m.reach(best, at, at+n, m.unknown, m.unknownScore)
		}
		at += n
	}
	return m.collect(ids, word, best)
}

func (m *unigram) reach(best []place, from, to int, id int32, score float64) {
	if s := m.round(score + best[from].score); best[to].from < 0 || s > best[to].score {
		best[to] = place{s, from, id}
	}
}

// collect goes back over the best way.
func (m *unigram) collect(ids []int32, word string, best []place) []int32 {
	var way []span
	for to := len(word); to > 0; to = best[to].from {
		s := span{from: best[to].from, to: to, match: best[to].id != m.unknown}
		if n := len(way); n > 0 && !s.match && !way[n-1].match { // unknown characters in a row are one
			way[n-1].from = s.from
			continue
		}
		way = append(way, s)
	}
	for _, s := range slices.Backward(way) {
		if s.match {
			ids = append(ids, best[s.to].id)
			continue
		}
		ids = append(ids, m.unknowns(word[s.from:s.to])...)
	}
	return ids
}

// unknowns are the tokens of a text's bytes, if they all have one; or else one for all of it.
func (m *unigram) unknowns(text string) (ids []int32) {
	for i := 0; i < len(text) && m.byteFallback; i++ {
		id, ok := m.all[byteToken(text[i])]
		if !ok {
			return []int32{m.unknown}
		}
		ids = append(ids, id)
	}
	if ids == nil {
		return []int32{m.unknown}
	}
	return ids
}

// trie finds all pieces that a text begins with.
type trie struct {
	next map[uint64]int32 // node·256 + byte to node; node 0 is the root
	ids  []int32          // of the piece that ends at a node; −1 for none
}

func (t *trie) add(text string, id int32) {
	if t.next == nil {
		t.next, t.ids = map[uint64]int32{}, []int32{-1}
	}
	node := int32(0)
	for i := range len(text) {
		key := uint64(node)<<8 | uint64(text[i])
		child, ok := t.next[key]
		if !ok {
			child = int32(len(t.ids))
			t.next[key] = child
			t.ids = append(t.ids, -1)
		}
		node = child
	}
	t.ids[node] = id
}

func (t *trie) prefixes(text string, f func(length int, id int32)) {
	node, ok := int32(0), false
	for i := range len(text) {
		if node, ok = t.next[uint64(node)<<8|uint64(text[i])]; !ok {
			return
		}
		if id := t.ids[node]; id >= 0 {
			f(i+1, id)
		}
	}
}
