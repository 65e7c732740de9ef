package checkpoint

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
)

// ggufFile writes GGUF, right or wrong.
type ggufFile struct {
	magic           string
	version         uint32
	tensors, keys   uint64 // as the file says; the number of those that there are if 0
	metadata, infos []byte
	nKeys, nTensors uint64
	data            []byte
}

func newGGUFFile() *ggufFile { return &ggufFile{magic: "GGUF", version: 3} }

func le(b []byte, values ...any) []byte {
	for _, v := range values {
		if s, ok := v.(string); ok {
			b = append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
			continue
		}
		b, _ = binary.Append(b, binary.LittleEndian, v)
	}
	return b
}

// key adds a key with its type's number and its value; raw values of other types follow each other.
func (f *ggufFile) key(name string, values ...any) *ggufFile {
	f.metadata = le(f.metadata, append([]any{name}, values...)...)
	f.nKeys++
	return f
}

func (f *ggufFile) uint32(name string, x uint32) *ggufFile   { return f.key(name, uint32(4), x) }
func (f *ggufFile) float32(name string, x float32) *ggufFile { return f.key(name, uint32(6), x) }
func (f *ggufFile) string(name, x string) *ggufFile          { return f.key(name, uint32(8), x) }

// tensor adds a tensor; dims are in the file's order.
func (f *ggufFile) tensor(name string, kind uint32, offset uint64, dims ...uint64) *ggufFile {
	f.infos = le(f.infos, name, uint32(len(dims)), dims, kind, offset)
	f.nTensors++
	return f
}

func (f *ggufFile) bytes() []byte {
	counts := []uint64{f.tensors, f.keys}
	for i, n := range []uint64{f.nTensors, f.nKeys} {
		if counts[i] == 0 {
			counts[i] = n
		}
	}
	b := le([]byte(f.magic), f.version, counts)
	b = append(append(b, f.metadata...), f.infos...)
	b = append(b, make([]byte, align(int64(len(b)), 32)-int64(len(b)))...)
	return append(b, f.data...)
}

func parseGGUF(b []byte) (*GGUF, error) {
	return ParseGGUF(bytes.NewReader(b), int64(len(b)), "x.gguf")
}

func wantError(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.gguf") {
		t.Errorf("%s: %v, want x.gguf with %q", what, err, want)
	}
}

func TestGGUFMetadata(t *testing.T) {
	f := newGGUFFile().
		key("u8", uint32(0), uint8(200)).key("i8", uint32(1), int8(-3)).key("u16", uint32(2), uint16(60000)).key("i16", uint32(3), int16(-3)).
		uint32("u32", 4e9).key("i32", uint32(5), int32(-3)).float32("f32", 0.5).key("bool", uint32(7), uint8(1)).string("string", "§ 1").
		key("u64", uint32(10), uint64(math.MaxUint64)).key("i64", uint32(11), int64(-3)).key("f64", uint32(12), 0.1).
		key("strings", uint32(9), uint32(8), uint64(3), "a", "", "ccc").key("floats", uint32(9), uint32(6), uint64(2), []float32{1, -2}).
		key("ints", uint32(9), uint32(5), uint64(2), []int32{1, -2}).key("bytes", uint32(9), uint32(0), uint64(2), []uint8{1, 2}).
		key("bools", uint32(9), uint32(7), uint64(2), []uint8{1, 0}).key("none", uint32(9), uint32(8), uint64(0))
	for _, version := range []uint32{2, 3} {
		f.version = version
		g, err := parseGGUF(f.bytes())
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]any{
			"u8": uint8(200), "i8": int8(-3), "u16": uint16(60000), "i16": int16(-3), "u32": uint32(4e9), "i32": int32(-3), "f32": float32(0.5),
			"bool": true, "string": "§ 1", "u64": uint64(math.MaxUint64), "i64": int64(-3), "f64": 0.1,
		} {
			if g.Metadata[key] != want {
				t.Errorf("%s: %v, want %v", key, g.Metadata[key], want)
			}
		}
		if !slices.Equal(g.Metadata["strings"].([]string), []string{"a", "", "ccc"}) || !slices.Equal(g.Metadata["floats"].([]float32), []float32{1, -2}) ||
			!slices.Equal(g.Metadata["ints"].([]int32), []int32{1, -2}) || !slices.Equal(g.Metadata["bytes"].([]uint8), []uint8{1, 2}) ||
			!slices.Equal(g.Metadata["bools"].([]bool), []bool{true, false}) || len(g.Metadata["none"].([]string)) != 0 {
			t.Errorf("%v", g.Metadata)
		}
	}
}

