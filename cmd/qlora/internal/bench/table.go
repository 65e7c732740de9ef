package bench

import (
	"fmt"
	"io"
	"text/tabwriter"

	"qlora/ref/op"
)

// Write prints the report for people.
func (r *Report) Write(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d threads; kernels %s, math %s; %s\n", r.Machine.CPU, r.Machine.Threads, r.Machine.Kernels, r.Machine.Math, r.Machine.Go)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(r.Limits) > 0 {
		fmt.Fprint(t, "\nlimit\tthreads\t\t\t\n")
	}
	for _, l := range r.Limits {
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%s\t\n", l.Name, l.Threads, l.Value, l.Unit)
	}
	if len(r.Kernels) > 0 {
		fmt.Fprint(t, "\nkernel\tshape\tthreads\ta call\t\t\tof its limit\t\n")
	}
	for _, k := range r.Kernels {
		fmt.Fprintf(t, "%s\t%s\t%d\t%.4g ms\t%.3g\t%s\t%s\t\n", k.Name, k.Shape, k.Threads, k.Seconds*1e3, k.Value, k.Unit, k.ofLimit())
	}
	if len(r.Steps) > 0 {
		fmt.Fprint(t, "\nstep\ttokens\tcheckpointing\tthreads\tseconds\ttokens/s\tarena\tresident\t\n")
	}
	for _, s := range r.Steps {
		fmt.Fprintf(t, "%s\t%d\t%v\t%d\t%.3g\t%.1f\t%s\t%s\t\n", s.Compute, s.Tokens, s.Checkpointing, s.Threads, s.Seconds, s.PerSecond, op.Bytes(s.Peak), s.residentText())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range r.Steps {
		fmt.Fprintf(w, "\n%s, on %d threads, holds at most", s.Name(), s.Threads)
		for i, p := range s.Parts {
			fmt.Fprintf(w, "%s %s %s", []string{":", ","}[min(i, 1)], p.Name, op.Bytes(p.Peak))
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}

func (k Kernel) ofLimit() string {
	if k.Of == "" {
		return ""
	}
	return fmt.Sprintf("%.0f%% of %s, %.3g", k.Percent, k.Of, k.Limit)
}

func (s Step) residentText() string {
	if s.Resident == 0 {
		return "unknown"
	}
	return op.Bytes(s.Resident)
}
