package runs

import (
	"slices"
	"time"
)

// Metric is a line of metrics.jsonl: a step, or a measurement on held-out text after a step. It holds nothing that differs
// from run to run, such as times.
type Metric struct {
	Step     int      `json:"step"`
	Loss     *float32 `json:"loss,omitempty"` // nats a token
	LR       *float64 `json:"learning_rate,omitempty"`
	GradNorm *float32 `json:"grad_norm,omitempty"` // before clipping
	HeldOut  *float32 `json:"eval_loss,omitempty"` // nats a token
}

// Sample is a line of samples.jsonl: how the model went on with the prompt after a step. It, too, is the same from run to run.
type Sample struct {
	Step   int    `json:"step"`
	Prompt string `json:"prompt"`
	Text   string `json:"text"` // with the prompt
}

// Speed is a line of log.jsonl: what a step took.
type Speed struct {
	Step    int       `json:"step"`
	Time    time.Time `json:"time"`    // of its end
	Seconds float64   `json:"seconds"` // without measurements, samples and checkpoints
	Tokens  int       `json:"tokens"`
	Memory  int64     `json:"memory"` // most that the device held until then, bytes
}

func (m Metric) after() int { return m.Step }
func (s Sample) after() int { return s.Step }
func (s Speed) after() int  { return s.Step }

// Info is run.json: what the run is, beside its configuration, and the memory that it took.
type Info struct {
	Program   string    `json:"program"` // what it was built from
	Device    string    `json:"device"`
	Model     string    `json:"model"`          // its shape
	Trained   int64     `json:"trained"`        // parameters
	Sequences int       `json:"sequences"`      // in the data
	HeldOut   int       `json:"eval_sequences"` // in the held-out data
	Steps     int       `json:"steps"`          // that the run is to take
	Started   time.Time `json:"started"`        // or resumed
	Finished  time.Time `json:"finished,omitzero"`
	Result    string    `json:"result,omitempty"` // the checkpoint that the result was taken from, if not the last step
	Memory    []Part    `json:"memory"`           // by part, largest first
	Peak      int64     `json:"peak"`             // of all parts together, bytes
}

// Part is the memory of a part of the program: the most it held, in bytes. Their peaks need not fall on the same instant.
type Part struct {
	Name string `json:"name"`
	Peak int64  `json:"peak"`
}

// HeldOut is the held-out loss after a step, if it was measured.
func HeldOut(all []Metric, step int) (loss float32, known bool) {
	i := slices.IndexFunc(all, func(m Metric) bool { return m.HeldOut != nil && m.Step == step })
	if i < 0 {
		return 0, false
	}
	return *all[i].HeldOut, true
}

// Best is the step with the lowest held-out loss among those that count, the first of equals; −1 if there is none.
func Best(all []Metric, counts func(step int) bool) int {
	best, least := -1, float32(0)
	for _, m := range all {
		if m.HeldOut != nil && counts(m.Step) && (best < 0 || *m.HeldOut < least) {
			best, least = m.Step, *m.HeldOut
		}
	}
	return best
}
