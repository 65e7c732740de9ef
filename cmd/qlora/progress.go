package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"golang.org/x/term"

	"qlora/ref/op"
	"qlora/ref/train"
)

// progress shows a run's steps: one line that is written over on a terminal, every so often a line elsewhere.
type progress struct {
	w        io.Writer
	live     bool
	every    int // steps between lines that stay
	steps    int
	begun    time.Time     // the first step
	taken    time.Duration // by the steps since then, without what came between them
	tokens   int
	finished int  // steps
	open     bool // the last line is yet to be written over
}

func newProgress(w io.Writer, steps, every int) *progress {
	return &progress{w: w, live: isTerminal(w), every: every, steps: steps}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// terminalWidth is in characters; where it is not known, no line is too long.
func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return math.MaxInt
}

// cut is what of a line fits a width: a line that the terminal wraps could not be written over.
func cut(line string, width int) string { return line[:max(0, min(len(line), width))] }

// step shows a step that began at a time.
func (p *progress) step(r train.Report, begun time.Time, memory int64) {
	if p.finished == 0 {
		p.begun = begun
	}
	p.finished++
	p.tokens += r.Tokens
	p.taken += time.Since(begun)
	left := time.Duration(float64(time.Since(p.begun)) / float64(p.finished) * float64(p.steps-r.Step))
	line := fmt.Sprintf("step %d/%d  loss %.4f  lr %.2e  grad norm %.3f  %.0f tokens/s  %s  %v left",
		r.Step, p.steps, r.Loss, r.LR, r.GradNorm, float64(p.tokens)/p.taken.Seconds(), op.Bytes(memory), left.Round(time.Second))
	switch {
	case p.live:
		fmt.Fprintf(p.w, "\r\x1b[K%s", cut(line, terminalWidth(p.w)-1))
		p.open = true
	case r.Step%p.every == 0 || r.Step == p.steps || p.finished == 1:
		fmt.Fprintln(p.w, line)
	}
}

// note leaves a line of its own.
func (p *progress) note(format string, args ...any) {
	if p.live {
		format = "\r\x1b[K" + format
	}
	fmt.Fprintf(p.w, format+"\n", args...)
	p.open = false
}

// end leaves the last line standing.
func (p *progress) end() {
	if p.open {
		fmt.Fprintln(p.w)
	}
}

// counter shows how much of a list is done: a line that is written over on a terminal, ten lines elsewhere.
type counter struct {
	w          io.Writer
	live       bool
	what, unit string
	total      int
}

func newCounter(w io.Writer, what, unit string, total int) counter {
	return counter{w, isTerminal(w), what, unit, total}
}

func (c counter) step(done int) {
	line := fmt.Sprintf("%s: %d of %d %s", c.what, done, c.total, c.unit)
	switch {
	case c.live && done == c.total:
		fmt.Fprintf(c.w, "\r\x1b[K%s\n", line)
	case c.live:
		fmt.Fprintf(c.w, "\r\x1b[K%s", line)
	case done*10/c.total > (done-1)*10/c.total:
		fmt.Fprintln(c.w, line)
	}
}
