package llama

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"qlora/ref/checkpoint"
	"qlora/ref/lora"
	"qlora/ref/lora/peft"
	"qlora/ref/op"
)

// CheckAdapter says what of an adapter does not fit a model of this shape, if anything. Other layers than its target_modules
// choose are an error, too: the adapter is of another base then, and PEFT would leave them out in silence.
func (c Config) CheckAdapter(a checkpoint.Adapter) error {
	shapes := map[string][]int{}
	for _, t := range c.Tensors() {
		shapes[t.Name] = t.Shape
	}
	shapes[headWeight] = []int{c.VocabSize, c.HiddenSize}
	for _, check := range []func(checkpoint.Adapter, map[string][]int) error{c.checkMatrices, c.checkTargets, c.checkSaved} {
		if err := check(a, shapes); err != nil {
			return fmt.Errorf("%w (the adapter was made for %q)", err, a.Config.BaseModel)
		}
	}
	return nil
}

func (c Config) checkMatrices(a checkpoint.Adapter, shapes map[string][]int) error {
	modules := c.Modules()
	for _, m := range slices.Sorted(maps.Keys(a.A)) {
		if !slices.Contains(modules, m) {
			return fmt.Errorf("module %s: the model has no linear layer of this name that can be adapted", m)
		}
		out, in := shapes[m+".weight"][0], shapes[m+".weight"][1]
		if found := a.A[m]; found.Cols != in {
			return fmt.Errorf("module %s: lora_A is %d×%d, the model needs %d×%d", m, found.Rows, found.Cols, found.Rows, in)
		}
		if found := a.B[m]; found.Rows != out {
			return fmt.Errorf("module %s: lora_B is %d×%d, the model needs %d×%d", m, found.Rows, found.Cols, out, found.Cols)
		}
	}
	return nil
}

// checkTargets holds the modules that the adapter has against those that its target_modules choose. Where they are an
// expression that only Python can read, or are missing, the adapter's tensors decide.
func (c Config) checkTargets(a checkpoint.Adapter, _ map[string][]int) error {
	chosen, err := a.Config.Chosen()
	if errors.Is(err, peft.ErrPython) || err == nil && a.Config.TargetModules.Empty() {
		return nil
	}
	if err != nil {
		return err
	}
	for _, m := range c.Modules() {
		_, found := a.A[m]
		if chosen(m) && !found {
			return fmt.Errorf("module %s: target_modules chooses it, but the adapter has no tensors for it", m)
		}
		if !chosen(m) && found {
			return fmt.Errorf("module %s: the adapter has tensors for it, but its target_modules does not choose it", m)
		}
	}
	return nil
}

func (c Config) checkSaved(a checkpoint.Adapter, shapes map[string][]int) error {
	for _, name := range slices.Sorted(maps.Keys(a.Saved)) {
		shape, ok := shapes[name]
		if !ok {
			return fmt.Errorf("tensor %s: the model has none of this name", name)
		}
		if found := a.Saved[name].Shape(); !slices.Equal(found, shape) {
			return fmt.Errorf("tensor %s has shape %v, the model needs %v", name, found, shape)
		}
		if _, both := a.A[moduleOf(name)]; both {
			return fmt.Errorf("tensor %s: the adapter has lora_A and lora_B for this module, too", name)
		}
		if name == headWeight && c.TieWordEmbeddings && !c.saves(a, name) {
			return fmt.Errorf("tensor %s: modules_to_save does not name it, and the model has no head apart from its embedding", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		if _, found := a.Saved[name]; !found && c.saves(a, name) {
			return fmt.Errorf("tensor %s: modules_to_save names it, but the adapter does not have it", name)
		}
	}
	return nil
}

// loraOf makes room for an adapter's matrices.
func loraOf(a checkpoint.Adapter) *lora.Config {
	return &lora.Config{R: a.Config.R, Alpha: a.Config.Alpha, RSLoRA: a.Config.UseRSLoRA, Modules: a.Ranks}
}

// saves says whether an adapter's modules_to_save name a tensor. The head goes with an embedding that it stays tied to.
func (c Config) saves(a checkpoint.Adapter, tensor string) bool {
	if tensor == headWeight && c.TieWordEmbeddings && a.Config.WeightTying && c.saves(a, embeddingWeight) {
		return true
	}
	return a.Config.Saves(moduleOf(tensor))
}

// moduleOf is a tensor's name without weight or bias.
func moduleOf(tensor string) string { return tensor[:strings.LastIndexByte(tensor, '.')] }

// loadHead gives the head's weight, which can be the embedding. An adapter that saves, or will save, the embedding of a model whose
// head is tied to it leaves the base's embedding to the head, as PEFT does; unless modules_to_save does not name it, when PEFT changes
// the base. A tied head that modules_to_save names begins as the base's embedding and goes its own way.
func (b *builder) loadHead(c Config, embedding *op.Tensor) op.Weight {
	a, l := b.options.Adapter, b.options.LoRA
	_, savesHead := a.Saved[headWeight]
	_, savesEmbedding := a.Saved[embeddingWeight]
	trainsHead := l != nil && l.Saves(moduleOf(headWeight))
	trainsEmbedding := l != nil && l.Saves(moduleOf(embeddingWeight))
	switch {
	case !c.TieWordEmbeddings || savesHead:
		return op.Weight{Dense: b.dense(headWeight, b.options.Compute, c.VocabSize, c.HiddenSize)}
	case savesEmbedding && c.saves(a, embeddingWeight), trainsHead, trainsEmbedding:
		x := b.baseValues(embeddingWeight, c.VocabSize, c.HiddenSize)
		return op.Weight{Dense: b.own(headWeight, b.options.Compute, []int{c.VocabSize, c.HiddenSize}, x)}
	}
	b.tie(embedding)
	return op.Weight{Dense: embedding}
}

// load writes the adapter's matrices into a module's.
func (b *builder) load(module string, into *op.Adapter) {
	if a := b.options.Adapter; a.A != nil {
		b.d.Write(into.A, a.A[module].Values)
		b.d.Write(into.B, a.B[module].Values)
	}
}
