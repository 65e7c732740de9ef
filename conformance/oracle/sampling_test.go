package oracle

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"

	"qlora/ref/op"
)

// sampled is a case of sampling.py: what transformers makes of logits.
type sampled struct {
	Name     string
	Logits   []string
	Seen     []int32
	Settings struct {
		Penalty     float32 `json:"repetition_penalty"`
		Temperature float32
		TopK        int     `json:"top_k"`
		TopP        float32 `json:"top_p"`
		MinP        float32 `json:"min_p"`
	}
	Penalized     []string
	Kept          []int
	Probabilities []float64
}

// TestSampling holds Penalize and Choice against transformers' logits processors. Penalized logits are equal to the bit. The tokens that may
// be chosen are the same, and their probabilities within the rounding of float32; only where logits are equal at the end of what is kept, ours
// are those of lower index, while transformers keeps all for top-k, and for top-p those that its sort happens to put last. Tokens whose weight
// is 0 in float32 are never ours to choose; transformers keeps them, with next to no probability.
func TestSampling(t *testing.T) {
	b, err := os.ReadFile("vectors/sampling.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []sampled }
	if err := json.Unmarshal(b, &file); err != nil || len(file.Cases) < 30 {
		t.Fatal(err, len(file.Cases))
	}
	for _, v := range file.Cases {
		t.Run(v.Name, func(t *testing.T) {
			z := allFloats(t, v.Logits)
			if v.Settings.Penalty != 0 {
				y := make([]float32, len(z))
				op.Penalize(y, z, v.Seen, nil, v.Settings.Penalty)
				z = y
			}
			for i, want := range allFloats(t, v.Penalized) {
				if math.Float32bits(z[i]) != math.Float32bits(want) {
					t.Errorf("token %d is %v behind the penalty, want %v", i, z[i], want)
				}
			}
			v.leaveOutZeros()
			v.check(t, z)
		})
	}
}

func allFloats(t *testing.T, text []string) []float32 {
	x := make([]float32, len(text))
	for i, s := range text {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		x[i] = float32(v)
	}
	return x
}

// leaveOutZeros leaves out what is less than 2^-126 times as likely as the likeliest: float32's exp is 0 there (num.Exp).
func (v *sampled) leaveOutZeros() {
	least := 0x1p-126 * slices.Max(v.Probabilities)
	var kept []int
	var probabilities []float64
	for i, p := range v.Probabilities {
		if p >= least {
			kept, probabilities = append(kept, v.Kept[i]), append(probabilities, p)
		}
	}
	v.Kept, v.Probabilities = kept, probabilities
}

func (v sampled) check(t *testing.T, z []float32) {
	c := op.Choice{Temperature: v.Settings.Temperature, TopK: v.Settings.TopK, TopP: v.Settings.TopP, MinP: v.Settings.MinP}
	if c.Temperature == 0 {
		c.Temperature = 1
	}
	order := make([]int, len(z))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case z[a] > z[b]:
			return -1
		case z[a] < z[b]:
			return 1
		}
		return 0
	})
	order = order[:c.Candidates(len(z))]
	e := c.Weights(z, order)
	ours := order[:len(e)]
	least := z[ours[len(ours)-1]]
	equals := 0
	for _, x := range z {
		if x == least {
			equals++
		}
	}
	if equals > 1 {
		if c.TopK == 0 && len(v.Kept) != len(ours) {
			t.Errorf("%d are kept, by transformers %d", len(ours), len(v.Kept))
		}
		for i, x := range z {
			if in := slices.Contains(v.Kept, i); in != (x >= least) && x != least {
				t.Errorf("token %d, of logit %v where the last kept has %v: transformers keeps it: %v", i, x, least, in)
			}
		}
		return
	}
	sorted := slices.Sorted(slices.Values(ours))
	if !slices.Equal(sorted, v.Kept) {
		t.Fatalf("%v are kept, by transformers %v", sorted, v.Kept)
	}
	var sum float64
	for _, w := range e {
		sum += float64(w)
	}
	for i, id := range v.Kept {
		p := float64(e[slices.Index(ours, id)]) / sum
		if want := v.Probabilities[i]; math.Abs(p-want) > 1e-5*want+1e-38 {
			t.Errorf("token %d has the probability %v, in transformers %v", id, p, want)
		}
	}
}
