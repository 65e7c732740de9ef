package cpu

import (
	"errors"
	"math"

	"qlora/accel/cpu/kernel"
	"qlora/ref/op"
)

// Attention is exact and holds only blocks of scores: some queries of a head against all keys of their segment (op.Attention). Keys and
// values are packed once a segment, for all queries and the heads that share them. Scores of keys that a query does not see are zeros in
// the block; they add nothing to a sum, as long as what they are multiplied with is finite. Where it is not, the reference's own
// function computes.
func (d *Device) Attention(at op.At, y, stats, q, k, v *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) {
	op.CheckAttention(at, y, stats, q, k, v, segmentsQ, segmentsKV, bias, s)
	s.T = q.DType
	d.within(at, func() workspace { return d.forAttention(q, k, segmentsQ, segmentsKV, s) }, func() error {
		if err := checkSegments(segmentsQ, q.Rows, segmentsKV, k.Rows); err != nil {
			return err
		}
		// Behind the last segment is the room of a cache, which may be long.
		if n := int(ints(segmentsKV)[segmentsKV.Len-1]); !d.finite(q, k.View(0, n), v.View(0, n)) {
			out, kept := make([]float32, y.Len()), make([]float32, stats.Len())
			op.Attention(out, kept, d.all(q), d.all(k), d.all(v), ints(segmentsQ), ints(segmentsKV), d.all(bias), s)
			of(y).put(d.kernel, out)
			of(stats).put(d.kernel, kept)
			return nil
		}
		of(y).zero() // rows outside of all segments
		of(stats).zero()
		for g := range segmentsQ.Len - 1 {
			a := d.attention(s, segment(segmentsQ, g), segment(segmentsKV, g), bias)
			a.q, a.k, a.v, a.stats = matrixOf(q), matrixOf(k), matrixOf(v), of(stats).full
			a.packKeys()
			a.valuesDown = d.packHeads(a, a.v.across(), slotV)
			d.tasks(s.Heads*a.blocks(), func(w *scratch, task int) {
				r := a.rows(task%s.Heads, task/s.Heads)
				p := w.floats(slotX, a.stepRows*a.stride)
				a.probabilities(w, p, r, true)
				a.weighted(w, p, a.valuesDown, r, func(i int, c []float32) {
					from := a.at(r, i)
					of(y).part(from, from+len(c)).put(d.kernel, c)
				})
			})
		}
		return nil
	})
}

// AttentionBackward (op.AttentionBackward). Gradients of keys and values add the heads of a group one after the other, and of each the
// queries in order; so P and dS of one head of every group are kept for a chunk of queries, and then summed by blocks of keys.
func (d *Device) AttentionBackward(at op.At, dq, dk, dv, dbias, dy, q, k, v, stats *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) {
	op.CheckAttentionBackward(at, dq, dk, dv, dbias, dy, q, k, v, segmentsQ, segmentsKV, bias)
	s.T = q.DType
	d.within(at, func() workspace { return d.forAttentionBackward(q, k, segmentsQ, segmentsKV, s) }, func() error {
		if err := checkSegments(segmentsQ, q.Rows, segmentsKV, k.Rows); err != nil {
			return err
		}
		if !d.finite(q, k, v, dy) {
			d.plainAttentionBackward(dq, dk, dv, dbias, dy, q, k, v, stats, segmentsQ, segmentsKV, bias, s)
			return nil
		}
		sumK, sumV := d.shared.floats(slotX, k.Len()), d.shared.floats(slotY, v.Len())
		clear(sumK)
		clear(sumV)
		for g := range segmentsQ.Len - 1 {
			a := d.attention(s, segment(segmentsQ, g), segment(segmentsKV, g), bias)
			a.q, a.k, a.v, a.dy, a.stats = matrixOf(q), matrixOf(k), matrixOf(v), matrixOf(dy), of(stats).full
			a.packKeys()
			a.keysDown = d.packHeads(a, a.k.across(), slotV)
			a.valuesAlong = d.packHeads(a, a.v, slotW)
			a.backward(of(dq), of(dbias).full, sumK, sumV)
		}
		d.addAll(dk, sumK)
		d.addAll(dv, sumV)
		return nil
	})
}

