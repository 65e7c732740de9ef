package train

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/lora/peft"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

var tiny = llama.Config{
	HiddenSize: 32, IntermediateSize: 48, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadDim: 8,
	VocabSize: 40, MaxPositionEmbeddings: 32, RMSNormEps: 1e-5, RoPETheta: 10000,
}

// setting is what the cases vary. Rank 0 trains every weight; a tied model has biases and norms of heads besides.
type setting struct {
	compute       num.DType
	rank          int
	dropout       float32
	eightBit      bool
	checkpointing bool
	tied          bool
	save          []string // modules_to_save
	noise         float32
}

// options are those of the model.
func (s setting) options() llama.Options {
	if s.rank == 0 {
		return llama.Options{Compute: s.compute, Full: true}
	}
	adapter := &lora.Config{R: s.rank, Alpha: 8, Dropout: s.dropout, Seed: 5, ModulesToSave: s.save, Modules: map[string]peft.Rank{}}
	for _, m := range tiny.Modules() {
		if !adapter.Saves(m) {
			adapter.Modules[m] = peft.Rank{R: s.rank, Alpha: 8}
		}
	}
	return llama.Options{Compute: s.compute, Quant: &quant.Options{Type: quant.NF4, Blocksize: 32, DoubleQuant: true}, LoRA: adapter}
}

func newTrainer(t *testing.T, s setting) *Trainer {
	t.Helper()
	d, shape := op.NewPlain(0), tiny
	if s.tied {
		shape.TieWordEmbeddings, shape.QKNorm, shape.QKVBias, shape.OutputBias, shape.MLPBias = true, true, true, true, true
	}
	m, err := llama.New(d, shape, s.options(), llama.WeightsFunc(randomWeights))
	if err != nil {
		t.Fatal(err)
	}
	m.Checkpointing, m.Noise = s.checkpointing, op.Noise{Alpha: s.noise, Seed: 5}
	return New(d, m, Config{
		AdamW:    optim.AdamWConfig{LR: 0.02, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01},
		Schedule: optim.Schedule{Kind: "linear", Warmup: 2, Steps: 12}, MaxGradNorm: 1, EightBit: s.eightBit,
	})
}

func randomWeights(name string, shape []int) ([]float32, error) {
	c := num.Counter{Purpose: num.Purpose(name)}
	n := 1
	for _, d := range shape {
		n *= d
	}
	x := make([]float32, n)
	for i := range x {
		c.Element = uint64(i)
		x[i] = num.Normal(3, c) * 0.1
		if strings.Contains(name, "norm") {
			x[i] += 1
		}
	}
	return x, nil
}

// batch has four sequences of different lengths, some labels ignored.
func batch(step int) (s Sequences) {
	for i, n := range []int{7, 12, 3, 9} {
		seq := Sequence{IDs: make([]int32, n), Labels: make([]int32, n)}
		for j := range n {
			seq.IDs[j] = int32((7*step + 5*i + 3*j*j) % 40)
			seq.Labels[j] = int32((11*step + i + j) % 40)
			if (i+j)%4 == 0 {
				seq.Labels[j] = op.IgnoredLabel
			}
		}
		s = append(s, seq)
	}
	return s
}

// cut divides a batch into micro-batches of n sequences.
func cut(s Sequences, n int) (micro []Sequences) {
	for ; len(s) > n; s = s[n:] {
		micro = append(micro, s[:n])
	}
	return append(micro, s)
}

