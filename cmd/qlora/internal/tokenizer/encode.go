package tokenizer

import (
	"container/heap"
	"strings"
	"unicode/utf8"
)

// space is what SentencePiece writes for a space within its pieces.
const space = "▁"

// Encode gives the ids of a text, without a beginning-of-sequence. Starting from single characters, the two neighbours whose
// union is the piece of the highest score are joined, the leftmost of equals, until none are left; characters that are no
// pieces become their bytes.
func (t *Tokenizer) Encode(text string) []int32 {
	if text == "" {
		return nil
	}
	if t.dummyPrefix {
		text = " " + text
	}
	text = strings.ReplaceAll(text, " ", space)
	m := merger{t: t, text: text}
	for i := 0; i < len(text); {
		_, n := utf8.DecodeRuneInString(text[i:])
		m.symbols = append(m.symbols, symbol{from: i, to: i + n, before: len(m.symbols) - 1, after: len(m.symbols) + 1})
		i += n
	}
	m.symbols[len(m.symbols)-1].after = -1
	for i := range m.symbols[1:] {
		m.propose(i)
	}
	m.run()
	return m.ids()
}

// symbol is a part of the text, in a doubly linked list.
type symbol struct {
	from, to      int
	before, after int // −1 at the ends
	gone          bool
}

// pair is two neighbours that could be joined.
type pair struct {
	left, right int
	score       float32
	length      int // of both together: a pair of which a part has changed is out of date
}

type merger struct {
	t       *Tokenizer
	text    string
	symbols []symbol
	queue   pairs
}

func (m *merger) propose(left int) {
	right := m.symbols[left].after
	if right < 0 {
		return
	}
	from, to := m.symbols[left].from, m.symbols[right].to
	if id, ok := m.t.ids[m.text[from:to]]; ok {
		heap.Push(&m.queue, pair{left, right, m.t.pieces[id].score, to - from})
	}
}

func (m *merger) run() {
	for len(m.queue) > 0 {
		p := heap.Pop(&m.queue).(pair)
		l, r := &m.symbols[p.left], &m.symbols[p.right]
		if l.gone || r.gone || r.to-l.from != p.length {
			continue
		}
		l.to, l.after, r.gone = r.to, r.after, true
		if l.after >= 0 {
			m.symbols[l.after].before = p.left
		}
		if l.before >= 0 {
			m.propose(l.before)
		}
		m.propose(p.left)
	}
}

func (m *merger) ids() (ids []int32) {
	for i := 0; i >= 0; i = m.symbols[i].after {
		part := m.text[m.symbols[i].from:m.symbols[i].to]
		if id, ok := m.t.ids[part]; ok {
			ids = append(ids, id)
			continue
		}
		for _, b := range []byte(part) {
			ids = append(ids, m.t.bytes[b])
		}
	}
	return ids
}

// pairs is a heap: the highest score first, then the leftmost.
type pairs []pair

func (p pairs) Len() int { return len(p) }
func (p pairs) Less(i, j int) bool {
	return p[i].score > p[j].score || p[i].score == p[j].score && p[i].left < p[j].left
}
func (p pairs) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *pairs) Push(x any)   { *p = append(*p, x.(pair)) }
func (p *pairs) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}
