package op

import (
	"errors"
	"fmt"
	"math"

	"qlora/ref/num"
)

// What every device checks before it computes. A wrong shape is a bug of the program, so Check… of an operation panics, with the
// operation's place. Wrong data are errors, which devices keep: CheckIndices and CheckSegments.

// shaped panics unless t, where there is one, is a rows×cols matrix.
func shaped(at At, t *Tensor, rows, cols int) {
	if t != nil && (t.Rows != rows || t.Cols != cols) {
		panic(fmt.Sprintf("op: %v: %s is %d×%d, want %d×%d", at, t.Name, t.Rows, t.Cols, rows, cols))
	}
}

// full panics unless those tensors that there are hold float32, as gradients of parameters and all that is kept beside activations do.
func full(at At, tensors ...*Tensor) {
	for _, t := range tensors {
		if t != nil && t.DType != num.Float32 {
			panic(fmt.Sprintf("op: %v: %s is %v, want %v", at, t.Name, t.DType, num.Float32))
		}
	}
}

// CheckWrite wants as many values as t has elements.
func CheckWrite(t *Tensor, x []float32) {
	if len(x) != t.Len() {
		panic(fmt.Sprintf("op: %d values written to %s, which has %d×%d", len(x), t.Name, t.Rows, t.Cols))
	}
}

func CheckWriteInts(t *Ints, x []int32) {
	if len(x) != t.Len {
		panic(fmt.Sprintf("op: %d values written to %s, which has %d", len(x), t.Name, t.Len))
	}
}

func CheckDequantize(at At, y *Tensor, w *Quantized) { shaped(at, y, w.Out, w.In) }

func CheckEmbedding(at At, y, table *Tensor, ids *Ints) { shaped(at, y, ids.Len, table.Cols) }

func CheckEmbeddingBackward(at At, dtable, dy *Tensor, ids *Ints) {
	shaped(at, dy, ids.Len, dtable.Cols)
	full(at, dtable)
}

func CheckLinear(at At, y, x *Tensor, w Weight, bias *Tensor) {
	shaped(at, x, x.Rows, w.In())
	shaped(at, y, x.Rows, w.Out())
	shaped(at, bias, 1, w.Out())
}

func CheckLinearBackward(at At, dx, dw, dbias, dy, x *Tensor, w Weight) {
	shaped(at, dy, x.Rows, w.Out())
	shaped(at, dx, x.Rows, w.In())
	shaped(at, dw, w.Out(), w.In())
	shaped(at, dbias, 1, w.Out())
	full(at, dw, dbias)
}

func CheckLoRALinear(at At, y, u, x *Tensor, w Weight, bias *Tensor, a *Adapter) {
	CheckLinear(at, y, x, w, bias)
	shaped(at, u, x.Rows, a.A.Rows)
}

func CheckLoRALinearBackward(at At, dx, dy, u, x *Tensor, w Weight, a *Adapter) {
	CheckLinearBackward(at, dx, nil, nil, dy, x, w)
	shaped(at, u, x.Rows, a.A.Rows)
	full(at, a.GradA, a.GradB)
}

func CheckRMSNorm(at At, y, r, x, w *Tensor) {
	shaped(at, y, x.Rows, x.Cols)
	shaped(at, w, 1, w.Cols)
	shaped(at, r, x.Rows, groups(at, x, w))
	full(at, r)
}

func CheckRMSNormBackward(at At, dx, dw, dy, x, w, r *Tensor) {
	shaped(at, dx, x.Rows, x.Cols)
	shaped(at, dy, x.Rows, x.Cols)
	shaped(at, r, x.Rows, groups(at, x, w))
	full(at, dw)
}

// groups is the number of parts of a row of x that w normalizes one by one.
func groups(at At, x, w *Tensor) int {
	if x.Cols%w.Cols != 0 {
		panic(fmt.Sprintf("op: %v: rows of %d values cannot be normalized by %d", at, x.Cols, w.Cols))
	}
	return x.Cols / w.Cols
}

func CheckRoPE(at At, y, x *Tensor, positions *Ints) { shaped(at, y, positions.Len, x.Cols) }

func CheckAttention(at At, y, stats, q, k, v *Tensor, segmentsQ, segmentsKV *Ints, bias *Tensor, s AttentionShape) {
	shaped(at, y, q.Rows, s.Heads*s.Dim)
	shaped(at, q, q.Rows, s.Heads*s.Dim)
	shaped(at, k, v.Rows, s.KVHeads*s.Dim)
	shaped(at, stats, q.Rows, 2*s.Heads)
	full(at, stats)
	sameSegments(at, segmentsQ, segmentsKV, bias)
}

func CheckAttentionBackward(at At, dq, dk, dv, dbias, dy, q, k, v *Tensor, segmentsQ, segmentsKV *Ints, bias *Tensor) {
	shaped(at, dq, q.Rows, q.Cols)
	shaped(at, dk, k.Rows, k.Cols)
	shaped(at, dv, v.Rows, v.Cols)
	shaped(at, dy, q.Rows, q.Cols)
	full(at, dbias)
	sameSegments(at, segmentsQ, segmentsKV, bias)
}

