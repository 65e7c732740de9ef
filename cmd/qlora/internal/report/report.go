// Package report makes a page of a run: one HTML file that needs nothing beside it.
package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"qlora/cmd/qlora/internal/plot"
	"qlora/cmd/qlora/internal/runs"
	"qlora/ref/op"
)

//go:embed page.html
var source string

var layout = template.Must(template.New("page").Parse(source))

// page is what the template shows.
type page struct {
	Title, State string
	Facts        []fact // large, at the top
	Loss         template.HTML
	Curves       []template.HTML // smaller
	Memory       []bar
	Peak         string
	Samples      []sample
	Left         int // samples that are not shown
	Checkpoints  []row
	Environment  []row
	Options      []runs.Setting
}

type fact struct{ Name, Value, More string }

type row struct{ Name, Value string }

type bar struct {
	Name, Size string
	Percent    float64 // of the largest
}

type sample struct{ When, Prompt, Text string }

// Write writes the page.
func Write(w io.Writer, r *runs.Run) error {
	p := page{
		Title: string(r.Dir), State: fmt.Sprintf("%s, step %d of %d", r.State(), r.Step(), r.Info.Steps),
		Facts: facts(r), Memory: memory(r.Info.Memory), Peak: op.Bytes(r.Info.Peak), Checkpoints: checkpoints(r), Environment: environment(r), Options: r.Config,
	}
	p.Samples, p.Left = samples(r)
	var b strings.Builder
	if curves := lossCurves(r); known(curves...) {
		if err := plot.Lines(&b, "loss", "optimizer step", "cross-entropy, nats a token", curves); err != nil {
			return err
		}
		p.Loss = template.HTML(b.String()) // plot escapes what is text
	}
	for _, c := range smallCurves(r) {
		if !known(c.Series) {
			continue
		}
		b.Reset()
		if err := plot.Small(&b, c.Name, "optimizer step", c.unit, c.Series); err != nil {
			return err
		}
		p.Curves = append(p.Curves, template.HTML(b.String()))
	}
	return layout.Execute(w, p)
}

func facts(r *runs.Run) (all []fact) {
	if held := r.HeldOut(); len(held) > 0 {
		best := r.Best()
		all = append(all, fact{"held-out loss", fmt.Sprintf("%.4f", *held[len(held)-1].HeldOut), fmt.Sprintf("%.4f before", *held[0].HeldOut)},
			fact{"lowest", fmt.Sprintf("%.4f", *best.HeldOut), fmt.Sprintf("after step %d", best.Step)})
	}
	if loss, known := r.Loss(); known {
		all = append(all, fact{"training loss", fmt.Sprintf("%.4f", loss), "mean of the last ten steps"})
	}
	if seconds, tokens := r.Took(); seconds > 0 {
		all = append(all, fact{"tokens a second", fmt.Sprintf("%.0f", float64(tokens)/seconds),
			fmt.Sprintf("%d tokens in %v", tokens, time.Duration(seconds*float64(time.Second)).Round(time.Second/10))})
	}
	return append(all, fact{"memory", op.Bytes(r.Info.Peak), "at most"}, fact{"trained", count(r.Info.Trained), "parameters"})
}

// count writes a large number with spaces between its thousands.
func count(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s\u202f%03d", count(n/1000), n%1000)
}

func memory(parts []runs.Part) (all []bar) {
	for _, p := range parts {
		if p.Peak > 0 {
			all = append(all, bar{p.Name, op.Bytes(p.Peak), 100 * float64(p.Peak) / float64(parts[0].Peak)})
		}
	}
	return all
}

// mostSamples is what a reader looks through.
const mostSamples = 8

// samples are the first, the last, and some between, evenly.
func samples(r *runs.Run) (all []sample, left int) {
	n := len(r.Samples)
	for i, s := range r.Samples {
		if n > mostSamples && i*(mostSamples-1)/(n-1) == (i-1)*(mostSamples-1)/(n-1) && i > 0 {
			left++
			continue
		}
		text, starts := strings.CutPrefix(s.Text, s.Prompt)
		shown := sample{fmt.Sprintf("after step %d", s.Step), s.Prompt, text}
		if s.Step == 0 {
			shown.When = "before"
		}
		if !starts { // the tokenizer writes the prompt otherwise
			shown.Prompt = ""
		}
		all = append(all, shown)
	}
	return all, left
}

