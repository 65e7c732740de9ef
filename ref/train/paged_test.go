package train

import (
	"bytes"
	"strings"
	"testing"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
)

// pagedTrainer trains under a limit to memory, with state that can leave it or not.
func pagedTrainer(t *testing.T, s setting, limit int64, lion, pages bool) (*Trainer, error) {
	t.Helper()
	d := op.NewPlain(limit)
	m, err := llama.New(d, tiny, s.options(), llama.WeightsFunc(randomWeights))
	if err != nil {
		t.Fatal(err)
	}
	tr := New(d, m, Config{
		AdamW:    optim.AdamWConfig{LR: 0.02, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01},
		Schedule: optim.Schedule{Kind: "linear", Warmup: 2, Steps: 12}, MaxGradNorm: 1, EightBit: s.eightBit, Lion: lion, Paged: pages,
	})
	if err := d.PageTo(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return tr, d.Sync()
}

// With room for half of the optimizer's state a run comes to the same bytes as with room for all, also when it is saved and loaded in between;
// memory stays within the limit; and without pages it does not run.
func TestPaged(t *testing.T) {
	for name, c := range map[string]struct {
		setting
		lion bool
	}{
		"32 bits": {setting{compute: num.BFloat16, rank: 16, dropout: 0.1}, false},
		"8 bits":  {setting{compute: num.BFloat16, rank: 256, eightBit: true}, false},
		"Lion":    {setting{compute: num.BFloat16, rank: 16}, true},
		"full":    {setting{compute: num.BFloat16}, false},
	} {
		t.Run(name, func(t *testing.T) {
			free, err := pagedTrainer(t, c.setting, 0, c.lion, true)
			if err != nil {
				t.Fatal(err)
			}
			var want []Report
			for range 5 {
				want = append(want, step(t, free, 2))
			}
			arena := free.device.Arena()
			var held int64
			for _, p := range arena.Parts() {
				if p.Name == "optimizer" {
					held = p.Used
				}
			}
			limit := arena.Peak() - held/2
			if _, err := unpaged(t, c.setting, limit, c.lion); err == nil || !strings.Contains(err.Error(), "memory limit") {
				t.Errorf("without pages the limit is enough: %v", err)
			}
			first, second := limited(t, c.setting, limit, c.lion), limited(t, c.setting, limit, c.lion)
			for i := range 3 {
				if r := step(t, first, 2); r != want[i] {
					t.Errorf("%+v, with room for all %+v", r, want[i])
				}
			}
			saved := state(t, first)
			f, err := checkpoint.Parse(bytes.NewReader(saved), int64(len(saved)), "state")
			if err != nil {
				t.Fatal(err)
			}
			if err := second.Load(f, "test"); err != nil {
				t.Fatal(err)
			}
			for i := range 2 {
				if r := step(t, second, 2); r != want[3+i] {
					t.Errorf("%+v, with room for all %+v", r, want[3+i])
				}
			}
			if !bytes.Equal(state(t, second), state(t, free)) {
				t.Error("the states differ")
			}
			for _, tr := range []*Trainer{first, second} {
				if peak := tr.device.Arena().Peak(); peak > limit {
					t.Errorf("%d bytes were in memory, the limit is %d", peak, limit)
				}
			}
		})
	}
}

func limited(t *testing.T, s setting, limit int64, lion bool) *Trainer {
	t.Helper()
	tr, err := pagedTrainer(t, s, limit, lion, true)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// unpaged takes a step with state that stays.
func unpaged(t *testing.T, s setting, limit int64, lion bool) (Report, error) {
	t.Helper()
	tr, err := pagedTrainer(t, s, limit, lion, false)
	if err != nil {
		return Report{}, err
	}
	return tr.Step(cut(batch(0), 2))
}

// Lion learns, too, and its state is one moment a parameter.
func TestLion(t *testing.T) {
	s := setting{compute: num.BFloat16, rank: 4}
	tr, err := pagedTrainer(t, s, 0, true, false)
	if err != nil {
		t.Fatal(err)
	}
	tr.config.Schedule.Kind, tr.config.AdamW.LR, tr.config.AdamW.Beta2 = "constant", 0.005, 0.99
	var first, last float32
	for i := range 40 {
		r, err := tr.Step([]Sequences{batch(0)})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = r.Loss
		}
		last = r.Loss
	}
	if !(last < first/3) {
		t.Errorf("loss %v at first, %v in the end", first, last)
	}
	saved := state(t, tr)
	f, err := checkpoint.Parse(bytes.NewReader(saved), int64(len(saved)), "state")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range f.Names() {
		if strings.HasSuffix(name, partV) {
			t.Errorf("there is a second moment: %s", name)
		}
	}
}

// Lion's moment has no 8 bits, and is not kept in 32 in silence where they are asked for.
func TestLionIn8Bits(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it does not panic")
		}
	}()
	pagedTrainer(t, setting{compute: num.BFloat16, rank: 4, eightBit: true}, 0, true, false)
}

// Codes are bytes: a file that says otherwise is refused.
func TestLoadRefusesCodes(t *testing.T) {
	s := settings["float32, 8-bit, dropout"]
	saved := bytes.ReplaceAll(state(t, newTrainer(t, s)), []byte(`"dtype":"U8"`), []byte(`"dtype":"I8"`))
	f, err := checkpoint.Parse(bytes.NewReader(saved), int64(len(saved)), "state")
	if err != nil {
		t.Fatal(err)
	}
	if err := newTrainer(t, s).Load(f, "test"); err == nil || !strings.Contains(err.Error(), "codes is I8 of shape [") || !strings.Contains(err.Error(), "want U8") {
		t.Error(err)
	}
}
