package optim

import (
	"math"
	"slices"
	"testing"

	"qlora/ref/num"
	"qlora/ref/quant"
)

func random(stream uint32, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = num.Normal(1, num.Counter{Step: stream, Element: uint64(i)})
	}
	return x
}

// AdamW in float64, from the paper's algorithm 2: a few roundings away after some steps.
func TestAdamWAgainstTheFormula(t *testing.T) {
	c := AdamWConfig{LR: 0.01, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1}
	const n = 500
	p, m, v := random(1, n), make([]float32, n), make([]float32, n)
	p64, m64, v64 := make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range p {
		p64[i] = float64(p[i])
	}
	for step := 1; step <= 10; step++ {
		g := random(uint32(step+1), n)
		norm := Norm([][]float32{g})
		AdamW(p, m, v, g, NewScalars(c, 5, step), norm)
		clip := min(1, 5/(float64(norm)+1e-6))
		for i := range p64 {
			g := float64(g[i]) * clip
			p64[i] *= 1 - c.LR*c.WeightDecay
			m64[i] = c.Beta1*m64[i] + (1-c.Beta1)*g
			v64[i] = c.Beta2*v64[i] + (1-c.Beta2)*g*g
			mHat, vHat := m64[i]/(1-math.Pow(c.Beta1, float64(step))), v64[i]/(1-math.Pow(c.Beta2, float64(step)))
			p64[i] -= c.LR * mHat / (math.Sqrt(vHat) + c.Eps)
		}
	}
	for i := range p {
		if diff := math.Abs(float64(p[i]) - p64[i]); diff > 10*4*(math.Abs(p64[i])+0.1)/(1<<24) {
			t.Errorf("p[%d] = %v, want %v", i, p[i], p64[i])
		}
	}
}

