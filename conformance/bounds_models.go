package conformance

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/train"
)

// Across operations the bound is of first order: each operation's own radius, on the inputs that the reference has, times what the
// output depends on it. Both the device and the reference are that far from the mathematics, so their radii add up.
//
// The derivatives are those of the reference in float32: of a loss or of an element of a block's output, the gradients that its own
// backward hands from operation to operation; of an element of an adapter's gradient, the difference of all values and gradients
// between two runs in which the parameter is a little more and a little less.

// radii are those of the outputs of a model's operations: by operation and place, then by output. Of backward they are with forward's.
type radii map[string]map[string][]float64

// placeOf is an operation's name and where it stands, the same for forward and backward.
func placeOf(o *observed) string { return fmt.Sprintf("%s %d %s", o.forward(), o.at.Layer, o.at.Name) }

// localRadii runs a program on the reference and gives each operation's radius on a device of that arithmetic.
func localRadii(a arithmetic, program func(d op.Device) error) (radii, error) {
	all, makers := radii{}, map[*op.Tensor]string{}
	d := newObserver(func(o *observed) {
		place := placeOf(o)
		if all[place] == nil || o.Op == o.forward() { // a forward that is run again begins anew
			all[place] = map[string][]float64{}
		}
		a.kept = all[place] // what forward keeps for backward
		for name, list := range o.bound(a) {
			all[place][name] = radiiOf(list)
		}
		if o.Op == "add" { // what depends on a sum of a residual depends on its second term as much
			terms := all[makers[o.from["b"]]]["y"]
			for i, e := range all[place]["y"] {
				terms[i] += e
			}
			delete(all, place)
			return
		}
		makers[o.out["y"]] = place
	})
	return all, program(d)
}

func radiiOf(x []approx) []float64 {
	e := make([]float64, len(x))
	for i := range x {
		e[i] = x[i].e
	}
	return e
}

// both adds the radii of the reference, which rounds to nearest.
func both(a arithmetic, program func(d op.Device) error) (radii, error) {
	device, err := localRadii(a, program)
	if err != nil {
		return nil, err
	}
	own, err := localRadii(arithmetic{Arithmetic: op.Arithmetic{Unit: unit32}}, program)
	for place, outputs := range device {
		for name, e := range outputs {
			for i := range e {
				e[i] += own[place][name][i]
			}
		}
	}
	return device, err
}

// tape is what a run's operations have read, by place and input: forward's values, and the gradient dy of each one's output.
type tape map[string]map[string][]float32

func record(program func(d op.Device) error) (tape, error) {
	all := tape{}
	return all, program(newObserver(all.add))
}

func (all tape) add(o *observed) {
	place := placeOf(o)
	if all[place] == nil {
		all[place] = map[string][]float32{}
	}
	for name, t := range o.in {
		if o.Op == o.forward() || name == "dy" {
			all[place][name] = t.F
		}
	}
}

// adjoint is Σ |dy|·radius over the outputs of forward, dy being the gradient of a sampled output.
func (r radii) adjoint(gradients tape) (e float64) {
	for place, outputs := range r {
		for i, dy := range gradients[place]["dy"] {
			e += math.Abs(float64(dy)) * outputs["y"][i]
		}
	}
	return e
}

// tangent is the bound of a gradient, from runs in which its parameter is h more and h less. A radius of forward counts as much as
// the gradient there depends on the parameter; one of backward, of dx say, as much as x does, for x hands on to the gradient what
// the parameter does to it.
func (r radii) tangent(more, less tape, h float64) (e float64) {
	for place, outputs := range r {
		for name, radius := range outputs {
			input := strings.TrimPrefix(name, "d")
			if name == "y" {
				input = "dy"
			}
			a, b := more[place][input], less[place][input]
			if name == "da" || name == "db" || a == nil {
				continue // gradients of parameters, and what is only kept for backward
			}
			for i := range radius {
				e += math.Abs(float64(a[i])-float64(b[i])) / (2 * h) * radius[i]
			}
		}
	}
	return e
}

// samples is how many losses, and how many gradients, are bounded in one case.
const samples = 3

// boundModel bounds some losses and some elements of adapters' gradients. Of the others it only says that they are numbers.
func boundModel(c *Case, in Tensors, a arithmetic) map[string][]approx {
	if a.likely { // of first order is what is likely already
		return nil
	}
	run := func(c *Case, in Tensors) func(d op.Device) error {
		return func(d op.Device) error {
			_, err := forwardBackward(d, c, in)
			return err
		}
	}
	out, err := forwardBackward(op.NewPlain(0), c, in)
	must(err)
	local, err := both(a, run(c, in))
	must(err)
	bound := unbounded(out)
	smooth := *c
	smooth.DType = F32
	r := newRandom(c.Name() + " samples")

	labels := in["labels"]
	for range min(samples, labels.Len()) {
		token := r.below(labels.Len())
		alone := maps.Clone(in)
		alone["labels"] = Ints(slices.Repeat([]int32{op.IgnoredLabel}, labels.Len()), labels.Shape...)
		alone["labels"].I[token] = labels.I[token]
		gradients, err := record(run(&smooth, alone))
		must(err)
		bound["loss"][token] = approx{v: bound["loss"][token].v, e: local.loss(token) + local.adjoint(gradients)}
	}
	matrices := slices.DeleteFunc(slices.Sorted(maps.Keys(out)), func(name string) bool { return name == "loss" })
	for range min(samples, len(matrices)) {
		name := matrices[r.below(len(matrices))]
		element := r.below(out[name].Len())
		h := 0x1p-6 * largest(in[name].F)
		more, err := record(run(&smooth, moved(in, name, element, h)))
		must(err)
		less, err := record(run(&smooth, moved(in, name, element, -h)))
		must(err)
		bound[name][element] = approx{v: bound[name][element].v, e: local.gradient(name, element) + local.tangent(more, less, float64(h))}
	}
	return bound
}

