// Dump writes what ref reads of a GGUF file, and what it computes, for check_gguf.py.
//
//	dump FILE.gguf OUT.safetensors ID...
//
// OUT has every tensor in float32 under its Hugging Face name, and the logits of the sequence of ids, computed in float32.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: dump FILE.gguf OUT.safetensors ID...")
		os.Exit(2)
	}
	if err := dump(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func dump(file, out string, words []string) (err error) {
	var ids []int32
	for _, w := range words {
		id, err := strconv.ParseInt(w, 10, 32)
		if err != nil {
			return err
		}
		ids = append(ids, int32(id))
	}
	g, err := checkpoint.OpenGGUF(os.DirFS(filepath.Dir(file)), filepath.Base(file))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	m, err := checkpoint.GGUFModel(g)
	if err != nil {
		return err
	}
	c, err := llama.ConfigOf(m.Config)
	if err != nil {
		return err
	}
	var tensors []checkpoint.Tensor
	for _, t := range c.Tensors() {
		x, err := m.Float32(t.Name, t.Shape)
		if err != nil {
			return err
		}
		tensors = append(tensors, checkpoint.Narrow(t.Name, t.Shape, x, num.Float32))
	}
	logits, err := compute(c, m, ids)
	if err != nil {
		return err
	}
	tensors = append(tensors, checkpoint.Narrow("logits", []int{len(ids), c.VocabSize}, logits, num.Float32))
	return checkpoint.Write(out, tensors, nil)
}

func compute(c llama.Config, weights llama.Weights, ids []int32) ([]float32, error) {
	d := op.NewPlain(0)
	m, err := llama.New(d, c, llama.Options{Compute: num.Float32, Context: len(ids)}, weights)
	if err != nil {
		return nil, err
	}
	return d.Read(m.Logits(m.NewCache(len(ids)), ids))
}