// Each is refused with a message that says what is wrong where.
func TestGGUFRefuses(t *testing.T) {
	const f32, q4, q8 = 0, 2, 8
	whole := func(f *ggufFile) []byte { return f.bytes() }
	good := newGGUFFile().uint32("general.alignment", 32).tensor("a", f32, 0, 8).tensor("b", q8, 32, 32)
	good.data = make([]byte, 32+34)
	if _, err := parseGGUF(good.bytes()); err != nil {
		t.Fatal(err)
	}
	data := func(n int, f *ggufFile) []byte { f.data = make([]byte, n); return f.bytes() }
	for what, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":               {nil, `begins with ""`},
		"something else":      {[]byte("PK\x03\x04 and so on, and so on"), `begins with "PK`},
		"version 1":           {whole(&ggufFile{magic: "GGUF", version: 1}), "version 1"},
		"version 4":           {whole(&ggufFile{magic: "GGUF", version: 4}), "version 4 is unknown: want 2 or 3"},
		"big-endian":          {whole(&ggufFile{magic: "GGUF", version: 3 << 24}), "big-endian"},
		"header cut":          {good.bytes()[:20], "truncated"},
		"unknown type":        {whole(newGGUFFile().key("k", uint32(13))), `key "k": its type 13 is unknown`},
		"unknown type, array": {whole(newGGUFFile().key("k", uint32(9), uint32(99), uint64(1))), `key "k": its type 99 is unknown`},
		"nested arrays":       {whole(newGGUFFile().key("k", uint32(9), uint32(9), uint64(1))), `key "k": an array of arrays`},
		"bool of 2":           {whole(newGGUFFile().key("k", uint32(7), uint8(2))), "a bool is 2"},
		"string of terabytes": {whole(newGGUFFile().key("k", uint32(8), uint64(1)<<42)), `key "k": at byte`},
		"key of terabytes":    {whole(&ggufFile{magic: "GGUF", version: 3, metadata: le(nil, uint64(1)<<42), nKeys: 1}), "4398046511104"},
		"array of terabytes":  {whole(newGGUFFile().key("k", uint32(9), uint32(6), uint64(1)<<42)), "4398046511104 × 4 bytes"},
		"array, 2^64":         {whole(newGGUFFile().key("k", uint32(9), uint32(10), uint64(math.MaxUint64))), "18446744073709551615 × 8 bytes"},
		"strings, 2^61":       {whole(newGGUFFile().key("k", uint32(9), uint32(8), uint64(1)<<61)), "× 8 bytes or more should follow"},
		"key twice":           {whole(newGGUFFile().uint32("k", 1).uint32("k", 1)), `key "k" stands there twice`},
		"keys that lie":       {whole(&ggufFile{magic: "GGUF", version: 3, keys: math.MaxUint64}), "truncated"},
		"tensors that lie":    {whole(&ggufFile{magic: "GGUF", version: 3, tensors: math.MaxUint64}), "truncated"},
		"tensor twice":        {data(64, newGGUFFile().tensor("a", f32, 0, 8).tensor("a", f32, 32, 8)), `tensor "a": stands there twice`},
		"no dimensions":       {data(64, newGGUFFile().tensor("a", f32, 0)), `tensor "a": 0 dimensions`},
		"five dimensions":     {data(64, newGGUFFile().tensor("a", f32, 0, 1, 1, 1, 1, 1)), `tensor "a": 5 dimensions: want 1 to 4`},
		"dimension of 0":      {data(64, newGGUFFile().tensor("a", f32, 0, 8, 0)), "dimensions [8 0] are impossible"},
		"overflow":            {data(64, newGGUFFile().tensor("a", f32, 0, 1<<32, 1<<32)), "dimensions [4294967296 4294967296] are impossible"},
		"overflow to 0":       {data(64, newGGUFFile().tensor("a", q4, 0, 1<<63, 2)), "are impossible"},
		"Q5_K":                {data(64, newGGUFFile().tensor("a", 13, 0, 256)), "type Q5_K cannot be read: want F32, F16, Q4_0, Q4_1, Q8_0, Q6_K, BF16"},
		"type 77":             {data(64, newGGUFFile().tensor("a", 77, 0, 256)), `tensor "a": type number 77`},
		"half a block":        {data(64, newGGUFFile().tensor("a", q8, 0, 48, 2)), "a row has 48 elements, which is no multiple of Q8_0's block of 32"},
		"misaligned":          {data(64, newGGUFFile().tensor("a", f32, 4, 8)), "offset is 4, which is no multiple of the alignment 32"},
		"overlap":             {data(64, newGGUFFile().tensor("a", f32, 0, 16).tensor("b", f32, 32, 8)), `tensor "b": its offset is 32, where other tensors end only at 64`},
		"hole":                {data(96, newGGUFFile().tensor("a", f32, 0, 8).tensor("b", f32, 64, 8)), "a hole"},
		"beyond the end":      {data(64, newGGUFFile().tensor("a", f32, 64, 8)), `tensor "a": its offset is 64, its 32 bytes would end beyond the file's 64 bytes`},
		"far beyond the end":  {data(64, newGGUFFile().tensor("a", f32, math.MaxUint64-31, 8)), "is impossible"},
		"terabytes of data":   {data(64, newGGUFFile().tensor("a", f32, 0, 1<<40)), "its 4398046511104 bytes would end beyond"},
		"data cut":            {good.bytes()[:len(good.bytes())-1], `tensor "b": its offset is 32, its 34 bytes would end beyond the file's 65 bytes`},
		"no data":             {good.bytes()[:len(good.bytes())-66], `would end beyond the file's 0 bytes of data`},
		"alignment 0":         {whole(newGGUFFile().uint32("general.alignment", 0)), "general.alignment is 0"},
		"alignment 48":        {whole(newGGUFFile().uint32("general.alignment", 48)), "general.alignment is 48"},
		"alignment, a string": {whole(newGGUFFile().string("general.alignment", "32")), "of type string: want a power of two in a uint32"},
	} {
		_, err := parseGGUF(c.file)
		wantError(t, what, err, c.want)
	}
	large := newGGUFFile().key("k", uint32(8), uint64(1)<<38).bytes() // of a terabyte, so that a length may be true
	_, err := ParseGGUF(bytes.NewReader(large), 1<<40, "x.gguf")
	wantError(t, "header of gigabytes", err, `key "k": at byte 45: 274877906944 × 1 bytes or more should follow, what stands before the tensors may take 268435456 bytes`)
	for n := range good.bytes() {
		if _, err := parseGGUF(good.bytes()[:n]); err == nil {
			t.Errorf("accepted when cut after %d bytes", n)
		}
	}
}

