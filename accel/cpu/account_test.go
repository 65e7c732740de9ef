package cpu

import (
	"slices"
	"strings"
	"testing"

	"qlora/accel/cpu/kernel"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
	"qlora/ref/train"
)

// situation is a training whose memory is counted.
type situation struct {
	config        llama.Config
	options       llama.Options
	checkpointing bool
	eight         bool
	lengths       [][]int // of the sequences of each micro-batch
	masked        bool    // every third label is ignored
	large         bool    // too much for plain Go
}

// parts are what the arena counted after two steps.
func (s situation) parts(t *testing.T, o Options) []op.Part {
	t.Helper()
	d := opened(t, o)
	m, err := llama.New(d, s.config, s.options, llama.WeightsFunc(func(name string, shape []int) ([]float32, error) { return drawn(name, shape, 1), nil }))
	if err != nil {
		t.Fatal(err)
	}
	m.Checkpointing = s.checkpointing
	run := train.New(d, m, train.Config{
		AdamW:    optim.AdamWConfig{LR: 0.001, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8},
		Schedule: optim.Schedule{Kind: "constant"}, MaxGradNorm: 0.5, EightBit: s.eight,
	})
	for range 2 {
		if _, err := run.Step(s.batch()); err != nil {
			t.Fatal(err)
		}
	}
	return d.Arena().Parts()
}

func (s situation) batch() (micro []train.Sequences) {
	for _, lengths := range s.lengths {
		var m train.Sequences
		for _, n := range lengths {
			x := train.Sequence{IDs: make([]int32, n), Labels: make([]int32, n)}
			for i := range x.IDs {
				x.IDs[i], x.Labels[i] = int32(i%7), int32(i%5)
				if s.masked && i%3 == 1 {
					x.Labels[i] = op.IgnoredLabel
				}
			}
			m = append(m, x)
		}
		micro = append(micro, m)
	}
	return micro
}

// situations differ in everything that the size of workspace depends on: each is the first with something changed.
func situations() map[string]situation {
	nf4 := &quant.Options{Type: quant.NF4, Blocksize: 64, DoubleQuant: true}
	first := func() situation {
		return situation{
			config: llama.Config{
				HiddenSize: 40, IntermediateSize: 56, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadDim: 8,
				VocabSize: 70, MaxPositionEmbeddings: 600, RMSNormEps: 1e-5, RoPETheta: 10000,
			},
			options:       llama.Options{Compute: num.BFloat16, Quant: nf4, LoRA: &lora.Config{R: 8, Alpha: 8}},
			checkpointing: true,
			lengths:       [][]int{{30, 20}, {17}},
		}
	}
	changed := map[string]func(s *situation){
		"first":             func(s *situation) {},
		"activations kept":  func(s *situation) { s.checkpointing = false },
		"8-bit moments":     func(s *situation) { s.eight, s.options.LoRA.R = true, 104 },
		"float32":           func(s *situation) { s.options.Compute = num.Float32 },
		"branch in float32": func(s *situation) { s.options.LoRA.Float32, s.options.LoRA.Dropout = true, 0.1 },
		"dropout":           func(s *situation) { s.options.LoRA.Dropout = 0.1 },
		"rank 1":            func(s *situation) { s.options.LoRA.R = 1 },
		"rank 300":          func(s *situation) { s.options.LoRA.R = 300 },
		"dense":             func(s *situation) { s.options.Quant = nil },
		"full":              func(s *situation) { s.options.Quant, s.options.LoRA, s.options.Full = nil, nil, true },
		"blocks of 4096":    func(s *situation) { s.options.Quant = &quant.Options{Type: quant.FP4, Blocksize: 4096} },
		"two tokens":        func(s *situation) { s.lengths = [][]int{{2}} },
		"labels masked":     func(s *situation) { s.masked = true },
		"long":              func(s *situation) { s.lengths = [][]int{{500}} },
		"windows":           func(s *situation) { s.lengths, s.config.SlidingWindow = [][]int{{300}}, []int{0, 20} },
		"norms of heads":    func(s *situation) { s.config.QKNorm = true },
		"biases, tied head": func(s *situation) {
			s.config.QKVBias, s.config.OutputBias, s.config.TieWordEmbeddings = true, true, true
		},
		"large vocabulary": func(s *situation) { s.config.VocabSize = 5000 },
		"rows beyond a piece": func(s *situation) {
			s.config.HiddenSize, s.lengths = 2200, [][]int{{9}}
		},
		"heads beyond a panel": func(s *situation) { s.config.HeadDim, s.lengths = 400, [][]int{{60}} },
		"GELU":                 func(s *situation) { s.config.HiddenAct = op.GELUTanh },
		"logits in chunks": func(s *situation) {
			s.options.Compute, s.config.VocabSize, s.lengths, s.large = num.Float32, 70000, [][]int{{300}}, true
		},
	}
	all := map[string]situation{}
	for name, change := range changed {
		s := first()
		change(&s)
		all[name] = s
	}
	return all
}

// A device that only accounts counts what the other does, part by part and to the byte, whatever the kernels and the number of threads; and it
// holds none of it.
func TestAccountOnly(t *testing.T) {
	for name, s := range situations() {
		for _, k := range kernel.Sets() {
			for _, threads := range []int{1, 3} {
				plain := k.Name == kernel.Sets()[0].Name
				if threads == 1 && !plain || s.large && plain {
					continue
				}
				t.Run(strings.Join([]string{name, k.Name}, ", "), func(t *testing.T) {
					o := Options{Kernel: k, Threads: threads}
					want := s.parts(t, o)
					o.AccountOnly = true
					if got := s.parts(t, o); !slices.Equal(got, want) {
						t.Errorf("%d threads: the device held\n%+v, accounted for were\n%+v", threads, want, got)
					}
				})
			}
		}
	}
}

// What is above the cap is refused for both at the same call, with the same words.
func TestAccountOnlyRefuses(t *testing.T) {
	s := situations()["first"]
	for _, cap := range []int64{10 << 10, 100 << 10, 200 << 10, 400 << 10} {
		var said [2]string
		for i, accountOnly := range []bool{false, true} {
			d := opened(t, Options{Cap: cap, Threads: 2, AccountOnly: accountOnly})
			m, err := llama.New(d, s.config, s.options, llama.WeightsFunc(func(name string, shape []int) ([]float32, error) { return drawn(name, shape, 1), nil }))
			if err == nil {
				_, err = train.New(d, m, train.Config{Schedule: optim.Schedule{Kind: "constant"}}).Step(s.batch())
			}
			if err == nil {
				t.Fatalf("%d bytes are enough", cap)
			}
			said[i] = err.Error()
		}
		if said[0] != said[1] {
			t.Errorf("cap %d: %s\naccounted: %s", cap, said[0], said[1])
		}
	}
}

// Nothing is written to a device that only accounts, and what is read from it are zeros.
func TestAccountOnlyHoldsNothing(t *testing.T) {
	d := opened(t, Options{AccountOnly: true})
	x := d.New(op.Run, "test/x", num.BFloat16, 1<<20, 1<<20) // 2 TiB
	d.Write(x, nil)
	d.Zero(x)
	d.Add(here, x, x, x)
	op.Fill(d, x, func() []float32 { t.Error("values were asked for"); return nil })
	row, err := d.Read(x.View(5, 6).View(0, 1))
	if err != nil || len(row) != 1<<20 || row[3] != 0 || d.Arena().Used() < 2<<40 {
		t.Error(err, d.Arena().Used())
	}
}
