package conformance

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Report is what came of a run.
type Report struct {
	Statement Statement
	Results   []Result // operations by name, each one's cases in their own order
	Total     int      // of the cases that were selected
	Unmet     []string // requirements, with what is missing
	Notes     []string // what should be known but fails nothing
	Took      time.Duration
	// Again is the command that runs cases again: `--only` and a pattern of their names are put behind it.
	Again string
}

// Summary counts the cases of one operation, or of all.
type Summary struct {
	Operation string
	Cases     int
	Counts    [Failed + 1]int // by Verdict
	Share     float64         // the largest of the bounded cases
	Likely    float64         // likewise, of the probabilistic bound
	Took      time.Duration
	Checker   time.Duration
}

func (s *Summary) add(r Result) {
	s.Cases++
	s.Counts[r.Verdict]++
	if r.Verdict == Bounded {
		s.Share, s.Likely = max(s.Share, r.Share), max(s.Likely, r.Likely)
	}
	s.Took += r.Took
	s.Checker += r.Checker
}

// Summaries are those of the operations, and that of all cases.
func (r *Report) Summaries() (list []Summary, total Summary) {
	total.Operation = "total"
	for _, result := range r.Results {
		if n := len(list); n == 0 || list[n-1].Operation != result.Case.Op {
			list = append(list, Summary{Operation: result.Case.Op})
		}
		list[len(list)-1].add(result)
		total.add(result)
	}
	return list, total
}

// Err is nil if nothing failed and all was judged.
func (r *Report) Err() error {
	var errs []error
	_, total := r.Summaries()
	if n := total.Counts[Failed]; n > 0 {
		errs = append(errs, fmt.Errorf("%d of %d cases failed", n, total.Cases))
	}
	if len(r.Unmet) > 0 {
		errs = append(errs, errors.New(strings.Join(r.Unmet, "; ")))
	}
	if len(r.Results) < r.Total {
		errs = append(errs, fmt.Errorf("stopped after %d of %d cases", len(r.Results), r.Total))
	}
	return errors.Join(errs...)
}

// explain is a result's name, what its case is for, and what differed.
func (r Result) explain() string {
	reason := Reasons[r.Case.Reason]
	text := fmt.Sprintf("%s\n  %s: %s\n", r.Case.Name(), r.Case.Reason, reason.Teaches)
	if reason.Seen != "" {
		text += fmt.Sprintf("  seen: %s\n", reason.Seen)
	}
	return text + "  " + r.Detail + "\n"
}

// again is the command that judges a case once more.
func (r *Report) again(c *Case) string {
	return fmt.Sprintf("%s --only '^%s$'", r.Again, regexp.QuoteMeta(c.Name()))
}

// shown is how many failures of one operation are printed.
const shown = 10

// Print writes the statement, a line an operation, and the failures, of which the JSON and JUnit files have all.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.Statement)
	list, total := r.Summaries()
	fmt.Fprintf(&b, "%-22s %7s %7s %7s %6s %6s %13s %6s %6s %8s\n", "operation", "cases", "pass", "bounded", "share", "likely", "not supported", "waived", "failed", "time")
	for _, s := range append(list, total) {
		share, likely := "", ""
		if s.Counts[Bounded] > 0 {
			share, likely = fmt.Sprintf("%.3f", s.Share), fmt.Sprintf("%.3f", s.Likely)
		}
		fmt.Fprintf(&b, "%-22s %7d %7d %7d %6s %6s %13d %6d %6d %7.2fs\n", s.Operation, s.Cases, s.Counts[Passed], s.Counts[Bounded], share, likely,
			s.Counts[NotSupported], s.Counts[Waived], s.Counts[Failed], s.Took.Seconds())
	}
	fmt.Fprintf(&b, "\n%.1fs in all; of all threads' time, %.1fs were the reference's and the comparison's\n", r.Took.Seconds(), total.Checker.Seconds())
	r.printLacking(&b)
	failures := map[string]int{}
	for _, result := range r.Results {
		if result.Verdict != Failed {
			continue
		}
		if failures[result.Case.Op]++; failures[result.Case.Op] <= shown {
			fmt.Fprintf(&b, "\nfailed: %s  again: %s\n", result.explain(), r.again(result.Case))
		}
	}
	for _, s := range list {
		if n := failures[s.Operation]; n > shown {
			fmt.Fprintf(&b, "\nfailed: %d more of %s\n", n-shown, s.Operation)
		}
	}
	for _, why := range r.Unmet {
		fmt.Fprintf(&b, "\nfailed: %s\n", why)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "\nnote: %s\n", note)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printLacking says what is not supported, and why, and what is waived.
func (r *Report) printLacking(w io.Writer) {
	var reasons []string
	what := map[string][]string{} // operations and types, by reason
	for _, result := range r.Results {
		switch name := strings.TrimSuffix(result.Case.Op+"/"+floats[result.Case.DType].short, "/"); result.Verdict {
		case NotSupported:
			if what[result.Detail] == nil {
				reasons = append(reasons, result.Detail)
			}
			if !slices.Contains(what[result.Detail], name) {
				what[result.Detail] = append(what[result.Detail], name)
			}
		case Waived:
			fmt.Fprintf(w, "\nwaived: %s: %s\n", result.Case.Name(), result.Detail)
		}
	}
	for _, reason := range reasons {
		fmt.Fprintf(w, "\nnot supported: %s: %s\n", reason, strings.Join(what[reason], " "))
	}
}

