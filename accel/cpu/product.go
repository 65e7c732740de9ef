package cpu

import (
	"math"

	"qlora/accel/cpu/kernel"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/quant"
)

// product is c[i][j] = Σ a(i, k)·b(j, k), k ascending, in one float32 accumulator an element that begins at +0 or at what c holds.
//
// As in every fast matrix product (Goto and van de Geijn, 2008) both operands are packed: into panels of as many lanes as a tile has
// rows or columns, k by k. k is cut into blocks of blockK, so that a panel stays in the first-level cache; the accumulators wait in
// memory from one block to the next, so their order is not cut. Packing widens, dequantizes and rounds, once an element; it also finds the
// magnitudes that decide whether a tile's multiply-adds may be fused.
type product struct {
	m, n, k int
	a, b    matrix
	t       num.DType // of the operands: products of float32 are not exact
	begin   []float32 // [m, n], or nil for +0
	again   bool      // a is that of the product before, unchanged: it is packed
	// store takes row i of c, columns from j on, when they are complete. It may change them.
	store func(w *scratch, i, j int, c []float32)
}

// matrix is an operand as it lies: dense or 4-bit, row-major. Its lanes are its rows and k runs along them; or, if down, k runs down the
// rows, and lanes are columns.
type matrix struct {
	dense values
	codes *quant.Tensor
	cols  int
	t     num.DType // to which elements are rounded as they are read
	down  bool
}

// matrixOf is t as it lies.
func matrixOf(t *op.Tensor) matrix { return matrix{dense: of(t), cols: t.Cols, t: t.DType} }

// rounded is t's matrix, read in another type.
func rounded(t *op.Tensor, to num.DType) matrix { return matrix{dense: of(t), cols: t.Cols, t: to} }

// weightOf is w as products of a compute type see it.
func weightOf(w op.Weight, t num.DType) matrix {
	if w.Quantized != nil {
		return matrix{codes: w.Quantized.Handle.(*quant.Tensor), cols: w.In(), t: t}
	}
	return rounded(w.Dense, t)
}

// across is the matrix with k down its rows.
func (x matrix) across() matrix {
	x.down = true
	return x
}

const (
	blockK = 384 // of k that a panel holds, at most
	blockN = 256 // columns of c that a task computes, at most
	blockM = 96  // rows of a that stay in the second-level cache while the panels of b go by
	// packedA is how many elements of a are packed at a time, about: they should stay in the last-level cache.
	packedA = 2 << 20
	fewRows = 4 // up to here tiles would be mostly empty, and rows are computed one by one

	linesDown  = 32 // lines of columns that go through the first-level cache, at most
	panelsDown = 16 // of columns of a that a thread packs together
)

// product computes p. Threads take blocks of c.
func (d *Device) product(p product) {
	switch {
	case p.m == 0 || p.n == 0:
		return
	case p.m <= fewRows:
		d.productOfRows(p)
		return
	}
	g := d.grid(p)
	var c []float32
	if g.stepK < p.k {
		c = d.shared.floats(slotC, g.rows*g.cols)
	}
	for k0 := 0; k0 == 0 || k0 < p.k; k0 += g.stepK {
		k1 := min(k0+g.stepK, p.k)
		if !p.again || g.stepK < p.k {
			d.left = d.packLeft(p, g, k0, k1)
		}
		d.tasks(g.tasks(), func(w *scratch, task int) {
			b := g.block(task, p)
			if b.c, b.stride = c, g.cols; c == nil {
				b.c, b.stride = w.floats(slotC, g.stepM*g.stepN), g.stepN
			} else {
				b.c = c[b.i*g.cols+b.j:]
			}
			if k0 == 0 {
				b.start(p, d.kernel.MR, d.kernel.NR)
			}
			b.add(d.kernel, w, p, d.left, k0, k1)
			if k1 == p.k {
				b.finish(w, p)
			}
		})
	}
}

// grid is how a product is cut: c, padded to whole tiles, into stepM×stepN, and k into stepK for which a is packed at once.
type grid struct {
	rows, cols          int
	stepM, stepN, stepK int
	blockK              int
}

