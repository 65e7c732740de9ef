package op

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"slices"

	"qlora/ref/optim"
)

// Pages are what lives Paged on a device that has one memory (paper, section 3: paged optimizers). Where there is no room, those that were
// used least recently (optim.Pager) go to a file, and come back when they are used. What they hold, and so every bit of a result,
// depends on none of this. The arena counts the pages that are in memory, and lets them leave for whatever else needs the room.
type Pages struct {
	arena *Arena
	pager optim.Pager
	all   map[string]*Page // by key
	busy  []*Page          // an operation is at work on them: they stay
	last  *Page            // that was used, or brought in ahead of use
	end   int64            // of the file
	file  *os.File

	// AccountOnly counts pages that have no memory and go to no file.
	AccountOnly bool
}

// Page is the values of a float32 tensor or an 8-bit state while it is in memory, and empty while it is not.
type Page struct {
	Full   []float32
	State8 optim.State8

	name, key string
	n         int // elements
	eight     bool
	bytes     int64
	at        int64 // where it lies in the file
	part      *Part
	here      bool   // in memory, or, while it is being moved, on its way there
	kept      bool   // the file has it; else it was zeros when it last left
	newer     bool   // memory has what the file has not
	sum       uint32 // CRC-32C of what the file has
}

// NewPages are those that a counts.
func NewPages(a *Arena) *Pages {
	a.pages = &Pages{arena: a, all: map[string]*Page{}}
	return a.pages
}

// To makes the file in a folder. Where the system allows it has no name from then on, so that nothing is left of it when the program ends,
// however that comes; elsewhere Close removes it. Without a cap, or without pages, there is no need of it.
//
// If all pages and what is in memory beside them now are more than the cap, pages are sure to leave. Then the file is filled at once, so that a
// full disk is found before the first step: most are; a file system that compresses, or that copies what is written over, may still find
// no room later. Else pages leave only if later calls take their room, maybe never, and the file grows as they do.
func (s *Pages) To(dir string) error {
	if s.arena.Cap == 0 || s.end == 0 || s.file != nil || s.AccountOnly {
		return nil
	}
	f, err := os.CreateTemp(dir, ".pages-*")
	if err != nil {
		return fmt.Errorf("optimizer state that leaves memory: %w", err)
	}
	s.file = f
	os.Remove(f.Name()) // Windows does not, of a file that is open
	if s.end <= s.room() {
		return nil
	}
	if err := reserve(f, s.end); err != nil {
		s.Close()
		return fmt.Errorf("optimizer state that leaves memory needs %s in %s: %w; make room there, name another output_dir or raise --memory-limit",
			Bytes(s.end), dir, err)
	}
	return nil
}

// Close gives the file back. What has left does not come back then.
func (s *Pages) Close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	os.Remove(s.file.Name()) // where it still has one
	return err
}

// reserve writes zeros, for a file that is only made longer takes no room, and waits for the disk: some systems say only then that it is full.
func reserve(f *os.File, bytes int64) error {
	zeros := make([]byte, min(bytes, 1<<20))
	for ; bytes > 0; bytes -= int64(len(zeros)) {
		if _, err := f.Write(zeros[:min(bytes, int64(len(zeros)))]); err != nil {
			return err
		}
	}
	return f.Sync()
}

// State8Bytes is the memory that the 8-bit state of n parameters takes.
func State8Bytes(n int) int64 {
	blocks := (n + optim.Blocksize8 - 1) / optim.Blocksize8
	return 2 * (int64(n) + 4*int64(blocks))
}

// New is a page of n zeros, or of the 8-bit state of n parameters before the first step.
func (s *Pages) New(name string, n int, eight bool) (*Page, error) {
	p := &Page{name: name, key: fmt.Sprint(len(s.all), " ", name), n: n, eight: eight, bytes: 4 * int64(n), at: s.end, part: s.arena.part(name)}
	if eight {
		p.bytes = State8Bytes(n)
	}
	s.all[p.key] = p
	s.end += p.bytes
	return p, s.With(nil, false, p)
}

// PagesOf are those among what tensors and states have for handles, each once. One for which there was no room is not made: its handle is nil.
func PagesOf(handles ...any) (pages []*Page) {
	for _, h := range handles {
		if p, ok := h.(*Page); ok && p != nil && !slices.Contains(pages, p) {
			pages = append(pages, p)
		}
	}
	return pages
}

// Here says whether a page is in memory, or on its way there.
func (p *Page) Here() bool { return p.here }

// With brings pages in and calls f, if it is not nil, while none of them can leave. changes says that f changes what they hold.
func (s *Pages) With(f func(), changes bool, pages ...*Page) error {
	for _, p := range pages {
		move, err := s.want(p)
		if err == nil {
			err = move()
		}
		if err != nil {
			return err
		}
	}
	for _, p := range pages {
		if !p.here { // it left for one of the others
			return s.arena.full(p.name, p.bytes)
		}
		p.newer = p.newer || changes
	}
	if f != nil {
		s.busy = pages
		f()
		s.busy = nil
	}
	return nil
}

