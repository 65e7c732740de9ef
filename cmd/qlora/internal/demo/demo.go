// Package demo is what the program runs on when it is given nothing: stories260K, a trained LLaMA of 260,032 parameters by
// Andrej Karpathy (MIT, see stories260k/LICENSE) in Hugging Face's layout, and the beginning of Karpathy's tiny Shakespeare
// (public domain): 120 KB to train on and the 6 KB after it, held out.
package demo

import (
	"embed"
	"io/fs"
)

//go:embed stories260k shakespeare.txt shakespeare.held-out.txt
var files embed.FS

// Config is the configuration of `qlora train` on the demo.
//
//go:embed demo.yaml
var Config []byte

// Name is the model's name on the command line.
const Name = "demo"

// The texts in Data.
const (
	Text    = "shakespeare.txt"
	HeldOut = "shakespeare.held-out.txt"
)

// Model is the model's folder.
func Model() fs.FS {
	sub, err := fs.Sub(files, "stories260k")
	if err != nil {
		panic(err) // it is embedded
	}
	return sub
}

// Data holds the texts.
func Data() fs.FS { return files }