// ggufLlama has the metadata and the tensors of a LLaMA with one block, without those that leave names.
func ggufLlama(leave ...string) *ggufFile {
	f := newGGUFFile()
	keys := []struct {
		name string
		add  func(string) *ggufFile
	}{
		{"general.architecture", func(k string) *ggufFile { return f.string(k, "llama") }},
		{"llama.block_count", func(k string) *ggufFile { return f.uint32(k, 1) }},
		{"llama.context_length", func(k string) *ggufFile { return f.uint32(k, 16) }},
		{"llama.embedding_length", func(k string) *ggufFile { return f.uint32(k, 8) }},
		{"llama.feed_forward_length", func(k string) *ggufFile { return f.uint32(k, 4) }},
		{"llama.attention.head_count", func(k string) *ggufFile { return f.uint32(k, 2) }},
		{"llama.attention.layer_norm_rms_epsilon", func(k string) *ggufFile { return f.float32(k, 1e-5) }},
		{"token_embd.weight", func(k string) *ggufFile { return f.tensor(k, 0, 0, 8, 4) }},
		{"blk.0.attn_q.weight", func(k string) *ggufFile { return f.tensor(k, 0, 128, 8, 8) }},
	}
	for _, k := range keys {
		if !slices.Contains(leave, k.name) {
			k.add(k.name)
		}
	}
	f.data = make([]byte, 4096)
	return f
}

