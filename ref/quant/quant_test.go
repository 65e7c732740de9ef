package quant

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"

	"qlora/ref/num"
)

// NF4 follows from the normal distribution: quantiles of a linear cut, an exact zero between, divided by the largest
// (paper, appendix E). bitsandbytes computes the cut in float32, the quantile in float64, rounds, and divides in float32.
func TestNF4Derivation(t *testing.T) {
	const offset = 0.9677083
	quantile := func(p float32) float32 { return float32(distuv.UnitNormal.Quantile(float64(p))) }
	var values []float32
	for _, p := range linspace(offset, 0.5, 9)[:8] {
		values = append(values, quantile(p))
	}
	for _, p := range linspace(offset, 0.5, 8)[:7] {
		values = append(values, -quantile(p))
	}
	values = append(values, 0)
	slices.Sort(values)
	top := values[15]
	for i, v := range values {
		if got := v / top; math.Float32bits(got) != math.Float32bits(NF4.Values[i]) {
			t.Errorf("value %d is %x, the table has %x", i, got, NF4.Values[i])
		}
	}
}

// The thresholds of bitsandbytes' CUDA kernels for NF4, by their bits.
func TestNF4Thresholds(t *testing.T) {
	want := []uint32{0xbf591cd8, 0xbf1c5270, 0xbeeb8480, 0xbeadea76, 0xbe703cec, 0xbe0d38bc, 0xbd3a7871, 0x3d22faff,
		0x3df64862, 0x3e5067e0, 0x3e9582d4, 0x3ec753f9, 0x3f006d04, 0x3f248daf, 0x3f5c89da}
	for i, bits := range want {
		if got := math.Float32bits(NF4.thresholds[i]); got != bits {
			t.Errorf("threshold %d is %08x, want %08x", i, got, bits)
		}
	}
}

// The values of FP4 by their bits, magnitudes of nibbles 0 to 7.
func TestFP4Values(t *testing.T) {
	for i, bits := range []uint32{0, 0x3baaaaab, 0x3f2aaaab, 0x3f800000, 0x3eaaaaab, 0x3f000000, 0x3e2aaaab, 0x3e800000} {
		if got := math.Float32bits(FP4.Values[i]); got != bits {
			t.Errorf("nibble %d is %08x, want %08x", i, got, bits)
		}
	}
}

// Every value of every type is its own code, and a tie goes to the lower neighbour, to the smaller one where there is a
// sign bit.
func TestCodes(t *testing.T) {
	for _, c := range Codebooks {
		for i, nibble := range c.ascending {
			if got := c.Code(c.Values[nibble]); got != nibble {
				t.Errorf("%s: %v has code %d, want %d", c.Name, c.Values[nibble], got, nibble)
			}
			if i == len(c.thresholds) {
				continue
			}
			tie, above := c.thresholds[i], math.Nextafter32(c.thresholds[i], 2)
			if c.Code(tie) != nibble || c.Code(above) != c.ascending[i+1] {
				t.Errorf("%s: threshold %v has code %d and just above it %d, want %d and %d", c.Name, tie, c.Code(tie), c.Code(above), nibble, c.ascending[i+1])
			}
			if c.signBit && i > 0 && c.Code(-tie) != nibble|8 {
				t.Errorf("%s: −%v has code %d, want %d", c.Name, tie, c.Code(-tie), nibble|8)
			}
		}
	}
	if Int4.Values[9] != -1 || Int4.Values[7] != 1 || E2M1.Values[15] != -1 || E3M0.Values[1] != 1.0/64 {
		t.Error("ends of int4, e2m1, e3m0")
	}
}

func random(stream uint32, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = num.Normal(1, num.Counter{Step: stream, Element: uint64(i)})
	}
	return x
}

// The nearest value is never missed: no other value of the type is closer than the one chosen, by more than a rounding.
func TestNearest(t *testing.T) {
	x := random(1, 4096)
	for _, c := range Codebooks {
		packed, absmax, err := Quantize4(x, c, 64, Spec)
		if err != nil {
			t.Fatal(err)
		}
		back := make([]float32, len(x))
		Spec.Dequantize4(back, 0, packed, absmax, c, 64, num.Float32)
		for i, v := range x {
			for _, nibble := range c.ascending {
				other := float64(c.Values[nibble]) * float64(absmax[i/64])
				if math.Abs(float64(v)-other) < math.Abs(float64(v-back[i]))-1e-6 {
					t.Fatalf("%s: %v became %v, %v is nearer", c.Name, v, back[i], other)
				}
			}
		}
	}
}

