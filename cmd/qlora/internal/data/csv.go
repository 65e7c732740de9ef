package data

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// readCSV visits the lines after a header of the columns' names (RFC 4180: a field in quotes may hold commas and lines, and its
// quotes are doubled). A CR LF within a field becomes an LF, as encoding/csv has it.
func readCSV(r *bufio.Reader, visit visitor) error { return readFields(r, ',', visit) }

func readTSV(r *bufio.Reader, visit visitor) error { return readFields(r, '\t', visit) }

func readFields(r *bufio.Reader, comma rune, visit visitor) error {
	c := csv.NewReader(r)
	c.Comma = comma
	header, err := c.Read()
	if err == io.EOF {
		return nil
	}
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	for i, name := range header {
		if slices.Contains(header[:i], name) {
			return fmt.Errorf("line 1: two columns have the name %q: the first line must name the columns", name)
		}
	}
	for {
		fields, err := c.Read()
		if err == io.EOF {
			return nil
		}
		line, bad := 0, error(nil)
		var malformed *csv.ParseError
		switch {
		case errors.Is(err, csv.ErrFieldCount):
			line, _ = c.FieldPos(0)
			text := strings.Join(fields, string(comma))
			bad = fmt.Errorf("%d fields, but the header has %d: %s", len(fields), len(header), excerpt([]byte(text), 0))
		case errors.As(err, &malformed):
			line, bad = malformed.StartLine, fmt.Errorf("column %d: %w; a field with quotes is put in quotes, and its own are doubled",
				malformed.Column, malformed.Err)
		case err != nil:
			return err
		default:
			line, _ = c.FieldPos(0)
		}
		values := map[string]any{}
		for i, name := range header {
			if bad == nil {
				values[name] = fields[i]
			}
		}
		if !visit(line, values, bad) {
			return nil
		}
	}
}