// grid makes at least two tasks a thread, of columns first: then nothing of b is packed twice.
func (d *Device) grid(p product) grid {
	mr, nr := d.kernel.MR, d.kernel.NR
	g := grid{rows: roundUp(p.m, mr), cols: roundUp(p.n, nr)}
	g.stepN = min(blockN, roundUp(ceil(p.n, 2*d.threads), nr))
	g.stepM = g.rows
	if across := ceil(g.cols, g.stepN); across < 2*d.threads && d.threads > 1 {
		g.stepM = roundUp(ceil(g.rows, ceil(2*d.threads, across)), mr)
	}
	g.blockK = max(8, roundUp(ceil(p.k, max(1, ceil(p.k, blockK))), 8)) // blocks of about the same size
	g.stepK = max(1, packedA/g.rows/g.blockK) * g.blockK
	return g
}

// forProduct is what product takes for c [m, n] over so many k. blocksize is that of a 4-bit b, or 0.
func (d *Device) forProduct(m, n, k, blocksize int) (w workspace) {
	if m == 0 || n == 0 {
		return w
	}
	if blocksize > 0 {
		w.each[slotBlocks] = max(blockK, blockN) + blocksize
		w.each[slotScales] = ceil(max(k, blockK, blockN), blocksize) + 1
	}
	if m <= fewRows {
		return w.and(d.forProductOfRows(m, k, blocksize))
	}
	mr, nr, g := d.kernel.MR, d.kernel.NR, d.grid(product{m: m, n: n, k: k})
	depth := min(g.blockK, k)
	w.shared[slotA] = g.rows * min(g.stepK, k)
	if g.stepK < k {
		w.shared[slotC] = g.rows * g.cols
	} else {
		w.each[slotC] = g.stepM * g.stepN
	}
	w.each[slotB] = g.stepN * depth
	w.each[slotLines] = max(nr*depth, linesDown*max(g.stepN, min(panelsDown*mr, g.rows)))
	return w
}

func (g grid) tasks() int { return ceil(g.rows, g.stepM) * ceil(g.cols, g.stepN) }

// block is the part of c that a task computes: m×n elements from (i, j) on, in memory that is padded to whole tiles.
type block struct {
	i, j, m, n int
	c          []float32
	stride     int
}

func (g grid) block(task int, p product) block {
	down := ceil(g.rows, g.stepM)
	i, j := task%down*g.stepM, task/down*g.stepN
	return block{i: i, j: j, m: min(g.stepM, p.m-i), n: min(g.stepN, p.n-j)}
}

// start sets the accumulators to what they begin at, and to zero where they are padding to whole tiles of rows×cols.
func (b block) start(p product, rows, cols int) {
	for i := range roundUp(b.m, rows) {
		line := b.c[i*b.stride:][:roundUp(b.n, cols)]
		clear(line)
		if p.begin != nil && i < b.m {
			copy(line[:b.n], p.begin[(b.i+i)*p.n+b.j:])
		}
	}
}

func (b block) finish(w *scratch, p product) {
	for i := range b.m {
		p.store(w, b.i+i, b.j, b.c[i*b.stride:][:b.n])
	}
}

// add takes the products of k0 ≤ k < k1, for which a is packed.
func (b block) add(k *kernel.Set, w *scratch, p product, a panels, k0, k1 int) {
	for from := k0; from < k1; from += a.blockK {
		n := min(a.blockK, k1-from)
		right := packed(k, w, w.floats(slotB, roundUp(b.n, k.NR)*n), p.b, b.j, b.n, from, n, k.NR, p.t)
		left := a.of(from-k0, n)
		for i := 0; i < b.m; i += blockM {
			first, count := (b.i+i)/k.MR, ceil(min(blockM, b.m-i), k.MR)
			for q := range right.count {
				tiles(k, p.t, b.c[i*b.stride+q*k.NR:], b.stride, left, first, count, right, q)
			}
		}
	}
}

