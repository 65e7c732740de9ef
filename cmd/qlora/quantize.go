package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"qlora/cmd/qlora/internal/config"
	"qlora/ref/checkpoint"
	"qlora/ref/op"
	"qlora/ref/quant"
)

type quantizeOptions struct {
	Model   string `name:"model" help:"folder in Hugging Face's layout, or org/name from the cache: its linear layers become 4-bit"`
	Tensor  string `name:"tensor" help:"or a safetensors file: all its tensors become 4-bit"`
	Output  string `name:"output" help:"folder, or file for --tensor, to write"`
	Type    string `name:"type" alias:"quant_type" help:"nf4 or fp4"`
	Block   int    `name:"blocksize" help:"weights a scale"`
	Double  bool   `name:"double_quant" help:"quantize the scales, too"`
	Storage string `name:"quant_storage" help:"type that the file gives to the codes: uint8, int8, bfloat16, float16 or float32"`
	Profile string `name:"profile" help:"spec, bnb-cpu-0.49 or bnb-cpu-0.50"`
}

// storages are the names in safetensors of bitsandbytes' quant_storage.
var storages = map[string]string{"uint8": "U8", "int8": "I8", "bfloat16": "BF16", "float16": "F16", "float32": "F32"}

// quantize turns a model's linear layers, or every tensor of a file, into 4 bits with bitsandbytes' keys for each.
func quantize(c console, args []string) error {
	o := quantizeOptions{Type: "nf4", Block: 64, Double: true, Storage: "uint8", Profile: "spec"}
	if shown, err := parseAll(c, "quantize", args, &o); shown || err != nil {
		return err
	}
	options, err := o.check()
	if err != nil {
		return err
	}
	if o.Model != "" {
		return o.quantizeModel(c, options)
	}
	return o.quantizeFile(c, options)
}

func (o quantizeOptions) check() (quant.Options, error) {
	var options quant.Options
	if (o.Tensor == "") == (o.Model == "") || o.Output == "" {
		return options, config.Usagef("quantize needs --model FOLDER or --tensor FILE, and --output")
	}
	if err := absent(o.Output); err != nil {
		return options, err
	}
	c, err := quant.ParseCodebook(o.Type)
	if err != nil {
		return options, config.Usagef("%v", err)
	}
	if err := quant.CheckBlocksize(o.Block); err != nil {
		return options, config.Usagef("%v", err)
	}
	if storages[o.Storage] == "" {
		return options, config.Usagef("quant_storage %q: want uint8, int8, bfloat16, float16 or float32", o.Storage)
	}
	p, err := quant.ParseProfile(o.Profile)
	if err != nil {
		return options, config.Usagef("%v", err)
	}
	return quant.Options{Type: c, Blocksize: o.Block, DoubleQuant: o.Double, Profile: p}, nil
}

// absent refuses to write over what is there.
func absent(output string) error {
	if _, err := os.Stat(output); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists: give another --output, or remove it", output)
	}
	return nil
}

func (o quantizeOptions) quantizeFile(c console, options quant.Options) error {
	in, err := checkpoint.Open(os.DirFS(filepath.Dir(o.Tensor)), filepath.Base(o.Tensor))
	if err != nil {
		return err
	}
	defer in.Close()
	var out []checkpoint.Tensor
	var before, after int64
	for _, name := range in.Names() {
		plain, err := in.Tensor(name)
		if err != nil {
			return err
		}
		entries, err := o.quantizeTensor(plain, options)
		if err != nil {
			return fmt.Errorf("%s: %w", o.Tensor, err)
		}
		out = append(out, entries...)
		before += int64(len(plain.Bytes))
	}
	for _, t := range out {
		after += int64(len(t.Bytes))
	}
	if err := checkpoint.Write(o.Output, out, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: %d tensors, %s to %s\n", o.Output, len(in.Names()), op.Bytes(before), op.Bytes(after))
	return nil
}

func (o quantizeOptions) quantizeTensor(plain checkpoint.Tensor, options quant.Options) ([]checkpoint.Tensor, error) {
	x, err := checkpoint.Widen(plain)
	if err != nil {
		return nil, err
	}
	options.DType = checkpoint.DTypes[plain.DType]
	t, err := quant.Quantize(x, plain.Shape, options)
	if err != nil {
		return nil, fmt.Errorf("tensor %s: %w", plain.Name, err)
	}
	return t.Entries(plain.Name, storages[o.Storage])
}
