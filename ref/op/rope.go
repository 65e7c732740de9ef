package op

import "qlora/ref/num"

// RoPE turns each head of x [tokens, heads·d] by its position's angles, in Hugging Face's layout: element i < d/2 goes with
// element i + d/2. cos and sin are [positions, d/2] tables from the host (num.RoPEAngle, num.SinCos), float32.
//
//	y[i]     = round(x[i]·cos − x[i+d/2]·sin)
//	y[i+d/2] = round(x[i+d/2]·cos + x[i]·sin)
func RoPE(y, x, cos, sin []float32, positions []int32, heads, d int, t num.DType) {
	turn(x, cos, sin, positions, heads, d, 1, func(i int, v float32) { y[i] = t.Round(v) })
}

// RoPEBackward adds the gradient turned back by the same angles.
func RoPEBackward(dx, dy, cos, sin []float32, positions []int32, heads, d int, t num.DType) {
	turn(dy, cos, sin, positions, heads, d, -1, func(i int, v float32) { dx[i] = t.Round(dx[i] + t.Round(v)) })
}

func turn(x, cos, sin []float32, positions []int32, heads, d int, sign float32, store func(int, float32)) {
	half := d / 2
	for token, p := range positions {
		c, s := cos[int(p)*half:], sin[int(p)*half:]
		for h := range heads {
			at := (token*heads + h) * d
			for i := range half {
				lo, hi, si := x[at+i], x[at+half+i], float32(sign*s[i])
				store(at+i, float32(lo*c[i])-float32(hi*si))
				store(at+half+i, float32(hi*c[i])+float32(lo*si))
			}
		}
	}
}
