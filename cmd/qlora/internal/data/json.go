package data

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxRow is the longest row in bytes, and the longest object that holds all rows of a .json file.
const maxRow = 1 << 30

var errLong = fmt.Errorf("a row of over %d MiB", maxRow>>20)

// readJSONL visits an object a line.
func readJSONL(r *bufio.Reader, visit visitor) error {
	for line := 1; ; line++ {
		text, err := readLine(r)
		if err != nil && err != io.EOF {
			return fmt.Errorf("line %d: %w", line, err)
		}
		if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 {
			values, bad := parseObject(text)
			if bad != nil && trimmed[0] == '[' {
				bad = fmt.Errorf("%w (a list of objects belongs in a .json file)", bad)
			}
			if !visit(line, values, bad) {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
		if len(line) > maxRow {
			return nil, errLong
		}
	}
}

// parseObject reads an object, whose numbers stay as they were written.
func parseObject(text []byte) (values map[string]any, err error) {
	if at := invalidUTF8(text); at >= 0 {
		return nil, fmt.Errorf("byte %d (0x%02x) is not UTF-8: %s", at, text[at], excerpt(text, at))
	}
	if trimmed := bytes.TrimSpace(text); trimmed[0] != '{' {
		return nil, fmt.Errorf("want an object {…}, found %s", excerpt(text, 0))
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err = d.Decode(&values)
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("the object is not closed: %s", excerpt(text, len(text)))
	case errors.As(err, &syntax):
		return nil, fmt.Errorf("malformed JSON: %v, at %s", err, excerpt(text, int(syntax.Offset)))
	case err != nil:
		return nil, fmt.Errorf("malformed JSON: %w", err)
	}
	if rest := bytes.TrimSpace(text[d.InputOffset():]); len(rest) > 0 {
		return nil, fmt.Errorf("after the object there is %s", excerpt(rest, 0))
	}
	return values, nil
}

// excerpt quotes what is around a byte of a text.
func excerpt(text []byte, at int) string {
	const around = 24
	from, to := max(0, at-around), min(len(text), at+around)
	quoted := fmt.Sprintf("%q", strings.ToValidUTF8(strings.TrimSpace(string(text[from:to])), "\ufffd"))
	if from > 0 {
		quoted = "…" + quoted
	}
	if to < len(text) {
		quoted += "…"
	}
	return quoted
}

// readJSON visits the objects of a list, or objects that follow one another, or, if there is one object that holds one list of
// objects, such as {"data": […]}, those.
func readJSON(r *bufio.Reader, visit visitor) error {
	s := splitter{r: r, line: 1}
	b, err := s.token()
	if err == nil && b == '[' {
		return s.list(visit)
	}
	for first := true; err == nil; first = false {
		var text []byte
		var line int
		if text, line, err = s.object(b); err != nil {
			return err
		}
		b, err = s.token()
		if first && err == io.EOF {
			if list, before := rowList(text); list != nil {
				inner := splitter{r: bufio.NewReader(bytes.NewReader(list[1:])), line: line + before}
				return inner.list(visit)
			}
		}
		if values, bad := parseObject(text); !visit(line, values, bad) {
			return nil
		}
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// rowList finds the one list of objects that an object holds, and the lines before it; nil if that is part of a row.
func rowList(text []byte) (list []byte, line int) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil {
		return nil, 0
	}
	for name, value := range fields {
		var objects []map[string]json.RawMessage
		if json.Unmarshal(value, &objects) != nil || len(objects) == 0 {
			continue
		}
		if list != nil || slices.Contains(listColumns, name) {
			return nil, 0
		}
		list = value
	}
	if list == nil {
		return nil, 0
	}
	return list, bytes.Count(text[:bytes.Index(text, list)], []byte("\n"))
}

// splitter finds where objects begin and end in JSON text, without holding more than one.
type splitter struct {
	r    *bufio.Reader
	line int
}

func (s *splitter) next() (byte, error) {
	b, err := s.r.ReadByte()
	if b == '\n' {
		s.line++
	}
	return b, err
}

// token is the next byte that is no white space.
func (s *splitter) token() (byte, error) {
	for {
		b, err := s.next()
		if err != nil || b != ' ' && b != '\t' && b != '\r' && b != '\n' {
			return b, err
		}
	}
}

// list visits what follows [.
func (s *splitter) list(visit visitor) error {
	for first := true; ; first = false {
		b, err := s.element(first)
		switch {
		case err == io.EOF:
			return fmt.Errorf("line %d: the list is not closed: the file ends there", s.line)
		case err != nil:
			return err
		case b == ']':
			return s.end()
		}
		if !bytes.ContainsRune([]byte(`{["-0123456789tfn`), rune(b)) {
			return fmt.Errorf("line %d: want an object {…}, found %q", s.line, b)
		}
		text, line, err := s.value(b)
		if err != nil {
			return err
		}
		if values, bad := parseObject(text); !visit(line, values, bad) {
			return nil
		}
	}
}

// element is the first byte of a list's next element, or ].
func (s *splitter) element(first bool) (byte, error) {
	b, err := s.token()
	if first || err != nil || b == ']' {
		return b, err
	}
	if b != ',' {
		return 0, fmt.Errorf("line %d: want , or ] after an object, found %q", s.line, b)
	}
	if b, err = s.token(); err == nil && b == ']' {
		return 0, fmt.Errorf("line %d: nothing after a comma", s.line)
	}
	return b, err
}

// end wants nothing more.
func (s *splitter) end() error {
	b, err := s.token()
	if err == nil {
		return fmt.Errorf("line %d: after the list there is %q", s.line, b)
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// object reads on from its first byte to its end.
func (s *splitter) object(first byte) (text []byte, line int, err error) {
	if first != '{' {
		return nil, 0, fmt.Errorf("line %d: want an object {…}, found %q", s.line, first)
	}
	return s.value(first)
}

// value reads on from the first byte of an object, or of what stands in its place in a list.
func (s *splitter) value(first byte) (text []byte, line int, err error) {
	text, line = []byte{first}, s.line
	depth, inString, escaped := 0, first == '"', false
	if first == '{' || first == '[' {
		depth = 1
	}
	for depth > 0 || inString || !s.separated(first) {
		b, err := s.next()
		if err != nil {
			if err == io.EOF {
				err = errors.New("the file ends there")
			}
			return nil, 0, fmt.Errorf("line %d: the object is not closed: %w", line, err)
		}
		if text = append(text, b); len(text) > maxRow {
			return nil, 0, fmt.Errorf("line %d: %w", line, errLong)
		}
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped = b == '\\'
			inString = b != '"'
		case b == '"':
			inString = true
		case b == '{' || b == '[':
			depth++
		case b == '}' || b == ']':
			depth--
		}
	}
	return text, line, nil
}

// separated says whether a number or a word that begins with a byte has ended before the next one; what brackets or quotes close has.
func (s *splitter) separated(first byte) bool {
	if first == '{' || first == '[' || first == '"' {
		return true
	}
	after, err := s.r.Peek(1)
	return err != nil || bytes.ContainsAny(after, ",]} \t\r\n")
}
