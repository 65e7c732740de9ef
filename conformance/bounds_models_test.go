package conformance

import (
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"qlora/ref/op"
)

// A device whose products are summed as r says and that has the reference's bits in all else.
func (r rough) device() op.Device {
	var d *observer
	d = newObserver(func(o *observed) {
		f := map[string]func(*Case, Tensors) Tensors{"linear": r.linear, "lora_linear": r.loraLinear, "lora_linear_backward": r.loraLinearBackward}[o.Op]
		if f == nil {
			return
		}
		for name, t := range f(o.Case, o.in) {
			if o.out[name] != nil {
				d.Write(o.out[name], t.F)
			}
		}
	})
	return d
}

// products are rows of x [m, k] times rows of w [n, k].
func (r rough) products(x, w []float32, m, n, k int) []float32 {
	y := make([]float32, m*n)
	for i := range m {
		for j := range n {
			y[i*n+j] = r.dot(row(x, i, k), row(w, j, k))
		}
	}
	return y
}

func times(s float32, x []float32) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(s * v)
	}
	return y
}

func plus(x, y []float32) []float32 {
	z := make([]float32, len(x))
	op.Add(z, x, y, floats[F32].num)
	return z
}

func (r rough) loraLinear(c *Case, in Tensors) Tensors {
	l := layerOf(c)
	t := l.branch(c.DType)
	y := r.linear(c, in)["y"]
	u := Floats(t, r.products(l.dropped(in["x"].F, c.DType), Floats(t, in["a"].F).F, l.m, l.rank, l.k), l.m, l.rank)
	v := Floats(t, r.products(u.F, Floats(t, in["b"].F).F, l.m, l.n, l.rank))
	branch := Floats(c.DType, Floats(t, times(float32(l.scale), v.F)).F)
	return Tensors{"y": Floats(c.DType, plus(y.F, branch.F), l.m, l.n), "u": u}
}

func (r rough) loraLinearBackward(c *Case, in Tensors) Tensors {
	l := layerOf(c)
	t := l.branch(c.DType)
	w, _ := weightValues(c, in)
	dx := plus(in["dx"].F, Floats(c.DType, r.products(in["dy"].F, turned(w, l.k), l.m, l.k, l.n)).F)
	dv := Floats(t, times(float32(l.scale), in["dy"].F)).F
	du := Floats(t, r.products(dv, turned(Floats(t, in["b"].F).F, l.rank), l.m, l.rank, l.n)).F
	branch := Floats(t, r.products(du, turned(Floats(t, in["a"].F).F, l.k), l.m, l.k, l.rank)).F
	x := l.dropped(in["x"].F, c.DType)
	return Tensors{
		"dx": Floats(c.DType, plus(Floats(c.DType, dx).F, Floats(c.DType, l.dropped(branch, c.DType)).F), l.m, l.k),
		"da": Floats(F32, plus(in["da"].F, r.products(turned(du, l.rank), turned(x, l.k), l.rank, l.k, l.m))),
		"db": Floats(F32, plus(in["db"].F, r.products(turned(dv, l.n), turned(in["u"].F, l.rank), l.n, l.rank, l.m))),
	}
}

// models are cases of models and trainings, some of each kind.
func models(t *testing.T) (cases []*Case) {
	pattern := regexp.MustCompile(`^(decoder_block/.*nf4_dq|model_forward_backward/.*arch=(llama|qwen3).*/(packing|dropout)|training_steps/.*nf4_dq/rank=3/|full_training/.*arch=qwen)`)
	for _, name := range []string{"decoder_block", "model_forward_backward", "training_steps", "full_training"} {
		o, err := Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		of := slices.DeleteFunc(o.List(Quick), func(c *Case) bool { return !pattern.MatchString(c.Name()) })
		for i := 0; i < len(of); i += max(1, len(of)/5) {
			cases = append(cases, of[i])
		}
	}
	return cases
}

func judgeModel(t *testing.T, d func() op.Device, declared op.Arithmetic, c *Case) Result {
	o, err := Lookup(c.Op)
	if err != nil {
		t.Fatal(err)
	}
	i, err := OnDevice(func() (op.Device, error) { return d(), nil })
	if err != nil {
		t.Fatal(err)
	}
	i.Arithmetic = declared
	return i.Judge(o, c)
}

// The first-order bound is what it says: results that are moved by their whole radii, each in the direction in which it counts, move the
// sampled output by as much as the bound, which no other arithmetic could.
func TestAdjointBoundIsReached(t *testing.T) {
	a := arithmetic{Arithmetic: op.Arithmetic{Unit: 0x1p-19}}
	for _, c := range models(t) {
		if c.Op != "model_forward_backward" || c.DType != F32 {
			continue
		}
		in := c.Inputs()
		run := func(in Tensors) func(d op.Device) error {
			return func(d op.Device) error { _, err := forwardBackward(d, c, in); return err }
		}
		local, err := localRadii(a, run(in))
		must(err)
		for _, name := range []string{"model.layers.0.self_attn.q_proj.lora_A", "model.layers.1.mlp.down_proj.lora_B", "model.layers.0.mlp.up_proj.lora_B"} {
			element, h := 5, 0x1p-6*largest(in[name].F)
			more, err := record(run(moved(in, name, element, h)))
			must(err)
			less, err := record(run(moved(in, name, element, -h)))
			must(err)
			bound := local.tangent(more, less, float64(h))
			reached(t, c, in, pushed(a, more, less), name, element, bound)
		}
		const token = 7
		alone := maps.Clone(in)
		alone["labels"] = Ints(slices.Repeat([]int32{op.IgnoredLabel}, in["labels"].Len()))
		alone["labels"].I[token] = 3
		gradients, err := record(run(alone))
		must(err)
		reached(t, c, alone, pushed(a, gradients, nil), "loss", token, local.adjoint(gradients))
	}
}

