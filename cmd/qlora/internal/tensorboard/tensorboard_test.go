package tensorboard

import (
	"bytes"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// written are the events of TestBytes as tensorboard 2.21.0 writes them (its event_pb2 and RecordWriter).
const written = "" +
	"1800000000000000a37f4b220900001040fc54d9411a0d627261696e2e4576656e743a32338d2fe90f000000000000006d532b090900001040fc54d94110083a" +
	"020801ed76c7812100000000000000017becf60900006040fc54d94110ac022a130a110a0a747261696e2f6c6f73731500002e40a00074182000000000000000" +
	"29eda9500900006040fc54d94110ac022a120a100a096576616c2f6c6f737315000000807c88d3c4"

func TestBytes(t *testing.T) {
	dir := t.TempDir()
	at := func(seconds float64) time.Time { return time.UnixMicro(int64(seconds * 1e6)) }
	w, err := Create(dir, 8, at(1700000000.25))
	if err != nil {
		t.Fatal(err)
	}
	err = w.Scalars(300, at(1700000001.5), Scalar{"train/loss", 2.71875}, Scalar{"eval/loss", float32(math.Copysign(0, -1))})
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "events.out.tfevents.1700000000.250000"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(written)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%x\nwant\n%x", got, want)
	}
}

// A file that is there is not written over.
func TestCreateTwice(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	w, err := Create(dir, 0, now)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := Create(dir, 0, now); err == nil {
		t.Error("two writers of one file")
	}
}
