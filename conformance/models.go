package conformance

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
	"qlora/ref/lora"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
	"qlora/ref/train"
)

// Beyond single operations: the same models and training steps of ref/llama and ref/train on the reference device and on the one
// that is judged.

const (
	blockFormula = "A block: n = rmsnorm(x) by input_layernorm; q, k and v = q_proj, k_proj and v_proj of n; h = x + o_proj(attention(rope(q), " +
		"rope(k), v)); n = rmsnorm(h) by post_attention_layernorm; y = h + down_proj(gate(gate_proj(n), up_proj(n))): each by the operation of that " +
		"kind, in the case's type. Hidden size 32, intermediate size 40, 4 heads and 2 key-value heads of 8, silu, eps 1e-5, rope by rope_table of " +
		"base 10000, type default; attention is causal, its scale 1/√(head size) in float64, rounded once. arch=qwen2: q_proj, k_proj and v_proj " +
		"have biases, eps 1e-6. arch=qwen3: heads of 12, and before rope rmsnorm of each head of q by q_norm and of k by k_norm, eps 1e-6. " +
		"arch=mistral: window 6. Inputs are the weights by their names at Hugging Face. base=dense: linear layers are linear, by weights as they " +
		"are. base=nf4_dq: their weights go through nf4_quantize, bs=64, and their absmax through nested_quantize, to be used as 4 bits. rank > 0: " +
		"each of the seven is a lora_linear of the inputs NAME.lora_A F32 [rank, in] and NAME.lora_B F32 [out, rank], NAME as in " +
		"model.layers.0.self_attn.q_proj, scale alpha/rank, with the flag branch_f32 if it is there."
	modelFormula = "The model: embedding by model.embed_tokens.weight, 2 blocks, rmsnorm by model.norm.weight, head_loss by lm_head.weight, for " +
		"arch=qwen2 by model.embed_tokens.weight; vocabulary 37, 48 positions. Its sequences are packed: segments are those of attention, for " +
		"queries and keys, and positions begin at 0 in each. Where p > 0, dropout is in every adapter: seed 5, purpose \"dropout/\" + the linear " +
		"layer's name in its block, such as \"dropout/self_attn.q_proj\", layer = the block's number from 0. Backward is by the …_backward " +
		"operations, gradients of activations in the case's type and from +0 on: the gradient of n takes gate_proj's part, then up_proj's, that of " +
		"the other n q_proj's, k_proj's, v_proj's; y's gradient goes to h, where rmsnorm_backward adds its part, and h's to x likewise. " +
		"checkpointing: blocks are computed again in backward, which changes no bit. An id outside of the vocabulary must be rejected. "
	trainFormula = "ids, labels I32 [steps, tokens], labels shifted already, −100 ignored; segments I32 [sequences + 1]: the bounds of the " +
		"sequences in each row. Step s = 0, 1, … trains on row s. Its sequences go in micro-batches of micro of them, the last may have fewer. Each " +
		"is a forward and backward of its own, whose gradients add to the lora_A's and lora_B's, from +0 in each step. The gradient g of each loss " +
		"is 1/counted in float64, rounded to float32, counted the labels of the whole row that are not −100. Dropout's step is s, its first the " +
		"number of tokens of the step's micro-batches before. loss = Sum(the losses of all tokens of the row)/counted, in float32. norm = grad_norm " +
		"of all the lora_A's and lora_B's, in the order of their names' bytes, before clipping. Then each of them takes a step of adamw by " +
		"adamw_scalars of t = s + 1, beta1 0.9, beta2 0.999, eps 1e-8, weight_decay 0.01, max_norm 0.5 and lr = learning_rate of kind linear, peak " +
		"0.01, warmup 1, of = steps + 1 after s steps: 0 at the first. eight_bit: one of 4096 elements or more takes adamw8 instead. Moments, codes " +
		"and their absmax begin as 0. "
)

