package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strconv"

	"qlora/cmd/qlora/internal/bench"
	"qlora/cmd/qlora/internal/config"
)

type benchOptions struct {
	Only    string   `name:"only" help:"regular expression of the names of limits, kernels and steps; all if empty"`
	Threads []string `name:"threads" help:"numbers of threads, separated by commas; steps run on the most of them"`
	Math    string   `name:"math" help:"exact has the reference's bits; fast is within bounds of them, and may exceed peak, which is of float32"`
	Sweep   bool     `name:"sweep" help:"training steps of more lengths and on fewer threads, too"`
	Quick   bool     `name:"quick" help:"small shapes, once: whether everything runs, not how fast"`
	JSON    bool     `name:"json" help:"print JSON"`
}

// benchCPU measures kernels and training steps against the machine's limits. What was measured before an interrupt is printed.
func benchCPU(c console, args []string) error {
	o := benchOptions{Threads: []string{"1"}, Math: exactMath}
	if n := runtime.GOMAXPROCS(0); n > 1 {
		o.Threads = append(o.Threads, strconv.Itoa(n))
	}
	if shown, err := parseAll(c, "bench cpu", args, &o); shown || err != nil {
		return err
	}
	options, err := o.parse()
	if err != nil {
		return err
	}
	options.Progress = func(done, of int) { newCounter(c.err, "bench", "measured", of).step(done) }
	r, err := bench.Run(c.ctx, options)
	switch {
	case errors.Is(err, bench.ErrNone):
		return config.Usagef("flag --only: %v", err)
	case r == nil:
		return err
	}
	if c.ctx.Err() != nil {
		err = fmt.Errorf("stopped before everything was measured")
	}
	return errors.Join(o.print(c, r), err)
}

func (o benchOptions) parse() (b bench.Options, err error) {
	b = bench.Options{Quick: o.Quick, Sweep: o.Sweep, Fast: o.Math == fastMath}
	if o.Math != exactMath && o.Math != fastMath {
		return b, config.Usagef("math %q: want %s or %s", o.Math, exactMath, fastMath)
	}
	for _, text := range o.Threads {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return b, config.Usagef("flag --threads: %q: want numbers from 1 on, separated by commas", text)
		}
		b.Threads = append(b.Threads, n)
	}
	if b.Threads == nil {
		return b, config.Usagef("flag --threads: want a number of threads")
	}
	b.Only, err = parseOnly(o.Only)
	return b, err
}

func (o benchOptions) print(c console, r *bench.Report) error {
	if o.JSON {
		e := json.NewEncoder(c.out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.Write(c.out)
}