// forAttention is enough for every segment. Bounds that are wrong are found when it runs; until then no segment is longer than its tensor.
func (d *Device) forAttention(q, k *op.Tensor, segmentsQ, segmentsKV *op.Ints, s op.AttentionShape) (w workspace) {
	for g := range segmentsQ.Len - 1 {
		a := d.attention(s, segment(segmentsQ, g).within(q), segment(segmentsKV, g).within(k), nil)
		w = w.and(a.forScores())
	}
	return w
}

func (d *Device) forAttentionBackward(q, k *op.Tensor, segmentsQ, segmentsKV *op.Ints, s op.AttentionShape) (w workspace) {
	for g := range segmentsQ.Len - 1 {
		a := d.attention(s, segment(segmentsQ, g).within(q), segment(segmentsKV, g).within(k), nil)
		w = w.and(a.forScores()).and(a.forBackward())
	}
	w.shared[slotX], w.shared[slotY] = k.Len(), k.Len()
	return w
}

// forScores is what a segment takes in both directions: packed heads, and blocks of scores.
func (a *attention) forScores() (w workspace) {
	k, dim := a.kernel, a.s.Dim
	rows := roundUp(min(a.stepRows, a.queries.n), k.MR)
	w.shared[slotU], w.shared[slotV] = a.packedHeads(false), a.packedHeads(true)
	w.each[slotX] = a.stepRows * a.stride
	w.each[slotA] = rows * min(blockK, max(dim, a.keys.n))
	w.each[slotC] = a.stepRows * roundUp(dim, k.NR)
	w.each[slotLines] = max(k.NR*min(blockK, dim), k.MR*min(blockK, a.keys.n), linesDown*max(dim, keysTogether))
	return w
}

// forBackward is what a segment takes backward besides.
func (a *attention) forBackward() (w workspace) {
	k, width := a.kernel, roundUp(a.s.Dim, a.kernel.NR)
	height := roundUp(min(keysTogether, a.keys.n), k.MR)
	kept := inFloats(a.s.T, a.s.KVHeads*min(a.chunk()*a.stepRows, a.queries.n)*a.stride)
	w.shared[slotA], w.shared[slotB], w.shared[slotW] = kept, kept, a.packedHeads(false)
	w.each[slotY], w.each[slotZ] = a.stepRows*a.stride, max(a.stride, a.s.Dim)
	w.each[slotA] = height * min(blockK, a.queries.n)
	w.each[slotB], w.each[slotC] = width*min(blockK, a.queries.n), height*width
	return w
}

func (d *Device) plainAttentionBackward(dq, dk, dv, dbias, dy, q, k, v, stats *op.Tensor, segmentsQ, segmentsKV *op.Ints, bias *op.Tensor, s op.AttentionShape) {
	gradient := func(t *op.Tensor, n int) []float32 {
		if t == nil {
			return make([]float32, n)
		}
		return d.all(t)
	}
	gq, gk, gv := gradient(dq, q.Len()), gradient(dk, k.Len()), gradient(dv, v.Len())
	op.AttentionBackward(gq, gk, gv, of(dbias).full, d.all(dy), d.all(q), d.all(k), d.all(v), d.all(stats), ints(segmentsQ), ints(segmentsKV), d.all(bias), s)
	for i, t := range []*op.Tensor{dq, dk, dv} {
		if t != nil {
			of(t).put(d.kernel, [][]float32{gq, gk, gv}[i])
		}
	}
}

func checkSegments(segmentsQ *op.Ints, queries int, segmentsKV *op.Ints, keys int) error {
	return errors.Join(op.CheckSegments(segmentsQ.Name, ints(segmentsQ), queries), op.CheckSegments(segmentsKV.Name, ints(segmentsKV), keys))
}

// all is a copy of a tensor's values in float32; nil of nil.
func (d *Device) all(t *op.Tensor) []float32 {
	if t == nil {
		return nil
	}
	x := make([]float32, t.Len())
	of(t).get(d.kernel, x)
	return x
}