const (
	forwardNeeds  = "Quantize Embedding Linear LoRALinear RMSNorm RoPE Attention Gate Add"
	backwardNeeds = forwardNeeds + " LinearBackward LoRALinearBackward RMSNormBackward RoPEBackward AttentionBackward GateBackward HeadLoss HeadLossBackward"
	trainNeeds    = backwardNeeds + " GradNorm AdamW AdamW8"
	fullNeeds     = trainNeeds + " EmbeddingBackward Copy Noise"
)

func init() {
	register(
		model("decoder_block", "llama.Model.Logits", forwardNeeds+" CacheAppend", decoderBlock, decoderBlockCases,
			"x [tokens, 32] → y [tokens, 32]: one block of a model, its number 0, then an rmsnorm of weights 1 and a linear layer whose weight is "+
				"the identity. The rows of x are one sequence, their positions 0, 1, … chunk of them are computed at a time, the last time what is "+
				"left; the k (after rope) and v of the rows before are kept for attention. There is no dropout. "+blockFormula),
		model("model_forward_backward", "llama.Model.Backward", backwardNeeds, forwardBackward, forwardBackwardCases,
			"ids, labels I32 [tokens], labels shifted already, −100 ignored; segments I32 [sequences + 1]: the sequences' bounds → loss F32 "+
				"[tokens], and the gradients of its mean, each F32 and named as the lora_A or lora_B it is of. The gradient g of each loss is "+
				"1/counted in float64, rounded to float32, counted the labels that are not −100, or 1 if none is. Dropout's step is 2, its first 0. "+
				modelFormula+blockFormula),
		model("training_steps", "train.Trainer.Step", trainNeeds, trainingSteps, trainingCases,
			"→ loss, norm F32 [steps], and each lora_A and lora_B after the last step. "+trainFormula+modelFormula+blockFormula),
		model("full_training", "train.Trainer.Step", fullNeeds, trainingSteps, fullCases,
			"→ loss, norm F32 [steps], and each weight and bias after the last step, F32. The training of training_steps, but that there are no adapters: "+
				"every input tensor of the model is trained itself, with a float32 value that begins as the input, and what is said of lora_A's and lora_B's below is "+
				"said of these. Where the case's type is not F32, matrices "+
				"and biases are computed with as copy makes them of their values, anew after each step; norms in float32. Gradients are dw, dbias and dtable, in "+
				"float32. With arch=qwen2 that of model.embed_tokens.weight is the head's dw, of all micro-batches, plus the embedding's dtable, of all "+
				"micro-batches, rounded. Norms' weights and biases have a weight_decay of 0. Where noise > 0, the embeddings go through noise in training: alpha "+
				"noise, seed 5, purpose \"noise/embed_tokens\", layer 65535, step and first those of dropout. "+trainFormula+modelFormula+blockFormula),
		model("resume", "train.Trainer.Load", trainNeeds, resumed, resumeCases,
			"The training of training_steps, once straight through and once stopped after stop steps, saved in a form of its own, loaded into a new "+
				"model and continued → differing I32 [1]: in how many elements the two ends differ, losses and norms of all steps included: 0."),
		model("determinism", "train.Trainer.Step", trainNeeds, twice, determinismCases,
			"The training of training_steps, twice → differing I32 [1]: in how many elements the two ends differ, losses and norms included: 0. "+
				"threads, where it is there, is how many threads compute the second."),
	)
}

// model is an operation that is a program for a device, and so is its own reference on the plain one.
func model(name, of, needs string, run func(d op.Device, c *Case, in Tensors) (Tensors, error), cases func(*Maker), formula string) *Operation {
	return &Operation{
		Name: name, Of: of, Needs: needs, Formula: formula, Cases: cases,
		Reference: func(c *Case, in Tensors) (Tensors, error) { return run(op.NewPlain(0), c, in) },
		Device: func(b *Bench, in Tensors) Tensors {
			out, err := run(b.Device, b.Case, in)
			if err != nil {
				b.fail(err)
			}
			return out
		},
	}
}

