package main

import (
	"fmt"
	"io"
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
	begun    time.Time
	tokens   int // since begun
	finished int // steps since begun
}

func newProgress(w io.Writer, steps, every int) *progress {
	return &progress{w: w, live: isTerminal(w), every: every, steps: steps, begun: time.Now()}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (p *progress) step(r train.Report, memory int64) {
	p.tokens += r.Tokens
	p.finished++
	seconds := time.Since(p.begun).Seconds()
	left := time.Duration(float64(time.Second) * seconds / float64(p.finished) * float64(p.steps-r.Step))
	line := fmt.Sprintf("step %d/%d  loss %.4f  lr %.2e  grad norm %.3f  %.0f tokens/s  %s  %v left",
		r.Step, p.steps, r.Loss, r.LR, r.GradNorm, float64(p.tokens)/seconds, op.Bytes(memory), left.Round(time.Second))
	switch {
	case p.live:
		fmt.Fprintf(p.w, "\r\x1b[K%s", line)
	case r.Step%p.every == 0 || r.Step == p.steps || p.finished == 1:
		fmt.Fprintln(p.w, line)
	}
}

// end leaves the last line standing.
func (p *progress) end() {
	if p.live && p.finished > 0 {
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