// tiles adds to c the products of some panels of left, from one on, with one of right. Where right has more of k than left, they begin together.
func tiles(k *kernel.Set, t num.DType, c []float32, stride int, left panels, first, count int, right panels, r int) {
	size := left.k * left.width
	a, b := left.x[first*size:(first+count)*size], right.panel(r)[:left.k*right.width]
	switch {
	case left.pairs:
		for ; len(a) > 0; a, c = a[size:], c[min(k.MR*stride, len(c)):] {
			k.TilePairs(c, stride, words(a[:size]), words(b))
		}
	case t != num.Float32 && exact(joined(left.limits[first:first+count]), right.limits[r]):
		k.TileFused(c, stride, a, b)
	default:
		k.Tile(c, stride, a, b)
	}
}

// panels are lanes of an operand, width at a time, k by k.
type panels struct {
	width, count, k int
	x               []float32 // [count, k, width]
	limits          []limits  // of each panel, unless they are pairs
	pairs           bool      // k counts pairs of bfloat16 (fast.go)
	blockK          int       // of panels that hold one block of k after the other
}

func (p panels) panel(i int) []float32 { return p.x[i*p.k*p.width : (i+1)*p.k*p.width] }

// of is the block of k that begins at from, of panels that hold one block after the other.
func (p panels) of(from, k int) panels {
	limits := p.limits[from/p.blockK*p.count:][:p.count]
	if p.pairs {
		from, k = from/2, ceil(k, 2)
	}
	at := from * p.width * p.count
	return panels{width: p.width, count: p.count, k: k, x: p.x[at : at+k*p.width*p.count], limits: limits, pairs: p.pairs}
}

// packLeft packs a for k0 ≤ k < k1: blocks of k one after the other, each [panels, k, MR].
func (d *Device) packLeft(p product, g grid, k0, k1 int) panels {
	mr := d.kernel.MR
	all := panels{width: mr, count: g.rows / mr, x: d.shared.floats(slotA, g.rows*(k1-k0)), pairs: d.inPairs(p.t), blockK: g.blockK}
	all.limits = d.shared.limitsOf(ceil(k1-k0, g.blockK) * all.count)
	part := func(w *scratch, first, count, from int) {
		n := min(g.blockK, k1-k0-from)
		to := all.of(from, n)
		part := packed(d.kernel, w, to.x[first*to.k*mr:(first+count)*to.k*mr], p.a, first*mr, min(count*mr, p.m-first*mr), k0+from, n, mr, p.t)
		copy(to.limits[first:], part.limits)
	}
	// Rows are packed from end to end, columns block by block: in the order in which they lie in memory.
	blocks, together := 1, 4
	if p.a.down {
		blocks, together = ceil(k1-k0, g.blockK), panelsDown
	}
	d.tasks(blocks*ceil(all.count, together), func(w *scratch, task int) {
		first := task / blocks * together
		count := min(together, all.count-first)
		for b := task % blocks; b*g.blockK < k1-k0; b += blocks {
			part(w, first, count, b*g.blockK)
		}
	})
	return all
}

// packed packs lanes from lane on, and k from k0 on, into x. Lanes beyond the last are zeros.
func packed(k *kernel.Set, w *scratch, x []float32, from matrix, lane, lanes, k0, n, width int, t num.DType) panels {
	if w.d.inPairs(t) {
		return packedPairs(k, w, x, from, lane, lanes, k0, n, width)
	}
	return packedNumbers(k, w, x, from, lane, lanes, k0, n, width, t)
}

// packedNumbers is packed in float32.
func packedNumbers(k *kernel.Set, w *scratch, x []float32, from matrix, lane, lanes, k0, n, width int, t num.DType) panels {
	p := panels{width: width, count: ceil(lanes, width), k: n, x: x}
	if lanes%width != 0 {
		clear(p.panel(p.count - 1))
	}
	if from.down {
		from.packDown(k, w, p, lane, lanes, k0)
	} else {
		from.packAlong(k, w, p, lane, lanes, k0)
	}
	if t != num.Float32 {
		p.limits = w.limitsOf(p.count)
		for i := range p.limits {
			p.limits[i].least, p.limits[i].greatest = k.Magnitudes(p.panel(i))
		}
	}
	return p
}