// tiny is the shape of a case's model.
func tiny(architecture string) llama.Config {
	c := llama.Config{
		HiddenSize: 32, IntermediateSize: 40, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadDim: 8,
		VocabSize: 37, MaxPositionEmbeddings: 48, RMSNormEps: 1e-5, RoPETheta: 10000, HiddenAct: op.SiLU,
	}
	switch architecture {
	case "qwen2":
		c.QKVBias, c.TieWordEmbeddings, c.RMSNormEps = true, true, 1e-6
	case "qwen3":
		c.QKNorm, c.HeadDim, c.RMSNormEps = true, 12, 1e-6
	case "mistral":
		c.SlidingWindow = []int{6, 6}
	}
	return c
}

// build makes a case's model from its inputs.
func build(d op.Device, c *Case, config llama.Config, in Tensors) (*llama.Model, error) {
	o := llama.Options{Compute: floats[c.DType].num}
	if c.Param("base") == "nf4_dq" {
		o.Quant = &quant.Options{Type: quant.NF4, Blocksize: 64, DoubleQuant: true, DType: o.Compute}
	}
	if c.Int("rank") > 0 {
		o.LoRA = &lora.Config{R: c.Int("rank"), Alpha: float64(c.Int("alpha")), Dropout: c.Float("p"), Seed: 5, Float32: c.Has("branch_f32")}
	}
	o.Full = c.Op == "full_training"
	m, err := llama.New(d, config, o, llama.WeightsFunc(func(name string, shape []int) ([]float32, error) {
		return slices.Clone(in[name].F), nil
	}))
	if err != nil {
		return nil, err
	}
	m.Checkpointing = c.Has("checkpointing")
	if c.Has("noise") {
		m.Noise = op.Noise{Alpha: c.Float("noise"), Seed: 5}
	}
	for name, a := range m.Adapters() {
		d.Write(a.A, in[name+".lora_A"].F)
		d.Write(a.B, in[name+".lora_B"].F)
	}
	return m, nil
}

// setup is what a case of a model is made of.
type setup struct {
	architecture, base    string
	rank                  int
	p, noise              float64
	float32Branch         bool
	checkpointing         bool
	eightBit              bool
	micro, steps, stop    int
	threads               int   // 0 is as many as there are
	lengths               []int // of the sequences
	ignored, unknownToken bool  // whether some labels are ignored, or all; whether an id is outside of the vocabulary
}

func (s setup) params() []Param {
	lengths := strings.ReplaceAll(strings.Trim(fmt.Sprint(s.lengths), "[]"), " ", "+")
	p := []Param{Text("arch", s.architecture), Text("base", s.base), Int("rank", s.rank), Int("alpha", 2*s.rank), Float("p", s.p), Text("lengths", lengths),
		Flag("branch_f32", s.float32Branch), Flag("checkpointing", s.checkpointing)}
	if s.steps > 0 {
		p = append(p, Int("steps", s.steps), Int("micro", s.micro), Flag("eight_bit", s.eightBit))
	}
	if s.noise > 0 {
		p = append(p, Float("noise", s.noise))
	}
	if s.stop > 0 {
		p = append(p, Int("stop", s.stop))
	}
	if s.threads > 0 {
		p = append(p, Int("threads", s.threads))
	}
	return p
}

// weights draws a model's tensors: those of norms around 1, biases and others around 0.
func weights(r *random, t DType, c llama.Config, rank int) Tensors {
	in := Tensors{}
	tensors := c.Tensors()
	for _, w := range tensors {
		n := 1
		for _, d := range w.Shape {
			n *= d
		}
		x := r.normal(n, 0.2)
		if strings.HasSuffix(w.Name, "norm.weight") {
			x = normWeights(r, n)
		}
		in[w.Name] = Floats(t, x, w.Shape...)
		if module, ok := strings.CutSuffix(w.Name, ".weight"); ok && w.Linear && rank > 0 {
			out, inner := w.Shape[0], w.Shape[1]
			in[module+".lora_A"] = Floats(F32, r.normal(rank*inner, 0.2), rank, inner)
			in[module+".lora_B"] = Floats(F32, r.normal(out*rank, 0.05), out, rank)
		}
	}
	return in
}

