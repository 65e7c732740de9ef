package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sync/atomic"
	"time"
)

// Waiver says that cases are known to fail. It holds up to the end of a day, in UTC; a case that it covers and that passes
// fails the run, so that no waiver outlives its reason.
type Waiver struct {
	ID      string `json:"id"`      // of the issue that mends it, say
	Cases   string `json:"cases"`   // a regular expression of whole names
	Reason  string `json:"reason"`  // why they fail
	Expires string `json:"expires"` // 2006-01-02
}

// ParseWaivers reads a list of waivers in JSON; name is the file's, for errors.
func ParseWaivers(b []byte, name string) (list []Waiver, err error) {
	if err := decode(b, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if _, err := checkWaivers(list); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return list, nil
}

// decode is strict: what it does not know is an error, and so are a key that stands twice and what comes after.
func decode(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("byte %d: more follows the JSON value", d.InputOffset())
	}
	return unique(json.NewDecoder(bytes.NewReader(b)))
}

// unique refuses a value with an object that has a key twice: Decode takes the last one. The value was decoded before, so it is whole,
// and not too deep.
func unique(d *json.Decoder) error {
	begin, err := d.Token()
	if err != nil || begin != json.Delim('{') && begin != json.Delim('[') {
		return err
	}
	seen := map[json.Token]bool{}
	for d.More() {
		if begin == json.Delim('{') {
			key, err := d.Token()
			if err != nil {
				return err
			}
			if seen[key] {
				return fmt.Errorf("byte %d: the key %q stands there twice", d.InputOffset(), key)
			}
			seen[key] = true
		}
		if err := unique(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// waiver is one that was checked.
type waiver struct {
	Waiver
	pattern *regexp.Regexp
	end     time.Time
	used    atomic.Bool // a case of its pattern was judged
	passes  atomic.Bool // one passed
	fails   atomic.Bool // one failed
}

func checkWaivers(list []Waiver) (checked []*waiver, err error) {
	seen := map[string]bool{}
	for n, w := range list {
		switch {
		case w.ID == "":
			return nil, fmt.Errorf("waiver %d has no id", n+1)
		case seen[w.ID]:
			return nil, fmt.Errorf("waiver %s is there twice", w.ID)
		case w.Reason == "":
			return nil, fmt.Errorf("waiver %s has no reason", w.ID)
		case w.Cases == "":
			return nil, fmt.Errorf("waiver %s names no cases", w.ID)
		}
		c := &waiver{Waiver: w}
		if c.pattern, err = regexp.Compile(`^(?:` + w.Cases + `)$`); err != nil {
			return nil, fmt.Errorf("waiver %s: cases: %w", w.ID, err)
		}
		if c.end, err = time.Parse(time.DateOnly, w.Expires); err != nil {
			return nil, fmt.Errorf("waiver %s: expires %q: want a day as 2006-01-02", w.ID, w.Expires)
		}
		c.end = c.end.AddDate(0, 0, 1)
		seen[w.ID] = true
		checked = append(checked, c)
	}
	return checked, nil
}

// waive changes a result by the first waiver that covers its case and holds.
func (s plan) waive(r Result) Result {
	for _, w := range s.waivers {
		if !w.pattern.MatchString(r.Case.Name()) {
			continue
		}
		passed := r.Verdict == Passed || r.Verdict == Bounded
		w.used.Store(true)
		w.passes.CompareAndSwap(false, passed)
		w.fails.CompareAndSwap(false, r.Verdict == Failed)
		switch expired := !s.now.Before(w.end); {
		case expired && r.Verdict == Failed:
			r.Detail += fmt.Sprintf(" (waiver %s expired on %s)", w.ID, w.Expires)
		case r.Verdict == Failed:
			r.Verdict, r.Detail = Waived, fmt.Sprintf("waiver %s until %s: %s. %s", w.ID, w.Expires, w.Reason, r.Detail)
			return r
		case !expired && passed:
			r.Verdict, r.Detail = Failed, fmt.Sprintf("it passes, and waiver %s says that it fails: take the waiver back", w.ID)
			return r
		}
	}
	return r
}

// waiverNotes name the waivers that cover nothing any more.
func (s plan) waiverNotes() (notes []string) {
	for _, w := range s.waivers {
		switch {
		case !w.used.Load():
			notes = append(notes, fmt.Sprintf("waiver %s: no case that was judged has a name of the pattern %s", w.ID, w.Cases))
		case !s.now.Before(w.end) && w.passes.Load() && !w.fails.Load():
			notes = append(notes, fmt.Sprintf("waiver %s expired on %s, and its cases that were judged pass: it can be deleted", w.ID, w.Expires))
		}
	}
	return notes
}
