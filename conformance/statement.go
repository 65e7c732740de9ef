package conformance

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"qlora/ref/op"
)

// Statement heads a result: what judged what, where.
type Statement struct {
	Commit   string     `json:"commit"` // "" if the build does not know
	Modified bool       `json:"modified"`
	Go       string     `json:"go"`
	Platform string     `json:"platform"` // linux/amd64 GOAMD64=v1
	CPU      string     `json:"cpu"`
	Threads  int        `json:"threads"`
	Device   string     `json:"device"`
	Driver   string     `json:"driver,omitempty"`
	Declares Arithmetic `json:"arithmetic"`
	Level    string     `json:"level"`
	Only     string     `json:"only,omitempty"`
	Max      int        `json:"max_elements,omitempty"`
	Waivers  int        `json:"waivers"`
	Begun    time.Time  `json:"begun"`
}

// Arithmetic is op.Arithmetic as it is written in files.
type Arithmetic struct {
	Unit            float64 `json:"unit"`
	Block           int     `json:"block"`
	SplitK          int     `json:"split_k"`
	Flushes         bool    `json:"flushes"`
	Elementary      float64 `json:"elementary"`
	WeightUnrounded bool    `json:"weight_unrounded"`
}

func (a Arithmetic) String() string {
	if op.Arithmetic(a).Exact() {
		return "exact: the reference's bits"
	}
	parts := []string{fmt.Sprintf("unit roundoff %g", a.Unit)}
	add := func(there bool, format string, v ...any) {
		if there {
			parts = append(parts, fmt.Sprintf(format, v...))
		}
	}
	add(a.Block > 1, "%d products summed at once", a.Block)
	add(a.SplitK > 1, "products divided among %d accumulators", a.SplitK)
	add(a.Flushes, "subnormals flushed")
	add(a.Elementary > 0, "elementary functions within %g", a.Elementary)
	add(a.WeightUnrounded, "4-bit weights not rounded to the compute type")
	return strings.Join(parts, ", ")
}

// check refuses what no device has. The limits are bfloat16's unit roundoff, and far more products or accumulators than any
// hardware's: beyond them a bound would let anything pass.
func (a Arithmetic) check() error {
	for _, f := range []struct {
		name         string
		value, limit float64
	}{{"unit", a.Unit, 0x1p-8}, {"elementary", a.Elementary, 0x1p-8}, {"block", float64(a.Block), 1 << 16}, {"split_k", float64(a.SplitK), 1 << 16}} {
		if !(f.value >= 0 && f.value <= f.limit) { // nor NaN
			return fmt.Errorf("arithmetic: %s is %v: want 0 to %v", f.name, f.value, f.limit)
		}
	}
	return nil
}

func (i *Implementation) state(s plan) Statement {
	st := Statement{Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CPU: cpuModel(), Threads: runtime.GOMAXPROCS(0),
		Device: i.Name, Driver: i.Driver, Declares: Arithmetic(i.Arithmetic), Level: s.Level.String(), Max: s.MaxElements, Waivers: len(s.waivers), Begun: s.now.UTC()}
	if s.Only != nil {
		st.Only = s.Only.String()
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, b := range info.Settings {
			switch b.Key {
			case "vcs.revision":
				st.Commit = b.Value
			case "vcs.modified":
				st.Modified = b.Value == "true"
			case "GOAMD64", "GOARM64", "GOARM":
				st.Platform += " " + b.Key + "=" + b.Value
			}
		}
	}
	return st
}

// cpuModel is the processor's name, where the system has a file or a variable that tells it.
func cpuModel() string {
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	if name := os.Getenv("PROCESSOR_IDENTIFIER"); name != "" {
		return name
	}
	return "not known"
}

func (s Statement) String() string {
	commit := s.Commit
	switch {
	case commit == "":
		commit = "not known: `go build` records it, `go run` and `go test` do not"
	case s.Modified:
		commit += " with uncommitted changes"
	}
	cases := s.Level
	if s.Only != "" {
		cases += ", only " + s.Only
	}
	if s.Max > 0 {
		cases += fmt.Sprintf(", of at most %d elements", s.Max)
	}
	lines := [][2]string{{"commit", commit}, {"build", s.Go + " " + s.Platform}, {"cpu", fmt.Sprintf("%s, %d threads", s.CPU, s.Threads)},
		{"device", s.Device}, {"driver", s.Driver}, {"declares", s.Declares.String()}, {"cases", cases}}
	var b strings.Builder
	for _, l := range lines {
		if l[1] != "" {
			fmt.Fprintf(&b, "%-9s %s\n", l[0], l[1])
		}
	}
	return b.String()
}
