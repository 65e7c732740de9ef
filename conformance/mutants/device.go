package mutants

import (
	"errors"
	"strings"

	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
)

// Faulty devices. Each wraps a right one and has one method, or a few, of its own.

// beside are n rows of the whole tensor that a view is of, beginning at the row first of the view: −1 is the row before it.
func beside(t *op.Tensor, first, n int) *op.Tensor {
	v := *t
	v.FirstRow, v.Rows = t.FirstRow+first, n
	return &v
}

// writesBehind rounds the rows of a result up to a tile's.
type writesBehind struct{ op.Device }

func (d writesBehind) Linear(at op.At, y, x *op.Tensor, w op.Weight, bias *op.Tensor) {
	d.Device.Linear(at, y, x, w, bias)
	d.Zero(beside(y, y.Rows, 1))
}

// writesBefore begins its last row too early.
type writesBefore struct{ op.Device }

func (d writesBefore) RMSNorm(at op.At, y, r, x, w *op.Tensor, eps float32) {
	d.Device.RMSNorm(at, y, r, x, w, eps)
	d.Zero(beside(r, -1, 1))
}

// reliesOnZero adds its result to memory that it takes for zeros.
type reliesOnZero struct{ op.Device }

func (d reliesOnZero) Add(at op.At, y, a, b *op.Tensor) {
	sum := d.New(op.Step, "mutant", y.DType, y.Rows, y.Cols)
	d.Device.Add(at, sum, a, b)
	d.Device.Add(at, y, y, sum)
}

// worksInPlace turns its input itself and copies it to where the result is wanted.
type worksInPlace struct{ op.Device }

func (d worksInPlace) RoPE(at op.At, y, x, cos, sin *op.Tensor, positions *op.Ints) {
	d.Device.RoPE(at, x, x, cos, sin, positions)
	if values, err := d.Read(x); err == nil {
		d.Write(y, values)
	}
}

// ignoresViews reads a tensor from its memory's first row on, wherever the view begins.
type ignoresViews struct{ op.Device }

func (d ignoresViews) Gate(at op.At, y, gate, up *op.Tensor, act op.Activation) {
	d.Device.Gate(at, y, beside(gate, -gate.FirstRow, gate.Rows), up, act)
}

// keepsSums does not clear its accumulator between calls.
type keepsSums struct {
	op.Device
	before *float32
}

func (d keepsSums) GradNorm(at op.At, norm *op.Tensor, grads []*op.Tensor) {
	d.Device.GradNorm(at, norm, grads)
	if values, err := d.Read(norm); err == nil {
		*d.before += values[0]
		d.Write(norm, []float32{*d.before})
	}
}

// anyOrder takes the last token first at some calls, as atomics may.
type anyOrder struct {
	op.Device
	calls *int
}

func (d anyOrder) LoRALinearBackward(at op.At, dx, dy, u, x *op.Tensor, w op.Weight, a *op.Adapter) {
	*d.calls++
	if last := dy.Rows - 1; *d.calls%11 == 0 && last > 0 {
		d.part(at, last, last+1, dx, dy, u, x, w, *a)
		d.part(at, 0, last, dx, dy, u, x, w, *a)
		return
	}
	d.Device.LoRALinearBackward(at, dx, dy, u, x, w, a)
}

// part is backward of the tokens from ≤ i < to, with the mask that is theirs.
func (d anyOrder) part(at op.At, from, to int, dx, dy, u, x *op.Tensor, w op.Weight, a op.Adapter) {
	if clock := a.Dropout.Clock; clock != nil {
		if values, err := d.ReadInts(clock); err == nil {
			values[op.ClockFirstToken] += int32(from)
			a.Dropout.Clock = d.NewInts(op.Step, "mutant", len(values))
			d.WriteInts(a.Dropout.Clock, values)
		}
	}
	if dx != nil {
		dx = dx.View(from, to)
	}
	d.Device.LoRALinearBackward(at, dx, dy.View(from, to), u.View(from, to), x.View(from, to), w, &a)
}

// boasts says that it has what it has not.
type boasts struct{ op.Device }

func (boasts) AdamW8(op.At, *op.Tensor, *op.State8, *op.Tensor, *op.Tensor, *op.Tensor) {}

// forgetsMoments loads a run's state without the moments.
type forgetsMoments struct{ op.Device }

func (d forgetsMoments) Write(t *op.Tensor, x []float32) {
	if !strings.HasSuffix(t.Name, ".m") && !strings.HasSuffix(t.Name, ".v") {
		d.Device.Write(t, x)
	}
}

