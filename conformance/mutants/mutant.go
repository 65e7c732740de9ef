// Package mutants is a catalogue of how QLoRA goes wrong: implementations that are each wrong in one way, as real projects were, which
// are named where they are known, or in a way of the same kind. The conformance suite must find every one of them, whether it declares
// that it has the reference's bits or that it rounds otherwise; README.md has the case that does.
//
// Where an operation has many mutants, its file has the whole operation once in parts that hold their own, and each mutant
// replaces one part by a wrong one. Where what is wrong is the question and not the computation, a mutant is the reference, asked
// that other question.
package mutants

import (
	"slices"

	"qlora/conformance"
	"qlora/ref/op"
)

// Mutant is an implementation of one operation, or a device, that is wrong in one way.
type Mutant struct {
	Name string
	Bug  string // what is wrong, in one sentence
	Seen string // the project, and issue or pull request, that had it; "" for none that can be named
	Op   string // the operation that it is of, or by which a device is judged
	// Func is the operation; nil for a device.
	Func Func
	// Device makes a device faulty.
	Device func(op.Device) op.Device
	// Rounding says that nothing is wrong but a rounding, the order of a sum or the sign of a zero: what declares that it rounds
	// otherwise may be allowed it.
	Rounding bool
}

// All are all mutants, in the order of the files.
var All = slices.Concat(
	quantizeMutants, dynamicMutants, nestedMutants, dequantizeMutants,
	linearMutants, linearBackwardMutants, loraMutants, loraBackwardMutants, adapterMutants, dropoutMutants, noiseMutants,
	attentionMutants, attentionBackwardMutants, cacheMutants, normMutants, ropeMutants, gateMutants, embeddingMutants, headMutants, addMutants, copyMutants,
	optimMutants, lionMutants, hostMutants, chooseMutants, penalizeMutants, numberMutants, randomMutants,
	safetensorsMutants, bnbMutants, adapterFileMutants, ggufMutants, configMutants,
	deviceMutants, deviceQuantizeMutants, fullMutants,
)

// Generous is an arithmetic that allows nearly everything that rounding may do.
var Generous = op.Arithmetic{Unit: 0x1p-23, Block: 8, SplitK: 4, Flushes: true, Elementary: 0x1p-20, WeightUnrounded: true}

// Kill judges the mutant, which declares arithmetic a, up to a level, and ends at the first case that it fails. ok is false if
// there is none: the mutant survives.
func (m Mutant) Kill(level conformance.Level, a op.Arithmetic) (killer conformance.Result, ok bool, err error) {
	o, err := conformance.Lookup(m.Op)
	if err != nil {
		return killer, false, err
	}
	i, err := m.implementation(a)
	if err != nil {
		return killer, false, err
	}
	for _, c := range smokeFirst(o.List(level)) {
		if r := i.Judge(o, c); r.Verdict == conformance.Failed {
			return r, true, nil
		}
	}
	return killer, false, nil
}

func (m Mutant) implementation(a op.Arithmetic) (*conformance.Implementation, error) {
	i := &conformance.Implementation{Do: func(o *conformance.Operation, _ conformance.DType) (Func, error) { return o.Whole(m.Func), nil }}
	if m.Device != nil {
		var err error
		if i, err = conformance.OnDevice(func() (op.Device, error) { return m.Device(op.NewPlain(0)), nil }); err != nil {
			return nil, err
		}
	}
	i.Name, i.Arithmetic = m.Name, a
	return i, nil
}

// smokeFirst puts the cases first that are few and find most.
func smokeFirst(cases []*Case) []*Case {
	slices.SortStableFunc(cases, func(a, b *Case) int { return int(a.Level) - int(b.Level) })
	return cases
}
