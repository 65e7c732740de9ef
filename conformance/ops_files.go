package conformance

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"qlora/ref/checkpoint"
	"qlora/ref/quant"
)

// safetensors, and bitsandbytes' 4-bit weights in it.
func init() {
	register(
		&Operation{
			Name: "safetensors_write", Of: "checkpoint.Write",
			Formula: "tensors by their names; with the flag metadata {\"format\": \"pt\"} → file U8. 8 bytes: the header's " +
				"length, little-endian; the header; the data, without gaps. " +
				"The header is JSON without spaces, padded with spaces to a multiple of 8: __metadata__ first, then a tensor " +
				"after the other in the order of types " +
				"F32 I32 BF16 F16 U8 and of names within a type, each {\"dtype\":…,\"shape\":[…],\"data_offsets\":[first,end]}.",
			Cases: safetensorsWriteCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				var tensors []checkpoint.Tensor
				for name, t := range in {
					tensors = append(tensors, inFile(name, t))
				}
				var metadata map[string]string
				if c.Has("metadata") {
					metadata = map[string]string{"format": "pt"}
				}
				return written(func(dir string) error { return checkpoint.Write(dir+"/file", tensors, metadata) })
			},
		},
		&Operation{
			Name: "safetensors_read", Of: "checkpoint.Parse",
			Formula: "file U8 → its tensors by their names; those of other types than F32, BF16, F16, I32 and U8 as their " +
				"bytes; __metadata__, if there, as lines key=value in the order of the keys. " +
				"An error: a header that does not fit the file, is no JSON, or has a key twice; an unknown type; a shape of " +
				"another size than data_offsets; tensors that overlap, leave a hole, or do not end where the file does.",
			Cases:     safetensorsReadCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) { return parseSafetensors(in["file"].B) },
		},
		&Operation{
			Name: "safetensors_index_read", Of: "checkpoint.ParseIndex",
			Formula: "index U8, a model.safetensors.index.json → files U8: a line file=[tensors in order] for each file. An " +
				"error: no weight_map, a key twice, a file that is not in the same folder.",
			Cases: indexCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				files, err := checkpoint.ParseIndex(in["index"].B)
				return Tensors{"files": lines(files)}, err
			},
		},
		&Operation{
			Name: "bnb_write", Of: "quant.Tensor.Entries",
			Formula: "codes, absmax (nf4_dq and fp4_dq: absmax U8, absmax2, map, offset) of a weight [n, k]; the case's type " +
				"is the original's → the tensors of a file: weight (the bytes of codes), weight.absmax, weight.quant_map F32 " +
				"[16], " +
				"weight.nested_absmax, weight.nested_quant_map, weight.quant_state.bitsandbytes__nf4 or __fp4: a JSON text " +
				"as Python's json.dumps writes it, keys quant_type, blocksize, dtype, shape, nested_blocksize, nested_dtype, " +
				"nested_offset, " +
				"the offset as Python's repr of the float64; and layout U8: a line name=type [shape] for each, the codes' " +
				"type and shape as storage says (U8 [bytes, 1], BF16 [bytes/2, 1], …).",
			Cases: bnbWriteCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				entries, err := quantizedWeight(c, in).Entries("weight", c.Param("storage"))
				if err != nil {
					return nil, err
				}
				return stored(entries)
			},
		},
		&Operation{
			Name: "bnb_read", Of: "quant.FromEntries",
			Formula: "the tensors of bnb_write of a weight [n, k], weight as its bytes: in the file their type is storage, and any will do → x [n, " +
				"k], dequantized (nf4_dequantize, nf4_dq_dequantize, fp4_…) to the type dtype of quant_state. nested_quant_map and nested_offset " +
				"are used as they are, quant_map is not, and may be missing. Must be rejected: neither weight.quant_state.bitsandbytes__nf4 nor " +
				"__fp4 (where both are, nf4 counts); in it what is no JSON, or of another type than bnb_write gives it; quant_type not nf4 or fp4 " +
				"as the name says; blocksize no power of two from 32 to 4096; dtype not float32, bfloat16 or float16; shape missing, with a size " +
				"below 1, or of over 2^31−1 elements; and where nested_offset is there, which makes it a nested weight: nested_blocksize not 256, " +
				"nested_dtype not float32, nested_offset not finite as float32. Other keys, in any order, do not matter. Further a " +
				"tensor missing or of another type or size than: weight (n·k+1)/2 bytes; weight.absmax F32 [blocks of n·k], nested U8 [blocks], " +
				"weight.nested_absmax F32 [blocks of 256 of these], weight.nested_quant_map F32 [256]; and in these F32 what is not finite.",
			Cases:     bnbReadCases,
			Reference: bnbRead,
		})
}