// batch adds tokens of steps batches.
func (s setup) batch(r *random, in Tensors, vocab, steps int) {
	tokens, bounds := 0, []int32{0}
	for _, n := range s.lengths {
		tokens += n
		bounds = append(bounds, int32(tokens))
	}
	ids, labels := r.indices(steps*tokens, vocab), r.indices(steps*tokens, vocab)
	for i := range labels {
		if s.ignored && r.below(3) == 0 {
			labels[i] = op.IgnoredLabel
		}
	}
	if s.unknownToken {
		ids[r.below(len(ids))] = int32(vocab)
	}
	shape := []int{steps, tokens}
	if s.steps == 0 {
		shape = shape[1:]
	}
	in["ids"], in["labels"], in["segments"] = Ints(ids, shape...), Ints(labels, shape...), Ints(bounds)
}

// sequences are those of one step.
func sequences(in Tensors, step int) (s train.Sequences) {
	ids, labels, bounds := in["ids"], in["labels"], in["segments"].I
	from := int32(step * ids.Cols())
	for i := range bounds[1:] {
		a, b := from+bounds[i], from+bounds[i+1]
		s = append(s, train.Sequence{IDs: ids.I[a:b], Labels: labels.I[a:b]})
	}
	return s
}

func decoderBlock(d op.Device, c *Case, in Tensors) (Tensors, error) {
	x := in["x"]
	config, in := blockModel(c, in)
	m, err := build(d, c, config, in)
	if err != nil {
		return nil, err
	}
	var y []float32
	cache := m.NewCache(x.Rows())
	for from := 0; from < x.Rows(); from += c.Int("chunk") {
		var ids []int32
		for i := from; i < min(x.Rows(), from+c.Int("chunk")); i++ {
			ids = append(ids, int32(i))
		}
		logits, err := d.Read(m.Logits(cache, ids))
		if err != nil {
			return nil, err
		}
		y = append(y, logits...)
	}
	return Tensors{"y": Floats(c.DType, y, x.Shape...)}, nil
}

// blockModel is a model whose tokens are the rows of x and whose head is the identity, with its weights.
func blockModel(c *Case, in Tensors) (llama.Config, Tensors) {
	config := oneBlock(c.Param("arch"))
	table, identity := make([]float32, config.VocabSize*config.HiddenSize), make([]float32, config.VocabSize*config.HiddenSize)
	copy(table, in["x"].F)
	for i := range config.VocabSize {
		identity[i*config.HiddenSize+i] = 1
	}
	in = maps.Clone(in)
	in["model.embed_tokens.weight"], in["lm_head.weight"] = Floats(F32, table), Floats(F32, identity)
	in["model.norm.weight"] = Floats(F32, repeated(config.HiddenSize, 1))
	return config, in
}

// oneBlock is a model of one block whose tokens are the rows of x and whose head is the identity.
func oneBlock(architecture string) llama.Config {
	c := tiny(architecture)
	c.NumHiddenLayers, c.VocabSize, c.TieWordEmbeddings = 1, c.HiddenSize, false
	if c.SlidingWindow != nil {
		c.SlidingWindow = c.SlidingWindow[:1]
	}
	return c
}

