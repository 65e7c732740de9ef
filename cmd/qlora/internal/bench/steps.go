package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"qlora/accel/cpu"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/optim"
	"qlora/ref/train"
)

// Step is a training step of a model on NF4 with double quantization, one sequence a batch, LoRA of rank 64 on all linear layers.
type Step struct {
	Compute       string  `json:"compute"`
	Tokens        int     `json:"tokens"`
	Checkpointing bool    `json:"checkpointing"`
	Layers        int     `json:"layers"`
	Threads       int     `json:"threads"`
	Seconds       float64 `json:"seconds"`
	PerSecond     float64 `json:"tokens_per_second"`
	Peak          int64   `json:"arena_peak"` // bytes
	Parts         []Part  `json:"arena_parts"`
	Resident      int64   `json:"resident_peak,omitempty"` // bytes of the process while it trained, where the system says
}

// Part is what a part of the program held at most.
type Part struct {
	Name string `json:"name"`
	Peak int64  `json:"peak"`
}

// Name is what --only selects.
func (s Step) Name() string {
	kept := "activations kept"
	if s.Checkpointing {
		kept = "checkpointing"
	}
	return fmt.Sprintf("step %s, %d tokens, %s", s.Compute, s.Tokens, kept)
}

// steps are both compute types with and without checkpointing; a sweep adds lengths, and numbers of threads.
func (r *runner) steps(sweep bool) (all []entry) {
	add := func(t num.DType, tokens, threads int) {
		for _, checkpointing := range []bool{false, true} {
			s := Step{Compute: t.String(), Tokens: tokens, Checkpointing: checkpointing, Layers: r.sizes.model.NumHiddenLayers, Threads: threads}
			all = append(all, entry{s.Name(), func(ctx context.Context) error {
				r.memory = nil
				if err := s.measure(ctx, r, t); err != nil {
					return err
				}
				r.report.Steps = append(r.report.Steps, s)
				return nil
			}})
		}
	}
	usual := r.sizes.sweep[len(r.sizes.sweep)/2]
	for _, t := range []num.DType{num.BFloat16, num.Float32} {
		add(t, usual, r.most)
	}
	if !sweep {
		return all
	}
	for _, tokens := range r.sizes.sweep {
		if tokens != usual {
			add(num.BFloat16, tokens, r.most)
		}
	}
	for threads := 1; threads < r.most; threads++ {
		add(num.BFloat16, usual, threads)
	}
	return all
}

func (s *Step) measure(ctx context.Context, r *runner, t num.DType) error {
	d, err := cpu.New(cpu.Options{Threads: s.Threads, Kernel: r.set, Fast: r.fast})
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(1, 2))
	options := llama.Options{Compute: t, Quant: &nf4, LoRA: &lora.Config{R: 64, Alpha: 16}, Context: s.Tokens}
	m, err := llama.New(d, r.sizes.model, options, drawn(random))
	if err != nil {
		return err
	}
	m.Checkpointing = s.Checkpointing
	trainer := train.New(d, m, train.Config{
		AdamW:    optim.AdamWConfig{LR: 2e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8},
		Schedule: optim.Schedule{Kind: "constant"}, MaxGradNorm: 0.3,
	})
	watched := watchResident()
	var seconds []float64
	for i := range 1 + r.sizes.steps { // the first takes memory
		if err := ctx.Err(); err != nil {
			return err
		}
		begun := time.Now()
		if _, err := trainer.Step([]train.Sequences{{sequence(s.Tokens, m.VocabSize, random)}}); err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
		if i > 0 {
			seconds = append(seconds, time.Since(begun).Seconds())
		}
	}
	s.Seconds = median(seconds)
	s.PerSecond = float64(s.Tokens) / s.Seconds
	s.Peak = d.Arena().Peak()
	for _, p := range d.Arena().Parts() {
		s.Parts = append(s.Parts, Part{p.Name, p.Peak})
	}
	if watched {
		s.Resident = resident()
	}
	return nil
}

// drawn is a model before it has learned anything: norms of 1, and normal numbers.
func drawn(r *rand.Rand) llama.WeightsFunc {
	return func(name string, shape []int) ([]float32, error) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		x := normals(n, 0.02, r)
		if strings.Contains(name, "norm") {
			for i := range x {
				x[i] = 1
			}
		}
		return x, nil
	}
}

func sequence(tokens, vocab int, r *rand.Rand) (s train.Sequence) {
	for range tokens {
		s.IDs, s.Labels = append(s.IDs, r.Int32N(int32(vocab))), append(s.Labels, r.Int32N(int32(vocab)))
	}
	return s
}

// watchResident gives back what is free and has Linux forget the greatest memory that the process had (proc(5), clear_refs).
func watchResident() bool {
	debug.FreeOSMemory()
	return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) == nil
}

// resident is the most memory that the process had since it is watched.
func resident() int64 {
	status, _ := os.ReadFile("/proc/self/status")
	line := regexp.MustCompile(`(?m)^VmHWM:\s*(\d+) kB$`).FindSubmatch(status)
	if line == nil {
		return 0
	}
	kib, _ := strconv.ParseInt(string(line[1]), 10, 64)
	return kib << 10
}
