package train

import (
	"slices"

	"qlora/ref/llama"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
)

// param is a tensor that is trained, with the optimizer's state, which is one page: AdamW's moments m and v, or state8; Lion's m.
type param struct {
	llama.Parameter
	m, v   *op.Tensor
	state8 *op.State8
}

func (t *Trainer) param(p llama.Parameter) param {
	r, x, life, name := param{Parameter: p}, p.Value, op.Run, "optimizer/"+p.Name
	if t.config.Paged {
		life = op.Paged
	}
	switch {
	case t.config.Lion:
		r.m = t.device.New(life, name+".m", num.Float32, x.Rows, x.Cols)
	case t.config.EightBit && x.Len() >= optim.Min8BitSize:
		r.state8 = t.device.NewState8(life, name, x.Len())
	default:
		moments := t.device.New(life, name, num.Float32, 2*x.Rows, x.Cols)
		r.m, r.v = moments.View(0, x.Rows), moments.View(x.Rows, 2*x.Rows)
		r.m.Name, r.v.Name = name+".m", name+".v"
	}
	return r
}

// update clips the gradients and moves every parameter. In every other step it goes from the last to the first, for which there is no room
// in memory then: no parameter depends on another, and the pages that were used last are still in memory.
func (t *Trainer) update(lr float64) {
	d := t.device
	at := op.At{Layer: num.NoLayer, Name: "optimizer"}
	var grads []*op.Tensor
	for _, p := range t.params {
		grads = append(grads, p.Grad)
	}
	d.GradNorm(at, t.norm, grads)
	d.Write(t.scalars, t.scalarsOf(lr, t.config.AdamW.WeightDecay))
	d.Write(t.undecayed, t.scalarsOf(lr, 0))
	order := slices.Clone(t.params)
	if t.step%2 == 1 {
		slices.Reverse(order)
	}
	for i, p := range order {
		for _, soon := range order[i:min(i+2, len(order))] {
			soon.bringIn(d)
		}
		t.move(p)
		p.Refresh(d)
	}
}

func (t *Trainer) scalarsOf(lr, decay float64) []float32 {
	c := t.config.AdamW
	c.LR, c.WeightDecay = lr, decay
	if t.config.Lion {
		return optim.NewLionScalars(c, t.config.MaxGradNorm)
	}
	return optim.NewScalars(c, t.config.MaxGradNorm, t.step+1)
}

func (t *Trainer) move(p param) {
	d, at, scalars := t.device, op.At{Layer: num.NoLayer, Name: "optimizer." + p.Name}, t.scalars
	if p.NoDecay {
		scalars = t.undecayed
	}
	switch {
	case p.state8 != nil:
		d.AdamW8(at, p.Value, p.state8, p.Grad, scalars, t.norm)
	case t.config.Lion:
		d.Lion(at, p.Value, p.m, p.Grad, scalars, t.norm)
	default:
		d.AdamW(at, p.Value, p.m, p.v, p.Grad, scalars, t.norm)
	}
}

// bringIn begins to bring the state to the device.
func (p param) bringIn(d op.Device) {
	if p.state8 != nil {
		d.BringInState8(p.state8)
	} else {
		d.BringIn(p.m)
	}
}