func forwardBackward(d op.Device, c *Case, in Tensors) (Tensors, error) {
	m, err := build(d, c, tiny(c.Param("arch")), in)
	if err != nil {
		return nil, err
	}
	d.WriteInts(m.Clock, []int32{op.ClockStep: 2, op.ClockFirstToken: 0})
	b := train.NewBatch(d, sequences(in, 0))
	loss, g := d.New(op.Step, "batch/loss", num.Float32, b.Tokens, 1), d.New(op.Step, "batch/gradient", num.Float32, 1, 1)
	counted := 0
	for _, l := range in["labels"].I {
		if l != op.IgnoredLabel {
			counted++
		}
	}
	d.Write(g, []float32{float32(1 / float64(max(1, counted)))})
	m.Backward(b, m.Loss(b, loss), g)
	losses, err := d.Read(loss)
	if err != nil {
		return nil, err
	}
	out := Tensors{"loss": Floats(F32, losses)}
	return out, readParameters(d, m, out, func(p llama.Parameter) *op.Tensor { return p.Grad })
}

// readParameters adds a tensor of each parameter.
func readParameters(d op.Device, m *llama.Model, out Tensors, which func(p llama.Parameter) *op.Tensor) error {
	for _, p := range m.Parameters() {
		values, err := d.Read(which(p))
		if err != nil {
			return err
		}
		out[p.Name] = Floats(F32, values, p.Shape...)
	}
	return nil
}

// run is a training, with what its steps reported.
type run struct {
	*train.Trainer
	d           op.Device
	c           *Case
	in          Tensors
	m           *llama.Model
	loss, norms []float32
}

func newRun(d op.Device, c *Case, in Tensors) (*run, error) {
	m, err := build(d, c, tiny(c.Param("arch")), in)
	if err != nil {
		return nil, err
	}
	t := train.New(d, m, train.Config{
		AdamW:    optim.AdamWConfig{LR: 0.01, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01},
		Schedule: optim.Schedule{Kind: "linear", Warmup: 1, Steps: c.Int("steps") + 1}, MaxGradNorm: 0.5, EightBit: c.Has("eight_bit"),
	})
	return &run{Trainer: t, d: d, c: c, in: in, m: m}, nil
}

// until takes steps until so many are taken.
func (r *run) until(steps int) error {
	for r.Steps() < steps {
		var micro []train.Sequences
		for batch := sequences(r.in, r.Steps()); len(batch) > 0; {
			n := min(r.c.Int("micro"), len(batch))
			micro, batch = append(micro, batch[:n]), batch[n:]
		}
		report, err := r.Step(micro)
		if err != nil {
			return err
		}
		r.loss, r.norms = append(r.loss, report.Loss), append(r.norms, report.GradNorm)
	}
	return nil
}

// end is where a run has come to.
func (r *run) end() (Tensors, error) {
	out := Tensors{"loss": Floats(F32, r.loss), "norm": Floats(F32, r.norms)}
	return out, readParameters(r.d, r.m, out, func(p llama.Parameter) *op.Tensor { return p.Value })
}

func trainingSteps(d op.Device, c *Case, in Tensors) (Tensors, error) {
	r, err := newRun(d, c, in)
	if err != nil {
		return nil, err
	}
	if err := r.until(c.Int("steps")); err != nil {
		return nil, err
	}
	return r.end()
}

func twice(d op.Device, c *Case, in Tensors) (Tensors, error) {
	first, err := trainingSteps(d, c, in)
	if err != nil {
		return nil, err
	}
	var second Tensors
	withThreads(d, c, func() { second, err = trainingSteps(d, c, in) })
	if err != nil {
		return nil, err
	}
	return differing(first, second), nil
}

// threads is held by who has changed the number of Go's.
var threads sync.Mutex

// withThreads calls f while the case's number of threads compute, if it has one: Go's own, and the device's if it has a say in it.
func withThreads(d op.Device, c *Case, f func()) {
	if c.Has("threads") {
		n := c.Int("threads")
		threads.Lock()
		defer threads.Unlock()
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
		if s, ok := d.(interface{ SetThreads(n int) (before int) }); ok {
			defer s.SetThreads(s.SetThreads(n))
		}
	}
	f()
}