func (d forgetsMoments) WriteState8(s *op.State8, x *optim.State8) {
	d.Device.WriteState8(s, optim.NewState8(len(x.M)))
}

// fallsOnEmpty takes the first element of what has none.
type fallsOnEmpty struct{ op.Device }

func (d fallsOnEmpty) Dropout(at op.At, y, x *op.Tensor, k op.Dropout) {
	if values, err := d.Read(x); err == nil {
		_ = values[0]
	}
	d.Device.Dropout(at, y, x, k)
}

// acceptsAll clamps what it should reject.
type acceptsAll struct{ op.Device }

func (d acceptsAll) Embedding(at op.At, y, table *op.Tensor, ids *op.Ints) {
	values, err := d.ReadInts(ids)
	if err != nil {
		return
	}
	for i, id := range values {
		values[i] = max(0, min(id, int32(table.Rows-1)))
	}
	clamped := d.NewInts(op.Step, "mutant", len(values))
	d.WriteInts(clamped, values)
	d.Device.Embedding(at, y, table, clamped)
}

// rejectsIgnored takes the ignored label for a bad one.
type rejectsIgnored struct {
	op.Device
	err *error
}

func (d rejectsIgnored) HeadLoss(at op.At, loss, lse, x *op.Tensor, w op.Weight, labels *op.Ints) {
	values, _ := d.ReadInts(labels)
	for _, label := range values {
		if label < 0 && *d.err == nil {
			*d.err = errors.New("a negative label")
		}
	}
	d.Device.HeadLoss(at, loss, lse, x, w, labels)
}

func (d rejectsIgnored) Sync() error {
	if *d.err != nil {
		return *d.err
	}
	return d.Device.Sync()
}

func (d rejectsIgnored) Read(t *op.Tensor) ([]float32, error) {
	if *d.err != nil {
		return nil, *d.err
	}
	return d.Device.Read(t)
}

// drawsAnew has another mask each time that a block is computed, as a generator with a state has when it is not put back.
type drawsAnew struct {
	op.Device
	drawn map[drawnAt]int
}

type drawnAt struct {
	clock       *op.Ints // of the model
	at          op.At
	step, first int32
}

func (d drawsAnew) LoRALinear(at op.At, y, u, x *op.Tensor, w op.Weight, bias *op.Tensor, a *op.Adapter) {
	b := *a
	if clock := a.Dropout.Clock; a.Dropout.P > 0 && clock != nil {
		if values, err := d.ReadInts(clock); err == nil {
			k := drawnAt{clock, at, values[op.ClockStep], values[op.ClockFirstToken]}
			b.Dropout.Seed += uint64(d.drawn[k])
			d.drawn[k]++
		}
	}
	d.Device.LoRALinear(at, y, u, x, w, bias, &b)
}

// recordsValues keeps a step's scalars in its record, and replays them for ever.
type recordsValues struct {
	op.Device
	scalars *[]float32
}

func (d recordsValues) AdamW(at op.At, p, m, v, g, scalars, norm *op.Tensor) {
	if values, err := d.Read(scalars); err == nil && *d.scalars == nil {
		*d.scalars = values
	}
	recorded := d.New(op.Step, "mutant", num.Float32, 1, optim.NumScalars)
	d.Write(recorded, *d.scalars)
	d.Device.AdamW(at, p, m, v, g, recorded, norm)
}

// overwritesGradients replaces the gradients of A and B: of a batch in several micro-batches the last one counts.
type overwritesGradients struct{ op.Device }

func (d overwritesGradients) LoRALinearBackward(at op.At, dx, dy, u, x *op.Tensor, w op.Weight, a *op.Adapter) {
	d.Zero(a.GradA)
	d.Zero(a.GradB)
	d.Device.LoRALinearBackward(at, dx, dy, u, x, w, a)
}

// meansOfMeans divides each micro-batch's loss by its own number of tokens.
type meansOfMeans struct{ op.Device }

func (d meansOfMeans) HeadLossBackward(at op.At, dx, dw, lse, x *op.Tensor, w op.Weight, labels *op.Ints, _ *op.Tensor) {
	values, err := d.ReadInts(labels)
	if err != nil {
		return
	}
	g := d.New(op.Step, "mutant", num.Float32, 1, 1)
	d.Write(g, []float32{1 / float32(max(1, counted(values)))})
	d.Device.HeadLossBackward(at, dx, dw, lse, x, w, labels, g)
}