// packAlong packs rows, along which k runs: they are turned.
func (x matrix) packAlong(k *kernel.Set, w *scratch, p panels, lane, lanes, k0 int) {
	for i := range p.count {
		rows := min(p.width, lanes-i*p.width)
		x.prefetch(k, lane+(i+1)*p.width, min(p.width, lanes-(i+1)*p.width), k0, p.k)
		lines, stride := x.lines(k, w, lane+i*p.width, rows, k0, p.k)
		k.Transpose(p.panel(i), p.width, lines, stride, rows, p.k)
		if rows < p.width {
			clearLanes(p.panel(i), p.width, rows)
		}
	}
}

// prefetch asks for n elements of each of some rows, if there are any: hardware does not see in time that lines so far from each other will
// be read.
func (x matrix) prefetch(k *kernel.Set, row, rows, from, n int) {
	for i := 0; i < rows && x.dense.half != nil; i++ {
		at := (row+i)*x.cols + from
		k.Prefetch(x.dense.half[at : at+n])
	}
}

// clearLanes makes zeros of the lanes of a panel from one on.
func clearLanes(panel []float32, width, from int) {
	for ; len(panel) > 0; panel = panel[width:] {
		clear(panel[from:width])
	}
}

// packDown packs columns, down which k runs: lines are cut into panels.
func (x matrix) packDown(k *kernel.Set, w *scratch, p panels, lane, lanes, k0 int) {
	if x.dense.half != nil && x.t == num.BFloat16 && x.dense.t == num.BFloat16 {
		k.LinesBFloat16(p.x, p.width, p.k, x.dense.half[k0*x.cols+lane:], x.cols, p.k, lanes)
		return
	}
	for r := 0; r < p.k; r += linesDown {
		n := min(linesDown, p.k-r)
		lines, stride := x.lines(k, w, k0+r, n, lane, lanes)
		k.Lines(p.x[r*p.width:], p.width, p.k, lines, stride, n, lanes)
	}
}

// lines gives n elements of each of some rows in float32, and their stride: where they lie, or in scratch.
func (x matrix) lines(k *kernel.Set, w *scratch, row, rows, from, n int) (lines []float32, stride int) {
	if x.dense.full != nil && x.t == num.Float32 {
		return x.dense.full[row*x.cols+from:], x.cols
	}
	lines = w.floats(slotLines, rows*n)
	for i := range rows {
		x.line(k, w, lines[i*n:(i+1)*n], (row+i)*x.cols+from)
	}
	return lines, n
}

// line sets dst to elements from one on, in row-major order.
func (x matrix) line(k *kernel.Set, w *scratch, dst []float32, from int) {
	if x.codes != nil {
		dequantize(k, w, dst, x.codes, from, x.t)
		return
	}
	x.dense.part(from, from+len(dst)).get(k, dst)
	if x.dense.t != x.t {
		round(k, x.t, dst)
	}
}

// limits are the least magnitude but 0, and the greatest, of numbers, as bits.
type limits struct{ least, greatest uint32 }

// joined are the limits of all that have these.
func joined(all []limits) limits {
	j := limits{least: math.MaxUint32}
	for _, l := range all {
		j.least, j.greatest = min(j.least, l.least), max(j.greatest, l.greatest)
	}
	return j
}

// exact says whether every product of numbers of 16 bits within these limits is a float32: bfloat16 has 8 bits, so that products have 16 and
// those from 2^-134 on end at 2^-149; float16 has 11, and its smallest product is 2^-48.
func exact(a, b limits) bool {
	if a.greatest == 0 || b.greatest == 0 {
		return true
	}
	wide := func(bits uint32) float64 { return float64(math.Float32frombits(bits)) }
	return wide(a.least)*wide(b.least) >= 0x1p-134 && wide(a.greatest)*wide(b.greatest) <= 0x1.fffffep127
}