// finite says whether all values are.
func (d *Device) finite(tensors ...*op.Tensor) bool {
	for _, t := range tensors {
		pieces := make([]bool, ceil(t.Len(), piece))
		d.elements(t.Len(), func(w *scratch, i, j int) {
			_, greatest := d.kernel.Magnitudes(of(t).part(i, j).at(d.kernel, w.floats(slotX, j-i)))
			pieces[i/piece] = greatest < math.Float32bits(float32(math.Inf(1)))
		})
		for _, ok := range pieces {
			if !ok {
				return false
			}
		}
	}
	return true
}

// addAll: t = round(t + round(sum)), where there is a t. sum is changed.
func (d *Device) addAll(t *op.Tensor, sum []float32) {
	if t != nil {
		d.elements(t.Len(), func(w *scratch, i, j int) { of(t).part(i, j).add(d.kernel, sum[i:j], w.floats(slotZ, j-i)) })
	}
}

// span is a segment's first row and number of rows.
type span struct{ first, n int }

// within is s, or as much of it as a tensor can have.
func (s span) within(t *op.Tensor) span { return span{s.first, max(0, min(s.n, t.Rows))} }

func segment(bounds *op.Ints, i int) span {
	b := ints(bounds)
	return span{int(b[i]), int(b[i+1] - b[i])}
}

// attention is one segment.
type attention struct {
	d             *Device
	kernel        *kernel.Set
	s             op.AttentionShape
	queries, keys span
	bias          []float32
	q, k, v, dy   matrix
	stats         []float32

	stride   int // of a block of scores: the keys, padded to whole tiles
	stepRows int // queries in a block

	// Packed, each by key-value head: keys with their dimensions as k, for scores; values likewise, for dP; and both with keys as k.
	keysAlong, valuesAlong, keysDown, valuesDown []headPanels
}

// headPanels are a head's panels, one for each block of k.
type headPanels []panels

const (
	blockQueries = 48 // as high as some tiles of either instruction set
	keysTogether = 96 // keys whose gradients a task sums
)

func (d *Device) attention(s op.AttentionShape, queries, keys span, bias *op.Tensor) *attention {
	return &attention{d: d, kernel: d.kernel, s: s, queries: queries, keys: keys, bias: d.all(bias),
		stride: roundUp(max(keys.n, 1), d.kernel.NR), stepRows: roundUp(blockQueries, d.kernel.MR)}
}

// blocks is the number of blocks of queries of a head.
func (a *attention) blocks() int { return ceil(a.queries.n, a.stepRows) }

// rows are some queries of a head: the i-th and those after it, counted from the segment's first.
type rows struct{ head, i, n int }

func (a *attention) rows(head, block int) rows {
	i := block * a.stepRows
	return rows{head, i, min(a.stepRows, a.queries.n-i)}
}

// at is where query i of r begins in q and what is shaped like it.
func (a *attention) at(r rows, i int) int {
	return ((a.queries.first+r.i+i)*a.s.Heads + r.head) * a.s.Dim
}

// sees is which keys query i of the segment sees.
func (a *attention) sees(i int) (from, to int) {
	to = a.keys.n
	if a.s.Mask.Causal {
		to = max(0, a.keys.n-a.queries.n+i+1)
	}
	if a.s.Mask.Window > 0 {
		from = max(0, to-a.s.Mask.Window)
	}
	return from, to
}

// seen is which keys any query of r sees: the bounds ascend with the queries.
func (a *attention) seen(r rows) (from, to int) {
	from, _ = a.sees(r.i)
	_, to = a.sees(r.i + r.n - 1)
	return from, to
}

func (a *attention) packKeys() { a.keysAlong = a.d.packHeads(a, a.k, slotU) }

// panels are the lanes and the depth of a head's panels: keys by dimensions, or, with keys as k, dimensions by keys.
func (a *attention) panels(down bool) (lanes, depth int) {
	if down {
		return a.s.Dim, a.keys.n
	}
	return a.keys.n, a.s.Dim
}

// packedHeads is how many elements all heads' panels have.
func (a *attention) packedHeads(down bool) int {
	lanes, depth := a.panels(down)
	return max(1, a.s.KVHeads*roundUp(lanes, a.kernel.NR)*depth)
}

