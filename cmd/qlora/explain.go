package main

import (
	"fmt"
	"io"
	"strconv"

	"qlora/cmd/qlora/internal/config"
	"qlora/ref/quant"
)

// explain shows values' way through quantization and back.
func explain(c console, args []string) error {
	o := struct {
		Block int `name:"blocksize" help:"weights a scale"`
	}{64}
	rest, shown, err := parse(c, "explain TYPE VALUE …", args, &o)
	if shown || err != nil {
		return err
	}
	if len(rest) < 2 {
		return config.Usagef("explain needs a type and values: qlora explain nf4 0.1 -0.53")
	}
	book, err := quant.ParseCodebook(rest[0])
	if err != nil {
		return config.Usagef("explain: %v", err)
	}
	var x []float32
	for _, text := range rest[1:] {
		v, err := strconv.ParseFloat(text, 32)
		if err != nil {
			return config.Usagef("explain: %q is no number", text)
		}
		x = append(x, float32(v))
	}
	blocks, err := quant.Explain(x, book, o.Block)
	if err != nil {
		return config.Usagef("explain: %v", err)
	}
	for i, b := range blocks {
		explainBlock(c.out, book, i, b)
	}
	return nil
}

func explainBlock(w io.Writer, book *quant.Codebook, i int, b quant.Block) {
	fmt.Fprintf(w, "block %d of %d values, %s\n", i, len(b.Steps), book.Name)
	fmt.Fprintf(w, "  absmax                 %-14v the largest magnitude\n", b.Absmax)
	fmt.Fprintf(w, "  r = 1/absmax           %v\n\n", b.Reciprocal)
	fmt.Fprintf(w, "  %-14s %-14s %-29s %-5s %-7s %-14s %-14s %s\n", "value v", "x = v·r", "thresholds: below < x ≤ above", "code", "nibble", "level", "level·absmax", "error")
	for _, s := range b.Steps {
		fmt.Fprintf(w, "  %-14v %-14v %-29s %-5d %-7s %-14v %-14v %+.3g\n", s.Value, s.Scaled, fmt.Sprintf("%v … %v", s.Below, s.Above),
			s.Code, fmt.Sprintf("%04b", s.Code), s.Level, s.Back, s.Back-s.Value)
	}
	n := b.Nested
	fmt.Fprintf(w, "\n  double quantization of absmax %v\n", b.Absmax)
	fmt.Fprintf(w, "    offset               %-14v the mean of all blocks' absmax\n", n.Offset)
	fmt.Fprintf(w, "    absmax − offset      %v\n", b.Absmax-n.Offset)
	fmt.Fprintf(w, "    absmax2              %-14v the largest magnitude of 256 of those\n", n.Absmax[i/quant.NestedBlocksize])
	fmt.Fprintf(w, "    scaled               %v\n", b.NestedScaled)
	fmt.Fprintf(w, "    code                 %-14d 0x%02x of the signed dynamic map, level %v\n", b.NestedCode, b.NestedCode, n.Map[b.NestedCode])
	fmt.Fprintf(w, "    absmax comes back as %v\n\n", b.AbsmaxBack)
	for _, s := range b.Steps {
		fmt.Fprintf(w, "  %-14v → %04b → %-14v with the scale in 8 bits\n", s.Value, s.Code, s.BackNested)
	}
}
