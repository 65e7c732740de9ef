package second

import (
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

// update is one step's scalars in their order in memory, and what gradients are multiplied by.
type update struct {
	decay, beta1, rest1, beta2, rest2, rootBias2, eps, stepSize, maxNorm float32
	clip                                                                 float32
}

func newUpdate(scalars, norm values) update {
	var s [optim.NumScalars]float32
	scalars.all(s[:])
	u := update{s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], 1}
	if u.maxNorm != 0 {
		u.clip = min(1, u.maxNorm/(norm.at(0)+1e-6))
	}
	return u
}

// step moves one parameter and its moments.
func (u update) step(p, m, v, g float32) (float32, float32, float32) {
	g = float32(g * u.clip)
	m = float32(m*u.beta1) + float32(g*u.rest1)
	v = float32(v*u.beta2) + float32(float32(g*u.rest2)*g)
	return float32(p*u.decay) + float32(m*u.stepSize)/(root(v)/u.rootBias2+u.eps), m, v
}

func scalarShapes(at op.At, scalars, norm *op.Tensor) {
	shaped(at, 1, optim.NumScalars, scalars)
	shaped(at, 1, 1, norm)
	full(at, scalars, norm)
}

func (d *Device) AdamW(at op.At, p, m, v, g, scalars, norm *op.Tensor) {
	scalarShapes(at, scalars, norm)
	shaped(at, p.Rows, p.Cols, m, v, g)
	full(at, p, m, v, g)
	d.do(at, func() error {
		u, ps, ms, vs, gs := newUpdate(of(scalars), of(norm)), of(p), of(m), of(v), of(g)
		d.elements(p.Len(), func(i int) {
			x, m, v := u.step(ps.at(i), ms.at(i), vs.at(i), gs.at(i))
			ps.put(i, x)
			ms.put(i, m)
			vs.put(i, v)
		})
		return nil
	})
}

func (d *Device) AdamW8(at op.At, p *op.Tensor, s *op.State8, g, scalars, norm *op.Tensor) {
	scalarShapes(at, scalars, norm)
	shaped(at, p.Rows, p.Cols, g)
	full(at, p, g)
	want(p.Len() == s.Len, "%v: %s has %d values, its state %d", at, p.Name, p.Len(), s.Len)
	d.do(at, func() error {
		u, ps, gs := newUpdate(of(scalars), of(norm)), of(p), of(g)
		ms, vs := state8(s)
		d.each(blocks(s.Len, blocksize8), func(block int) {
			first := block * blocksize8
			m, v := make([]float32, min(blocksize8, s.Len-first)), make([]float32, min(blocksize8, s.Len-first))
			for i := range m {
				var x float32
				x, m[i], v[i] = u.step(ps.at(first+i), ms.at(first+i, quant.DynamicSigned), vs.at(first+i, quant.DynamicUnsigned), gs.at(first+i))
				ps.put(first+i, x)
			}
			ms.putBlock(block, m, quant.DynamicSigned)
			vs.putBlock(block, v, quant.DynamicUnsigned)
		})
		return nil
	})
}

// blocksize8 is that of all 8-bit codes, of moments and of scales.
const blocksize8 = optim.Blocksize8

// state8 finds the moments in the state's memory: codes of m and v, then their scales.
func state8(s *op.State8) (m, v bytes8) {
	b, n := s.Handle.([]byte), s.Len
	absmax := 4 * blocks(n, blocksize8)
	return bytes8{b[:n], values{b: b[2*n : 2*n+absmax]}}, bytes8{b[n : 2*n], values{b: b[2*n+absmax:]}}
}

// at is value · absmax.
func (x bytes8) at(i int, by *quant.Map8) float32 {
	return float32(by[x.codes[i]] * x.absmax.at(i/blocksize8))
}

// putBlock quantizes a block.
func (x bytes8) putBlock(block int, v []float32, by *quant.Map8) {
	top, r := scaling(v)
	for i, y := range v {
		x.codes[block*blocksize8+i] = byte(nearest(float32(y*r), len(by), func(i int) float32 { return by[i] }))
	}
	x.absmax.put(block, top)
}