// packHeads packs a segment's keys or values, head by head.
func (d *Device) packHeads(a *attention, x matrix, slot int) []headPanels {
	k, dim, nr := d.kernel, a.s.Dim, d.kernel.NR
	heads := make([]headPanels, a.s.KVHeads)
	lanes, depth := a.panels(x.down)
	padded := roundUp(lanes, nr)
	all := d.shared.floats(slot, a.packedHeads(x.down))
	d.tasks(len(heads), func(w *scratch, h int) {
		for from := 0; from < depth; from += blockK {
			n := min(blockK, depth-from)
			to := all[(h*depth+from)*padded:][:n*padded]
			lane, k0 := a.keys.first, h*dim+from
			if x.down {
				lane, k0 = h*dim, a.keys.first+from
			}
			p := packed(k, w, to, x, lane, lanes, k0, n, nr, a.s.T)
			p.limits = append([]limits(nil), p.limits...)
			heads[h] = append(heads[h], p)
		}
	})
	return heads
}

// products adds to c, rows×lanes with a stride, the products of packed rows with a panel's lanes from one on, over the left's k.
func (a *attention) products(c []float32, stride int, left, right panels, first, last int) {
	k := a.kernel
	for q := first; q < last; q++ {
		tiles(k, a.s.T, c[(q-first)*k.NR:], stride, left, 0, left.count, right, q)
	}
}

// dots sets the columns from…to of block c, whole tiles of them, to the products of r's rows of x with keys or values.
func (a *attention) dots(w *scratch, c []float32, x matrix, along []headPanels, r rows, from, to int) {
	mr, nr := a.kernel.MR, a.kernel.NR
	first, last := from/nr, ceil(to, nr)
	for i := range roundUp(r.n, mr) {
		clear(c[i*a.stride+first*nr : i*a.stride+last*nr])
	}
	for b, right := range along[a.kvHead(r)] {
		n := min(blockK, a.s.Dim-b*blockK)
		left := packed(a.kernel, w, w.floats(slotA, roundUp(r.n, mr)*n), x, a.queries.first+r.i, r.n, r.head*a.s.Dim+b*blockK, n, mr, a.s.T)
		a.products(c[first*nr:], a.stride, left, right, first, last)
	}
}

func (a *attention) kvHead(r rows) int { return r.head / (a.s.Heads / a.s.KVHeads) }

// probabilities sets p [r.n, stride] to P on the keys that a query sees and to zero on the others that r's queries see, or share a tile
// with. Forward it keeps m and l, backward it takes them.
func (a *attention) probabilities(w *scratch, p []float32, r rows, forward bool) {
	from, to := a.seen(r)
	a.dots(w, p, a.q, a.keysAlong, r, from, to)
	nr := a.kernel.NR
	for i := range r.n {
		line := p[i*a.stride:][:roundUp(to, nr)]
		f, t := a.sees(r.i + i)
		clear(line[from/nr*nr : f])
		clear(line[t:])
		stat := a.stats[((a.queries.first+r.i+i)*a.s.Heads+r.head)*2:][:2]
		a.softmax(line, f, t, r, i, stat, forward)
	}
}

// softmax turns the scores that a query sees into probabilities.
func (a *attention) softmax(line []float32, from, to int, r rows, i int, stat []float32, forward bool) {
	k, seen := a.kernel, line[from:to]
	k.Scale(seen, seen, a.s.Scale)
	if a.bias != nil {
		at := (r.head*a.queries.n + r.i + i) * a.keys.n
		k.Add(seen, seen, a.bias[at+from:at+to])
	}
	if forward {
		stat[0] = largestScore(k, seen)
	}
	k.ExpMinus(seen, seen, stat[0])
	if forward {
		stat[1] = a.sumOfSeen(line, from, to)
	}
	k.Divide(seen, seen, stat[1])
	round(k, a.s.T, seen)
}

// sumOfSeen is the Sum over all keys, of which those that are not seen are zeros: lanes count from the first, and whole runs and lines of
// zeros may be left out.
func (a *attention) sumOfSeen(line []float32, from, to int) float32 {
	if to > longestSum {
		for i := range line[:from] {
			line[i] = 0
		}
		return a.d.sum(line[:to])
	}
	const lanes = 32
	first := from / lanes * lanes
	clear(line[first:from])
	return a.kernel.Sum(line[first:to])
}