// What has come back is quantized to the same codes again, and its parts can be dequantized alone.
func TestRoundTrip(t *testing.T) {
	for _, c := range Codebooks {
		for _, blocksize := range []int{32, 64, 128, 256, 512, 1024, 2048, 4096} {
			for _, n := range []int{1, 63, 64, 65, 4097} {
				x := random(uint32(n), n)
				packed, absmax, err := Quantize4(x, c, blocksize, Spec)
				if err != nil {
					t.Fatal(err)
				}
				back := make([]float32, n)
				Spec.Dequantize4(back, 0, packed, absmax, c, blocksize, num.Float32)
				again, absmax2, err := Quantize4(back, c, blocksize, Spec)
				if err != nil || !bytes.Equal(packed, again) && !sameButZeros(c, packed, again) || !slices.Equal(absmax, absmax2) {
					t.Errorf("%s, blocksize %d, n %d: other codes the second time", c.Name, blocksize, n)
				}
				part := make([]float32, n/3)
				Spec.Dequantize4(part, n/2, packed, absmax, c, blocksize, num.Float32)
				if !slices.Equal(part, back[n/2:n/2+n/3]) {
					t.Errorf("%s, blocksize %d, n %d: a part differs from the whole", c.Name, blocksize, n)
				}
			}
		}
	}
}

// sameButZeros: the nibble of −0 comes back as +0, whose nibble is another.
func sameButZeros(c *Codebook, a, b []byte) bool {
	for i := range 2 * len(a) {
		x, y := nibble(a, i), nibble(b, i)
		if x != y && !(c.Values[x] == 0 && c.Values[y] == 0) {
			return false
		}
	}
	return true
}

func TestZeroBlocks(t *testing.T) {
	x := random(2, 128)
	clear(x[:64])
	x[3] = 0x1p-129 // its reciprocal overflows: a block of zeros
	for c, want := range map[*Codebook]byte{NF4: 0x77, FP4: 0, Int4: 0, E2M1: 0, E3M0: 0} {
		packed, absmax, err := Quantize4(x, c, 64, Spec)
		if err != nil {
			t.Fatal(err)
		}
		if absmax[0] != 0 || absmax[1] == 0 || !bytes.Equal(packed[:32], bytes.Repeat([]byte{want}, 32)) {
			t.Errorf("%s: absmax %v, bytes %x, want %x", c.Name, absmax, packed[:32], want)
		}
	}
	x[3] = math.Nextafter32(0x1p-128, 1) // the least absmax that has a reciprocal
	if _, absmax, _ := Quantize4(x, NF4, 64, Spec); absmax[0] != x[3] {
		t.Errorf("absmax %x, want %x", absmax[0], x[3])
	}
}

func TestBadWeights(t *testing.T) {
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		x := random(3, 100)
		x[70] = bad
		if _, err := Quantize(x, []int{10, 10}, Options{Type: NF4, Blocksize: 64}); err == nil || !strings.Contains(err.Error(), "element 70") {
			t.Errorf("%v: %v", bad, err)
		}
	}
	for _, blocksize := range []int{0, 16, 48, 8192, -64} {
		if _, _, err := Quantize4(random(4, 10), NF4, blocksize, Spec); err == nil {
			t.Errorf("blocksize %d was accepted", blocksize)
		}
	}
}

// Double quantization errs by at most half the widest gap of the map, times absmax2.
func TestNested(t *testing.T) {
	absmax := random(5, 1000)
	for i := range absmax {
		absmax[i] = float32(math.Abs(float64(absmax[i])))
	}
	n := Nest(absmax)
	for i, v := range n.Dequantize() {
		if diff := math.Abs(float64(v - absmax[i])); diff > 0.0073*float64(n.Absmax[i/256]) {
			t.Errorf("absmax %v came back as %v", absmax[i], v)
		}
	}
	equal := Nest([]float32{0.25, 0.25, 0.25})
	if equal.Absmax[0] != 0 || equal.Codes[0] != 127 || equal.Dequantize()[2] != 0.25 {
		t.Errorf("equal scales: %+v", equal)
	}
}

// The paper's saving: 0.5 bits a weight for the scales become 0.127.
func TestMemory(t *testing.T) {
	w := random(6, 1<<20)
	bits := func(double bool) float64 {
		q, err := Quantize(w, []int{1024, 1024}, Options{Type: NF4, Blocksize: 64, DoubleQuant: double})
		if err != nil {
			t.Fatal(err)
		}
		constants := q.Bytes() - len(q.Packed)
		if double {
			constants -= 256*4 + 4 // the map and the offset, the same for any size
		}
		return 8 * float64(constants) / float64(len(w))
	}
	if plain, double := bits(false), bits(true); plain != 0.5 || math.Abs(double-0.127) > 0.0005 {
		t.Errorf("%v and %v bits a weight", plain, double)
	}
}