func ggufModel(f *ggufFile) (*Model, error) {
	g, err := parseGGUF(f.bytes())
	if err != nil {
		return nil, err
	}
	return GGUFModel(g)
}

func TestGGUFConfig(t *testing.T) {
	m, err := ggufModel(ggufLlama().uint32("tokenizer.ggml.eos_token_id", 2).uint32("tokenizer.ggml.eot_token_id", 3).
		key("tokenizer.ggml.tokens", uint32(9), uint32(8), uint64(4), "a", "b", "c", "d"))
	if err != nil {
		t.Fatal(err)
	}
	c := m.Config
	if c.ModelType != "llama" || c.HiddenSize != 8 || c.IntermediateSize != 4 || c.NumHiddenLayers != 1 || c.NumAttentionHeads != 2 ||
		c.NumKeyValueHeads != 2 || c.HeadDim != 4 || c.VocabSize != 4 || c.MaxPositionEmbeddings != 16 || float32(c.RMSNormEps) != 1e-5 ||
		!c.TieWordEmbeddings || c.RoPETheta != 10000 || c.RoPE.Type != "default" || !slices.Equal(c.EOSTokenID, []int32{2, 3}) {
		t.Errorf("%+v", c)
	}
	for _, c := range []struct {
		file *ggufFile
		good func(ModelConfig) bool
	}{
		{ggufLlama().float32("llama.rope.scaling.factor", 4), func(c ModelConfig) bool { return c.RoPE.Type == "linear" && c.RoPE.Factor == 4 }},
		{ggufLlama().float32("llama.rope.scale_linear", 2), func(c ModelConfig) bool { return c.RoPE.Type == "linear" && c.RoPE.Factor == 2 }},
		{ggufLlama().float32("llama.rope.scaling.factor", 4).string("llama.rope.scaling.type", "none"), func(c ModelConfig) bool { return c.RoPE.Type == "default" }},
		{ggufLlama().float32("llama.rope.scaling.factor", 4).string("llama.rope.scaling.type", "yarn"), func(c ModelConfig) bool { return c.RoPE.Type == "yarn" }},
		{ggufLlama().uint32("llama.attention.sliding_window", 7), func(c ModelConfig) bool { return c.ModelType == "mistral" && *c.SlidingWindow == 7 }},
		{ggufLlama().uint32("llama.attention.sliding_window", 16), func(c ModelConfig) bool { return c.ModelType == "llama" }},
		{ggufLlama().uint32("llama.attention.head_count_kv", 1), func(c ModelConfig) bool { return c.NumKeyValueHeads == 1 }},
		{ggufLlama().tensor("output.weight", 0, 384, 8, 4), func(c ModelConfig) bool { return !c.TieWordEmbeddings }},
		{ggufLlama().tensor("blk.0.attn_q.bias", 0, 384, 8), func(c ModelConfig) bool { return c.AttentionBias && !c.MLPBias }},
		{ggufLlama("general.architecture").string("general.architecture", "llama").key("split.count", uint32(2), uint16(1)), func(c ModelConfig) bool { return true }},
	} {
		m, err := ggufModel(c.file)
		if err != nil || !c.good(m.Config) {
			t.Errorf("%v %v", m, err)
		}
	}
}

