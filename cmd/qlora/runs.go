package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/report"
	"qlora/cmd/qlora/internal/runs"
	"qlora/ref/checkpoint"
	"qlora/ref/op"
)

// outcome is what a run has come to.
type outcome struct {
	Run       string   `json:"run"`
	State     string   `json:"state"`
	Step      int      `json:"step"`
	Steps     int      `json:"steps"`
	Loss      *float64 `json:"loss"`              // mean of the last ten steps
	Before    *float32 `json:"eval_loss_before"`  // the first measurement on held-out text
	After     *float32 `json:"eval_loss"`         // the last
	Best      *float32 `json:"best_eval_loss"`    // the lowest
	BestStep  int      `json:"best_step"`         // its step
	Seconds   float64  `json:"seconds"`           // of the steps
	PerSecond float64  `json:"tokens_per_second"` // in the steps
	Memory    int64    `json:"memory"`            // at most, bytes
	Error     string   `json:"error,omitempty"`   // why the run cannot be read, and nothing else of it is known
	model     string   // as the configuration calls it
	started   time.Time
}

func outcomeOf(r *runs.Run) outcome {
	if r.Unreadable != nil {
		return outcome{Run: string(r.Dir), State: r.State(), Error: r.Unreadable.Error()}
	}
	o := outcome{
		Run: string(r.Dir), State: r.State(), Step: r.Step(), Steps: r.Info.Steps, Memory: r.Info.Peak,
		model: runs.Value(r.Config, "model"), started: r.Info.Started,
	}
	if loss, known := r.Loss(); known {
		o.Loss = &loss
	}
	if held := r.HeldOut(); held != nil {
		best := r.Best()
		o.Before, o.After, o.Best, o.BestStep = held[0].HeldOut, held[len(held)-1].HeldOut, best.HeldOut, best.Step
	}
	var tokens int
	if o.Seconds, tokens = r.Took(); o.Seconds > 0 {
		o.PerSecond = float64(tokens) / o.Seconds
	}
	return o
}

// steps, took and so on are the outcome's columns, "–" where nothing is known.
func (o outcome) steps() string { return fmt.Sprintf("%d of %d", o.Step, o.Steps) }

func (o outcome) best() string {
	if o.Best == nil {
		return "–"
	}
	return fmt.Sprintf("%.4f at %d", *o.Best, o.BestStep)
}

func (o outcome) took() string {
	return time.Duration(o.Seconds * float64(time.Second)).Round(time.Second / 10).String()
}

func lossText[T float32 | float64](loss *T) string {
	if loss == nil {
		return "–"
	}
	return fmt.Sprintf("%.4f", *loss)
}

// runsList lists the runs in a folder.
func runsList(c console, args []string) error {
	var o struct {
		JSON bool `name:"json" help:"print JSON"`
	}
	rest, shown, err := parse(c, "runs list [FOLDER]", args, &o)
	if shown || err != nil {
		return err
	}
	if len(rest) > 1 {
		return config.Usagef("runs list takes one folder; runs if none is given")
	}
	folder := append(rest, "runs")[0]
	all, err := runs.List(folder)
	if err != nil {
		return err
	}
	outcomes := []outcome{}
	for _, r := range all {
		outcomes = append(outcomes, outcomeOf(r))
	}
	if o.JSON {
		return printJSON(c.out, outcomes)
	}
	if len(outcomes) == 0 {
		_, err := fmt.Fprintf(c.out, "no runs in %s\n", folder)
		return err
	}
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "run\tmodel\tstarted\tstate\tsteps\tloss\theld-out before\tafter\tbest")
	for _, o := range outcomes {
		if o.Error != "" {
			fmt.Fprintf(t, "%s\t\t\t%s: %s\n", o.Run, o.State, o.Error)
			continue
		}
		fmt.Fprintln(t, strings.Join([]string{
			o.Run, o.model, o.started.Local().Format("2006-01-02 15:04"), o.State, o.steps(), lossText(o.Loss), lossText(o.Before), lossText(o.After), o.best(),
		}, "\t"))
	}
	return t.Flush()
}

// runsCompare sets runs side by side: what they came to, and the options in which they differ.
func runsCompare(c console, args []string) error {
	var o struct {
		JSON bool `name:"json" help:"print JSON"`
	}
	rest, shown, err := parse(c, "runs compare RUN RUN…", args, &o)
	if shown || err != nil {
		return err
	}
	if len(rest) < 2 {
		return config.Usagef("runs compare needs two runs or more")
	}
	var outcomes []outcome
	var options [][]runs.Setting
	for _, name := range rest {
		r, err := runs.Open(runs.Dir(name))
		if err != nil {
			return err
		}
		outcomes, options = append(outcomes, outcomeOf(r)), append(options, withoutPlaces(r.Config))
	}
	differences := runs.Differences(options...)
	if o.JSON {
		return printJSON(c.out, map[string]any{"runs": outcomes, "differences": differences})
	}
	return writeComparison(c.out, outcomes, differences)
}

// withoutPlaces leaves out where a run lies: runs always differ in that.
func withoutPlaces(options []runs.Setting) []runs.Setting {
	return slices.DeleteFunc(options, func(s runs.Setting) bool { return s.Name == "output_dir" || s.Name == "plot" })
}

func writeComparison(w io.Writer, outcomes []outcome, differences []runs.Difference) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, of func(o outcome) string) {
		fmt.Fprint(t, name)
		for _, o := range outcomes {
			fmt.Fprint(t, "\t"+of(o))
		}
		fmt.Fprintln(t)
	}
	row("", func(o outcome) string { return o.Run })
	row("state", func(o outcome) string { return o.State })
	row("steps", outcome.steps)
	row("loss of the last 10 steps", func(o outcome) string { return lossText(o.Loss) })
	row("held-out loss before", func(o outcome) string { return lossText(o.Before) })
	row("held-out loss after", func(o outcome) string { return lossText(o.After) })
	row("held-out loss, lowest", outcome.best)
	row("time of all steps", outcome.took)
	row("tokens/s", func(o outcome) string { return fmt.Sprintf("%.0f", o.PerSecond) })
	row("memory at most", func(o outcome) string { return op.Bytes(o.Memory) })
	fmt.Fprintln(t)
	for _, d := range differences {
		fmt.Fprintf(t, "%s\t%s\n", d.Name, strings.Join(d.Values, "\t"))
	}
	if len(differences) == 0 {
		fmt.Fprintln(t, "all options are the same")
	}
	return t.Flush()
}

// runsReport writes a run's page.
func runsReport(c console, args []string) error {
	var o struct {
		Output string `name:"output" help:"HTML file; report.html in the run's folder if empty"`
	}
	rest, shown, err := parse(c, "runs report RUN", args, &o)
	if shown || err != nil {
		return err
	}
	if len(rest) != 1 {
		return config.Usagef("runs report needs a run's folder")
	}
	r, err := runs.Open(runs.Dir(rest[0]))
	if err != nil {
		return err
	}
	if o.Output == "" {
		o.Output = r.Dir.Path(runs.ReportFile)
	}
	if err := checkpoint.WriteFile(o.Output, func(w io.Writer) error { return report.Write(w, r) }); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.out, o.Output)
	return err
}

func printJSON(w io.Writer, x any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(x)
}
