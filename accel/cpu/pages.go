package cpu

import (
	"cmp"

	"qlora/ref/op"
	"qlora/ref/optim"
)

// flight is a page that comes in ahead of its use, and those that leave for it, while the device computes.
type flight struct {
	page *op.Page
	done chan struct{}
	err  error // once it is done
}

func (d *Device) PageTo(dir string) error { return d.pages.To(dir) }

// Close gives the file back to which pages go. It comes after the last call.
func (d *Device) Close() error {
	d.land()
	return d.pages.Close()
}

func (d *Device) BringIn(t *op.Tensor)       { d.bringIn(op.PagesOf(t.Handle)...) }
func (d *Device) BringInState8(s *op.State8) { d.bringIn(op.PagesOf(s.Handle)...) }

func (d *Device) bringIn(pages ...*op.Page) {
	for _, p := range pages {
		if d.land(); d.err != nil {
			return
		}
		d.trim(p)
		move := d.pages.Ahead(p)
		if move == nil {
			continue
		}
		f := &flight{page: p, done: make(chan struct{})}
		go func() {
			f.err = move()
			close(f.done)
		}()
		d.flight = f
	}
}

// land waits for the page that is under way. Before, nothing else may be asked of the pages or of the arena, except for pages that are in.
func (d *Device) land() {
	if d.wait(); d.flight != nil {
		d.err, d.flight = cmp.Or(d.err, d.flight.err), nil
	}
}

// wait is land for any thread: the error is left to the next land.
func (d *Device) wait() {
	if f := d.flight; f != nil {
		<-f.done
	}
}

// trim gives memory back that the step has used before, if p was driven out for it and comes in again. Else heaps keep it for the next step.
func (d *Device) trim(p *op.Page) {
	if !p.Here() {
		for life := range d.heaps {
			d.heaps[life].trim()
		}
	}
}

// page is a new page, nil where an error sticks.
func (d *Device) page(name string, n int, eight bool) (p *op.Page) {
	if d.land(); d.err == nil {
		p, d.err = d.pages.New(name, n, eight)
	}
	return p
}

// with calls f, unless an error sticks, while those of the handles that are pages are in memory. changes says that f changes them.
func (d *Device) with(changes bool, f func(), handles ...any) {
	if d.err != nil {
		return
	}
	pages := op.PagesOf(handles...)
	for _, p := range pages {
		if d.flight != nil && (p == d.flight.page || !p.Here()) {
			d.land()
		}
		d.trim(p)
	}
	if d.err == nil {
		err := d.pages.With(f, changes, pages...)
		d.err = cmp.Or(d.err, err) // f's comes first
	}
}

// moved is with for a tensor or state whose values f moves. A device that only accounts has none to move: only their page comes in.
func (d *Device) moved(changes bool, f func(), handle any) {
	if d.accountOnly {
		f = nil
	}
	d.with(changes, f, handle)
}

// paged is do for an operation that changes what may lie in pages.
func (d *Device) paged(at op.At, f func(), handles ...any) {
	d.with(true, func() {
		d.do(at, func() error {
			f()
			return nil
		})
	}, handles...)
}

// state8 is an 8-bit state where it lies; that of a page, while it is in memory.
func state8(s *op.State8) *optim.State8 {
	if p, paged := s.Handle.(*op.Page); paged {
		return &p.State8
	}
	return s.Handle.(*optim.State8)
}