// A wrong or missing key, or a tensor that does not fit, is named.
func TestGGUFModelRefuses(t *testing.T) {
	for _, key := range []string{
		"general.architecture", "llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length",
		"llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon",
	} {
		_, err := ggufModel(ggufLlama(key))
		wantError(t, key, err, "key "+key+" is missing")
	}
	for what, c := range map[string]struct {
		file *ggufFile
		want string
	}{
		"architecture":       {ggufLlama("general.architecture").string("general.architecture", "gemma3"), `general.architecture "gemma3" is not supported: want llama, qwen2, qwen3`},
		"split":              {ggufLlama().key("split.count", uint32(2), uint16(3)), "one of 3 parts"},
		"experts":            {ggufLlama().uint32("llama.expert_count", 8), "llama.expert_count is 8"},
		"number a string":    {ggufLlama("llama.block_count").string("llama.block_count", "1"), "key llama.block_count is of type string: want a whole number"},
		"number an array":    {ggufLlama("llama.attention.head_count").key("llama.attention.head_count", uint32(9), uint32(4), uint64(1), uint32(2)), "key llama.attention.head_count is of type []uint32"},
		"number negative":    {ggufLlama("llama.block_count").key("llama.block_count", uint32(5), int32(-1)), "llama.block_count is -1"},
		"number too large":   {ggufLlama("llama.block_count").key("llama.block_count", uint32(10), uint64(math.MaxUint64)), "llama.block_count is 9223372036854775807: want 0 to"},
		"NaN":                {ggufLlama().float32("llama.rope.freq_base", float32(math.NaN())), "llama.rope.freq_base is NaN"},
		"base 0":             {ggufLlama().float32("llama.rope.freq_base", 0), "llama.rope.freq_base is 0"},
		"type a number":      {ggufLlama().uint32("llama.rope.scaling.type", 1), "llama.rope.scaling.type is of type uint32: want a string"},
		"part of a head":     {ggufLlama().uint32("llama.rope.dimension_count", 2), "llama.rope.dimension_count is 2, a head has a width of 4"},
		"values wider":       {ggufLlama().uint32("llama.attention.value_length", 8), "llama.attention.value_length is 8"},
		"no embedding":       {ggufLlama("token_embd.weight", "blk.0.attn_q.weight"), "no tensor token_embd.weight"},
		"tokens":             {ggufLlama().key("tokenizer.ggml.tokens", uint32(9), uint32(8), uint64(2), "a", "b"), "tokenizer.ggml.tokens has 2 tokens, the model a vocabulary of 4"},
		"end of text":        {ggufLlama().uint32("tokenizer.ggml.eos_token_id", 4), "tokenizer.ggml.eos_token_id is 4"},
		"rope_freqs, shape":  {ggufLlama().tensor("rope_freqs.weight", 0, 384, 3), "rope_freqs.weight has shape [3], a head of 4 asks for [2]"},
		"rope_freqs, zeros":  {ggufLlama().tensor("rope_freqs.weight", 0, 384, 2), "rope_freqs.weight: element 0 is 0"},
		"tensor, two names":  {ggufLlama().tensor("model.embed_tokens.weight", 0, 384, 8, 4), "tensors model.embed_tokens.weight and token_embd.weight are both"},
		"window of some":     {ggufQwen2().uint32("qwen2.attention.sliding_window", 7), "qwen2.attention.sliding_window is 7, but not which layers"},
		"two architectures?": {ggufQwen2("qwen2.block_count").uint32("llama.block_count", 7), "key qwen2.block_count is missing"},
	} {
		_, err := ggufModel(c.file)
		wantError(t, what, err, c.want)
	}
	m, err := ggufModel(ggufLlama())
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Float32("model.layers.0.self_attn.q_proj.weight", []int{4, 16})
	wantError(t, "shape", err, "tensor blk.0.attn_q.weight has shape [8 8], metadata asks for [4 16]")
	_, err = m.Float32("model.layers.0.self_attn.k_norm.weight", []int{4})
	wantError(t, "missing", err, "no tensor blk.0.attn_k_norm.weight")
}

