package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"qlora/ref/train"
)

// Without a terminal there is a line for the first step, for every so many, and for the last, which may also be the next of these.
func TestPlainProgress(t *testing.T) {
	var b bytes.Buffer
	p := newProgress(&b, 25, 10)
	for step := 4; step <= 25; step++ { // the run was resumed after step 3
		p.step(train.Report{Step: step, Loss: 1.5, GradNorm: 0.25, LR: 2e-4, Tokens: 64}, time.Now(), 3<<20)
	}
	p.note("step %d/%d  held-out loss %.4f", 25, 25, 1.25)
	p.end()
	var steps []string
	for line := range strings.Lines(b.String()) {
		steps = append(steps, strings.Fields(line)[1])
	}
	if got := fmt.Sprint(steps); got != "[4/25 10/25 20/25 25/25 25/25]" {
		t.Error(got)
	}
	for _, want := range []string{"loss 1.5000  lr 2.00e-04  grad norm 0.250  ", " tokens/s  3.0 MiB  ", "0s left\n", "held-out loss 1.2500\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// On a terminal a line is written over, but for what is to stay; the last one is ended.
func TestLiveProgress(t *testing.T) {
	var b bytes.Buffer
	p := progress{w: &b, live: true, every: 1, steps: 3}
	step := func(n int) { p.step(train.Report{Step: n, Tokens: 1}, time.Now(), 0) }
	step(1)
	p.note("stays")
	step(2)
	step(3)
	p.end()
	if got := strings.Count(b.String(), "\n"); got != 2 || !strings.Contains(b.String(), "\x1b[Kstays\n") || !strings.HasSuffix(b.String(), "left\n") {
		t.Errorf("%q", b.String())
	}
	if cut("step 12/60", 6) != "step 1" || cut("step", 80) != "step" || cut("step", -1) != "" {
		t.Error("cut")
	}
}
