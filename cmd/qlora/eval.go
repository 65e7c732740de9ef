package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/data"
	"qlora/ref/train"
)

// perplexity is what eval perplexity prints.
type perplexity struct {
	Tokens     int     `json:"tokens"` // the number predicted
	NLL        float64 `json:"nll"`    // their mean
	Perplexity float64 `json:"perplexity"`
}

// evalPerplexity measures one window: the text, with what the tokenizer puts before one, cut at the model's context.
func evalPerplexity(c console, args []string) error {
	o := struct {
		inference
		Text string `name:"text" help:"file of UTF-8 text"`
		JSON bool   `name:"json" help:"print JSON"`
	}{inference: defaultInference()}
	if shown, err := parseInference(c, "eval perplexity", args, &o, &o.inference); shown || err != nil {
		return err
	}
	if o.Text == "" {
		return config.Usagef("eval perplexity needs --text FILE")
	}
	text, err := data.ReadText(os.DirFS(filepath.Dir(o.Text)), filepath.Base(o.Text))
	if err != nil {
		return err
	}
	b, m, d, err := o.inference.load()
	if err != nil {
		return err
	}
	tokens := b.Tokenizer.Encode(text)
	window := tokens[:min(len(tokens), b.Config.MaxPositionEmbeddings-1)]
	loss, n, err := train.Evaluate(d, m, []train.Sequences{data.Sequences(window, b.Tokenizer.Start(), len(window))}, func() bool { return true })
	if err != nil {
		return err
	}
	p := perplexity{n, float64(loss), math.Exp(float64(loss))}
	if o.JSON {
		return json.NewEncoder(c.out).Encode(p)
	}
	fmt.Fprintf(c.out, "tokens      %d\nnll         %.6f\nperplexity  %.6f\n", p.Tokens, p.NLL, p.Perplexity)
	return nil
}
