package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/tokenizer"
)

// tokenize prints the ids of standard input, as it is, on one line.
func tokenize(c console, args []string) error {
	var o struct {
		Tokenizer string `name:"tokenizer" help:"a tokenizer.model"`
		Model     string `name:"model" help:"demo, or a folder with a tokenizer.model"`
		NoBOS     bool   `name:"no_bos" help:"without the beginning-of-sequence"`
	}
	if shown, err := parseAll(c, "tokenize", args, &o); shown || err != nil {
		return err
	}
	if (o.Tokenizer == "") == (o.Model == "") {
		return config.Usagef("tokenize needs either --tokenizer FILE or --model DIR")
	}
	t, err := loadTokenizer(o.Tokenizer, o.Model)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(c.in)
	if err != nil {
		return err
	}
	ids := t.Encode(string(text))
	if !o.NoBOS {
		ids = append([]int32{t.BOS}, ids...)
	}
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = strconv.Itoa(int(id))
	}
	_, err = fmt.Fprintln(c.out, strings.Join(words, " "))
	return err
}

func loadTokenizer(file, model string) (*tokenizer.Tokenizer, error) {
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		return tokenizer.Parse(b, file)
	}
	fsys, err := base.Find(model)
	if err != nil {
		return nil, err
	}
	return tokenizer.Load(fsys)
}
