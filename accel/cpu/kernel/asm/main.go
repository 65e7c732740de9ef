// Command asm writes the assembly of package kernel with avo. Each group of kernels is a file here and a pair of files there: the
// instructions, and the declarations with the loop that each kernel computes as its comment.
package main

import (
	"flag"
	"log"

	"github.com/mmcloughlin/avo/build"
)

// groups are filled in by the files of their names.
var groups = map[string]func(){}

func main() {
	group := flag.String("group", "", "which kernels")
	flag.Parse()
	write, ok := groups[*group]
	if !ok {
		log.Fatalf("-group %q is none", *group)
	}
	build.ConstraintExpr("amd64")
	write()
	build.Generate()
}
