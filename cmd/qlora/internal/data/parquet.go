package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"
)

// readParquet visits the rows of a Parquet file. Lists are []any and groups map[string]any, as in JSON.
func readParquet(r io.ReaderAt, size int64, visit visitor) error {
	if err := checkFooter(r, size); err != nil {
		return err
	}
	file, err := guard(func() (*parquet.File, error) {
		return parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	})
	if err != nil {
		return err
	}
	reader, err := guard(func() (*parquet.GenericReader[any], error) { return parquet.NewGenericReader[any](file), nil })
	if err != nil {
		return err
	}
	defer reader.Close()
	rows := make([]any, 64)
	for n := 1; ; {
		got, err := guard(func() (int, error) { return reader.Read(rows) })
		for _, r := range rows[:got] {
			values, ok := r.(map[string]any)
			if !ok {
				return errors.New("damaged Parquet file: a row without columns")
			}
			if !visit(n, values, nil) {
				return nil
			}
			n++
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case got == 0:
			return fmt.Errorf("damaged Parquet file: it ends before row %d of %d", n, file.NumRows())
		}
	}
}

// checkFooter looks at a file's end, which is the footer's length in 4 bytes and PAR1: the library makes room for any length.
func checkFooter(r io.ReaderAt, size int64) error {
	const around = 12 // bytes of a file besides its footer and its columns
	var end [8]byte
	if size < around {
		return errors.New("not a Parquet file: it is too short")
	}
	if _, err := r.ReadAt(end[:], size-int64(len(end))); err != nil {
		return err
	}
	if string(end[4:]) != "PAR1" {
		return errors.New("not a Parquet file: it does not end with PAR1")
	}
	if length := int64(binary.LittleEndian.Uint32(end[:])); length > size-around {
		return fmt.Errorf("damaged Parquet file: a footer of %d bytes in a file of %d", length, size)
	}
	return nil
}

// guard makes the library's panics errors: it has some for damaged files.
func guard[T any](f func() (T, error)) (result T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged Parquet file: %v", p)
		}
	}()
	return f()
}
