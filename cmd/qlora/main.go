// Qlora fine-tunes language models with QLoRA. See `qlora help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"qlora/cmd/qlora/internal/config"
)

// console is where a command reads from and writes to: results to out, progress to err.
type console struct {
	ctx context.Context // done when the user wants to stop
	in  io.Reader
	out io.Writer
	err io.Writer
}

// command is one word of the command line.
type command struct {
	name, summary string
	run           func(c console, args []string) error
}

var commands = []command{
	{"train", "fine-tune a model: a LoRA adapter on a frozen 4-bit base", trainCommand},
	{"runs list", "the runs in a folder", runsList},
	{"runs compare", "in what runs differ, and what came of it", runsCompare},
	{"runs report", "a page that shows a run: curves, memory, samples, options", runsReport},
	{"generate", "continue a text, with a base and an adapter", generate},
	{"chat", "a conversation with a model", chatCommand},
	{"eval perplexity", "how well a model predicts a text", evalPerplexity},
	{"quantize", "a model to a bitsandbytes 4-bit checkpoint", quantize},
	{"dequantize", "a 4-bit checkpoint back to plain weights", dequantize},
	{"plan", "memory that a training run will need, part by part, before it runs", planCommand},
	{"data show", "examples as the model sees them, and how many tokens there are", dataShow},
	{"tokenize", "ids of the text on standard input", tokenize},
	{"conformance list", "the cases that an implementation is judged by", conformanceList},
	{"conformance run", "judge a device, case by case", conformanceRun},
	{"conformance export", "the cases' inputs, for an implementation in any language", conformanceExport},
	{"conformance verify", "judge the answers found beside exported inputs", conformanceVerify},
	{"explain", "one value's way through quantization, step by step", explain},
	{"bench cpu", "kernels and training steps against what the machine can do", benchCPU},
	{"devices", "what can compute here, and why what cannot cannot", devices},
	{"version", "what this program was built from", version},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the program at once
	os.Exit(run(console{ctx, os.Stdin, os.Stdout, os.Stderr}, os.Args[1:]))
}

// run returns the exit code: 0 done, 1 failed, 2 the command line or a configuration is wrong.
func run(c console, args []string) int {
	err := dispatch(c, args)
	var usage *config.UsageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(c.err, "qlora: %v\n", err)
		return 2
	}
	fmt.Fprintf(c.err, "qlora: %v\n", err)
	return 1
}

func dispatch(c console, args []string) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		help(c.out)
		return nil
	}
	for _, cmd := range commands {
		words := strings.Fields(cmd.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == cmd.name {
			return cmd.run(c, args[len(words):])
		}
	}
	var longer []string
	for _, cmd := range commands {
		if strings.HasPrefix(cmd.name, args[0]+" ") {
			longer = append(longer, cmd.name)
		}
	}
	if longer != nil {
		return config.Usagef("%s: want %s", args[0], strings.Join(longer, ", "))
	}
	return config.Usagef("unknown command %s; `qlora help` lists them", args[0])
}

func help(w io.Writer) {
	fmt.Fprintln(w, "usage: qlora command [flags]")
	fmt.Fprintln(w)
	for _, cmd := range commands {
		fmt.Fprintf(w, "  %-19s %s\n", cmd.name, cmd.summary)
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "`qlora command --help` lists a command's flags. `qlora train` without flags fine-tunes the demo model that is built in.")
}

// parse reads flags into options, and shows them when asked to.
func parse(c console, name string, args []string, options any) (rest []string, shown bool, err error) {
	for _, a := range args {
		if a == "--help" || a == "-h" {
			fmt.Fprintf(c.out, "usage: qlora %s [flags]\n\n%s", name, config.Help(options))
			return nil, true, nil
		}
	}
	rest, err = config.ParseFlags(args, options)
	return rest, false, err
}

// parseAll is parse for commands that take flags alone.
func parseAll(c console, name string, args []string, options any) (shown bool, err error) {
	rest, shown, err := parse(c, name, args, options)
	if err == nil && len(rest) > 0 {
		err = config.Usagef("%s: %q is no flag", name, rest[0])
	}
	return shown, err
}
