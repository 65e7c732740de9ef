package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"qlora/cmd/qlora/internal/config"
	"qlora/ref/checkpoint"
	"qlora/ref/quant"
)

type quantizeOptions struct {
	Tensor  string `name:"tensor" help:"safetensors file of plain tensors"`
	Output  string `name:"output" help:"safetensors file to write"`
	Type    string `name:"type" alias:"quant_type" help:"nf4 or fp4"`
	Block   int    `name:"blocksize" help:"weights a scale"`
	Double  bool   `name:"double_quant" help:"quantize the scales, too"`
	Profile string `name:"profile" help:"spec, bnb-cpu-0.49 or bnb-cpu-0.50"`
}

// quantize turns every tensor of a file into 4 bits, with bitsandbytes' keys for each.
func quantize(c console, args []string) error {
	o := quantizeOptions{Type: "nf4", Block: 64, Double: true, Profile: "spec"}
	if shown, err := parseAll(c, "quantize", args, &o); shown || err != nil {
		return err
	}
	options, err := o.check()
	if err != nil {
		return err
	}
	in, err := checkpoint.Open(os.DirFS(filepath.Dir(o.Tensor)), filepath.Base(o.Tensor))
	if err != nil {
		return err
	}
	defer in.Close()
	var out []checkpoint.Tensor
	before, after := 0, 0
	for _, name := range in.Names() {
		entries, n, err := quantizeTensor(in, name, options)
		if err != nil {
			return fmt.Errorf("%s: %w", o.Tensor, err)
		}
		out = append(out, entries...)
		before += n
	}
	for _, t := range out {
		after += len(t.Bytes)
	}
	if err := checkpoint.Write(o.Output, out, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: %d tensors, %d bytes to %d\n", o.Output, len(in.Names()), before, after)
	return nil
}

func (o quantizeOptions) check() (quant.Options, error) {
	var options quant.Options
	if o.Tensor == "" || o.Output == "" {
		return options, config.Usagef("quantize needs --tensor FILE and --output FILE")
	}
	if _, err := os.Stat(o.Output); !errors.Is(err, fs.ErrNotExist) {
		return options, fmt.Errorf("%s exists: give another --output, or remove it", o.Output)
	}
	c, err := quant.ParseCodebook(o.Type)
	if err != nil {
		return options, config.Usagef("%v", err)
	}
	if err := quant.CheckBlocksize(o.Block); err != nil {
		return options, config.Usagef("%v", err)
	}
	p, err := quant.ParseProfile(o.Profile)
	if err != nil {
		return options, config.Usagef("%v", err)
	}
	return quant.Options{Type: c, Blocksize: o.Block, DoubleQuant: o.Double, Profile: p}, nil
}

func quantizeTensor(in *checkpoint.File, name string, o quant.Options) (entries []checkpoint.Tensor, size int, err error) {
	plain, err := in.Tensor(name)
	if err != nil {
		return nil, 0, err
	}
	x, err := checkpoint.Widen(plain)
	if err != nil {
		return nil, 0, err
	}
	o.DType = checkpoint.DTypes[plain.DType]
	t, err := quant.Quantize(x, plain.Shape, o)
	if err != nil {
		return nil, 0, fmt.Errorf("tensor %s: %w", name, err)
	}
	entries, err = t.Entries(name)
	return entries, len(plain.Bytes), err
}
