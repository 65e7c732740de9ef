package op

// Arithmetic is what a device declares of how it rounds, where that is not as this package does it. The zero value says that
// it has the reference's bits. A device that has an own one gives it by a method Arithmetic() Arithmetic; from it follow the
// bounds within which its results must lie.
type Arithmetic struct {
	Unit            float64 // unit roundoff of its accumulators: 2^-24 rounds to nearest, 2^-23 truncates; 0 is the reference's bits
	Block           int     // products that are summed at once before they join the accumulator, as on tensor cores; 0 is one
	SplitK          int     // accumulators among which the products of one element are divided; 0 is one
	Flushes         bool    // subnormal operands and products count as zero
	Elementary      float64 // relative error of exp, log, tanh, sigmoid, 1/√x and quotients; 0 is correctly rounded
	WeightUnrounded bool    // 4-bit weights are multiplied as float32, not rounded to the compute type first
}

// Exact says whether the device has the reference's bits.
func (a Arithmetic) Exact() bool { return a == Arithmetic{} }