// largestScore is the first of those scores than which none is larger, 0 of none: with NaN, and with zeros of both signs, that depends on
// the order.
func largestScore(k *kernel.Set, x []float32) float32 {
	if len(x) == 0 {
		return 0
	}
	if m := k.Max(x); m == m && m != 0 {
		return m
	}
	m := x[0]
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

// weighted hands on, row by row, Σ_j p_j·x_j over keys or values x, j ascending.
func (a *attention) weighted(w *scratch, p []float32, down []headPanels, r rows, store func(i int, c []float32)) {
	k, dim := a.kernel, a.s.Dim
	from, to := a.seen(r)
	width := roundUp(dim, k.NR)
	c := w.floats(slotC, a.stepRows*width)
	clear(c)
	scores := matrix{dense: values{full: p}, cols: a.stride}
	for b := from / blockK; b*blockK < to; b++ {
		n := min(blockK, to-b*blockK)
		clearBefore(p, a.stride, r.n, b*blockK, from)
		left := packed(k, w, w.floats(slotA, roundUp(r.n, k.MR)*n), scores, 0, r.n, b*blockK, n, k.MR, a.s.T)
		a.products(c, width, left, down[a.kvHead(r)][b], 0, width/k.NR)
	}
	for i := range r.n {
		store(i, c[i*width:][:dim])
	}
}

// clearBefore makes zeros of columns from…to of a block's rows, if there are any.
func clearBefore(p []float32, stride, rows, from, to int) {
	for i := range rows {
		if from < to {
			clear(p[i*stride+from : i*stride+to])
		}
	}
}

// backward adds to dq and dbias, and to the sums of dk and dv.
func (a *attention) backward(dq values, dbias, sumK, sumV []float32) {
	if a.queries.n == 0 || a.keys.n == 0 {
		a.nothing(dq)
		return
	}
	chunk := a.chunk()
	for g := range a.s.Heads / a.s.KVHeads {
		for first := 0; first < a.blocks(); first += chunk {
			a.chunkBackward(dq, dbias, sumK, sumV, g, first, min(chunk, a.blocks()-first))
		}
	}
}

// chunk is of how many blocks of queries P and dS of a head of each group are kept at a time: as many as some memory holds.
func (a *attention) chunk() int {
	const kept = 16 << 20 // elements
	return max(1, kept/(2*a.s.KVHeads*a.stepRows*a.stride))
}

// nothing adds zeros to dq, for queries that see no keys.
func (a *attention) nothing(dq values) {
	if dq.len() == 0 || a.queries.n == 0 {
		return
	}
	n := a.s.Heads * a.s.Dim
	zero, buffer := make([]float32, n), make([]float32, n)
	for i := range a.queries.n {
		clear(zero)
		at := (a.queries.first + i) * n
		dq.part(at, at+n).add(a.kernel, zero, buffer)
	}
}

// chunkBackward takes the g-th head of each group, and so many blocks of queries from one on.
func (a *attention) chunkBackward(dq values, dbias, sumK, sumV []float32, g, first, blocks int) {
	group := a.s.Heads / a.s.KVHeads
	begin := first * a.stepRows
	n := min(blocks*a.stepRows, a.queries.n-begin)
	kept := func(slot int) []matrix {
		all := a.d.shared.values(slot, a.s.T, a.s.KVHeads*n*a.stride)
		heads := make([]matrix, a.s.KVHeads)
		for h := range heads {
			heads[h] = matrix{dense: all.part(h*n*a.stride, (h+1)*n*a.stride), cols: a.stride, t: a.s.T}
		}
		return heads
	}
	ps, dss := kept(slotA), kept(slotB)
	a.d.tasks(a.s.KVHeads*blocks, func(w *scratch, task int) {
		h := task % a.s.KVHeads
		a.rowsBackward(w, a.rows(h*group+g, first+task/a.s.KVHeads), dq, dbias, ps[h], dss[h], begin)
	})
	keyBlocks := ceil(a.keys.n, keysTogether)
	a.d.tasks(a.s.KVHeads*keyBlocks, func(w *scratch, task int) {
		h, j := task%a.s.KVHeads, task/a.s.KVHeads*keysTogether
		count := min(keysTogether, a.keys.n-j)
		a.sumOverQueries(w, sumK, dss[h], a.q, h, h*group+g, j, count, begin, n)
		a.sumOverQueries(w, sumV, ps[h], a.dy, h, h*group+g, j, count, begin, n)
	})
}

// rowsBackward computes P and dS of some queries, keeps them, and adds to dq and dbias.
func (a *attention) rowsBackward(w *scratch, r rows, dq values, dbias []float32, ps, dss matrix, begin int) {
	k, nr := a.kernel, a.kernel.NR
	from, to := a.seen(r)
	p, dp, z := w.floats(slotX, a.stepRows*a.stride), w.floats(slotY, a.stepRows*a.stride), w.floats(slotZ, max(a.stride, a.s.Dim))
	a.probabilities(w, p, r, false)
	a.dots(w, dp, a.dy, a.valuesAlong, r, from, to)
	for i := range r.n {
		f, t := a.sees(r.i + i)
		line, ds := p[i*a.stride:][:a.stride], dp[i*a.stride:][:a.stride]
		k.Mul(z[f:t], line[f:t], ds[f:t])
		sum := a.sumOfSeen(z, f, t)
		k.Shift(ds[f:t], ds[f:t], -sum)
		k.Mul(ds[f:t], line[f:t], ds[f:t])
		if dbias != nil {
			at := (r.head*a.queries.n + r.i + i) * a.keys.n
			k.Add(dbias[at+f:at+t], dbias[at+f:at+t], ds[f:t])
		}
		k.Scale(ds[f:t], ds[f:t], a.s.Scale)
		round(k, a.s.T, ds[f:t])
		clear(ds[from/nr*nr : f])
		clear(ds[t:roundUp(to, nr)])
		keep(k, ps, r.i+i-begin, line, f, t)
		keep(k, dss, r.i+i-begin, ds, f, t)
	}
	if dq.len() > 0 {
		a.weighted(w, dp, a.keysDown, r, func(i int, c []float32) {
			at := a.at(r, i)
			dq.part(at, at+len(c)).add(k, c, z)
		})
	}
}

// keep stores columns from…to of a line in row i of m, and zeros beside them.
func keep(k *kernel.Set, m matrix, i int, line []float32, from, to int) {
	row := m.dense.part(i*m.cols, (i+1)*m.cols)
	row.part(0, from).zero()
	row.part(from, to).put(k, line[from:to])
	row.part(to, m.cols).zero()
}

// sumOverQueries adds to the gradients of some keys or values of a head: Σ_i s_ij·x_i over the chunk's queries i that see any of them.
func (a *attention) sumOverQueries(w *scratch, sum []float32, scores, x matrix, kvHead, head, j, count, begin, n int) {
	k, dim := a.kernel, a.s.Dim
	first, last := a.seeing(j, j+count, begin, begin+n)
	width, height := roundUp(dim, k.NR), roundUp(count, k.MR)
	c := w.floats(slotC, height*width)
	clear(c)
	line := func(i int) []float32 { return sum[((a.keys.first+j+i)*a.s.KVHeads+kvHead)*dim:][:dim] }
	for i := range count {
		copy(c[i*width:], line(i))
	}
	for at := first; at < last; at += blockK {
		m := min(blockK, last-at)
		left := packed(k, w, w.floats(slotA, height*m), scores.across(), j, count, at-begin, m, k.MR, a.s.T)
		left.limits = append([]limits(nil), left.limits...)
		right := packed(k, w, w.floats(slotB, width*m), x.across(), head*dim, dim, a.queries.first+at, m, k.NR, a.s.T)
		a.products(c, width, left, right, 0, width/k.NR)
	}
	for i := range count {
		copy(line(i), c[i*width:])
	}
}

// seeing is which of the queries first…last see any of the keys from…to.
func (a *attention) seeing(from, to, first, last int) (int, int) {
	for ; first < last; first++ {
		if _, t := a.sees(first); t > from {
			break
		}
	}
	for ; first < last; last-- {
		if f, _ := a.sees(last - 1); f < to {
			break
		}
	}
	return first, last
}