// The first step moves every parameter by the learning rate, whatever the size of its gradient.
func TestFirstStep(t *testing.T) {
	p, g := []float32{1, 1, 1, 1}, []float32{1e-3, -5, 1e6, 0}
	AdamW(p, make([]float32, 4), make([]float32, 4), g, NewScalars(AdamWConfig{LR: 0.5, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, 0, 1), Norm([][]float32{g}))
	for i, want := range []float64{0.5, 1.5, 0.5, 1} {
		if math.Abs(float64(p[i])-want) > 2e-5 {
			t.Errorf("p[%d] = %v, want %v", i, p[i], want)
		}
	}
}

func TestClip(t *testing.T) {
	if got := Norm([][]float32{{3}, {0, 4}}); got != 5 {
		t.Error(got)
	}
	if ClipScale(5, 10) != 1 || ClipScale(5, 0) != 1 {
		t.Error("clipped below the limit")
	}
	within(t, "scale of a norm as small as what is added to it", ClipScale(1e-6, 1e-6), 0.5, 1e-7)
	if got := ClipScale(5, 1); math.Abs(float64(got)-0.2) > 1e-6 {
		t.Error(got)
	}
}

// The scale of torch.nn.utils.clip_grad_norm_ (2.15.0), seen in what it made of a gradient of 1.
func TestClipOfPyTorch(t *testing.T) {
	norm := Norm([][]float32{{1, -2, 3}, {0.5, 40}})
	within(t, "norm", norm, 0x1.416bfep+5, 1e-5)
	for _, c := range []struct{ maxNorm, want float32 }{{0.3, 0x1.e95882p-8}, {1, 0x1.97c9c0p-6}, {50, 1}} {
		within(t, "scale", ClipScale(norm, c.maxNorm), c.want, 2*abs(c.want)/(1<<23))
	}
}

// A gradient that is no number shows in the parameters and in every norm; it does not pass for a small one.
func TestNotANumber(t *testing.T) {
	nan := float32(math.NaN())
	for _, bad := range []float32{nan, float32(math.Inf(1)), float32(math.Inf(-1))} {
		g, p := make([]float32, 300), make([]float32, 300)
		g[299] = bad
		norm := Norm([][]float32{{1}, g})
		if finite := norm-norm == 0; finite {
			t.Errorf("the norm of %v is %v", bad, norm)
		}
		AdamW8(p, NewState8(300), g, NewScalars(AdamWConfig{LR: 1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, 1, 1), norm, quant.Spec)
		if p[299] == p[299] {
			t.Errorf("a gradient of %v made a parameter %v", bad, p[299])
		}
	}
}

// 8-bit moments follow 32-bit ones: the first step is the same to the bit, for it reads empty moments, and later ones stray
// by a few learning rates at most.
func TestAdamW8(t *testing.T) {
	c := AdamWConfig{LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}
	const n = 5000
	p, m, v := random(1, n), make([]float32, n), make([]float32, n)
	p8, s := slices.Clone(p), NewState8(n)
	for step := 1; step <= 20; step++ {
		g := random(uint32(step+1), n)
		scalars, norm := NewScalars(c, 0, step), Norm([][]float32{g})
		AdamW(p, m, v, g, scalars, norm)
		AdamW8(p8, s, g, scalars, norm, quant.Spec)
		if step == 1 && !slices.Equal(p, p8) {
			t.Fatal("the first steps differ")
		}
	}
	sum := 0.0
	for i := range p {
		sum += math.Abs(float64(p[i] - p8[i]))
	}
	if mean := sum / n; mean == 0 || mean > 2*c.LR {
		t.Errorf("mean distance %v", mean)
	}
	if got, want := s.Bytes(), 2*n+2*4*20; got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
}

// The values of transformers' get_scheduler (5.23.0). Ours differ by float32 roundings of an angle and a sine.
func TestSchedulesOfTransformers(t *testing.T) {
	for _, c := range []struct {
		schedule Schedule
		step     int
		want     float64
	}{
		{Schedule{"cosine", 10, 100}, 3, 6e-05},
		{Schedule{"cosine", 10, 100}, 11, 0.0001999390827019096},
		{Schedule{"cosine", 10, 100}, 37, 0.00015877852522924732},
		{Schedule{"cosine", 10, 100}, 99, 6.09172980904238e-08},
		{Schedule{"cosine", 0, 10000}, 1, 0.00019999999506519785},
		{Schedule{"cosine", 0, 10000}, 9999, 4.9348021557982234e-12},
		{Schedule{"linear", 10, 100}, 3, 6e-05},
		{Schedule{"linear", 10, 100}, 37, 0.00014},
		{Schedule{"linear", 10, 100}, 99, 2.2222222222222225e-06},
		{Schedule{"constant_with_warmup", 7, 100}, 3, 8.571428571428571e-05},
		{Schedule{"cosine_with_restarts", 10, 100}, 11, 0.0001999390827019096},
		{Schedule{"cosine_with_restarts", 10, 100}, 99, 6.09172980904238e-08},
		{Schedule{"polynomial", 10, 100}, 3, 6e-05},
		{Schedule{"polynomial", 10, 100}, 37, 0.00014003},
		{Schedule{"polynomial", 10, 100}, 99, 2.321111111111103e-06},
		{Schedule{"polynomial", 10, 100}, 150, 9.999999999999998e-08},
		{Schedule{"polynomial", 0, 7}, 1, 0.00017144285714285716},
		{Schedule{"inverse_sqrt", 10, 100}, 3, 6e-05},
		{Schedule{"inverse_sqrt", 10, 100}, 37, 0.00010397504898200727},
		{Schedule{"inverse_sqrt", 0, 100}, 99, 0.00019901729062699988},
	} {
		if got := c.schedule.LR(2e-4, c.step); math.Abs(got/c.want-1) > 4.0/(1<<24) {
			t.Errorf("%v after %d steps: %v, want %v", c.schedule, c.step, got, c.want)
		}
	}
}

// The course at its corners, as multiples of the peak.
func TestSchedules(t *testing.T) {
	for _, c := range []struct {
		kind         string
		warmup, step int
		want         float64
	}{
		{"constant", 10, 0, 1}, {"constant", 10, 99, 1},
		{"constant_with_warmup", 10, 0, 0}, {"constant_with_warmup", 10, 5, 0.5}, {"constant_with_warmup", 10, 50, 1},
		{"linear", 10, 5, 0.5}, {"linear", 10, 10, 1}, {"linear", 10, 55, 0.5}, {"linear", 10, 100, 0}, {"linear", 0, 0, 1},
		{"cosine", 10, 5, 0.5}, {"cosine", 10, 10, 1}, {"cosine", 10, 55, 0.5}, {"cosine", 10, 40, 0.75}, {"cosine", 10, 100, 0},
		{"cosine_with_restarts", 10, 5, 0.5}, {"cosine_with_restarts", 10, 40, 0.75}, {"cosine_with_restarts", 10, 100, 0},
		{"polynomial", 10, 5, 0.5}, {"polynomial", 10, 10, 1}, {"polynomial", 10, 55, 0.5}, {"polynomial", 10, 100, 5e-8}, {"polynomial", 10, 200, 5e-8},
		{"inverse_sqrt", 10, 5, 0.5}, {"inverse_sqrt", 10, 10, 1}, {"inverse_sqrt", 10, 40, 0.5}, {"inverse_sqrt", 0, 0, 1}, {"inverse_sqrt", 0, 30000, 0.5},
	} {
		s := Schedule{c.kind, c.warmup, 100}
		if got := s.LR(2, c.step); math.Abs(got-2*c.want) > 4e-7 || s.Check() != nil {
			t.Errorf("%s with %d steps of warm-up: %v after %d steps, want %v", c.kind, c.warmup, got, c.step, 2*c.want)
		}
	}
	if err := (Schedule{Kind: "exponential"}).Check(); err == nil {
		t.Error("exponential is not known")
	}
}

func TestPager(t *testing.T) {
	p := Pager{Cap: 100}
	for _, c := range []struct {
		name string
		in   bool
		out  []string
	}{
		{"a", true, nil}, {"b", true, nil}, {"a", false, nil}, {"c", true, []string{"b"}}, {"b", true, []string{"a"}}, {"c", false, nil},
	} {
		in, out, err := p.Use(c.name, 40)
		if in != c.in || !slices.Equal(out, c.out) || err != nil || p.Used() > p.Cap {
			t.Errorf("%s: in %v, out %v, error %v; want %v, %v", c.name, in, out, err, c.in, c.out)
		}
	}
	if in, out, err := p.Use("large", 90); !in || !slices.Equal(out, []string{"b", "c"}) || err != nil {
		t.Errorf("%v %v %v", in, out, err)
	}
	if _, _, err := p.Use("too large", 101); err == nil {
		t.Error("a page larger than the cap was accepted")
	}
	p.Use("small", 5)
	if out := p.Room(94); !slices.Equal(out, []string{"large"}) || p.Used() != 5 {
		t.Errorf("%v left a room that has become too small, %d bytes stay", out, p.Used())
	}
	if out := p.Room(-1); !slices.Equal(out, []string{"small"}) || p.Used() != 0 {
		t.Errorf("%v left what is no room any more, %d bytes stay", out, p.Used())
	}
	if in, out, err := p.Use("small", 5); in || out != nil || err == nil {
		t.Errorf("a page was brought in where there is no room")
	}
}

// FuzzPager holds the policy against its definition: of the pages used since the start, each with the bytes it had when it
// came, those stay that were used last and fit. Page p is none: it stands for a change of the room.
func FuzzPager(f *testing.F) {
	f.Add(int64(10), []byte("\x14\x25\x14\x39\x25"))
	f.Add(int64(0), []byte("\x10\x21"))
	f.Add(int64(20), []byte("\x14\x25\x36\xf8\x14\xff\x47"))
	f.Fuzz(func(t *testing.T, room int64, uses []byte) {
		p := Pager{Cap: room}
		sizes, last := map[string]int64{}, map[string]int{}
		for now, u := range uses {
			name, size := string('a'+rune(u>>4)), int64(u&15)
			var out []string
			if name == "p" {
				room = size
				out = p.Room(room)
			} else {
				var in bool
				var err error
				if in, out, err = p.Use(name, size); err != nil {
					if size <= room {
						t.Fatalf("%s of %d bytes was refused by room for %d", name, size, room)
					}
					continue
				}
				if _, was := sizes[name]; was == in {
					t.Fatalf("%s was there: %v; has to come: %v", name, was, in)
				} else if !was {
					sizes[name] = size
				}
				last[name] = now
			}
			if n := len(out); n > 0 && p.Used()+sizes[out[n-1]] <= room {
				t.Fatalf("%s had to leave and would have fitted", out[n-1])
			}
			for _, old := range out {
				if _, was := sizes[old]; !was || old == name {
					t.Fatalf("%s leaves and is not there or is just coming", old)
				}
				delete(sizes, old)
				for stayed := range sizes {
					if last[stayed] < last[old] {
						t.Fatalf("%s left before %s, which was used earlier", old, stayed)
					}
				}
			}
			total := int64(0)
			for _, size := range sizes {
				total += size
			}
			if total != p.Used() || total > room {
				t.Fatalf("%d bytes on the device, Used is %d, room is %d", total, p.Used(), room)
			}
		}
	})
}