// WriteJSON writes a line for the statement, one a case, and one for the whole.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	type kind struct {
		Type string `json:"type"`
	}
	if err := e.Encode(struct {
		kind
		Statement
	}{kind{"statement"}, r.Statement}); err != nil {
		return err
	}
	for _, result := range r.Results {
		if err := e.Encode(struct {
			kind
			Name    string  `json:"name"`
			Op      string  `json:"op"`
			Reason  string  `json:"reason"`
			Verdict string  `json:"verdict"`
			Share   float64 `json:"share"`
			Likely  float64 `json:"likely"`
			Detail  string  `json:"detail,omitempty"`
			Seconds float64 `json:"seconds"`
			Checker float64 `json:"checker_seconds"`
		}{kind{"case"}, result.Case.Name(), result.Case.Op, result.Case.Reason, result.Verdict.String(), inJSON(result.Share), inJSON(result.Likely), result.Detail,
			result.Took.Seconds(), result.Checker.Seconds()}); err != nil {
			return err
		}
	}
	_, total := r.Summaries()
	counts := map[string]int{}
	for v, n := range total.Counts {
		counts[Verdict(v).String()] = n
	}
	return e.Encode(struct {
		kind
		Selected int            `json:"selected"`
		Judged   int            `json:"judged"`
		Counts   map[string]int `json:"counts"`
		Unmet    []string       `json:"unmet,omitempty"`
		Notes    []string       `json:"notes,omitempty"`
		OK       bool           `json:"ok"`
		Seconds  float64        `json:"seconds"`
	}{kind{"summary"}, r.Total, total.Cases, counts, r.Unmet, r.Notes, r.Err() == nil, r.Took.Seconds()})
}

// inJSON is a share, or −1 where a bound of 0 was missed, for JSON has neither infinity nor NaN.
func inJSON(share float64) float64 {
	if !(share <= 1e300) {
		return -1
	}
	return share
}

// The parts of JUnit's format that Ant and Surefire agree on.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name       string          `xml:"name,attr"`
		Tests      int             `xml:"tests,attr"`
		Failures   int             `xml:"failures,attr"`
		Errors     int             `xml:"errors,attr"` // 0: what goes wrong is a failure
		Skipped    int             `xml:"skipped,attr"`
		Time       string          `xml:"time,attr"`
		Timestamp  string          `xml:"timestamp,attr"`
		Hostname   string          `xml:"hostname,attr"`
		Properties []junitProperty `xml:"properties>property"`
		Cases      []junitCase     `xml:"testcase"`
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	junitCase struct {
		Name      string       `xml:"name,attr"`
		Classname string       `xml:"classname,attr"`
		Time      string       `xml:"time,attr"`
		Failure   *junitDetail `xml:"failure"`
		Skipped   *junitDetail `xml:"skipped"`
	}
	junitDetail struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes JUnit XML: a suite an operation, each with the statement as its properties, and one, "run", for requirements that are
// not met and for cases that were not reached. What is not supported, and what is waived, is skipped.
func (r *Report) WriteJUnit(w io.Writer) error {
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	empty := junitSuite{Timestamp: r.Statement.Begun.Format("2006-01-02T15:04:05"), Hostname: host, Properties: r.properties()}
	list, total := r.Summaries()
	all := junitSuites{Time: seconds(r.Took)}
	results := r.Results
	for _, s := range list {
		suite := empty
		suite.Name, suite.Tests, suite.Time = s.Operation, s.Cases, seconds(s.Took)
		suite.Failures, suite.Skipped = s.Counts[Failed], s.Counts[NotSupported]+s.Counts[Waived]
		for _, result := range results[:s.Cases] {
			c := junitCase{Name: result.Case.Name(), Classname: s.Operation, Time: seconds(result.Took)}
			switch result.Verdict {
			case NotSupported, Waived:
				c.Skipped = &junitDetail{Message: result.Verdict.String() + ": " + result.Detail}
			case Failed:
				c.Failure = &junitDetail{result.Detail, result.explain() + "  again: " + r.again(result.Case)}
			}
			suite.Cases = append(suite.Cases, c)
		}
		results = results[s.Cases:]
		all.Suites = append(all.Suites, suite)
	}
	whole := empty
	whole.Name, whole.Time = "run", seconds(0)
	fail := func(name, why string) {
		whole.Cases = append(whole.Cases, junitCase{Name: name, Classname: "run", Time: seconds(0), Failure: &junitDetail{Message: why}})
	}
	for n, why := range r.Unmet {
		fail(fmt.Sprintf("requirement %d", n+1), why)
	}
	if total.Cases < r.Total {
		fail("interrupted", fmt.Sprintf("stopped after %d of %d cases", total.Cases, r.Total))
	}
	whole.Tests, whole.Failures = len(whole.Cases), len(whole.Cases)
	if len(whole.Cases) > 0 {
		all.Suites = append(all.Suites, whole)
	}
	all.Tests, all.Failures = total.Cases+whole.Tests, total.Counts[Failed]+whole.Failures
	all.Skipped = total.Counts[NotSupported] + total.Counts[Waived]
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", " ")
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err = io.WriteString(w, "\n")
	return err
}

// properties are the statement.
func (r *Report) properties() (list []junitProperty) {
	for _, line := range strings.Split(strings.TrimSpace(r.Statement.String()), "\n") {
		name, value, _ := strings.Cut(line, " ")
		list = append(list, junitProperty{name, strings.TrimSpace(value)})
	}
	return list
}
