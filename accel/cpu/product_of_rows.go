package cpu

import (
	"math"

	"qlora/accel/cpu/kernel"
	"qlora/ref/num"
	"qlora/ref/quant"
)

// few is a product of few rows, as generation has them: a is not packed.
type few struct {
	product
	rows   []float32 // a in float32
	limits []limits  // of each row
}

// productOfRows is product for few rows. With 4-bit weights it is bound by what their decoding takes, and a kernel of its own decodes
// them; otherwise b is packed in panels as wide as a row of accumulators.
func (d *Device) productOfRows(p product) {
	f := few{p, d.shared.floats(slotA, p.m*p.k), d.shared.limitsOf(p.m)}
	for i := range p.m {
		line := f.rows[i*p.k : (i+1)*p.k]
		p.a.lane(d.kernel, d.workers[0], line, i)
		f.limits[i].least, f.limits[i].greatest = d.kernel.Magnitudes(line)
	}
	decoded := 0
	if step := d.kernel.MatVecRows; f.decodes() {
		decoded = p.n / step * step
		d.tasks(decoded/step, func(w *scratch, task int) {
			if b := f.block(w, task*step, step); !f.decode(d.kernel, w, b) {
				f.multiply(d.kernel, w, b)
			}
		})
	}
	width := d.kernel.RowWidth
	d.tasks(ceil(p.n-decoded, width), func(w *scratch, task int) {
		j := decoded + task*width
		f.multiply(d.kernel, w, f.block(w, j, min(width, p.n-j)))
	})
}

func (d *Device) forProductOfRows(m, k, blocksize int) (w workspace) {
	width := d.kernel.RowWidth
	w.shared[slotA] = m * k
	w.each[slotB], w.each[slotC] = width*min(blockK, k), m*width
	w.each[slotLines] = width * max(linesDown, min(blockK, k))
	if blocksize > 0 {
		w.each[slotX] = d.kernel.MatVecRows * ceil(k, blocksize)
		w.each[slotY] = w.each[slotX] + 8
	}
	return w
}

// lane sets dst to all of a lane.
func (x matrix) lane(k *kernel.Set, w *scratch, dst []float32, lane int) {
	if !x.down {
		x.line(k, w, dst, lane*x.cols)
		return
	}
	for i := range dst {
		x.line(k, w, dst[i:i+1], i*x.cols+lane)
	}
}

// block is n columns of c from j on, in memory for a row of accumulators.
func (f few) block(w *scratch, j, n int) block {
	width := w.d.kernel.RowWidth
	return block{j: j, m: f.m, n: n, stride: width, c: w.floats(slotC, f.m*width)}
}

// multiply computes a block with packed panels.
func (f few) multiply(k *kernel.Set, w *scratch, b block) {
	b.start(f.product, 1, k.RowWidth)
	for from := 0; from < f.k; from += blockK {
		n := min(blockK, f.k-from)
		right := packedNumbers(k, w, w.floats(slotB, k.RowWidth*n), f.b, b.j, b.n, from, n, k.RowWidth, f.t)
		for i := range f.m {
			row := k.Row
			if f.t != num.Float32 && exact(f.limits[i], right.limits[0]) {
				row = k.RowFused
			}
			row(b.c[i*b.stride:(i+1)*b.stride], f.rows[i*f.k+from:][:n], right.x)
		}
	}
	b.finish(w, f.product)
}

// decodes says whether b is 4-bit rows of whole blocks, in a type that there is a kernel for.
func (f few) decodes() bool {
	q := f.b.codes
	return q != nil && !f.b.down && f.k == f.b.cols && f.k%q.Blocksize == 0 && f.t != num.Float16
}

// decode computes a block of MatVecRows columns from codes. It is false where products may not be exact.
func (f few) decode(k *kernel.Set, w *scratch, b block) bool {
	q := f.b.codes
	blocks := f.k / q.Blocksize
	byRow, absmax := w.floats(slotX, b.n*blocks), w.floats(slotY, b.n*blocks+8)
	for i := range b.n {
		copy(byRow[i*blocks:], scales(k, w, q, (b.j+i)*blocks, blocks))
	}
	k.Transpose(absmax, b.n, byRow, blocks, b.n, blocks)
	absmax = absmax[:b.n*blocks]
	kernel := k.MatVec4
	if f.t == num.BFloat16 {
		kernel = k.MatVec4Rounded
		weights := weightLimits(k, absmax, q.Type)
		for _, l := range f.limits {
			if !exact(l, weights) {
				return false
			}
		}
	}
	b.start(f.product, 1, b.n)
	packed := q.Packed[b.j*f.k/2:]
	for i := range f.m {
		kernel(b.c[i*b.stride:][:b.n], f.rows[i*f.k:(i+1)*f.k], packed, f.k/2, absmax, &q.Type.Values, q.Blocksize)
	}
	b.finish(w, f.product)
	return true
}

// weightLimits are limits of all weights that a type can make with some absmax, rounded to bfloat16: to be safe, half of the least product
// and twice the greatest. What is not finite or may be subnormal has limits that no product is exact within.
func weightLimits(k *kernel.Set, absmax []float32, c *quant.Codebook) limits {
	var a, v limits
	a.least, a.greatest = k.Magnitudes(absmax)
	v.least, v.greatest = k.Magnitudes(c.Values[:])
	if a.greatest == 0 {
		return limits{}
	}
	least := 0.5 * float64(math.Float32frombits(a.least)) * float64(math.Float32frombits(v.least))
	greatest := 2 * float64(math.Float32frombits(a.greatest)) * float64(math.Float32frombits(v.greatest))
	if least < 0x1p-126 || !(greatest <= math.MaxFloat32) {
		return limits{1, math.Float32bits(math.MaxFloat32)}
	}
	return limits{math.Float32bits(float32(least)), math.Float32bits(float32(greatest))}
}