func TestStateJSON(t *testing.T) {
	q := &Tensor{Type: NF4, Blocksize: 64, DType: num.BFloat16, Shape: []int{4096, 11008}}
	if got, want := q.stateJSON(), `{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [4096, 11008]}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	q.Nested = &Nested{Offset: 0.04392870515584946}
	if got, want := q.stateJSON(), `"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.04392870515584946}`; !strings.HasSuffix(got, want) {
		t.Errorf("%s, want … %s", got, want)
	}
	for x, want := range map[float64]string{0: "0.0", 1: "1.0", 1e-5: "1e-05", 1.5e-7: "1.5e-07", 1e16: "1e+16", 123456: "123456.0", 0.0001: "0.0001"} {
		if got := pythonFloat(x); got != want {
			t.Errorf("%v is %s, want %s", x, got, want)
		}
	}
}

func TestEntriesComeBack(t *testing.T) {
	for _, c := range []*Codebook{NF4, FP4} {
		for _, double := range []bool{false, true} {
			q, err := Quantize(random(7, 77*65), []int{77, 65}, Options{Type: c, Blocksize: 64, DoubleQuant: double, DType: num.Float16})
			if err != nil {
				t.Fatal(err)
			}
			files := entries(t, q)
			again, err := FromEntries("w", lookup(files))
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range []*Tensor{q, again} {
				x := make([]float32, 77*65)
				if err := q.Dequantize(x, num.BFloat16); err != nil {
					t.Fatal(err)
				}
			}
			if fmt.Sprint(q.Scales()) != fmt.Sprint(again.Scales()) || !bytes.Equal(q.Packed, again.Packed) || again.DType != num.Float16 {
				t.Errorf("%s, double %v: another tensor came back", c.Name, double)
			}
		}
	}
	q, _ := Quantize(random(8, 64), []int{64}, Options{Type: Int4, Blocksize: 64})
	if _, err := q.Entries("w", "U8"); err == nil || !strings.Contains(err.Error(), "int4") {
		t.Error(err)
	}
}

func entries(t *testing.T, q *Tensor) map[string]Entry {
	t.Helper()
	list, err := q.Entries("w", "U8")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]Entry{}
	for _, e := range list {
		files[e.Name] = e
	}
	return files
}

func lookup(files map[string]Entry) func(string) (Entry, error) {
	return func(name string) (Entry, error) {
		e, ok := files[name]
		if !ok {
			return e, fmt.Errorf("no tensor %s", name)
		}
		return e, nil
	}
}

