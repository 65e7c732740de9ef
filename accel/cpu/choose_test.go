package cpu

import (
	"slices"
	"testing"

	"qlora/ref/num"
	"qlora/ref/op"
)

// What choosing takes is known before it runs: a device that only accounts counts the same. Logits in float32 are read where they lie.
func TestChoosingIsAccountedFor(t *testing.T) {
	const vocab = 3 * piece
	parts := func(o Options, dtype num.DType) []op.Part {
		o.Threads = 2
		d := opened(t, o)
		logits, y := d.New(op.Run, "logits", dtype, 1, vocab), d.New(op.Run, "y", num.Float32, 1, vocab)
		seen, banned, clock, token := d.NewInts(op.Run, "seen", 1), d.NewInts(op.Run, "banned", 1), d.NewInts(op.Run, "clock", op.ClockLen), d.NewInts(op.Run, "token", 1)
		d.Penalize(op.At{Name: "penalize"}, y, logits, seen, banned, 1.1)
		d.Choose(op.At{Name: "choose"}, token, logits, op.Choice{Temperature: 1}, clock)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		return d.Arena().Parts()
	}
	workspace := map[num.DType]int64{}
	for _, dtype := range []num.DType{num.Float32, num.BFloat16, num.Float16} {
		real, counted := parts(Options{}, dtype), parts(Options{AccountOnly: true}, dtype)
		if !slices.Equal(real, counted) {
			t.Errorf("%v: %v, accounted for %v", dtype, real, counted)
		}
		for _, p := range real {
			if p.Name == "workspace" {
				workspace[dtype] = p.Peak
			}
		}
	}
	if more := workspace[num.BFloat16] - workspace[num.Float32]; more != 4*vocab || workspace[num.Float16] != workspace[num.BFloat16] {
		t.Errorf("a row of 16 bits takes %d bytes more than one in float32, want %d: %v", more, 4*vocab, workspace)
	}
}
