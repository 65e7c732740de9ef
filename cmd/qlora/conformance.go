package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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

// judge calls f with the options, prints what comes of it, and fails if that failed. again is the command for single cases.
func (j judgement) judge(c console, s conformance.Selection, again string, f func(conformance.Options) (*conformance.Report, error)) error {
	o, err := j.options(c, s)
	if err != nil {
		return err
	}
	lines, err := openOutput("json", j.JSON)
	if err != nil {
		return err
	}
	defer lines.close()
	junit, err := openOutput("junit", j.JUnit)
	if err != nil {
		return err
	}
	defer junit.close()
	r, err := f(o)
	if err != nil {
		return selected(err)
	}
	r.Again = again
	return errors.Join(r.Print(c.out), lines.write(r.WriteJSON), junit.write(r.WriteJUnit), r.Err())
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

// output is a file for results. It is looked at before a run, for that may take hours, and written after it.
type output struct {
	name string   // "" for none
	file *os.File // a pipe, a device or a link, to which results go; nil: a new file takes the name
}

// openOutput makes a mistake in the command line of what cannot be written.
func openOutput(flag, name string) (o output, err error) {
	if name == "" {
		return o, nil
	}
	o.name = name
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().IsRegular():
		var probe *os.File
		if probe, err = os.CreateTemp(filepath.Dir(name), ".qlora-*"); err == nil {
			err = errors.Join(probe.Close(), os.Remove(probe.Name()))
		}
	case err == nil: // emptied here and appended to later, for /dev/stdout may be a file to which more is written before
		o.file, err = os.OpenFile(name, os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0)
	}
	if err != nil {
		return o, config.Usagef("flag --%s: %v", flag, err)
	}
	return o, nil
}

func (o output) write(f func(io.Writer) error) error {
	switch {
	case o.name == "":
		return nil
	case o.file == nil:
		return checkpoint.WriteFile(o.name, f)
	}
	w := bufio.NewWriter(o.file)
	return errors.Join(f(w), w.Flush())
}

func (o output) close() {
	if o.file != nil {
		o.file.Close()
	}
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
	cases, err := s.Cases(c.ctx)
	if err != nil {
		return err
	}
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
		Device string `name:"device" help:"auto, cpu, ref"`
		Math   string `name:"math" help:"exact, or fast: judged by the bounds that follow from what the device declares"`
		selection
		judgement
	}
	o.Device, o.Math, o.Level = "auto", exactMath, "quick"
	if shown, err := parseAll(c, "conformance run", args, &o); shown || err != nil {
		return err
	}
	s, err := o.selection.parse()
	if err != nil {
		return err
	}
	i, err := openImplementation(o.Device, o.Math)
	if err != nil {
		return err
	}
	again := fmt.Sprintf("qlora conformance run --device %s --level %s", i.Name, o.Level)
	if o.Math != exactMath {
		again += " --math " + o.Math
	}
	return o.judge(c, s, again, func(o conformance.Options) (*conformance.Report, error) { return i.Run(c.ctx, o) })
}

// openImplementation is openDevice for the suite. The reference has all that is specified, the others what op.Device has.
func openImplementation(name, math string) (*conformance.Implementation, error) {
	if name == "ref" && math == exactMath {
		return conformance.Reference(), nil
	}
	return conformance.OnDevice(func() (op.Device, error) { return openDevice(name, math, 0) })
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
	cases, err := conformance.Export(c.ctx, dir, conformance.ExportOptions{Selection: s, Expected: o.Expected, Progress: func(done, total int) {
		newCounter(c.err, dir, "operations", total).step(done)
	}})
	if err != nil {
		return selected(err)
	}
	_, err = fmt.Fprintf(c.out, "%s: %d cases\n", dir, cases)
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
	return o.judge(c, conformance.Selection{Only: only}, "qlora conformance verify "+quoted(dir), func(o conformance.Options) (*conformance.Report, error) {
		return conformance.Verify(c.ctx, dir, o)
	})
}

// quoted is a word for a shell.
func quoted(word string) string {
	if regexp.MustCompile(`^[\w./:@%+=,-]+$`).MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
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