// ggufQwen2 is ggufLlama with another architecture.
func ggufQwen2(leave ...string) *ggufFile {
	for i, name := range leave {
		leave[i] = strings.Replace(name, "qwen2.", "llama.", 1)
	}
	f := ggufLlama(leave...)
	f.metadata = bytes.ReplaceAll(bytes.ReplaceAll(f.metadata, []byte("llama."), []byte("qwen2.")), le(nil, "llama"), le(nil, "qwen2"))
	return f
}

// Rows of q and k come back to Hugging Face's order, in which a head's halves are turned against each other.
func TestGGUFPermutation(t *testing.T) {
	f := ggufLlama()
	f.data = le(make([]byte, 128), make([]float32, 64))
	for row := range 8 {
		binary.LittleEndian.PutUint32(f.data[128+32*row:], math.Float32bits(float32(row)))
	}
	for architecture, c := range map[string]struct {
		file *ggufFile
		want []float32
	}{"llama": {f, []float32{0, 2, 1, 3, 4, 6, 5, 7}}, "qwen2": {ggufQwen2(), []float32{0, 1, 2, 3, 4, 5, 6, 7}}} {
		c.file.data = f.data
		m, err := ggufModel(c.file)
		if err != nil {
			t.Fatal(err)
		}
		x, err := m.Float32("model.layers.0.self_attn.q_proj.weight", []int{8, 8})
		if err != nil {
			t.Fatal(err)
		}
		for row, want := range c.want {
			if x[8*row] != want {
				t.Errorf("%s: row %d is the file's row %v, want %v", architecture, row, x[8*row], want)
			}
		}
	}
}

// A tensor of more elements than are read at once.
func TestGGUFPieces(t *testing.T) {
	const rows = 2049
	f := newGGUFFile().tensor("a", 8, 0, 64, rows)
	for i := range 2 * rows {
		f.data = le(f.data, uint16(0x3c00), int8(i%128), make([]int8, 31))
	}
	g, err := parseGGUF(f.bytes())
	if err != nil {
		t.Fatal(err)
	}
	x, shape, err := g.Float32("a")
	if err != nil || !slices.Equal(shape, []int{rows, 64}) {
		t.Fatal(shape, err)
	}
	for i := range 2 * rows {
		if x[32*i] != float32(i%128) || x[32*i+1] != 0 {
			t.Fatalf("block %d begins with %v %v", i, x[32*i], x[32*i+1])
		}
	}
}

// Whatever the bytes, there is an error or a file whose tensors can all be read, and a model whose tensors have their shapes.
func FuzzGGUF(f *testing.F) {
	every := newGGUFFile().key("s", uint32(9), uint32(8), uint64(2), "a", "bc").key("b", uint32(7), uint8(1)).key("d", uint32(12), 0.5).
		tensor("a", 0, 0, 8).tensor("b", 1, 32, 16).tensor("c", 30, 64, 16).tensor("d", 2, 96, 32).tensor("e", 3, 128, 32).tensor("f", 8, 160, 32)
	every.data = make([]byte, 256)
	bias := ggufLlama().tensor("blk.0.attn_q.bias", 0, 384, 8).tensor("rope_freqs.weight", 0, 416, 2).uint32("llama.vocab_size", 4)
	for _, seed := range []*ggufFile{every, bias, ggufLlama(), ggufQwen2(), newGGUFFile(), {magic: "GGUF", version: 3, tensors: 1 << 60}} {
		f.Add(seed.bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := parseGGUF(b)
		if err != nil {
			return
		}
		for _, name := range g.Names() {
			x, shape, err := g.Float32(name)
			if err != nil {
				t.Fatal(err)
			}
			if n := g.tensors[name].count; int64(len(x)) != n || len(shape) == 0 || n > 2*int64(len(b)) {
				t.Errorf("tensor %q: %d values of shape %v in a file of %d bytes", name, len(x), shape, len(b))
			}
		}
		m, err := GGUFModel(g)
		if err != nil {
			return
		}
		for _, name := range m.Names() {
			_, _ = m.Float32(name, m.where[name].shape(name))
		}
	})
}