// reached says that an output on the device is apart from the reference's by the bound.
func reached(t *testing.T, c *Case, in Tensors, d op.Device, name string, element int, bound float64) {
	want, err := forwardBackward(op.NewPlain(0), c, in)
	must(err)
	got, err := forwardBackward(d, c, in)
	must(err)
	share := (float64(got[name].F[element]) - float64(want[name].F[element])) / bound
	if t.Logf("%s: %s: %.3f of %.3g", c.Name(), name, share, bound); math.Abs(share-1) > 0.05 {
		t.Errorf("%s: %s moves by %.3f of the bound of %.3g, want 1", c.Name(), name, share, bound)
	}
}

// pushed moves each result by its radius in the direction in which it is more in one run than in another, or than 0.
func pushed(a arithmetic, more, less tape) op.Device {
	var d *observer
	kept := radii{}
	d = newObserver(func(o *observed) {
		place := placeOf(o)
		if kept[place] == nil {
			kept[place] = map[string][]float64{}
		}
		a.kept = kept[place]
		for name, limits := range o.bound(a) {
			kept[place][name] = radiiOf(limits)
			input := strings.TrimPrefix(name, "d")
			if name == "y" {
				input = "dy"
			}
			up, down := more[place][input], less[place][input]
			if up == nil || name == "da" || name == "db" {
				continue
			}
			if less == nil {
				down = make([]float32, len(up))
			}
			x := d.read(o.out[name]).F
			for i, limit := range limits {
				if up[i] > down[i] {
					x[i] += float32(limit.e)
				} else if up[i] < down[i] {
					x[i] -= float32(limit.e)
				}
			}
			d.Write(o.out[name], x)
		}
	})
	return d
}

// Whole models on devices that round as they declare stay within the bound.
func TestModelsStayWithinBounds(t *testing.T) {
	worst := map[string]float64{}
	for _, c := range models(t) {
		for what, d := range map[string]struct {
			device   rough
			declared op.Arithmetic
		}{
			"split":     {rough{splitK: 4}, op.Arithmetic{Unit: unit32, SplitK: 4}},
			"truncates": {rough{truncate: true, block: 8}, op.Arithmetic{Unit: 2 * unit32, Block: 8}},
		} {
			r := judgeModel(t, d.device.device, d.declared, c)
			if r.Verdict == Failed {
				t.Errorf("%s: %s: %s", what, c.Name(), r.Detail)
			}
			worst[c.Op] = max(worst[c.Op], r.Share)
			t.Logf("%s: %v: share %.3g, likely %.3g, %v", c.Name(), r.Verdict, r.Share, r.Likely, r.Took)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(worst)) {
		t.Logf("%s: at most %.3g of the bound", name, worst[name])
	}
}

// What is wrong by more than rounding is found in whole models, too, by a device that declares the least that is not exact.
func TestModelsBite(t *testing.T) {
	const matrix = "model.layers.1.mlp.up_proj.lora_B"
	scale := func(names ...string) func(out Tensors) {
		return func(out Tensors) {
			for _, name := range names {
				multiply(out[name].F, 1.05)
			}
		}
	}
	for _, test := range []struct {
		operation, what string
		spoil           func(out Tensors)
	}{
		{"model_forward_backward", "no gradient of a matrix", func(out Tensors) { clear(out[matrix].F) }},
		{"model_forward_backward", "losses too large", scale("loss")},
		{"decoder_block", "zeros", func(out Tensors) { clear(out["y"].F) }},
		{"decoder_block", "too large", scale("y")},
		{"training_steps", "a matrix that does not learn", func(out Tensors) { clear(out[matrix].F) }},
		{"full_training", "an embedding too large", scale("model.embed_tokens.weight")},
	} {
		o, err := Lookup(test.operation)
		if err != nil {
			t.Fatal(err)
		}
		i := &Implementation{Arithmetic: op.Arithmetic{Unit: unit32}, Do: func(*Operation, DType) (Func, error) {
			return func(c *Case, in Tensors) (Tensors, error) {
				out, err := programs[c.Op](op.NewPlain(0), c, in)
				if err == nil {
					test.spoil(out)
				}
				return out, err
			}, nil
		}}
		for _, c := range o.List(Smoke) {
			if r := i.Judge(o, c); r.Verdict != Failed {
				t.Errorf("%s: %s: %v, %.3g of the bound", test.what, c.Name(), r.Verdict, r.Share)
			}
		}
	}
}