// Whatever is wrong with a file's tensors is an error that names the tensor.
func TestBadEntries(t *testing.T) {
	q, err := Quantize(random(9, 1000), []int{10, 100}, Options{Type: NF4, Blocksize: 64, DoubleQuant: true})
	if err != nil {
		t.Fatal(err)
	}
	const state = "w.quant_state.bitsandbytes__nf4"
	json := func(from, to string) func(map[string]Entry) {
		return func(files map[string]Entry) {
			e := files[state]
			e.Bytes = []byte(strings.Replace(string(e.Bytes), from, to, 1))
			files[state] = e
		}
	}
	for what, c := range map[string]struct {
		spoil func(map[string]Entry)
		want  string
	}{
		"no state":       {func(f map[string]Entry) { delete(f, state) }, "tensor w"},
		"no map":         {func(f map[string]Entry) { delete(f, "w.nested_quant_map") }, "w.nested_quant_map"},
		"short codes":    {func(f map[string]Entry) { e := f["w"]; e.Bytes = e.Bytes[1:]; f["w"] = e }, "tensor w has 499"},
		"wrong type":     {func(f map[string]Entry) { e := f["w.absmax"]; e.DType = "F32"; f["w.absmax"] = e }, "w.absmax is F32"},
		"not JSON":       {json("{", ""), state},
		"other type":     {json("nf4", "fp4"), "quant_type"},
		"bad blocksize":  {json("64", "63"), "blocksize 63"},
		"negative shape": {json("10,", "-10,"), "shape"},
		"huge shape":     {json("10,", "4000000000, 4000000000,"), "shape"},
		"bad dtype":      {json("float32", "int8"), "int8"},
		"offset":         {json(`"nested_offset": `, `"nested_offset": 1e39, "x": `), "nested_offset"},
		"NaN scale":      {func(f map[string]Entry) { copy(f["w.nested_absmax"].Bytes, "\x00\x00\xc0\x7f") }, "w.nested_absmax: element 0 is NaN"},
	} {
		files := entries(t, q)
		c.spoil(files)
		if _, err := FromEntries("w", lookup(files)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}

// On CUDA FP4 has thresholds of its own: a value between those and the midpoints gets another code there.
func TestAmbiguousFP4(t *testing.T) {
	between := math.Float32frombits(0x3f155553) // the midpoint is 3f155556, CUDA's literal 3f155550
	if spec, cuda := FP4.Code(between), AmbiguousCodes(FP4, between, 1); spec != 5 || !slices.Equal(cuda, []uint8{2}) {
		t.Errorf("code %d here, %v on CUDA", spec, cuda)
	}
	if cuda := AmbiguousCodes(FP4, -0.5, 1); !slices.Equal(cuda, []uint8{13}) {
		t.Errorf("−0.5 has %v", cuda)
	}
	if cuda := AmbiguousCodes(FP4, 1e-40, 1e-40); !slices.Equal(cuda, []uint8{0}) {
		t.Errorf("a subnormal block has %v", cuda)
	}
}

// explain shows the way that quantization takes.
func TestExplain(t *testing.T) {
	x := []float32{0.1, -0.53, 0.9, 0}
	blocks, err := Explain(x, NF4, 64)
	if err != nil || len(blocks) != 1 {
		t.Fatal(err, len(blocks))
	}
	b := blocks[0]
	packed, absmax, _ := Quantize4(x, NF4, 64, Spec)
	if b.Absmax != absmax[0] || b.AbsmaxBack != 0.9 {
		t.Errorf("%+v", b)
	}
	for i, s := range b.Steps {
		if s.Code != nibble(packed, i) || !(s.Below < s.Scaled && s.Scaled <= s.Above) {
			t.Errorf("%+v", s)
		}
	}
	if b.Steps[2].Code != 15 || !math.IsInf(float64(b.Steps[2].Above), 1) || b.Steps[3].Code != 7 {
		t.Errorf("%+v", b.Steps)
	}
}

// No finite input makes a round trip fail, and the error of a value is at most half the widest gap of its type.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte{0, 0, 128, 63, 0, 0, 0, 0}, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, kind uint8) {
		c := Codebooks[int(kind)%len(Codebooks)]
		x := make([]float32, len(b)/4)
		for i := range x {
			x[i] = math.Float32frombits(uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24)
		}
		packed, absmax, err := Quantize4(x, c, 64, Spec)
		if err != nil {
			return
		}
		back := make([]float32, len(x))
		Spec.Dequantize4(back, 0, packed, absmax, c, 64, num.Float32)
		for i, v := range x {
			if diff := math.Abs(float64(v) - float64(back[i])); diff > 0.26*float64(absmax[i/64])+0x1p-128 {
				t.Errorf("%s: %v in a block of absmax %v came back as %v", c.Name, v, absmax[i/64], back[i])
			}
		}
	})
}

// Whatever the bytes, a file's 4-bit weight can be dequantized, or its error names the tensor.
func FuzzFromEntries(f *testing.F) {
	for _, double := range []bool{false, true} {
		q, err := Quantize(random(9, 130), []int{2, 65}, Options{Type: NF4, Blocksize: 64, DoubleQuant: double})
		if err != nil {
			f.Fatal(err)
		}
		list, err := q.Entries("w", "U8")
		if err != nil {
			f.Fatal(err)
		}
		files := map[string][]byte{}
		for _, e := range list {
			files[e.Name] = e.Bytes
		}
		f.Add(files["w.quant_state.bitsandbytes__nf4"], files["w"], files["w.absmax"], files["w.nested_absmax"], files["w.nested_quant_map"])
	}
	f.Fuzz(func(t *testing.T, state, codes, absmax, nestedAbsmax, nestedMap []byte) {
		dtype := map[bool]string{true: "U8", false: "F32"}[strings.Contains(string(state), "nested")]
		files := map[string]Entry{"w": {"w", "U8", nil, codes}, "w.absmax": {"w.absmax", dtype, nil, absmax}}
		for name, b := range map[string][]byte{"quant_state.bitsandbytes__nf4": state, "nested_absmax": nestedAbsmax, "nested_quant_map": nestedMap} {
			files["w."+name] = Entry{"w." + name, "F32", nil, b}
		}
		q, err := FromEntries("w", lookup(files))
		if err != nil {
			if !strings.Contains(err.Error(), "tensor w") {
				t.Error(err)
			}
			return
		}
		if err := q.Dequantize(make([]float32, elements(q.Shape)), q.DType); err != nil {
			t.Error(err)
		}
	})
}
