package main

import "strings"

// stopper finds the first of some texts to come to its end in a text that comes in pieces. What may be the beginning of one of them is
// held back. That the pieces are cut here or there changes nothing.
type stopper struct {
	stops []string
	held  string
}

// next takes a piece and gives what is certain not to belong to a stop text. At the first stop text that is whole it gives what is
// before that (of those that end together, the longest), and true.
func (s *stopper) next(piece string) (text string, stopped bool) {
	from := len(s.held)
	s.held += piece
	for end := from + 1; end <= len(s.held); end++ {
		if n := s.longest(s.held[:end]); n > 0 {
			return s.held[:end-n], true
		}
	}
	keep := s.begun()
	text, s.held = s.held[:len(s.held)-keep], s.held[len(s.held)-keep:]
	return text, false
}

// longest is the length of the longest stop text with which text ends, 0 if there is none.
func (s *stopper) longest(text string) (n int) {
	for _, stop := range s.stops {
		if strings.HasSuffix(text, stop) {
			n = max(n, len(stop))
		}
	}
	return n
}

// begun is the length of the longest end of what is held that is the beginning of a stop text.
func (s *stopper) begun() (n int) {
	for _, stop := range s.stops {
		for k := min(len(stop)-1, len(s.held)); k > n; k-- {
			if strings.HasSuffix(s.held, stop[:k]) {
				n = k
			}
		}
	}
	return n
}
