package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"qlora/cmd/qlora/internal/base"
	"qlora/cmd/qlora/internal/config"
	"qlora/cmd/qlora/internal/tokenizer"
)

// tokenize prints the ids of standard input, as it is, on one line; or it compares ids with the original's.
func tokenize(c console, args []string) error {
	var o struct {
		Tokenizer string `name:"tokenizer" help:"a tokenizer.json, a SentencePiece .model, or a folder with one of them or with vocab.json and merges.txt"`
		Model     string `name:"model" help:"demo, a folder, a .gguf file, or org/name from the Hugging Face cache"`
		NoSpecial bool   `name:"no_special" alias:"no_bos" help:"without the tokens that the tokenizer puts around a text"`
		Check     string `name:"check" help:"a file of lines with the original tokenizer's ids, from conformance/oracle/tokenizer_lines.py: compare with them"`
	}
	if shown, err := parseAll(c, "tokenize", args, &o); shown || err != nil {
		return err
	}
	if (o.Tokenizer == "") == (o.Model == "") {
		return config.Usagef("tokenize needs either --tokenizer FILE or --model MODEL")
	}
	t, err := loadTokenizer(o.Tokenizer, o.Model)
	if err != nil {
		return err
	}
	if o.Check != "" {
		return checkTokenizer(c, t, o.Check)
	}
	text, err := io.ReadAll(c.in)
	if err != nil {
		return err
	}
	ids := t.Encode(string(text))
	if !o.NoSpecial {
		ids = t.EncodeSpecial(string(text))
	}
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = strconv.Itoa(int(id))
	}
	_, err = fmt.Fprintln(c.out, strings.Join(words, " "))
	return err
}

func loadTokenizer(file, model string) (*tokenizer.Tokenizer, error) {
	if file == "" {
		return base.Tokenizer(model)
	}
	stat, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if stat.IsDir() {
		t, err := tokenizer.Load(os.DirFS(file))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return t, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return tokenizer.ParseFile(b, file)
}

// originalLine is a text, and what the original tokenizer makes of it; or ids alone.
type originalLine struct {
	Text    *[]byte `json:"text"`
	IDs     []int32 `json:"ids"`
	Decoded string  `json:"decoded"`
}

// mostShown is how many differences are printed.
const mostShown = 5

// checkTokenizer compares ids, the text that they decode to, and the text that comes of decoding one id after the other.
func checkTokenizer(c console, t *tokenizer.Tokenizer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	d := json.NewDecoder(bufio.NewReader(f))
	var made struct {
		With    json.RawMessage `json:"made with"`
		Special []int32         `json:"special"`
	}
	if err := d.Decode(&made); err != nil || made.With == nil {
		return fmt.Errorf("%s: its first line does not say what made it: want a file that conformance/oracle/tokenizer_lines.py wrote", name)
	}
	fmt.Fprintf(c.out, "made with   %s\n", made.With)
	lines, different := 0, 0
	if ids := t.EncodeSpecial("a"); !slices.Equal(ids, made.Special) {
		different++
		fmt.Fprintf(c.out, "line 1: \"a\" with what belongs around it is %d here, %d in the original\n", ids, made.Special)
	}
	for ; c.ctx.Err() == nil; lines++ {
		var l originalLine
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("%s: line %d: %w", name, lines+2, err)
		}
		if message := l.compare(t); message != "" {
			if different++; different <= mostShown {
				fmt.Fprintf(c.out, "line %d: %s", lines+2, message)
			}
		}
	}
	fmt.Fprintf(c.out, "lines       %d\ndiffer      %d\n", lines, different)
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if different > 0 || lines == 0 {
		return fmt.Errorf("%s: %d of %d lines differ", name, different, lines)
	}
	return nil
}

// compare says what differs.
func (l originalLine) compare(t *tokenizer.Tokenizer) string {
	var b strings.Builder
	if l.Text != nil {
		if ids := t.Encode(string(*l.Text)); !slices.Equal(ids, l.IDs) {
			fmt.Fprintf(&b, "%.200q\n  its ids here      %.300s\n  in the original   %.300s\n", *l.Text, fmt.Sprint(ids), fmt.Sprint(l.IDs))
		}
	}
	text := t.Decode(l.IDs)
	if text != l.Decoded {
		fmt.Fprintf(&b, "%.100d\n  decoded here      %.300q\n  in the original   %.300q\n", l.IDs, text, l.Decoded)
	}
	d := t.NewDecoder()
	var stream strings.Builder
	for _, id := range l.IDs {
		stream.WriteString(d.Next(id))
	}
	stream.WriteString(d.Rest())
	if stream.String() != text {
		fmt.Fprintf(&b, "%.100d\n  id by id          %.300q\n  at once           %.300q\n", l.IDs, stream.String(), text)
	}
	return b.String()
}