// castsBranch computes PEFT's float32 branch in the compute type.
type castsBranch struct{ op.Device }

func (d castsBranch) LoRALinear(at op.At, y, u, x *op.Tensor, w op.Weight, bias *op.Tensor, a *op.Adapter) {
	b := *a
	b.Float32 = false
	d.Device.LoRALinear(at, y, u, x, w, bias, &b)
}

// losesBias has no bias where the weight is quantized.
type losesBias struct{ op.Device }

func (d losesBias) LoRALinear(at op.At, y, u, x *op.Tensor, w op.Weight, bias *op.Tensor, a *op.Adapter) {
	if w.Quantized != nil {
		bias = nil
	}
	d.Device.LoRALinear(at, y, u, x, w, bias, a)
}

// needsAll writes to gradients that were not asked for.
type needsAll struct{ op.Device }

func (d needsAll) LinearBackward(at op.At, dx, dw, dbias, dy, x *op.Tensor, w op.Weight) {
	d.Device.LinearBackward(at, dx, dw, dbias, dy, x, w)
	_ = dx.Name
}

// clearsHalf leaves the second half of a tensor as it is.
type clearsHalf struct{ op.Device }

func (d clearsHalf) Zero(t *op.Tensor) { d.Device.Zero(t.View(0, t.Rows/2)) }

// reusesMemory gives out what was given back as it is, not zeros.
type reusesMemory struct{ op.Device }

func (d reusesMemory) New(life op.Lifetime, name string, t num.DType, rows, cols int) *op.Tensor {
	x := d.Device.New(life, name, t, rows, cols)
	if strings.HasPrefix(name, "gradients/") {
		stale := make([]float32, rows*cols)
		for i := range stale {
			stale[i] = 0x1p-10
		}
		d.Device.Write(x, stale)
	}
	return x
}

// readsEarly does not wait for the work: it reads what was there before the last operation.
type readsEarly struct {
	op.Device
	late *func()
}

func (d readsEarly) EmbeddingBackward(at op.At, dtable, dy *op.Tensor, ids *op.Ints) {
	d.flush()
	*d.late = func() { d.Device.EmbeddingBackward(at, dtable, dy, ids) }
}

func (d readsEarly) Sync() error {
	d.flush()
	return d.Device.Sync()
}

func (d readsEarly) flush() {
	if f := *d.late; f != nil {
		*d.late = nil
		f()
	}
}

// cutsHalves stores bfloat16 by cutting.
type cutsHalves struct{ op.Device }

func (d cutsHalves) Write(t *op.Tensor, x []float32) {
	cut := make([]float32, len(x))
	for i, v := range x {
		cut[i] = cutToBFloat16(v, t.DType)
	}
	d.Device.Write(t, cut)
}

// seesTheCache lets queries see all rows of a cache.
type seesTheCache struct{ op.Device }

func (d seesTheCache) Attention(at op.At, y, stats, q, k, v *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) {
	if bounds, err := d.ReadInts(segmentsKV); err == nil && bias == nil {
		bounds[len(bounds)-1] = int32(k.Rows)
		segmentsKV = d.NewInts(op.Step, "mutant", len(bounds))
		d.WriteInts(segmentsKV, bounds)
	}
	d.Device.Attention(at, y, stats, q, k, v, segmentsQ, segmentsKV, bias, s)
}

