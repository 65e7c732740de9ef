package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/batch"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/data"
	"qlora/cmd/qlora/internal/tokenizer"
)

// showOptions are train's, of which those count that say what a model sees.
type showOptions struct {
	showing
	trainOptions
}

// showing is what is printed.
type showing struct {
	N     int  `name:"n" help:"examples to print"`
	Color bool `name:"color" help:"colours also where there is no terminal"`
	JSON  bool `name:"json" help:"print the statistics as JSON, and no examples"`
}

// dataShow prints examples as the model sees them, then how many tokens there are.
func dataShow(c console, args []string) error {
	o := showOptions{showing: showing{N: 5}, trainOptions: defaultTrain()}
	for _, a := range args {
		if a == "--help" || a == "-h" {
			shown := struct {
				showing
				dataOptions
			}{o.showing, o.dataOptions}
			fmt.Fprintf(c.out, "usage: qlora data show [flags]\n\n%s\nand train's, of which --config, --model, --seed and --data-seed matter here\n", config.Help(&shown))
			return nil
		}
	}
	if err := readOptions("data show", args, &o, &o.trainOptions); err != nil {
		return err
	}
	if o.N < 0 {
		return config.Usagef("n is %d: want 0 or more", o.N)
	}
	b, err := base.Open(o.Model)
	if err != nil {
		return err
	}
	defer b.Close()
	l, err := o.load(b, o.dataSeed())
	if err != nil {
		return err
	}
	l.report(c.err)
	s, err := o.statistics(l, o.dataSeed(), o.longest(b.Config.MaxPositionEmbeddings))
	if err != nil {
		return err
	}
	if o.JSON {
		return json.NewEncoder(c.out).Encode(s)
	}
	paint := marks
	if o.Color || isTerminal(c.out) {
		paint = colours
	}
	order := data.Order{Seed: o.dataSeed(), Count: len(l.examples)}
	for _, i := range order.Batch(0, min(o.N, len(l.examples))) {
		showExample(c.out, b.Tokenizer, l.examples[i], l.places[i], paint)
	}
	s.print(c.out)
	return nil
}

// painter is what is written where tokens begin, and cease, to count for the loss, and around tokens that stand for no text.
type painter struct{ begin, end, beginToken, endToken string }

var (
	marks   = painter{begin: "⟦", end: "⟧"}
	colours = painter{begin: "\x1b[32m", end: "\x1b[0m", beginToken: "\x1b[7m", endToken: "\x1b[27m"} // green; reversed
)

func showExample(w io.Writer, k *tokenizer.Tokenizer, x batch.Encoded, where data.Place, p painter) {
	counted := 0
	for _, c := range x.Counts {
		if c {
			counted++
		}
	}
	fmt.Fprintf(w, "--- %v: %d tokens, %d count", where, len(x.IDs), counted)
	if x.Cut > 0 {
		fmt.Fprintf(w, ", %d were cut off", x.Cut)
	}
	fmt.Fprintf(w, "\n%s\n\n", painted(k, x, p))
}

// painted is the text of tokens, with those that stand for no text by their names.
func painted(k *tokenizer.Tokenizer, x batch.Encoded, p painter) string {
	var b strings.Builder
	d := k.NewDecoder()
	counting := false
	set := func(c bool) {
		switch {
		case c && !counting:
			b.WriteString(p.begin)
		case !c && counting:
			b.WriteString(p.end)
		}
		counting = c
	}
	for i, id := range x.IDs {
		text := d.Next(id)
		special := k.Decode([]int32{id, id}) == ""
		if text == "" && !special {
			continue // a part of a character, which comes with its last part
		}
		if special {
			text += p.beginToken + k.Token(id) + p.endToken
		}
		set(x.Counts[i])
		b.WriteString(text)
	}
	b.WriteString(d.Rest())
	set(false)
	return b.String()
}

// dataStatistics are numbers of tokens.
type dataStatistics struct {
	Examples int     `json:"examples"`
	HeldOut  int     `json:"held_out"`
	Tokens   int     `json:"tokens"`
	Counted  int     `json:"counted"`
	Shortest int     `json:"shortest"`
	Median   int     `json:"median"`
	P95      int     `json:"p95"`
	Longest  int     `json:"longest"`
	Cut      int     `json:"cut"`
	Skipped  int     `json:"skipped"`
	Slots    int     `json:"slots"` // sequences of an epoch: what a batch counts
	Filled   float64 `json:"filled"`
	limit    int
}

func (o dataOptions) statistics(l *loaded, seed uint64, longest int) (s dataStatistics, err error) {
	s = dataStatistics{Examples: len(l.examples), HeldOut: len(l.heldOut), limit: longest}
	var lengths []int
	for _, x := range l.examples {
		lengths = append(lengths, len(x.IDs))
		s.Tokens += len(x.IDs)
		for _, c := range x.Counts {
			if c {
				s.Counted++
			}
		}
	}
	slices.Sort(lengths)
	n := len(lengths)
	s.Shortest, s.Median, s.P95, s.Longest = lengths[0], lengths[(n-1)/2], lengths[(n*95+99)/100-1], lengths[n-1]
	for _, x := range l.sources {
		s.Cut += x.cut
		s.Skipped += x.skipped
	}
	b, err := batch.New(l.sequences(), batch.Options{Mode: o.mode(), Seed: seed, Max: longest, Micro: 1, Accumulate: 1})
	if err != nil {
		return s, err
	}
	s.Slots = b.Slots()
	s.Filled = float64(s.Tokens-n) / (float64(s.Slots) * float64(longest)) // the last token of each is predicted, but no input
	return s, nil
}

func (s dataStatistics) print(w io.Writer) {
	fmt.Fprintf(w, "examples    %d", s.Examples)
	if s.HeldOut > 0 {
		fmt.Fprintf(w, ", and %d held out", s.HeldOut)
	}
	fmt.Fprintf(w, "\ntokens      %d; %d count (%.1f%%)\n", s.Tokens, s.Counted, 100*float64(s.Counted)/float64(s.Tokens))
	fmt.Fprintf(w, "an example  %d tokens at least, median %d, 95%% up to %d, %d at most\n", s.Shortest, s.Median, s.P95, s.Longest)
	fmt.Fprintf(w, "cut         %d; left out %d\n", s.Cut, s.Skipped)
	fmt.Fprintf(w, "sequences   %d of up to %d tokens an epoch, %.1f%% full\n", s.Slots, s.limit, 100*s.Filled)
}