func checkpoints(r *runs.Run) (all []row) {
	best := runs.Best(r.Metrics, func(s int) bool { return slices.Contains(r.Checkpoints, s) })
	for _, step := range r.Checkpoints {
		text := ""
		if loss, known := runs.HeldOut(r.Metrics, step); known {
			text = fmt.Sprintf("held-out loss %.4f", loss)
		}
		if step == best {
			text += ", the lowest of these"
		}
		all = append(all, row{fmt.Sprintf("checkpoint-%d", step), text})
	}
	return all
}

func environment(r *runs.Run) []row {
	i := r.Info
	all := []row{
		{"model", runs.Value(r.Config, "model")}, {"its shape", i.Model}, {"data", fmt.Sprintf("%d sequences", i.Sequences)},
		{"held-out data", fmt.Sprintf("%d sequences", i.HeldOut)}, {"device", i.Device}, {"program", i.Program},
		{"started or resumed", date(i.Started)}, {"finished", date(i.Finished)},
	}
	if i.Result != "" {
		all = append(all, row{"result", "of " + i.Result + ", whose held-out loss is the lowest"})
	}
	return all
}

func date(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05 MST")
}

// curve is a line of the page.
type curve struct {
	plot.Series
	unit string
}

func lossCurves(r *runs.Run) []plot.Series {
	var loss, held plot.Series
	for _, m := range r.Metrics {
		if m.Loss != nil {
			add(&loss, m.Step, float64(*m.Loss))
		}
		if m.HeldOut != nil {
			add(&held, m.Step, float64(*m.HeldOut))
		}
	}
	mean, n := smooth(loss)
	loss.Name, loss.Faint = "training, each step", n > 1
	mean.Name = fmt.Sprintf("training, mean of %d steps", n)
	held.Name, held.Mark = "held-out", true
	all := []plot.Series{thin(loss)}
	if n > 1 {
		all = append(all, thin(mean))
	}
	if held.X != nil {
		all = append(all, held)
	}
	return all
}

func smallCurves(r *runs.Run) []curve {
	var rate, norm, speed plot.Series
	for _, m := range r.Metrics {
		if m.LR != nil {
			add(&rate, m.Step, *m.LR)
		}
		if m.GradNorm != nil {
			add(&norm, m.Step, float64(*m.GradNorm))
		}
	}
	for _, s := range r.Speed {
		if s.Seconds > 0 {
			add(&speed, s.Step, float64(s.Tokens)/s.Seconds)
		}
	}
	rate.Name, norm.Name, speed.Name = "learning rate", "gradient norm before clipping", "speed"
	return []curve{{thin(rate), "learning rate"}, {thin(norm), "norm"}, {thin(speed), "tokens a second"}}
}

func add(s *plot.Series, step int, y float64) { s.X, s.Y = append(s.X, float64(step)), append(s.Y, y) }

// smooth gives the mean of each point and the n − 1 before it, where n is a twentieth of all points.
func smooth(s plot.Series) (mean plot.Series, n int) {
	n = max(1, len(s.X)/20)
	sum := 0.0
	for i := range s.X {
		sum += s.Y[i]
		if i >= n {
			sum -= s.Y[i-n]
		}
		if i >= n-1 {
			mean.X, mean.Y = append(mean.X, s.X[i]), append(mean.Y, sum/float64(n))
		}
	}
	return mean, n
}

// mostPoints is about what a plot can show.
const mostPoints = 1000

// thin puts means of neighbours in place of more points than a plot can show.
func thin(s plot.Series) plot.Series {
	n := (len(s.X) + mostPoints - 1) / mostPoints
	if n <= 1 {
		return s
	}
	t := s
	t.X, t.Y = nil, nil
	for from := 0; from < len(s.X); from += n {
		to := min(from+n, len(s.X))
		t.X, t.Y = append(t.X, mean(s.X[from:to])), append(t.Y, mean(s.Y[from:to]))
	}
	return t
}

func mean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// known says whether there is a point to draw.
func known(series ...plot.Series) bool {
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	return slices.ContainsFunc(series, func(s plot.Series) bool { return slices.ContainsFunc(s.Y, finite) })
}
