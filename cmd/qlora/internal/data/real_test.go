//go:build real

// What is here needs files that are not in the repository: it is built for those who have them, with -tags real.

package data

import (
	"bufio"
	"crypto/sha256"
	"flag"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var realFolder = flag.String("real", "", "folder of the real files that README.md lists")

// Real files are read whole as testdata/real.py reads them with Python's own libraries and qlora.py's rules: it wrote testdata/real.txt, which
// has of each file the number of examples, of rows left out, and the SHA-256 of the examples.
func TestRealFilesWhole(t *testing.T) {
	if *realFolder == "" {
		t.Fatal("give the folder: go test -tags real ./cmd/qlora/internal/data -run RealFilesWhole -v -args -real DIR")
	}
	f, err := os.Open(filepath.Join("testdata", "real.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text()) // file, columns or -, format, examples, rows left out, digest
		o := Options{SkipBad: true}
		if fields[1] != "-" {
			if o.Columns, err = ParseColumns(strings.Split(fields[1], ",")); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Read(filepath.Join(*realFolder, fields[0]), o)
		if err != nil {
			t.Error(err)
			continue
		}
		h := sha256.New()
		for _, x := range s.Examples {
			hashTexts(h, x.Text, x.Prompt, x.Response)
			for _, m := range x.Messages {
				hashTexts(h, m.Role, m.Content)
			}
			hashTexts(h, "end")
		}
		if got, want := fmt.Sprintf("%s %d %d %x", s.Format, len(s.Examples), s.Skipped, h.Sum(nil)), strings.Join(fields[2:], " "); got != want {
			t.Errorf("%s: %s, want %s", fields[0], got, want)
		} else {
			t.Logf("%s: %s, %d examples, %d rows left out", fields[0], s.Format, len(s.Examples), s.Skipped)
		}
	}
}

// hashTexts adds texts, each behind its length in bytes.
func hashTexts(h hash.Hash, texts ...string) {
	for _, text := range texts {
		fmt.Fprintf(h, "%d:%s", len(text), text)
	}
}