func step(t *testing.T, tr *Trainer, micro int) Report {
	t.Helper()
	r, err := tr.Step(cut(batch(tr.Steps()), micro))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func state(t *testing.T, tr *Trainer) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	if err := tr.Save(path, "test"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var settings = map[string]setting{
	"bfloat16":                {compute: num.BFloat16, rank: 4},
	"bfloat16, dropout":       {compute: num.BFloat16, rank: 4, dropout: 0.1},
	"float32, 8-bit, dropout": {compute: num.Float32, rank: 256, dropout: 0.3, eightBit: true},
	"full":                    {compute: num.BFloat16, noise: 1},
	"full, tied, float32":     {compute: num.Float32, tied: true},
	"full, tied, bfloat16":    {compute: num.BFloat16, tied: true, noise: 1},
	"modules to save":         {compute: num.BFloat16, rank: 4, dropout: 0.1, save: []string{"embed_tokens", "norm", "0.mlp.up_proj"}},
	"a head apart, float32":   {compute: num.Float32, rank: 4, tied: true, save: []string{"lm_head"}, noise: 1},
}

// A run's bytes do not depend on how its batches are cut, nor on whether activations are kept or computed again.
func TestMicroBatchesAndCheckpointing(t *testing.T) {
	for name, s := range settings {
		whole := newTrainer(t, s)
		s.checkpointing = true
		cutUp := newTrainer(t, s)
		for range 3 {
			a, b := step(t, whole, 4), step(t, cutUp, 1)
			if a != b {
				t.Errorf("%s: %+v in one batch, %+v cut up", name, a, b)
			}
		}
		if !bytes.Equal(state(t, whole), state(t, cutUp)) {
			t.Errorf("%s: the states differ", name)
		}
	}
}

// Stopping and going on leaves no trace.
func TestResume(t *testing.T) {
	for name, s := range settings {
		through := newTrainer(t, s)
		var reports []Report
		for range 6 {
			reports = append(reports, step(t, through, 2))
		}
		first := newTrainer(t, s)
		for range 3 {
			step(t, first, 2)
		}
		saved := state(t, first)
		f, err := checkpoint.Parse(bytes.NewReader(saved), int64(len(saved)), "state")
		if err != nil {
			t.Fatal(err)
		}
		second := newTrainer(t, s)
		if err := second.Load(f, "test"); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if r := step(t, second, 2); r != reports[3+i] {
				t.Errorf("%s: %+v, without stopping %+v", name, r, reports[3+i])
			}
		}
		if !bytes.Equal(state(t, through), state(t, second)) {
			t.Errorf("%s: the states differ", name)
		}
		if err := newTrainer(t, s).Load(f, "another"); err == nil || !strings.Contains(err.Error(), "another run") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The state of a run of another rank is refused, and changes nothing.
func TestLoadRefuses(t *testing.T) {
	saved := state(t, newTrainer(t, setting{compute: num.Float32, rank: 4}))
	f, err := checkpoint.Parse(bytes.NewReader(saved), int64(len(saved)), "state")
	if err != nil {
		t.Fatal(err)
	}
	other := newTrainer(t, setting{compute: num.Float32, rank: 8})
	before := state(t, other)
	if err := other.Load(f, "test"); err == nil || !strings.Contains(err.Error(), "shape") {
		t.Error(err)
	}
	if !bytes.Equal(before, state(t, other)) {
		t.Error("a refused state was partly loaded")
	}
}

// It learns: a batch seen again and again is known by heart, with every kind of moments.
func TestLearns(t *testing.T) {
	for name, s := range settings {
		if s.dropout > 0.1 {
			s.dropout = 0
		}
		tr := newTrainer(t, s)
		tr.config.Schedule.Kind = "constant"
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
			t.Errorf("%s: loss %v at first, %v in the end", name, first, last)
		}
	}
}

// Weight decay moves matrices, and neither norms nor biases.
func TestDecay(t *testing.T) {
	var after [2]map[string][]float32
	for i, decay := range []float64{0, 0.5} {
		tr := newTrainer(t, setting{compute: num.Float32, tied: true})
		tr.config.AdamW.WeightDecay, tr.config.Schedule.Kind = decay, "constant"
		step(t, tr, 4)
		after[i] = map[string][]float32{}
		for _, p := range tr.params {
			x, err := tr.device.Read(p.Value)
			if err != nil {
				t.Fatal(err)
			}
			after[i][p.Name] = x
		}
	}
	for name, x := range after[0] {
		vector := strings.Contains(name, "norm") || strings.HasSuffix(name, "bias")
		if same := slices.Equal(x, after[1][name]); same != vector {
			t.Errorf("%s: the same with decay and without: %v", name, same)
		}
	}
}

func always() bool { return true }

// Evaluate measures what a step reports before its update.
func TestEvaluate(t *testing.T) {
	tr := newTrainer(t, setting{compute: num.BFloat16, rank: 4})
	loss, n, err := Evaluate(tr.device, tr.model, cut(batch(0), 1), always)
	if err != nil {
		t.Fatal(err)
	}
	if r := step(t, tr, 4); r.Loss != loss || n != 23 || r.Tokens != 31 {
		t.Errorf("evaluated %v over %d, the step says %+v", loss, n, r)
	}
	if _, _, err := Evaluate(tr.device, tr.model, nil, always); err == nil {
		t.Error("nothing was evaluated")
	}
	asked := 0
	if _, _, err := Evaluate(tr.device, tr.model, cut(batch(0), 1), func() bool { asked++; return asked < 3 }); err != ErrStopped || asked != 3 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}

// Dropout is for training: neither what is evaluated nor what is generated depends on it.
func TestDropoutIsForTraining(t *testing.T) {
	var losses []float32
	var logits [][]float32
	for _, dropout := range []float32{0, 0.5} {
		tr := newTrainer(t, setting{compute: num.BFloat16, rank: 4, dropout: dropout})
		for _, a := range tr.model.Adapters() { // so that the adapters do something
			tr.device.Write(a.B, lora.InitA(op.At{Layer: 1, Name: "B"}, a.B.Rows, a.B.Cols, 3))
		}
		loss, _, err := Evaluate(tr.device, tr.model, cut(batch(0), 1), always)
		if err != nil {
			t.Fatal(err)
		}
		x, err := tr.device.Read(tr.model.Logits(tr.model.NewCache(5), []int32{1, 2, 3, 4, 5}))
		if err != nil {
			t.Fatal(err)
		}
		losses, logits = append(losses, loss), append(logits, x)
		if r := step(t, tr, 4); (r.Loss != loss) != (dropout > 0) {
			t.Errorf("dropout %v: the step has %v, evaluated %v", dropout, r.Loss, loss)
		}
	}
	if losses[0] != losses[1] || !slices.Equal(logits[0], logits[1]) {
		t.Errorf("losses %v depend on dropout, or logits do", losses)
	}
}

func TestBadBatches(t *testing.T) {
	tr := newTrainer(t, setting{compute: num.BFloat16, rank: 4})
	if _, err := tr.Step([]Sequences{{{IDs: []int32{1}, Labels: []int32{op.IgnoredLabel}}}}); err == nil || !strings.Contains(err.Error(), "label") {
		t.Error(err)
	}
	if _, err := tr.Step([]Sequences{{{IDs: []int32{40}, Labels: []int32{1}}}}); err == nil || !strings.Contains(err.Error(), "embed_tokens") || !strings.Contains(err.Error(), "token id 40") {
		t.Error(err)
	}
}
