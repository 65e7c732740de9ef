package op

import (
	"math"
	"strings"
	"testing"

	"qlora/ref/num"
)

// A running sum that begins at 1 loses terms of exp(−18.4), of which Sum keeps 0.0013: draws of u·Sum above 1 end behind all that have a
// weight, where the banned tokens are.
func TestChooseNeverTakesABannedToken(t *testing.T) {
	z, y := make([]float32, 128_000), make([]float32, 128_000)
	for i := range z {
		z[i] = -18.4
	}
	z[5] = 0
	banned := []int32{7, 127_999}
	Penalize(y, z, nil, banned, 1)
	c := Choice{Temperature: 1, Seed: 1}
	behind := 0
	for step := range 4000 {
		if u := num.Uniform(c.Seed, num.Counter{Purpose: num.Purpose("choose"), Step: uint32(step), Layer: num.NoLayer}); u < 0.9988 {
			continue // which is the token of logit 0
		}
		behind++
		for _, topP := range []float32{0, 0.9999} {
			c.TopP = topP
			if id := Choose(y, c, step); id == 7 || id == 127_999 {
				t.Errorf("step %d, top-p %v: token %d, which is banned", step, topP, id)
			}
		}
	}
	if behind == 0 {
		t.Error("no draw falls behind the running sum")
	}
}

// A candidate of weight 0 has no chance where it is not banned, either, and the likeliest always has one.
func TestWeightsAboveZero(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, c := range []struct {
		z    []float32 // from the largest down
		want int
	}{{[]float32{2}, 1}, {[]float32{2, 1, -200, -inf}, 2}, {[]float32{2, -inf, -inf}, 1}, {[]float32{inf, inf, 3, -inf}, 2}} {
		order := make([]int, len(c.z))
		for i := range order {
			order[i] = i
		}
		for _, how := range []Choice{{Temperature: 1}, {Temperature: 0.9, TopP: 0.999999}} {
			if got := len(how.Weights(c.z, order)); got != c.want {
				t.Errorf("%v of %v are kept, %+v, want %d", got, c.z, how, c.want)
			}
		}
	}
}

func TestChooseRejectsLogitsOfNothing(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		z    []float32
		want string
	}{
		{[]float32{-inf, -inf, -inf}, "choose: all logits are −∞: every token is banned; raise no_repeat_ngram_size (0 is no limit) or lower min_new_tokens"},
		{[]float32{-inf, nan, -inf}, "choose: the logit of token 1 is NaN"},
		{[]float32{-inf, -3, -inf}, ""},
		{[]float32{-inf, inf, -inf}, ""},
	} {
		for _, how := range []Choice{{}, {Temperature: 1}, {Temperature: 1, TopK: 2, TopP: 0.5, MinP: 0.5}} {
			d := NewPlain(0)
			logits, token := d.New(Run, "logits", num.Float32, 1, 3), d.NewInts(Run, "token", 1)
			d.Write(logits, c.z)
			d.Choose(At{Name: "choose"}, token, logits, how, d.NewInts(Run, "clock", ClockLen))
			ids, err := d.ReadInts(token)
			if c.want == "" && (err != nil || ids[0] != 1) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, %+v: %v, %v, want %q", c.z, how, ids, err, c.want)
			}
		}
	}
}
