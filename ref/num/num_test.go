package num

import (
	"math"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"
)

// Known answers: the kat_vectors file of Random123, the reference implementation of Philox.
func TestPhiloxKnownAnswers(t *testing.T) {
	for _, c := range []struct {
		ctr  [4]uint32
		key  [2]uint32
		want [4]uint32
	}{
		{[4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, [2]uint32{0xffffffff, 0xffffffff},
			[4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := Philox(c.ctr, c.key); got != c.want {
			t.Errorf("Philox(%x, %x) = %x, want %x", c.ctr, c.key, got, c.want)
		}
	}
}

// Widening a 16-bit number and rounding it back is the identity, for every number that is not a NaN.
func TestSixteenBitRoundTrip(t *testing.T) {
	for b := range 1 << 16 {
		h := uint16(b)
		if x := FromBFloat16(h); x == x && ToBFloat16(x) != h {
			t.Errorf("bfloat16 %04x → %v → %04x", h, x, ToBFloat16(x))
		}
		if x := FromFloat16(h); x == x && ToFloat16(x) != h {
			t.Errorf("float16 %04x → %v → %04x", h, x, ToFloat16(x))
		}
	}
}

// Half way between two neighbours the even one wins; a hair to either side the nearer one.
func TestBFloat16Ties(t *testing.T) {
	for b := range 0x7f7f {
		mid := uint32(b)<<16 | 0x8000
		even := uint16(b + b&1)
		for _, c := range []struct {
			bits uint32
			want uint16
		}{{mid - 1, uint16(b)}, {mid, even}, {mid + 1, uint16(b + 1)}} {
			if got := ToBFloat16(math.Float32frombits(c.bits)); got != c.want {
				t.Fatalf("ToBFloat16(%08x) = %04x, want %04x", c.bits, got, c.want)
			}
		}
	}
	if got := ToBFloat16(math.MaxFloat32); got != 0x7f80 {
		t.Errorf("the largest float32 rounds to %04x, want infinity", got)
	}
	if x := FromBFloat16(ToBFloat16(math.Float32frombits(0x7f800001))); x == x {
		t.Errorf("a NaN became %v", x)
	}
}

// The order is part of the specification: these sums differ in any other order.
func TestSumOrder(t *testing.T) {
	x := make([]float32, 64)
	x[0], x[32], x[16] = 1e8, 1, -1e8 // lane 0 loses the 1 before lane 16 cancels
	if got := Sum(x); got != 0 {
		t.Errorf("lane 0 must add elements 0 and 32 first: got %v, want 0", got)
	}
	x[32], x[1] = 0, 1 // lane 1 keeps its 1 until the last fold
	if got := Sum(x); got != 1 {
		t.Errorf("lanes must fold 16 apart first: got %v, want 1", got)
	}
	long := make([]float32, 2*sumRun)
	long[0] = 1e8
	for i := range 5 {
		long[sumRun+32*i] = 1 // 1e8 + 1 is 1e8, but 1e8 + 5 is not
	}
	if got := Sum(long); got != 1e8+8 {
		t.Errorf("each run of 65,536 must be summed alone: got %v, want %v", got, float32(1e8+8))
	}
}

// Normal has the quantiles of gonum's normal distribution to the algorithm's seven digits, in the middle and in both tails.
func TestNormal(t *testing.T) {
	for _, k := range []float32{0.5, 1.5, 100.5, 1e5 + 0.5, 1<<21 + 0.5, 1<<22 - 0.5, 1<<22 + 0.5, 1<<23 - 1.5, 1<<23 - 0.5} {
		want := distuv.UnitNormal.Quantile(float64(k) / (1 << 23))
		if got := normalQuantile(k, 1<<23); math.Abs(float64(got)-want) > 1e-6*max(math.Abs(want), 1e-3) {
			t.Errorf("quantile %v of 2^23 is %v, want %v", k, got, want)
		}
	}
	var sum, square float64
	const n = 100000
	for i := range n {
		v := float64(Normal(1, Counter{Element: uint64(i)}))
		sum, square = sum+v, square+v*v
	}
	if mean, variance := sum/n, square/n; math.Abs(mean) > 0.015 || math.Abs(variance-1) > 0.02 {
		t.Errorf("mean %v, variance %v", mean, variance)
	}
}