// sameSegments panics unless there are as many segments of queries as of keys, and one if each pair of them has a bias.
func sameSegments(at At, segmentsQ, segmentsKV *Ints, bias *Tensor) {
	if n := segmentsQ.Len; n != segmentsKV.Len || bias != nil && n != 2 {
		panic(fmt.Sprintf("op: %v: %d bounds of segments of queries and %d of keys: want as many, and two with a bias", at, n, segmentsKV.Len))
	}
}

func CheckCacheAppend(at At, cache, x *Tensor) { shaped(at, x, x.Rows, cache.Cols) }

func CheckGate(at At, y, gate, up *Tensor) {
	shaped(at, y, gate.Rows, gate.Cols)
	shaped(at, up, gate.Rows, gate.Cols)
}

func CheckGateBackward(at At, dgate, dup, dy, gate, up *Tensor) {
	for _, t := range []*Tensor{dgate, dup, dy, up} {
		shaped(at, t, gate.Rows, gate.Cols)
	}
}

func CheckAdd(at At, y, a, b *Tensor) {
	shaped(at, y, a.Rows, a.Cols)
	shaped(at, b, a.Rows, a.Cols)
}

func CheckCopy(at At, y, x *Tensor) {
	shaped(at, y, x.Rows, x.Cols)
	full(at, x)
}

func CheckDropout(at At, y, x *Tensor) { shaped(at, y, x.Rows, x.Cols) }
func CheckNoise(at At, y, x *Tensor)   { shaped(at, y, x.Rows, x.Cols) }

func CheckHeadLoss(at At, loss, lse, x *Tensor) {
	shaped(at, loss, x.Rows, 1)
	shaped(at, lse, x.Rows, 1)
	full(at, loss, lse)
}

func CheckHeadLossBackward(at At, dx, dw, x, g *Tensor) {
	shaped(at, dx, x.Rows, x.Cols)
	shaped(at, g, 1, 1)
	full(at, dw)
}

func CheckChoose(at At, logits *Tensor) { shaped(at, logits, 1, logits.Cols) }

func CheckPenalize(at At, y, logits *Tensor) {
	shaped(at, logits, 1, logits.Cols)
	shaped(at, y, 1, logits.Cols)
	full(at, y)
}

func CheckGradNorm(at At, norm *Tensor) { shaped(at, norm, 1, 1) }

func CheckAdamW(at At, p, m, v, g *Tensor) {
	for _, t := range []*Tensor{m, v, g} {
		shaped(at, t, p.Rows, p.Cols)
	}
	full(at, p, m, v, g)
}

func CheckAdamW8(at At, p, g *Tensor) {
	shaped(at, g, p.Rows, p.Cols)
	full(at, p, g)
}

func CheckLion(at At, p, m, g *Tensor) {
	shaped(at, m, p.Rows, p.Cols)
	shaped(at, g, p.Rows, p.Cols)
	full(at, p, m, g)
}

// CheckPaged wants what is made to live Paged to be float32.
func CheckPaged(name string, t num.DType) {
	if t != num.Float32 {
		panic(fmt.Sprintf("op: %s is %v: only %v lives paged", name, t, num.Float32))
	}
}

// CheckIndices wants every value of x to be an index below n, or, where labels may be ignored, IgnoredLabel.
func CheckIndices(name string, x []int32, n int, what string, ignored bool) error {
	for i, v := range x {
		if (v < 0 || int(v) >= n) && !(ignored && v == IgnoredLabel) {
			return fmt.Errorf("%s: %s %d at %d is outside 0…%d", name, what, v, i, n-1)
		}
	}
	return nil
}

// CheckSegments wants bounds that ascend from 0 to at most rows.
func CheckSegments(name string, bounds []int32, rows int) error {
	before := int32(0)
	for i, v := range bounds {
		if v < before || int(v) > rows || i == 0 && v != 0 {
			return fmt.Errorf("%s: segment bound %d at %d: want bounds that ascend from 0 to at most %d", name, v, i, rows)
		}
		before = v
	}
	return nil
}

// CheckRoom wants room in a cache for rows more at a position.
func CheckRoom(cache *Tensor, first, rows int) error {
	if first < 0 || first+rows > cache.Rows {
		return fmt.Errorf("%s holds %d positions: no room for %d at %d", cache.Name, cache.Rows, rows, first)
	}
	return nil
}

// CheckLogits wants no NaN, and a token to choose: not all may be −∞.
func CheckLogits(z []float32) error {
	top := float32(math.Inf(-1))
	for i, v := range z {
		if v != v {
			return fmt.Errorf("the logit of token %d is NaN", i)
		}
		top = max(top, v)
	}
	if math.IsInf(float64(top), -1) {
		return errors.New("all logits are −∞: every token is banned; raise no_repeat_ngram_size (0 is no limit) or lower min_new_tokens")
	}
	return nil
}
