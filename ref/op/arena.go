package op

import (
	"fmt"
	"sort"
	"strings"
)

// Lifetime says when memory is given back.
type Lifetime uint8

const (
	Run   Lifetime = iota // until the device is closed: weights, adapter, optimizer state
	Step                  // one optimizer step: batch, losses, the inputs that checkpointing keeps
	Block                 // one decoder block, forward or backward
	Paged                 // as Run, but it leaves memory while there is no room for it: optimizer state
)

var lifetimeNames = [...]string{Run: "run", Step: "step", Block: "block", Paged: "paged"}

func (l Lifetime) String() string { return lifetimeNames[l] }

// Arena accounts for every byte that a device holds, by name, under a cap. It holds no memory itself.
type Arena struct {
	Cap   int64 // bytes; 0 is no cap
	live  [4][]allocation
	used  int64
	peak  int64
	parts map[string]*Part
	pages *Pages // what leaves memory where there is no room; nil for nothing
}

type allocation struct {
	part  *Part
	bytes int64
}

// Part is what one part of the program (the first component of an allocation's name) holds.
type Part struct {
	Name       string
	Used, Peak int64 // bytes
	AtPeak     int64 // bytes when the device held the most; of all parts they add up to that
}

// Mark is a point in a lifetime's allocations to which Release returns.
type Mark struct {
	life  Lifetime
	depth int
}

// Lifetime is the one whose allocations m stands in.
func (m Mark) Lifetime() Lifetime { return m.life }

// Alloc accounts for bytes under a name such as "weights/layers.0.q_proj", whose first component is the part. Pages leave if there is
// no room otherwise. Above the cap nothing is accounted and the error carries the table of what is held.
func (a *Arena) Alloc(life Lifetime, name string, bytes int64) error {
	if err := a.Keep(name, bytes); err != nil {
		return err
	}
	a.live[life] = append(a.live[life], allocation{a.part(name), bytes})
	return nil
}

// Keep is Alloc of what no Release gives back, whenever it was taken: what operations compute in, which stays for those that come after.
func (a *Arena) Keep(name string, bytes int64) error {
	if a.Cap > 0 && a.used+bytes > a.Cap {
		if err := a.pages.leave(bytes); err != nil {
			return err
		}
		if a.used+bytes > a.Cap {
			return a.full(name, bytes)
		}
	}
	a.add(a.part(name), bytes)
	return nil
}

// full is the error that there is no room.
func (a *Arena) full(name string, bytes int64) error {
	return fmt.Errorf("memory limit: %s needs %s, and %s of %s are in use; raise --memory-limit or make the batch smaller\n%s",
		name, Bytes(bytes), Bytes(a.used), Bytes(a.Cap), a.Table())
}

// part is that to which a name counts.
func (a *Arena) part(name string) *Part {
	part, _, _ := strings.Cut(name, "/")
	if a.parts == nil {
		a.parts = map[string]*Part{}
	}
	p := a.parts[part]
	if p == nil {
		p = &Part{Name: part}
		a.parts[part] = p
	}
	return p
}

// add counts bytes that come, or, below zero, leave.
func (a *Arena) add(p *Part, bytes int64) {
	p.Used += bytes
	p.Peak = max(p.Peak, p.Used)
	if a.used += bytes; a.used > a.peak {
		a.peak = a.used
		for _, p := range a.parts {
			p.AtPeak = p.Used
		}
	}
}

// Mark remembers where a lifetime's allocations stand.
func (a *Arena) Mark(life Lifetime) Mark { return Mark{life, len(a.live[life])} }

// Release gives back what was allocated in m's lifetime since m.
func (a *Arena) Release(m Mark) {
	for _, al := range a.live[m.life][m.depth:] {
		al.part.Used -= al.bytes
		a.used -= al.bytes
	}
	a.live[m.life] = a.live[m.life][:m.depth]
}

// Used and Peak are bytes held now, and the most that were ever held.
func (a *Arena) Used() int64 { return a.used }
func (a *Arena) Peak() int64 { return a.peak }

// Parts are sorted by peak, largest first. Their peaks need not fall on the same instant, but AtPeak does.
func (a *Arena) Parts() []Part {
	var ps []Part
	for _, p := range a.parts {
		ps = append(ps, *p)
	}
	sort.Slice(ps, func(i, j int) bool {
		return ps[i].Peak > ps[j].Peak || ps[i].Peak == ps[j].Peak && ps[i].Name < ps[j].Name
	})
	return ps
}

// Table shows the parts, one a line.
func (a *Arena) Table() string {
	var b strings.Builder
	for _, p := range a.Parts() {
		fmt.Fprintf(&b, "  %-14s now %10s   peak %10s\n", p.Name, Bytes(p.Used), Bytes(p.Peak))
	}
	return b.String()
}

// Bytes writes a size in binary units: 48.0 GiB.
func Bytes(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
