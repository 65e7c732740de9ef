package op

import (
	"fmt"

	"qlora/ref/num"
)

// Tensor is a matrix that lives on a device, row-major. What Handle holds is the device's own business.
type Tensor struct {
	Name       string
	DType      num.DType
	Rows, Cols int
	Handle     any
	FirstRow   int // of a view: the row of the whole tensor at which it starts
}

// View is rows from ≤ i < to of t, sharing its values.
func (t *Tensor) View(from, to int) *Tensor {
	if from < 0 || from > to || to > t.Rows {
		panic(fmt.Sprintf("op: rows %d to %d of %s, which has %d", from, to, t.Name, t.Rows))
	}
	v := *t
	v.FirstRow, v.Rows = t.FirstRow+from, to-from
	return &v
}

// Len is the number of elements.
func (t *Tensor) Len() int { return t.Rows * t.Cols }

// Ints is a vector of integers that lives on a device: token ids, labels, positions, segment bounds, the clock.
type Ints struct {
	Name   string
	Len    int
	Handle any
}

// Weight is the matrix [out, in] of a linear layer: dense, or 4-bit blocks that are dequantized where they are used.
// Exactly one of the two is set.
type Weight struct {
	Dense     *Tensor
	Quantized *Quantized
}

// Quantized is a frozen 4-bit matrix on a device.
type Quantized struct {
	Name    string
	Out, In int
	Handle  any
}

// State8 is AdamW's 8-bit state of one parameter on a device.
type State8 struct {
	Name   string
	Len    int
	Handle any
}

// Out is the number of rows, one for each output.
func (w Weight) Out() int {
	if w.Quantized != nil {
		return w.Quantized.Out
	}
	return w.Dense.Rows
}

// In is the number of columns, one for each input.
func (w Weight) In() int {
	if w.Quantized != nil {
		return w.Quantized.In
	}
	return w.Dense.Cols
}
