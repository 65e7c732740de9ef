// Package tensorboard writes scalars for TensorBoard: event files, which are TFRecords of protocol buffers (tensorboard/compat/proto/event.proto).
package tensorboard

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"time"
)

// Writer is an event file.
type Writer struct{ file *os.File }

// Scalar is a value of a curve, such as train/loss.
type Scalar struct {
	Tag   string
	Value float32
}

// Create makes a new event file in a folder. It begins with the start of a session: what the folder's older files have of steps from first
// on, a run that was resumed takes again, and TensorBoard drops it. Files are read in the order of their names, which have the time.
func Create(dir string, first int, now time.Time) (*Writer, error) {
	name := fmt.Sprintf("events.out.tfevents.%010d.%06d", now.Unix(), now.Nanosecond()/1000)
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	w := &Writer{f}
	if err = w.write(event(now, 0, fileVersion, []byte("brain.Event:2"))); err == nil {
		err = w.write(event(now, first, sessionLog, []byte{1 << 3, 1})) // status = START
	}
	return w, err
}

// Scalars writes values of a step, one event each.
func (w *Writer) Scalars(step int, now time.Time, values ...Scalar) error {
	for _, v := range values {
		if err := w.write(event(now, step, summary, v.summary())); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the file.
func (w *Writer) Close() error { return w.file.Close() }

func (w *Writer) write(event []byte) error {
	_, err := w.file.Write(record(event))
	return err
}

// record is a TFRecord: length, its checksum, data, its checksum.
func record(data []byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	b = binary.LittleEndian.AppendUint32(b, masked(b))
	b = append(b, data...)
	return binary.LittleEndian.AppendUint32(b, masked(data))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked is a checksum that may lie in data which is summed again: TensorFlow rotates it and adds a constant.
func masked(data []byte) uint32 {
	c := crc32.Checksum(data, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// Fields of an Event, beside wall_time = 1 and step = 2.
const (
	fileVersion = 3
	summary     = 5
	sessionLog  = 7
)

// Wire types of protocol buffers.
const (
	varint    = 0
	eightByte = 1
	length    = 2
	fourByte  = 5
)

func event(now time.Time, step, field int, value []byte) []byte {
	b := binary.LittleEndian.AppendUint64([]byte{1<<3 | eightByte}, math.Float64bits(float64(now.UnixMicro())/1e6))
	if step != 0 { // the default is left out
		b = binary.AppendUvarint(append(b, 2<<3|varint), uint64(step))
	}
	return bytesField(b, field, value)
}

// summary is a Summary message of one value: tag = 1, simple_value = 2.
func (s Scalar) summary() []byte {
	b := bytesField(nil, 1, []byte(s.Tag))
	b = binary.LittleEndian.AppendUint32(append(b, 2<<3|fourByte), math.Float32bits(s.Value))
	return bytesField(nil, 1, b)
}

func bytesField(b []byte, field int, value []byte) []byte {
	b = binary.AppendUvarint(append(b, byte(field<<3|length)), uint64(len(value)))
	return append(b, value...)
}
