package op

import (
	"qlora/ref/num"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

// Device computes the operations of this package, wherever it does so.
//
// A call enqueues its work and returns nothing; results are out-parameters. Wrong shapes panic, for they are bugs of the
// program. Bad data (a token id beyond the table, say) and lack of memory stick as the device's first error, which carries
// the At of its operation and surfaces at Read or Sync; until then later calls do nothing. Only Sync and what reads
// wait. What changes from step to step (the clock, positions, the optimizer's scalars) lives in device memory, so that a
// recorded step can be replayed.
//
// Every backward operation adds to the gradients it is given and passes over those that are nil: gradients of activations
// are rounded to their type at each addition, gradients of parameters are float32.
//
// Activations, weights and dy of one call have one type, the compute type; what is kept beside them (r, stats, lse, loss, scalars, norm)
// and gradients of parameters are float32. What is handed to a call may be changed after it, but for 4-bit weights. Calls come
// from one goroutine at a time.
//
// What lives Paged is brought to the device by Write, Zero and Read, WriteState8 and ReadState8, and as AdamW's m and v, AdamW8's state and
// Lion's m. No other operation brings it in: none may be given such a tensor.
//
// A device that lacks an operation says so in Supports. It never computes it another way in silence.
type Device interface {
	Name() string
	// Supports is nil if the device has the operation in compute type t, and says why not otherwise.
	Supports(operation string, t num.DType) error

	Arena() *Arena
	// New is a tensor of zeros. The first component of its name is the part of memory to which it counts.
	New(life Lifetime, name string, t num.DType, rows, cols int) *Tensor
	NewInts(life Lifetime, name string, n int) *Ints
	// NewQuantized brings a 4-bit matrix [out, in] to the device, for the run.
	NewQuantized(name string, w *quant.Tensor) *Quantized
	// Quantize makes a 4-bit matrix [out, in] of x as quant.Quantize does, for the run. It has the profile Spec; what others need is done
	// on the host. Values that are not finite are bad data: the error names the matrix and the element.
	Quantize(at At, name string, x *Tensor, o quant.Options) *Quantized
	// ReadQuantized gives a 4-bit matrix as files have it. It is the device's own and must not be changed.
	ReadQuantized(w *Quantized) (*quant.Tensor, error)
	// Dequantize: y = w's values, rounded to float32, then to y's type.
	Dequantize(at At, y *Tensor, w *Quantized)
	// NewState8 is AdamW's 8-bit state for n parameters, before the first step. life is Run or Paged.
	NewState8(life Lifetime, name string, n int) *State8
	WriteState8(s *State8, x *optim.State8)
	ReadState8(s *State8) (*optim.State8, error)
	// Mark and Release bracket the allocations of one lifetime: what came after the mark is given back.
	Mark(life Lifetime) Mark
	Release(m Mark)

	// Write rounds x to t's type. len(x) is t.Len().
	Write(t *Tensor, x []float32)
	WriteInts(t *Ints, x []int32)
	Zero(t *Tensor)
	Read(t *Tensor) ([]float32, error)
	ReadInts(t *Ints) ([]int32, error)
	Sync() error
	// Record runs f. A device that can replays the work of an earlier f under the same key instead.
	Record(key string, f func())
	// PageTo says in which folder lies the file to which goes what lives Paged when there is no room for it. Where it is sure that something
	// will, the file is filled now, so that a full disk is found before a step is under way (see Pages.To, which says how far one can rely
	// on that). Devices that do not page do nothing.
	PageTo(dir string) error
	// BringIn and BringInState8 begin to bring what lives Paged to the device, ahead of its use by an operation that brings it in. They are
	// hints: it comes in anyway, and what was used least recently leaves by itself.
	BringIn(t *Tensor)
	BringInState8(s *State8)

	// Embedding: y[i] = table[ids[i]].
	Embedding(at At, y, table *Tensor, ids *Ints)
	EmbeddingBackward(at At, dtable, dy *Tensor, ids *Ints)

	// Linear: y = x·Wᵀ + bias [1, out] or nil, one rounding.
	Linear(at At, y, x *Tensor, w Weight, bias *Tensor)
	LinearBackward(at At, dx, dw, dbias, dy, x *Tensor, w Weight)

	// LoRALinear: Linear, then its adapter (see LoRAForward). u [tokens, r] is kept for backward.
	LoRALinear(at At, y, u, x *Tensor, w Weight, bias *Tensor, a *Adapter)
	LoRALinearBackward(at At, dx, dy, u, x *Tensor, w Weight, a *Adapter)

	// RMSNorm normalizes each row of x, or, where w is shorter, each part of it of w's length: Qwen3's heads. r
	// [rows, parts] is kept for backward.
	RMSNorm(at At, y, r, x, w *Tensor, eps float32)
	RMSNormBackward(at At, dx, dw, dy, x, w, r *Tensor)

	// RoPE turns x's heads by tables cos and sin [positions, dim/2].
	RoPE(at At, y, x, cos, sin *Tensor, positions *Ints)
	RoPEBackward(at At, dx, dy, cos, sin *Tensor, positions *Ints)

	// Attention: s.T is ignored, the compute type is q's.
	Attention(at At, y, stats, q, k, v *Tensor, segmentsQ, segmentsKV *Ints, bias *Tensor, s AttentionShape)
	AttentionBackward(at At, dq, dk, dv, dbias, dy, q, k, v, stats *Tensor, segmentsQ, segmentsKV *Ints, bias *Tensor, s AttentionShape)
	// CacheAppend copies x to the rows of cache that begin at position[0].
	CacheAppend(at At, cache, x *Tensor, position *Ints)

	Gate(at At, y, gate, up *Tensor, act Activation)
	GateBackward(at At, dgate, dup, dy, gate, up *Tensor, act Activation)
	// Add: y = a + b. y may be a.
	Add(at At, y, a, b *Tensor)
	// Copy: y = x, which is float32, rounded to y's type.
	Copy(at At, y, x *Tensor)
	Dropout(at At, y, x *Tensor, d Dropout)
	DropoutBackward(at At, dx, dy *Tensor, d Dropout)
	// Noise: y = x and noise, whose size depends on the length of each segment (see AddNoise). A gradient goes through it unchanged.
	Noise(at At, y, x *Tensor, segments *Ints, n Noise)

	// HeadLoss: loss and lse [tokens, 1], float32.
	HeadLoss(at At, loss, lse, x *Tensor, w Weight, labels *Ints)
	// HeadLossBackward: g [1, 1] is the gradient of every token's loss.
	HeadLossBackward(at At, dx, dw, lse, x *Tensor, w Weight, labels *Ints, g *Tensor)
	// Penalize: y [1, vocab], float32, is the one row of logits, less those of tokens that were seen or are banned. Both may hold IgnoredLabel.
	Penalize(at At, y, logits *Tensor, seen, banned *Ints, penalty float32)
	// Choose sets token[0] from the one row of logits; the clock's step selects the random number.
	Choose(at At, token *Ints, logits *Tensor, c Choice, clock *Ints)

	// GradNorm sets norm [1, 1] to the Euclidean norm of all grads, in the order given: Sum of squares a tensor, then the
	// Sum of those, then the root.
	GradNorm(at At, norm *Tensor, grads []*Tensor)
	// AdamW updates p, m, v (float32) from g. scalars [1, optim.NumScalars] and norm are in device memory.
	AdamW(at At, p, m, v, g, scalars, norm *Tensor)
	// AdamW8 is AdamW with 8-bit blockwise moments (optim.AdamW8).
	AdamW8(at At, p *Tensor, s *State8, g, scalars, norm *Tensor)
	// Lion updates p and m (float32) from g, by scalars of its own (optim.NewLionScalars).
	Lion(at At, p, m, g, scalars, norm *Tensor)
}

// Fill writes what values gives to t. A device that only accounts for memory (it has a method Accounts that says so) does not ask for them.
func Fill(d Device, t *Tensor, values func() []float32) {
	if a, ok := d.(interface{ Accounts() bool }); ok && a.Accounts() {
		return
	}
	d.Write(t, values())
}

// Adapter is LoRA on one linear layer: float32 masters A [r, in] and B [out, r], their gradients, and the branch's setting.
type Adapter struct {
	A, B         *Tensor
	GradA, GradB *Tensor
	Scale        float32 // α/r, or α/√r
	Dropout      Dropout
	Float32      bool // PEFT's mode: the branch is computed in float32
}

// branch is the type in which the adapter's branch is computed, for compute type t.
func (a *Adapter) branch(t num.DType) num.DType {
	if a.Float32 {
		return num.Float32
	}
	return t
}
