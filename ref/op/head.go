package op

import "qlora/ref/num"

// IgnoredLabel marks a token that the loss does not count.
const IgnoredLabel = -100

// HeadChunk is the number of tokens whose logits exist at a time: 256 tokens of a 128k vocabulary are 131 MB. Chunks are of
// tokens, never of the vocabulary, so that the sum over the vocabulary keeps its order.
const HeadChunk = 256

// HeadLoss computes each token's cross-entropy from x [tokens, d] and the head W [vocab, d]:
//
//	z = round(x·Wᵀ), m = max z, lse = m + log(Sum(exp(z − m)))
//	loss = lse − z[label], 0 where the label is ignored
//
// lse [tokens] is kept for backward.
func HeadLoss(loss, lse, x, w []float32, labels []int32, vocab, d int, t num.DType) {
	eachChunk(x, w, vocab, d, t, func(token int, z []float32) {
		loss[token], lse[token] = 0, 0
		if labels[token] == IgnoredLabel {
			return
		}
		m := z[0]
		for _, v := range z {
			m = max(m, v)
		}
		label := z[labels[token]]
		for j, v := range z {
			z[j] = num.Exp(v - m)
		}
		lse[token] = m + num.Log(num.Sum(z))
		loss[token] = lse[token] - label
	})
}

// HeadLossBackward adds, with g the gradient of every token's loss (1/number of counted tokens in the whole batch),
//
//	dz = round(g·(exp(z − lse) − [j = label]))
//	dx += round(dz·W)
//	dW += dzᵀ·x where dW is not nil, tokens ascending
func HeadLossBackward(dx, dw, lse, x, w []float32, labels []int32, g float32, vocab, d int, t num.DType) {
	row := make([]float32, d)
	eachChunk(x, w, vocab, d, t, func(token int, z []float32) {
		label := labels[token]
		if label == IgnoredLabel {
			return
		}
		for j, v := range z {
			z[j] = num.Exp(v - lse[token])
		}
		z[label]--
		for j, p := range z {
			z[j] = t.Round(float32(g * p))
		}
		MatMulInput(row, z, w, 1, vocab, d)
		addRounded(dx[token*d:(token+1)*d], row, t)
		if dw != nil {
			MatMulWeight(dw, z, x[token*d:(token+1)*d], 1, vocab, d)
		}
	})
}

// eachChunk computes the rounded logits of HeadChunk tokens at a time and hands them on, a token at a time.
func eachChunk(x, w []float32, vocab, d int, t num.DType, f func(token int, z []float32)) {
	tokens := len(x) / d
	logits := make([]float32, min(tokens, HeadChunk)*vocab)
	for from := 0; from < tokens; from += HeadChunk {
		n := min(HeadChunk, tokens-from)
		MatMul(logits, x[from*d:], w, n, vocab, d)
		t.RoundAll(logits[:n*vocab])
		for i := range n {
			f(from+i, logits[i*vocab:(i+1)*vocab])
		}
	}
}