var deviceMutants = []Mutant{
	{
		Name: "writes a row behind", Bug: "Rows are rounded up to a tile's: one behind the result is written.",
		Seen: "bitsandbytes #2042, PR #2043 (Triton)", Op: "linear",
		Device: func(d op.Device) op.Device { return writesBehind{d} },
	},
	{
		Name: "writes a row before", Bug: "The row before the statistics is written.", Op: "rmsnorm",
		Device: func(d op.Device) op.Device { return writesBefore{d} },
	},
	{
		Name: "relies on zeros", Bug: "The result is added to memory that is taken for zeros.", Op: "add",
		Device: func(d op.Device) op.Device { return reliesOnZero{d} },
	},
	{
		Name: "works in place", Bug: "The input is turned, then copied: whoever needs it later finds it turned.",
		Seen: "unsloth's RoPE kernels, by design", Op: "rope",
		Device: func(d op.Device) op.Device { return worksInPlace{d} },
	},
	{
		Name: "ignores views", Bug: "A view's first row is not looked at: memory is read from its beginning.",
		Seen: "bitsandbytes #1342, #1690, PR #1859", Op: "gate",
		Device: func(d op.Device) op.Device { return ignoresViews{d} },
	},
	{
		Name: "keeps its sums", Bug: "An accumulator is not cleared between calls.", Op: "grad_norm",
		Device: func(d op.Device) op.Device { return keepsSums{d, new(float32)} },
	},
	{
		Name: "any order", Bug: "Tokens are added in another order at some calls: a second run has other bits.",
		Seen: "atomics, as in pytorch PR #187682", Op: "determinism",
		Device: func(d op.Device) op.Device { return anyOrder{d, new(int)} },
	},
	{
		Name: "boasts", Bug: "AdamW8 is supported, by a function without a body.", Op: "adamw8",
		Device: func(d op.Device) op.Device { return boasts{d} },
	},
	{
		Name: "forgets the moments", Bug: "A run that goes on begins with moments of zero.",
		Seen: "qlora's known issue 2; entrenar #293; OneVision-Encoder PR #65", Op: "resume",
		Device: func(d op.Device) op.Device { return forgetsMoments{d} },
	},
	{
		Name: "falls on nothing", Bug: "A tensor without rows makes it panic.", Op: "dropout",
		Device: func(d op.Device) op.Device { return fallsOnEmpty{d} },
	},
	{
		Name: "accepts everything", Bug: "A token that is not in the table is taken for the last one.", Op: "embedding",
		Device: func(d op.Device) op.Device { return acceptsAll{d} },
	},
	{
		Name: "rejects what is good", Bug: "An ignored label is an error.", Op: "head_loss",
		Device: func(d op.Device) op.Device { return rejectsIgnored{d, new(error)} },
	},
	{
		Name: "another mask when computed again", Bug: "Under checkpointing a block that is computed again draws other masks.",
		Seen: "OLMo-core PR #828; guided-diffusion #167; PyTorch before PR #14253", Op: "model_forward_backward",
		Device: func(d op.Device) op.Device { return drawsAnew{d, map[drawnAt]int{}} },
	},
	{
		Name: "records values", Bug: "A recorded step keeps the learning rate and bias correction that it was recorded with.", Op: "training_steps",
		Device: func(d op.Device) op.Device { return recordsValues{d, new([]float32)} },
	},
	{
		Name: "micro-batches overwritten", Bug: "The gradients of A and B are those of the last micro-batch.", Op: "training_steps",
		Device: func(d op.Device) op.Device { return overwritesGradients{d} },
	},
	{
		Name: "mean of means", Bug: "Each micro-batch's loss is divided by its own number of tokens, not the batch's.",
		Seen: "transformers PR #34191, #35203", Op: "training_steps",
		Device: func(d op.Device) op.Device { return meansOfMeans{d} },
	},
	{
		Name: "branch cast", Bug: "PEFT's float32 branch is computed in the compute type.", Op: "lora_linear",
		Device: func(d op.Device) op.Device { return castsBranch{d} },
	},
	{
		Name: "loses a bias", Bug: "Quantized layers with an adapter are computed without their bias.", Op: "decoder_block",
		Device: func(d op.Device) op.Device { return losesBias{d} },
	},
	{
		Name: "needs all gradients", Bug: "It falls where a gradient is not asked for.", Op: "linear_backward",
		Device: func(d op.Device) op.Device { return needsAll{d} },
	},
	{
		Name: "clears a half", Bug: "Zero leaves the second half as it is: gradients of the step before stay.", Op: "training_steps",
		Device: func(d op.Device) op.Device { return clearsHalf{d} },
	},
	{
		Name: "memory with values in it", Bug: "A new tensor holds what was there before, not zeros.", Op: "model_forward_backward",
		Device: func(d op.Device) op.Device { return reusesMemory{d} },
	},
	{
		Name: "reads early", Bug: "Read does not wait for the work.", Op: "embedding_backward",
		Device: func(d op.Device) op.Device { return readsEarly{d, new(func())} },
	},
	{
		Name: "cuts what it stores", Bug: "bfloat16 is cut, not rounded, when it is brought to the device.", Op: "to_bfloat16",
		Device: func(d op.Device) op.Device { return cutsHalves{d} },
	},
	{
		Name: "sees the whole cache", Bug: "Rows of the cache that were never written are seen.", Op: "decoder_block",
		Device: func(d op.Device) op.Device { return seesTheCache{d} },
	},
}