func resumed(d op.Device, c *Case, in Tensors) (Tensors, error) {
	through, err := trainingSteps(d, c, in)
	if err != nil {
		return nil, err
	}
	first, err := newRun(d, c, in)
	if err != nil {
		return nil, err
	}
	if err := first.until(c.Int("stop")); err != nil {
		return nil, err
	}
	second, err := newRun(d, c, in)
	if err != nil {
		return nil, err
	}
	second.loss, second.norms = first.loss, first.norms
	if err := carryOver(first, second); err != nil {
		return nil, err
	}
	if err := second.until(c.Int("steps")); err != nil {
		return nil, err
	}
	end, err := second.end()
	return differing(through, end), err
}

// carryOver saves a run's state to a file and loads it into another.
func carryOver(from, into *run) error {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	const name = "state.safetensors"
	if err := from.Save(filepath.Join(dir, name), from.c.Name()); err != nil {
		return err
	}
	f, err := checkpoint.Open(os.DirFS(dir), name)
	if err != nil {
		return err
	}
	defer f.Close()
	return into.Load(f, from.c.Name())
}

// differing counts the elements that differ.
func differing(a, b Tensors) Tensors {
	all := 0
	for name, t := range a {
		n, _ := differences(t, b[name])
		all += n
	}
	return Tensors{"differing": Ints([]int32{int32(all)})}
}

func decoderBlockCases(m *Maker) {
	add := func(level Level, t DType, s setup, tokens, chunk int, reason string) {
		config := oneBlock(s.architecture)
		params := append(s.params(), Int("tokens", tokens), Int("chunk", chunk))
		m.Add(level, t, reason, slices.DeleteFunc(params, func(p Param) bool { return p.Name == "lengths" }), func(r *random) Tensors {
			in := weights(r, t, config, s.rank)
			for _, name := range []string{"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} {
				delete(in, name)
			}
			in["x"] = Floats(t, r.normal(tokens*config.HiddenSize, 1), tokens, config.HiddenSize)
			return in
		})
	}
	for _, t := range []DType{F32, BF16, F16} {
		for _, s := range architectures {
			for _, base := range []string{"dense", "nf4_dq"} {
				level := Quick
				if base == "nf4_dq" && t == BF16 {
					level = Smoke
				}
				s := setup{architecture: s.name, base: base, rank: 4}
				add(level, t, s, 20, 20, s.reason())
				add(Quick, t, s, 1, 1, s.reason())
				add(Quick, t, s, 32, 7, "cache")
				add(Quick, t, s, 9, 1, "cache")
				s.rank = 0
				add(Quick, t, s, 20, 20, "no-adapter")
				s.rank, s.float32Branch = 3, true
				add(Quick, t, s, 20, 20, "float32-branch")
			}
		}
	}
}

// architectures are those of tiny models, with what is special about them.
var architectures = []struct{ name, reason string }{{"llama", "whole"}, {"qwen2", "bias"}, {"qwen3", "head-norms"}, {"mistral", "window"}}

// reason is what is special about the architecture.
func (s setup) reason() string {
	for _, a := range architectures {
		if a.name == s.architecture {
			return a.reason
		}
	}
	panic("conformance: no architecture " + s.architecture)
}

func forwardBackwardCases(m *Maker) {
	add := func(level Level, t DType, reason string, s setup) {
		config := tiny(s.architecture)
		m.Add(level, t, reason, s.params(), func(r *random) Tensors {
			in := weights(r, t, config, s.rank)
			s.batch(r, in, config.VocabSize, 1)
			return in
		})
	}
	for _, t := range []DType{F32, BF16} {
		for _, a := range architectures {
			for _, base := range []string{"dense", "nf4_dq"} {
				level := Quick
				if base == "nf4_dq" {
					level = Smoke
				}
				s := setup{architecture: a.name, base: base, rank: 4, lengths: []int{19, 12}, ignored: true}
				add(level, t, "packing", s)
				s.lengths = []int{15}
				add(Quick, t, a.reason, s)
				s.lengths, s.p = []int{9, 1, 14}, 0.25
				add(Quick, t, "dropout", s)
				s.checkpointing = true
				add(Quick, t, "checkpointing", s)
				s.float32Branch = true
				add(Quick, t, "float32-branch", s)
				s = setup{architecture: a.name, base: base, rank: 1, lengths: []int{11, 3}}
				add(Quick, t, a.reason, s)
			}
		}
		add(Quick, t, "out-of-range", setup{architecture: "llama", base: "dense", rank: 2, lengths: []int{5, 4}, unknownToken: true})
	}
}

