package optim

import "fmt"

// Pager decides which pages of optimizer state are on a device that has not room for all (paper, section 3): the least
// recently used ones leave. It moves no bytes and has no influence on results.
type Pager struct {
	Cap    int64 // bytes
	used   int64
	recent []page // on the device, the least recently used first
}

type page struct {
	name  string
	bytes int64
}

// Use says what must happen before a page can be used: whether it has to be brought in, and which pages have to leave
// first, in order. Calling it ahead of the use lets the transfer overlap with work on the pages before.
func (p *Pager) Use(name string, bytes int64) (in bool, out []string, err error) {
	if bytes > p.Cap {
		return false, nil, fmt.Errorf("page %s takes %d bytes, more than the %d that there are for pages", name, bytes, p.Cap)
	}
	for i, r := range p.recent {
		if r.name == name {
			p.recent = append(append(p.recent[:i:i], p.recent[i+1:]...), r)
			return false, nil, nil
		}
	}
	out = p.leave(bytes)
	p.recent, p.used = append(p.recent, page{name, bytes}), p.used+bytes
	return true, out, nil
}

// Room changes Cap, for something else needs the memory or has given it back, and says which pages have to leave for that, in order.
func (p *Pager) Room(bytes int64) (out []string) {
	p.Cap = bytes
	return p.leave(0)
}

// leave takes the least recently used pages away until there is room for bytes more.
func (p *Pager) leave(bytes int64) (out []string) {
	for len(p.recent) > 0 && bytes > p.Cap-p.used {
		oldest := p.recent[0]
		p.recent, p.used = p.recent[1:], p.used-oldest.bytes
		out = append(out, oldest.name)
	}
	return out
}

// Used is the number of bytes of pages on the device.
func (p *Pager) Used() int64 { return p.used }
