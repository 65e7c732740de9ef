package tokenizer

import (
	"container/heap"
	"fmt"
	"unicode/utf8"
)

// bpe is byte-pair encoding as Hugging Face's tokenizers have it (Sennrich et al., 2016): of all neighbours that a merge joins,
// the pair of the lowest rank is joined first, the leftmost of equals.
type bpe struct {
	vocab        map[string]int32
	tokens       map[int32]string
	merges       map[[2]int32]merge
	unknown      int32 // −1 is none: what is not known is left out
	fuseUnknown  bool
	byteFallback bool // what is not known becomes <0xAB>…
	ignoreMerges bool // a word that is a token needs no merges
	highest      int32
	seen         map[string][]int32
}

type merge struct {
	rank int32
	id   int32
}

// mostIDs bounds ids: no vocabulary comes near it.
const mostIDs = 1 << 24

// newBPE checks that merges join tokens to tokens.
func newBPE(vocab map[string]int32, merges [][2]string) (*bpe, error) {
	if len(vocab) == 0 {
		return nil, fmt.Errorf("vocab: no tokens")
	}
	m := &bpe{vocab: vocab, tokens: make(map[int32]string, len(vocab)), merges: make(map[[2]int32]merge, len(merges)), unknown: -1,
		seen: map[string][]int32{}}
	for token, id := range vocab {
		if id < 0 || id >= mostIDs {
			return nil, fmt.Errorf("vocab: token %q has the id %d", token, id)
		}
		if other, twice := m.tokens[id]; twice {
			return nil, fmt.Errorf("vocab: %q and %q have the same id, %d", min(token, other), max(token, other), id)
		}
		m.tokens[id] = token
		m.highest = max(m.highest, id)
	}
	for rank, pair := range merges {
		left, okLeft := vocab[pair[0]]
		right, okRight := vocab[pair[1]]
		both, ok := vocab[pair[0]+pair[1]]
		if !okLeft || !okRight || !ok {
			return nil, fmt.Errorf("merges: number %d joins %q and %q: these and their union must be in vocab", rank, pair[0], pair[1])
		}
		m.merges[[2]int32{left, right}] = merge{int32(rank), both}
	}
	return m, nil
}

func (m *bpe) token(id int32) (string, bool) { t, ok := m.tokens[id]; return t, ok }
func (m *bpe) id(t string) (int32, bool)     { id, ok := m.vocab[t]; return id, ok }
func (m *bpe) count() int                    { return len(m.vocab) }
func (m *bpe) size() int                     { return int(m.highest) + 1 }

// mostSeen bounds the memory of words whose ids are kept.
const mostSeen = 1 << 16

func (m *bpe) encode(ids []int32, word string) []int32 {
	if m.ignoreMerges {
		if id, ok := m.vocab[word]; ok {
			return append(ids, id)
		}
	}
	known, ok := m.seen[word]
	if !ok {
		known = m.merged(word)
		if len(word) <= 64 {
			if len(m.seen) >= mostSeen {
				clear(m.seen)
			}
			m.seen[word] = known
		}
	}
	return append(ids, known...)
}

func (m *bpe) merged(word string) []int32 {
	j := joiner{rank: func(left, right symbol) (float64, int32, bool) {
		joined, ok := m.merges[[2]int32{left.id, right.id}]
		return float64(joined.rank), joined.id, ok
	}}
	unknown := false // the last symbol is one
	for i := 0; i < len(word); {
		_, n := utf8.DecodeRuneInString(word[i:])
		char := word[i : i+n]
		id, ok := m.vocab[char]
		switch {
		case ok:
			j.add(i, i+n, id)
		case m.byteFallback && m.hasBytes(char):
			for k := range n {
				j.add(i+k, i+k+1, m.vocab[byteToken(char[k])])
			}
		case m.unknown >= 0 && unknown && m.fuseUnknown:
			j.symbols[len(j.symbols)-1].to = i + n
			ok = false
		case m.unknown >= 0:
			j.add(i, i+n, m.unknown)
		}
		unknown = !ok && len(j.symbols) > 0 && j.symbols[len(j.symbols)-1].id == m.unknown
		i += n
	}
	return j.run()
}

func (m *bpe) hasBytes(char string) bool {
	for i := range len(char) {
		if _, ok := m.vocab[byteToken(char[i])]; !ok {
			return false
		}
	}
	return true
}

func byteToken(b byte) string { return fmt.Sprintf("<0x%02X>", b) }

// joiner joins neighbours, the pair of the lowest rank first. It serves both kinds of byte-pair encoding: ranks from a list of
// merges, and SentencePiece's scores.
type joiner struct {
	symbols []symbol
	queue   pairs
	// rank says whether two neighbours are joined, how early, and to which id.
	rank func(left, right symbol) (rank float64, id int32, ok bool)
}

// symbol is a part of the word, in a doubly linked list.
type symbol struct {
	from, to      int
	id            int32
	before, after int // −1 at the ends
	gone, frozen  bool
}

// pair is two neighbours that could be joined. It is out of date when they would not be joined to the same id any more.
type pair struct {
	left int
	rank float64
	id   int32
}

func (j *joiner) add(from, to int, id int32) *symbol {
	n := len(j.symbols)
	if n > 0 {
		j.symbols[n-1].after = n
	}
	j.symbols = append(j.symbols, symbol{from: from, to: to, id: id, before: n - 1, after: -1})
	return &j.symbols[n]
}

func (j *joiner) propose(left int) {
	l := j.symbols[left]
	if l.after < 0 || l.frozen || j.symbols[l.after].frozen {
		return
	}
	if rank, id, ok := j.rank(l, j.symbols[l.after]); ok {
		heap.Push(&j.queue, pair{left, rank, id})
	}
}

// run joins all that can be joined and gives the ids of what is left.
func (j *joiner) run() (ids []int32) {
	for i := range j.symbols {
		j.propose(i)
	}
	for len(j.queue) > 0 {
		p := heap.Pop(&j.queue).(pair)
		l := &j.symbols[p.left]
		if l.gone || l.after < 0 {
			continue
		}
		r := &j.symbols[l.after]
		if rank, id, ok := j.rank(*l, *r); !ok || id != p.id || rank != p.rank {
			continue
		}
		l.to, l.id, l.after, r.gone = r.to, p.id, r.after, true
		if l.after >= 0 {
			j.symbols[l.after].before = p.left
		}
		if l.before >= 0 {
			j.propose(l.before)
		}
		j.propose(p.left)
	}
	for i := 0; i >= 0 && i < len(j.symbols); i = j.symbols[i].after {
		ids = append(ids, j.symbols[i].id)
	}
	return ids
}

// pairs is a heap: the lowest rank first, then the leftmost.
type pairs []pair

func (p pairs) Len() int { return len(p) }
func (p pairs) Less(i, j int) bool {
	return p[i].rank < p[j].rank || p[i].rank == p[j].rank && p[i].left < p[j].left
}
func (p pairs) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *pairs) Push(x any)   { *p = append(*p, x.(pair)) }
func (p *pairs) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}