// Ahead gives what has to be done so that a page is in when it is used; nil for nothing. It may be done while the device computes, but
// nothing else may be asked of the pages before it is done, except With of others that are in. For a page that is brought in ahead of use the
// one that was used last does not leave: it is about to be used.
func (s *Pages) Ahead(p *Page) (move func() error) {
	if !p.here && s.last != nil && s.last.here && s.last.bytes+p.bytes > s.room() {
		return nil
	}
	here := p.here
	move, err := s.want(p)
	if here || err != nil { // With will have the error, too
		return nil
	}
	return move
}

// want makes p the page that was used last, and gives what is to be done for that: pages leave, it comes.
func (s *Pages) want(p *Page) (move func() error, err error) {
	s.pager.Cap = s.room()
	comes, keys, err := s.pager.Use(p.key, p.bytes)
	if err != nil {
		return nil, s.arena.full(p.name, p.bytes)
	}
	s.last = p
	leaving := s.leaving(keys)
	if comes {
		p.here = true
		s.arena.add(p.part, p.bytes)
	}
	return func() error {
		if err := s.send(leaving); err != nil || !comes {
			return err
		}
		return s.bring(p)
	}, nil
}

// room is how many bytes there are for pages.
func (s *Pages) room() int64 {
	if s.arena.Cap == 0 {
		return math.MaxInt64
	}
	return s.arena.Cap - (s.arena.used - s.pager.Used())
}

// leave makes room for bytes that are no page's, if pages can.
func (s *Pages) leave(bytes int64) error {
	if s == nil {
		return nil
	}
	room, stay := s.room()-bytes, int64(0)
	for _, p := range s.busy { // they were used last, so that they are the last to leave
		stay += p.bytes
	}
	if room < stay {
		return nil
	}
	return s.send(s.leaving(s.pager.Room(room)))
}

// leaving takes pages out of the account.
func (s *Pages) leaving(keys []string) (pages []*Page) {
	for _, key := range keys {
		p := s.all[key]
		p.here = false
		s.arena.add(p.part, -p.bytes)
		pages = append(pages, p)
	}
	return pages
}

// send writes what the file has not, and gives the memory back.
func (s *Pages) send(pages []*Page) error {
	for _, p := range pages {
		if p.newer && !s.AccountOnly {
			if s.file == nil {
				return fmt.Errorf("memory limit: %s has to leave memory, and no folder was named for its file", p.name)
			}
			if err := p.write(s.file); err != nil {
				return fmt.Errorf("%s leaves memory: %w; resume from the last checkpoint", p.name, err)
			}
			p.kept, p.newer = true, false
		}
		p.Full, p.State8 = nil, optim.State8{}
	}
	return nil
}

// bring gives a page memory, and what it held when it left.
func (s *Pages) bring(p *Page) error {
	switch {
	case s.AccountOnly:
		return nil
	case p.eight:
		p.State8 = *optim.NewState8(p.n)
	default:
		p.Full = make([]float32, p.n)
	}
	if !p.kept {
		return nil
	}
	if err := p.read(s.file); err != nil {
		return fmt.Errorf("%s comes back to memory: %w; resume from the last checkpoint", p.name, err)
	}
	return nil
}

// codes and floats are what a page holds, in the order in which they lie in the file. Float32 lies there little-endian.
func (p *Page) codes() [][]byte     { return [][]byte{p.State8.M, p.State8.V} }
func (p *Page) floats() [][]float32 { return [][]float32{p.Full, p.State8.AbsmaxM, p.State8.AbsmaxV} }

// inPieces is how many elements are converted at a time.
const inPieces = 1 << 16

// A write that a system puts off can be lost without an error that reaches who wrote: the sum tells.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (p *Page) write(f *os.File) error {
	sum := crc32.New(castagnoli)
	w := io.MultiWriter(io.NewOffsetWriter(f, p.at), sum)
	for _, codes := range p.codes() {
		if _, err := w.Write(codes); err != nil {
			return err
		}
	}
	buffer := make([]byte, 0, 4*inPieces)
	for _, x := range p.floats() {
		for piece := range slices.Chunk(x, inPieces) {
			for _, v := range piece {
				buffer = binary.LittleEndian.AppendUint32(buffer, math.Float32bits(v))
			}
			if _, err := w.Write(buffer); err != nil {
				return err
			}
			buffer = buffer[:0]
		}
	}
	p.sum = sum.Sum32()
	return nil
}

func (p *Page) read(f *os.File) error {
	sum := crc32.New(castagnoli)
	r := io.TeeReader(io.NewSectionReader(f, p.at, p.bytes), sum)
	for _, codes := range p.codes() {
		if _, err := io.ReadFull(r, codes); err != nil {
			return err
		}
	}
	buffer := make([]byte, 4*inPieces)
	for _, x := range p.floats() {
		for piece := range slices.Chunk(x, inPieces) {
			b := buffer[:4*len(piece)]
			if _, err := io.ReadFull(r, b); err != nil {
				return err
			}
			for i := range piece {
				piece[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
			}
		}
	}
	if sum.Sum32() != p.sum {
		return fmt.Errorf("%s: the %d bytes from %d on are not those that were written: the disk or what drives it has lost them", f.Name(), p.bytes, p.at)
	}
	return nil
}
