package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"qlora/cmd/qlora/internal/config"
	"qlora/conformance"
	"qlora/ref/checkpoint"
	"qlora/ref/op"
)

// selection are the flags that choose cases.
type selection struct {
	Level string `name:"level" help:"smoke, quick, full or exhaustive; each contains those before it"`
	Only  string `name:"only" help:"regular expression of the names of cases; all if empty"`
	Max   int    `name:"max_elements" help:"leave out cases whose inputs have more elements; 0 is no limit"`
}

func (s selection) parse() (conformance.Selection, error) {
	level, err := conformance.ParseLevel(s.Level)
	if err != nil {
		return conformance.Selection{}, config.Usagef("%v", err)
	}
	if s.Max < 0 {
		return conformance.Selection{}, config.Usagef("flag --max-elements: %d is below 0", s.Max)
	}
	only, err := parseOnly(s.Only)
	return conformance.Selection{Level: level, Only: only, MaxElements: s.Max}, err
}

func parseOnly(text string) (*regexp.Regexp, error) {
	if text == "" {
		return nil, nil
	}
	only, err := regexp.Compile(text)
	if err != nil {
		return nil, config.Usagef("flag --only: %v", err)
	}
	return only, nil
}

// judgement are the flags of what judges.
type judgement struct {
	Waivers string   `name:"waivers" help:"JSON file of cases that are known to fail: id, cases, reason, expires"`
	Require []string `name:"require" help:"operations, or patterns of cases, that must be supported; separated by commas"`
	JUnit   string   `name:"junit" help:"write JUnit XML to this file"`
	JSON    string   `name:"json" help:"write JSON to this file, a line a case"`
}

func (j judgement) options(c console, s conformance.Selection) (conformance.Options, error) {
	o := conformance.Options{Selection: s, Require: j.Require}
	for _, text := range j.Require {
		if _, err := regexp.Compile(text); err != nil {
			return o, config.Usagef("flag --require: %v", err)
		}
	}
	if j.Waivers != "" {
		b, err := os.ReadFile(j.Waivers)
		if err == nil {
			o.Waivers, err = conformance.ParseWaivers(b, j.Waivers)
		}
		if err != nil {
			return o, config.Usagef("flag --waivers: %v", err)
		}
	}
	o.Progress = func(done, total int, _ conformance.Result) {
		newCounter(c.err, "conformance", "cases", total).step(done)
	}
	return o, nil
}

// report prints what came of it, and fails if it failed.
func (j judgement) report(c console, r *conformance.Report) error {
	if err := r.Print(c.out); err != nil {
		return err
	}
	for _, f := range []struct {
		name  string
		write func(io.Writer) error
	}{{j.JSON, r.WriteJSON}, {j.JUnit, r.WriteJUnit}} {
		if f.name != "" {
			if err := checkpoint.WriteFile(f.name, f.write); err != nil {
				return err
			}
		}
	}
	return r.Err()
}

// selected makes an empty selection a mistake in the command line.
func selected(err error) error {
	if errors.Is(err, conformance.ErrNoCase) {
		return config.Usagef("%v by --level, --only and --max-elements; `qlora conformance list` lists them", err)
	}
	return err
}

func conformanceList(c console, args []string) error {
	o := selection{Level: "quick"}
	if shown, err := parseAll(c, "conformance list", args, &o); shown || err != nil {
		return err
	}
	s, err := o.parse()
	if err != nil {
		return err
	}
	cases := s.Cases()
	if len(cases) == 0 {
		return selected(conformance.ErrNoCase)
	}
	operations := map[string]bool{}
	for _, one := range cases {
		operations[one.Op] = true
		if _, err := fmt.Fprintln(c.out, one.Name()); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.err, "%d cases of %d operations\n", len(cases), len(operations))
	return nil
}

func conformanceRun(c console, args []string) error {
	var o struct {
		Device string `name:"device" help:"auto, ref"`
		selection
		judgement
	}
	o.Device, o.Level = "auto", "quick"
	if shown, err := parseAll(c, "conformance run", args, &o); shown || err != nil {
		return err
	}
	s, err := o.selection.parse()
	if err != nil {
		return err
	}
	options, err := o.options(c, s)
	if err != nil {
		return err
	}
	i, err := openImplementation(o.Device)
	if err != nil {
		return err
	}
	r, err := i.Run(c.ctx, options)
	if err != nil {
		return selected(err)
	}
	r.Again = fmt.Sprintf("qlora conformance run --device %s --level %s", i.Name, o.Level)
	return o.report(c, r)
}

// openImplementation is openDevice for the suite. The reference has all that is specified, the others what op.Device has.
func openImplementation(name string) (*conformance.Implementation, error) {
	if name == "auto" || name == "ref" {
		return conformance.Reference(), nil
	}
	return conformance.OnDevice(func() (op.Device, error) { return openDevice(name, 0) })
}

func conformanceExport(c console, args []string) error {
	var o struct {
		selection
		Expected bool `name:"expected" help:"the reference's outputs too, to compare without this program"`
	}
	o.Level = "quick"
	dir, shown, err := parseFolder(c, "conformance export", "a folder to write, or FILE.zip", args, &o)
	if shown || err != nil {
		return err
	}
	s, err := o.selection.parse()
	if err != nil {
		return err
	}
	if s.Level == conformance.Exhaustive {
		return config.Usagef("flag --level: exhaustive inputs are all that there are, and are not exported")
	}
	err = conformance.Export(c.ctx, dir, conformance.ExportOptions{Selection: s, Expected: o.Expected, Progress: func(done, total int) {
		newCounter(c.err, dir, "operations", total).step(done)
	}})
	if err != nil {
		return selected(err)
	}
	_, err = fmt.Fprintf(c.out, "%s: %d cases\n", dir, len(s.Cases()))
	return err
}

func conformanceVerify(c console, args []string) error {
	var o struct {
		Only string `name:"only" help:"regular expression of the names of cases; all that were exported if empty"`
		judgement
	}
	dir, shown, err := parseFolder(c, "conformance verify", "the folder of an export", args, &o)
	if shown || err != nil {
		return err
	}
	only, err := parseOnly(o.Only)
	if err != nil {
		return err
	}
	options, err := o.options(c, conformance.Selection{Only: only})
	if err != nil {
		return err
	}
	r, err := conformance.Verify(c.ctx, dir, options)
	if err != nil {
		return selected(err)
	}
	r.Again = "qlora conformance verify " + dir
	return o.report(c, r)
}

// parseFolder is parse for commands with one argument, a folder.
func parseFolder(c console, name, what string, args []string, options any) (dir string, shown bool, err error) {
	rest, shown, err := parse(c, name, args, options)
	if shown || err != nil {
		return "", shown, err
	}
	if len(rest) != 1 {
		return "", false, config.Usagef("%s needs %s, found %q", name, what, strings.Join(rest, " "))
	}
	return rest[0], false, nil
}
