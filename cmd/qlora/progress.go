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
	p := &progress{w: w, every: every, steps: steps, begun: time.Now()}
	if f, ok := w.(*os.File); ok {
		p.live = term.IsTerminal(int(f.Fd()))
	}
	return p
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