// loss is the head's own radius of a token's loss.
func (r radii) loss(token int) float64 {
	for place, outputs := range r {
		if strings.HasPrefix(place, "head_loss ") {
			return outputs["loss"][token]
		}
	}
	panic("conformance: the model has no loss")
}

// gradient is the own radius of an element of model.layers.0.self_attn.q_proj.lora_A and its like.
func (r radii) gradient(name string, element int) float64 {
	module, part, _ := strings.Cut(strings.TrimPrefix(name, "model.layers."), ".lora_")
	layer, at, _ := strings.Cut(module, ".")
	return r[fmt.Sprintf("lora_linear %s %s", layer, at)][map[string]string{"A": "da", "B": "db"}[part]][element]
}

// moved is the inputs with one element of one of them changed.
func moved(in Tensors, name string, element int, by float32) Tensors {
	in = maps.Clone(in)
	in[name] = in[name].clone()
	in[name].F[element] += by
	return in
}

func largest(x []float32) (m float32) {
	for _, v := range x {
		m = max(m, v, -v)
	}
	return m
}

// unbounded is the reference's values with radii that all numbers are within.
func unbounded(out Tensors) map[string][]approx {
	bound := map[string][]approx{}
	for name, t := range out {
		bound[name] = allExactly(t.F)
		for i := range bound[name] {
			bound[name][i].e, bound[name][i].over = math.Inf(1), unlooked
		}
	}
	return bound
}

// must is for what the reference has done already.
func must(err error) {
	if err != nil {
		panic("conformance: " + err.Error())
	}
}

// boundTraining says that its outputs are numbers; all else is the band's.
func boundTraining(c *Case, in Tensors, a arithmetic) map[string][]approx {
	if a.likely {
		return nil
	}
	out, err := trainingSteps(op.NewPlain(0), c, in)
	must(err)
	return unbounded(out)
}

// boundBlock bounds some elements of a decoder block's output.
func boundBlock(c *Case, in Tensors, a arithmetic) map[string][]approx {
	if a.likely {
		return nil
	}
	out, err := decoderBlock(op.NewPlain(0), c, in)
	must(err)
	at1 := *c // all tokens at once, which has the same bits
	at1.Params = slices.Clone(c.Params)
	for i, p := range at1.Params {
		if p.Name == "chunk" {
			at1.Params[i] = Int("chunk", in["x"].Rows())
		}
	}
	local, err := both(a, func(d op.Device) error {
		_, err := decoderBlock(d, &at1, in)
		return err
	})
	must(err)
	bound := unbounded(out)
	smooth := *c
	smooth.DType = F32
	r := newRandom(c.Name() + " samples")
	for range samples {
		element := r.below(out["y"].Len())
		gradients, err := record(func(d op.Device) error { return blockGradient(d.(*observer), &smooth, in, element) })
		must(err)
		head := local[fmt.Sprintf("linear %d lm_head", num.NoLayer)]["y"][element]
		bound["y"][element] = approx{v: bound["y"][element].v, e: head + local.adjoint(gradients)}
	}
	return bound
}

// blockGradient runs a block forward and backward, from a gradient of 1 at one element of the output.
func blockGradient(d *observer, c *Case, in Tensors, element int) error {
	config, in := blockModel(c, in)
	m, err := build(unitGradient{d, element}, c, config, in)
	if err != nil {
		return err
	}
	ids := make([]int32, in["x"].Rows())
	for i := range ids {
		ids[i] = int32(i)
	}
	b := train.NewBatch(d, train.Sequences{{IDs: ids, Labels: make([]int32, len(ids))}})
	m.Backward(b, m.Loss(b, d.New(op.Step, "batch/loss", num.Float32, b.Tokens, 1)), d.New(op.Step, "batch/gradient", num.Float32, 1, 1))
	return d.Sync()
}

// unitGradient has, in place of the head's, the gradient of one of its inputs.
type unitGradient struct {
	*observer
	element int
}

func (d unitGradient) HeadLossBackward(at op.At, dx, dw, lse, x *op.Tensor, w op.Weight, labels *op.Ints, g *op.Tensor) {
	unit := make([]float32, dx.Len())
	unit[d.element] = 1
	d.Write(dx, unit)
}

func init() { // which breaks a cycle: the bounds of models are made of those of their operations
	bounds["decoder_block"], bounds["model_forward_backward"] = boundBlock, boundModel
	bounds["training_steps"], bounds["full_training"] = boundTraining, boundTraining
}