func safetensorsWriteCases(m *Maker) {
	add := func(level Level, reason string, tensors map[string]func(r *random) Tensor) {
		for _, metadata := range []bool{false, true} {
			m.Add(level, "", reason, []Param{Flag("metadata", metadata), Int("tensors", len(tensors))}, func(r *random) Tensors {
				in := Tensors{}
				for _, name := range slices.Sorted(maps.Keys(tensors)) {
					in[name] = tensors[name](r)
				}
				return in
			})
		}
	}
	matrix := func(t DType, rows, cols int) func(r *random) Tensor {
		return func(r *random) Tensor { return Floats(t, r.normal(rows*cols, 1), rows, cols) }
	}
	codes := func(r *random) Tensor { return Bytes(r.bytes(7), 7, 1) }
	ids := func(r *random) Tensor { return Ints([]int32{-1, 0, 1, -1 << 31, 1<<31 - 1}) }
	all := map[string]func(r *random) Tensor{"b": matrix(BF16, 3, 5), "a": matrix(F16, 2, 2), "d": matrix(F32, 4, 1), "c": codes, "e": ids}
	add(Smoke, "layout", all)
	add(Smoke, "layout", map[string]func(r *random) Tensor{
		"model.layers.0.self_attn.q_proj.weight": matrix(BF16, 33, 65), "model.layers.10.mlp.up_proj.weight": matrix(BF16, 65, 33),
		"model.layers.2.input_layernorm.weight": matrix(F32, 1, 33), "lm_head.weight": matrix(F16, 9, 33)})
	for n := range 9 { // each length of padding
		add(Quick, "padding", map[string]func(r *random) Tensor{strings.Repeat("x", n+1): matrix(F32, 1, n+1)})
	}
	add(Quick, "empty", map[string]func(r *random) Tensor{"a": matrix(F32, 0, 3), "b": matrix(F32, 2, 0), "c": matrix(F32, 1, 1)})
	add(Quick, "empty", nil)
	add(Quick, "nan-inf", map[string]func(r *random) Tensor{"a": func(r *random) Tensor { return Floats(F32, nansAndInfinities(r, 40, F32)) },
		"b": func(r *random) Tensor { return Floats(F16, nansAndInfinities(r, 40, F16)) }})
	add(Quick, "names", map[string]func(r *random) Tensor{
		"größe": matrix(F32, 1, 1), "層.重み": matrix(F32, 1, 2), "A": matrix(F32, 1, 3), "a": matrix(F32, 1, 4), "a.b": matrix(F32, 1, 5), "a_b": matrix(F32, 1, 6),
	})
}

// fourBytes is a tensor in a header.
const fourBytes = `"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}`

