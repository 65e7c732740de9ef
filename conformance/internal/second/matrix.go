package second

import (
	"qlora/ref/num"
	"qlora/ref/op"
)

// matrix is what products are made of, widened.
type matrix struct {
	v          []float32
	rows, cols int
}

func zeros(rows, cols int) matrix { return matrix{make([]float32, rows*cols), rows, cols} }

func (a matrix) row(i int) []float32 { return a.v[i*a.cols : (i+1)*a.cols] }

// widen gives a tensor's values as those of a type are: rounded to it. Of nil it is empty.
func (d *Device) widen(t *op.Tensor, as num.DType) matrix {
	if t == nil {
		return matrix{}
	}
	a, x := zeros(t.Rows, t.Cols), of(t)
	d.elements(len(a.v), func(i int) { a.v[i] = as.Round(x.at(i)) })
	return a
}

// turned exchanges rows and columns.
func (d *Device) turned(a matrix) matrix {
	b := zeros(a.cols, a.rows)
	d.each(b.rows, func(j int) {
		for i := range b.row(j) {
			b.v[j*b.cols+i] = a.v[i*a.cols+j]
		}
	})
	return b
}

// apply replaces each element by f of it.
func (d *Device) apply(a matrix, f func(i int, x float32) float32) {
	d.elements(len(a.v), func(i int) { a.v[i] = f(i, a.v[i]) })
}

// products adds the products of rows to c: c_ij, as it stands, takes a_it·b_jt in ascending t. Four columns of c go together, for
// each sum waits for its last addition; columns past the edge are computed as the last one and dropped.
func (d *Device) products(c, a, b matrix) matrix {
	const strip = 4
	d.each(blocks(c.cols, strip), func(s int) {
		column := func(j int) int { return min(strip*s+j, c.cols-1) }
		j := [strip]int{column(0), column(1), column(2), column(3)}
		b0, b1, b2, b3 := b.row(j[0]), b.row(j[1]), b.row(j[2]), b.row(j[3])
		for i := c.rows - 1; i >= 0; i-- {
			to := c.row(i)
			s0, s1, s2, s3 := to[j[0]], to[j[1]], to[j[2]], to[j[3]]
			for t, x := range a.row(i) {
				s0 += float32(x * b0[t])
				s1 += float32(x * b1[t])
				s2 += float32(x * b2[t])
				s3 += float32(x * b3[t])
			}
			to[j[0]], to[j[1]], to[j[2]], to[j[3]] = s0, s1, s2, s3
		}
	})
	return c
}

// rowsByRows is a·bᵀ from +0.
func (d *Device) rowsByRows(a, b matrix) matrix { return d.products(zeros(a.rows, b.rows), a, b) }

// rowsByColumns is a·b from +0.
func (d *Device) rowsByColumns(a, b matrix) matrix { return d.rowsByRows(a, d.turned(b)) }

// addColumnsByColumns adds aᵀ·b to the gradient of a parameter, if it is asked for.
func (d *Device) addColumnsByColumns(gradient *op.Tensor, a, b matrix) {
	if gradient != nil {
		d.store(gradient, d.products(d.widen(gradient, num.Float32), d.turned(a), d.turned(b)))
	}
}

// store rounds a to a tensor's type.
func (d *Device) store(t *op.Tensor, a matrix) {
	to := of(t)
	d.elements(len(a.v), func(i int) { to.put(i, a.v[i]) })
}

// add adds a to the gradient of an activation, if it is asked for: round(gradient + round(a)).
func (d *Device) add(gradient *op.Tensor, a matrix) {
	if gradient != nil {
		to := of(gradient)
		d.elements(len(a.v), func(i int) { to.add(i, a.v[i]) })
	}
}