// addTraining adds a case that trains.
func addTraining(m *Maker, level Level, t DType, reason string, s setup) {
	config := tiny(s.architecture)
	m.Add(level, t, reason, s.params(), func(r *random) Tensors {
		in := weights(r, t, config, s.rank)
		for name, x := range in {
			if strings.HasSuffix(name, ".lora_B") { // as a training begins
				clear(x.F)
			}
		}
		s.batch(r, in, config.VocabSize, s.steps)
		return in
	})
}

// trainings are those that are judged, are stopped and are run twice.
func trainings(f func(t DType, reason string, s setup)) {
	for _, t := range []DType{F32, BF16} {
		for _, a := range architectures {
			for _, base := range []string{"dense", "nf4_dq"} {
				s := setup{architecture: a.name, base: base, rank: 3, lengths: []int{13, 8, 5}, micro: 3, steps: 3, ignored: true}
				f(t, a.reason, s)
				s.p, s.micro = 0.2, 1
				f(t, "accumulation", s)
			}
		}
		s := setup{architecture: "llama", base: "nf4_dq", rank: 3, lengths: []int{13, 8, 5}, micro: 2, steps: 3, p: 0.3, checkpointing: true}
		f(t, "checkpointing", s)
		s.float32Branch = true
		f(t, "float32-branch", s)
		f(t, "8-bit-state", setup{architecture: "llama", base: "nf4_dq", rank: 128, lengths: []int{6, 5}, micro: 1, steps: 4, p: 0.1, eightBit: true})
		f(t, "8-bit-state", setup{architecture: "qwen2", base: "dense", rank: 103, lengths: []int{6, 5}, micro: 2, steps: 3, eightBit: true})
	}
}

func trainingCases(m *Maker) {
	trainings(func(t DType, reason string, s setup) {
		level := Quick
		if s.architecture == "llama" && s.base == "nf4_dq" && !s.eightBit {
			level = Smoke
		}
		addTraining(m, level, t, reason, s)
		s.steps *= 10
		addTraining(m, Full, t, reason, s)
	})
}

func fullCases(m *Maker) {
	for _, t := range []DType{F32, BF16} {
		for _, a := range architectures {
			s := setup{architecture: a.name, base: "dense", lengths: []int{13, 8, 5}, micro: 3, steps: 3, ignored: true}
			addTraining(m, smokeIf(a.name == "qwen2"), t, a.reason, s)
			s.micro, s.noise = 1, 2
			addTraining(m, smokeIf(a.name == "qwen2" || a.name == "qwen3"), t, "accumulation", s)
			s.micro, s.checkpointing = 2, true
			addTraining(m, Quick, t, "checkpointing", s)
		}
	}
}

func resumeCases(m *Maker) {
	trainings(func(t DType, _ string, s setup) {
		for s.stop = 1; s.stop < s.steps; s.stop++ {
			addTraining(m, s.again(), t, "stopped", s)
		}
	})
}

func determinismCases(m *Maker) {
	trainings(func(t DType, _ string, s setup) {
		addTraining(m, s.again(), t, "again", s)
		for _, s.threads = range []int{1, 3, 8} {
			level := s.again()
			if s.threads != 3 {
				level = Full
			}
			addTraining(m, level, t, "threads", s)
		}
	})
}

// again is how early a training that was judged already is looked at once more.
func (s setup) again() Level {
	switch {
	case s.checkpointing && s.stop < 2:
		return Smoke
	case s.base == "nf4_dq" && (s.p > 0 || s.eightBit):
		return Quick
	}
	return Full
}