func safetensorsReadCases(m *Maker) {
	add := func(level Level, reason string, file func(r *random) []byte) {
		m.Add(level, "", reason, nil, func(r *random) Tensors { return Tensors{"file": Bytes(file(r))} })
	}
	raw := func(level Level, reason, header string, data ...byte) {
		add(level, reason, func(*random) []byte { return rawFile(header, data...) })
	}
	for _, t := range []DType{F32, BF16, F16} {
		add(Smoke, "layout", func(r *random) []byte {
			return plainFile(inFile("w", Floats(t, r.normal(12, 1), 3, 4)), inFile("v", Floats(t, nansAndInfinities(r, 30, t))))
		})
	}
	add(Quick, "layout", func(r *random) []byte {
		f := inFile("f", Floats(F32, r.normal(4, 1))) // begins at no multiple of 4
		return plainFile(inFile("i", Ints(r.indices(5, 1<<20))), inFile("u", Bytes(r.bytes(3))), f)
	})
	raw(Quick, "layout", `{"s":{"dtype":"F16","shape":[],"data_offsets":[0,2]},"long":{"dtype":"I64","shape":[1],"data_offsets":[2,10]},`+
		`"b":{"dtype":"BOOL","shape":[2],"data_offsets":[10,12]}}`, 0, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0)
	raw(Quick, "layout", "{ "+`"b" : { "data_offsets" : [4, 8], "shape" : [1, 1], "dtype" : "F32" }, `+fourBytes+" }   \n", 0, 0, 128, 63, 0, 0, 0, 64)
	raw(Quick, "layout", `{"__metadata__":{"format":"pt","a":"x=y"},`+fourBytes+`}`, 1, 2, 3, 4)
	raw(Quick, "names", `{"gr\u00f6\u00dfe":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 1, 2, 3, 4)
	raw(Quick, "empty", `{}`)
	raw(Quick, "empty", `{"a":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},`+
		`"c":{"dtype":"F32","shape":[3,0],"data_offsets":[2,2]}}`, 1, 2)
	four := []byte{1, 2, 3, 4}
	raw(Smoke, "overlap", `{`+fourBytes+`,"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}`, 1, 2, 3, 4, 5, 6)
	raw(Quick, "overlap", `{`+fourBytes+`,"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, four...)
	raw(Smoke, "hole", `{`+fourBytes+`,"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}}`, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	raw(Quick, "hole", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}`, 1, 2, 3, 4, 5)
	raw(Smoke, "key-twice", `{`+fourBytes+`,`+fourBytes+`}`, four...)
	raw(Quick, "key-twice", `{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}`, four...)
	raw(Smoke, "lying-size", `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, four...)
	raw(Quick, "lying-size", `{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, four...)
	raw(Quick, "lying-size", `{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}`, four...)
	raw(Quick, "lying-size", `{"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}}`, four...)
	raw(Quick, "lying-size", `{"a":{"dtype":"F32","shape":[0],"data_offsets":[4,0]}}`, four...)
	raw(Quick, "lying-size", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}`, four...)
	raw(Quick, "lying-size", `{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}`, four...)
	raw(Smoke, "truncated", `{`+fourBytes+`}`, 1, 2, 3)
	raw(Quick, "trailing", `{`+fourBytes+`}`, 1, 2, 3, 4, 5)
	raw(Quick, "wrong-type", `{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}`, four...)
	raw(Quick, "wrong-type", `{"a":3}`)
	raw(Quick, "wrong-type", `{"__metadata__":{"step":3},`+fourBytes+`}`, four...)
	for _, header := range []string{"hello", "", "[]", `{` + fourBytes, `{` + fourBytes + `}}`} {
		raw(Quick, "not-json", header, four...)
	}
	for _, n := range []int{0, 7, 8, 20} {
		add(Quick, "truncated", func(*random) []byte { return rawFile(`{`+fourBytes+`}`, four...)[:n] })
	}
	for _, length := range []uint64{1 << 62, 1<<64 - 1, 100_000_001, 61} {
		add(Quick, "lying-size", func(*random) []byte {
			return append(appendAll(nil, length), rawFile(`{`+fourBytes+`}`, four...)[8:]...)
		})
	}
}

func indexCases(m *Maker) {
	add := func(level Level, reason, index string) {
		m.Add(level, "", reason, nil, func(*random) Tensors { return Tensors{"index": text(index)} })
	}
	add(Smoke, "layout", `{"metadata":{"total_size":12},`+
		`"weight_map":{"b":"model-00002-of-00002.safetensors","a":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}}`)
	add(Smoke, "layout", `{"weight_map":{"a":"x.safetensors"}}`)
	add(Smoke, "key-twice", `{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}`)
	for _, file := range []string{"../x.safetensors", "/etc/passwd", "a/b.safetensors", `a\\b`, ".", "", "c:x"} {
		add(Quick, "outside", `{"weight_map":{"a":"`+file+`"}}`)
	}
	add(Quick, "wrong-type", `{"weight_map":{"a":1}}`)
	add(Quick, "wrong-type", `{"weight_map":{}}`)
	add(Quick, "wrong-type", `{}`)
	add(Quick, "not-json", `{"weight_map":`)
}

// stored are the tensors of a file, F32 as numbers and others as bytes, and what is said of each.
func stored(entries []quant.Entry) (Tensors, error) {
	out, layout := Tensors{}, map[string]string{}
	for _, e := range entries {
		layout[e.Name] = fmt.Sprint(e.DType, " ", e.Shape)
		if e.DType == string(F32) && e.Name != "weight" {
			x, err := checkpoint.Widen(e)
			if err != nil {
				return nil, err
			}
			out[e.Name] = Floats(F32, x)
			continue
		}
		out[e.Name] = Bytes(e.Bytes)
	}
	out["layout"] = lines(layout)
	return out, nil
}

func bnbWriteCases(m *Maker) {
	add := func(level Level, t DType, kind, storage string, n, k, bs int, scale float32, reason string) {
		params := []Param{Text("w", kind), Text("storage", storage), Int("n", n), Int("k", k), Int("bs", bs), Float("scale", float64(scale))}
		m.Add(level, t, reason, params, func(r *random) Tensors { return weightInputs(r.normal(n*k, scale), t, kind, n, k, bs) })
	}
	for _, t := range []DType{F32, BF16, F16} {
		for _, kind := range []string{"nf4", "fp4", "nf4_dq", "fp4_dq"} {
			for _, size := range [][3]int{{1, 64, 64}, {33, 64, 64}, {16, 96, 64}, {64, 300, 128}, {5, 7, 32}, {40, 512, 4096}} {
				level, reason := Quick, "layout"
				if size[0] == 33 && t == BF16 {
					level = Smoke
				}
				if size[0]*size[1]%2 == 1 {
					reason = "odd"
				}
				add(level, t, kind, "U8", size[0], size[1], size[2], 0.02, reason)
			}
			for _, storage := range []string{"BF16", "F16", "F32"} {
				add(Quick, t, kind, storage, 16, 96, 64, 0.02, "storage")
			}
		}
	}
	for _, scale := range []float32{1e-12, 1e-5, 1e-4, 0.3, 7, 1e4, 1e10, 1e17, 1e30} { // how Python writes the offset
		add(Quick, F32, "nf4_dq", "U8", 8, 64, 32, scale, "python-float")
	}
	for _, storage := range []string{"BF16", "F32", "I64", ""} { // 18 bytes, of no type's size, or of no type
		if storage != "BF16" {
			add(Quick, BF16, "nf4", storage, 5, 7, 32, 1, "storage")
		}
	}
	for _, kind := range []string{"int4", "e2m1_dq", "e3m0"} {
		add(Quick, BF16, kind, "U8", 2, 64, 64, 1, "unknown")
	}
}

func bnbRead(c *Case, in Tensors) (Tensors, error) {
	q, err := quant.FromEntries("weight", func(name string) (quant.Entry, error) {
		t, ok := in[name]
		if !ok {
			return quant.Entry{}, fmt.Errorf("no tensor %s", name)
		}
		e := inFile(name, t)
		if name == "weight" && c.Param("storage") != "" {
			e.DType = c.Param("storage")
		}
		return e, nil
	})
	if err != nil {
		return nil, err
	}
	x := make([]float32, q.Shape[0]*q.Shape[1])
	if err := q.Dequantize(x, q.DType); err != nil {
		return nil, err
	}
	return Tensors{"x": Floats(dtypes[q.DType], x, q.Shape...)}, nil
}

// bnbFile is a weight as bnb_write writes it.
func bnbFile(r *random, t DType, kind string, n, k, bs int) Tensors {
	name, double := strings.CutSuffix(kind, nested)
	book, err := quant.ParseCodebook(name)
	if err != nil {
		panic(err)
	}
	q, err := quant.Quantize(r.normal(n*k, 0.02), []int{n, k}, quant.Options{Type: book, Blocksize: bs, DoubleQuant: double, DType: floats[t].num})
	if err != nil {
		panic(err)
	}
	entries, err := q.Entries("weight", string(U8))
	if err != nil {
		panic(err)
	}
	in, err := stored(entries)
	if err != nil {
		panic(err)
	}
	delete(in, "layout")
	return in
}

func bnbReadCases(m *Maker) {
	add := func(level Level, t DType, kind, storage string, n, k, bs int, reason string, change func(in Tensors)) {
		params := []Param{Text("w", kind), Text("storage", storage), Int("n", n), Int("k", k), Int("bs", bs)}
		m.Add(level, t, reason, params, func(r *random) Tensors {
			in := bnbFile(r, t, kind, n, k, bs)
			if change != nil {
				change(in)
			}
			return in
		})
	}
	for _, t := range []DType{F32, BF16, F16} {
		for _, kind := range []string{"nf4", "fp4", "nf4_dq", "fp4_dq"} {
			for _, size := range [][3]int{{1, 64, 64}, {33, 64, 64}, {16, 96, 64}, {64, 300, 128}, {5, 7, 32}, {40, 512, 4096}} {
				level := Quick
				if size[0] == 33 && t == BF16 {
					level = Smoke
				}
				add(level, t, kind, "U8", size[0], size[1], size[2], "layout", nil)
			}
			for _, storage := range []string{"BF16", "F16", "F32"} {
				add(Quick, t, kind, storage, 16, 96, 64, "storage", nil)
			}
		}
	}
	for _, c := range bnbChanges {
		kind := "nf4_dq"
		if c.plain {
			kind = "nf4"
		}
		add(Quick, BF16, kind, "U8", 16, 96, 64, c.reason, c.change)
	}
}

const nf4State = "weight.quant_state.bitsandbytes__nf4"

// state replaces a part of quant_state.
func state(old, new string) func(in Tensors) {
	return func(in Tensors) {
		s := string(in[nf4State].B)
		if !strings.Contains(s, old) {
			panic(fmt.Sprintf("conformance: %q is not in %s", old, s))
		}
		in[nf4State] = text(strings.Replace(s, old, new, 1))
	}
}

// bnbChanges are what files of other versions have, and what a wrong file has.
var bnbChanges = []struct {
	reason string
	plain  bool // of a weight without double quantization
	change func(in Tensors)
}{
	{"file-map", false, func(in Tensors) { in["weight.nested_quant_map"].F[0] = -1; in["weight.absmax"].B[0] = 0 }},
	{"file-map", false, func(in Tensors) { in["weight.nested_quant_map"].F[200] *= 1.5; in["weight.absmax"].B[3] = 200 }},
	{"own-table", true, func(in Tensors) { clear(in["weight.quant_map"].F) }},
	{"own-table", true, func(in Tensors) { delete(in, "weight.quant_map") }},
	{"layout", true, state(`"quant_type": "nf4", "blocksize": 64`, `"blocksize":64,"quant_type":"nf4"`)},
	{"layout", true, state(`{`, `{"a_new_key": [1, {"b": null}], `)},
	{"offset", false, state(`"nested_offset": 0`, `"nested_offset": 1`)},
	{"offset", false, func(in Tensors) {
		head, _, _ := strings.Cut(string(in[nf4State].B), `"nested_offset"`)
		in[nf4State] = text(head + `"nested_offset": 2}`)
	}},
	{"not-json", true, func(in Tensors) { in[nf4State] = text(`{"quant_type"`) }},
	{"wrong-type", true, state(`"nf4"`, `"fp4"`)},
	{"wrong-type", true, state(`"bfloat16"`, `"int8"`)},
	{"wrong-type", true, state(`"blocksize": 64`, `"blocksize": 48`)},
	{"wrong-type", true, state(`"blocksize": 64`, `"blocksize": 0`)},
	{"wrong-type", true, state(`"blocksize": 64`, `"blocksize": 64.5`)},
	{"wrong-type", false, state(`"nested_blocksize": 256`, `"nested_blocksize": 128`)},
	{"wrong-type", false, state(`"nested_dtype": "float32"`, `"nested_dtype": "bfloat16"`)},
	{"lying-size", true, state(`"shape": [16, 96]`, `"shape": [16, 97]`)},
	{"lying-size", true, state(`"shape": [16, 96]`, `"shape": [-16, -96]`)},
	{"lying-size", true, state(`"shape": [16, 96]`, `"shape": [1099511627776, 1099511627776]`)},
	{"lying-size", true, state(`, "shape": [16, 96]`, ``)},
	{"lying-size", true, state(`"blocksize": 64`, `"blocksize": 128`)},
	{"truncated", true, func(in Tensors) { in["weight"] = Bytes(in["weight"].B[1:]) }},
	{"truncated", true, func(in Tensors) { in["weight.absmax"] = Floats(F32, in["weight.absmax"].F[1:]) }},
	{"truncated", false, func(in Tensors) { in["weight.absmax"] = Bytes(in["weight.absmax"].B[1:]) }},
	{"truncated", false, func(in Tensors) { in["weight.nested_absmax"] = Floats(F32, nil, 0) }},
	{"truncated", false, func(in Tensors) {
		in["weight.nested_quant_map"] = Floats(F32, in["weight.nested_quant_map"].F[:255])
	}},
	{"missing", true, func(in Tensors) { delete(in, nf4State) }},
	{"missing", true, func(in Tensors) { delete(in, "weight.absmax") }},
	{"missing", true, func(in Tensors) { delete(in, "weight") }},
	{"missing", false, func(in Tensors) { delete(in, "weight.nested_absmax") }},
	{"missing", false, func(in Tensors) { delete(in, "weight.nested_quant_map") }},
	{"not-finite", true, func(in Tensors) { in["weight.absmax"].F[3] = float32(math.Inf(1)) }},
	{"not-finite", false, func(in Tensors) { in["weight.nested_absmax"].F[0] = float32(math.Inf(-1)) }},
	{"not-finite", false, func(in Tensors) { in["weight.nested_quant_map"].F[5] = float32(math.NaN()) }},
	{"not-finite", false, state(`"nested_offset": 0`, `"nested_offset": 1e300, "was": 0`)},
	{"wrong-type", true, func(in Tensors) { in["weight.absmax"] = Floats(BF16, in["weight.absmax"].F) }},
	{"wrong-type", false, func(in Tensors) { in["weight.nested_absmax"] = Floats(F16, in["weight.nested_absmax"].F) }},
	{"wrong-type", false, func(in Tensors) { in["weight.absmax"] = Floats(F32, make([]float32, in["weight.absmax"].Len())) }},
}
