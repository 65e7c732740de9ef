package mutants

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"qlora/conformance"
	"qlora/ref/checkpoint"
	"qlora/ref/num"
)

// place is what a safetensors header says of a tensor.
type place struct {
	DType   string   `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// lax is the reference, but where it rejects a file, a reader that looks at nothing but each tensor alone.
func lax(c *Case, in Tensors) (Tensors, error) {
	if out, err := reference("safetensors_read", c, in); err == nil {
		return out, nil
	}
	return readEach(in["file"].B)
}

// readEach reads every tensor whose bytes are there and have the length that its shape asks for.
func readEach(file []byte) (Tensors, error) {
	if len(file) < 8 || binary.LittleEndian.Uint64(file) > uint64(len(file)-8) {
		return nil, fmt.Errorf("truncated")
	}
	data := file[8+binary.LittleEndian.Uint64(file):]
	var header map[string]place
	if err := json.Unmarshal(file[8:len(file)-len(data)], &header); err != nil {
		return nil, err
	}
	out := Tensors{}
	for name, p := range header {
		n := int64(4)
		for _, d := range p.Shape {
			n *= int64(d)
		}
		if p.DType != "F32" || p.Offsets[0] < 0 || p.Offsets[1]-p.Offsets[0] != n || p.Offsets[1] > int64(len(data)) {
			return nil, fmt.Errorf("%s does not fit", name)
		}
		x, err := checkpoint.Widen(checkpoint.Tensor{Name: name, DType: p.DType, Bytes: data[p.Offsets[0]:p.Offsets[1]]})
		if err != nil {
			return nil, err
		}
		out[name] = Tensor{DType: f32, Shape: p.Shape, F: x}
	}
	return out, nil
}

// accepting is lax for what a reason of cases is about, and the reference for all else.
func accepting(reason string) Func {
	return func(c *Case, in Tensors) (Tensors, error) {
		if c.Reason == reason {
			return lax(c, in)
		}
		return reference("safetensors_read", c, in)
	}
}

// rewritten is the reference's file with another header, the data as they are.
func rewritten(operation, name string, change func(header string) string) Func {
	return spoiled(operation, func(_ *Case, _, out Tensors) {
		file := out[name].B
		n := 8 + binary.LittleEndian.Uint64(file)
		header := change(string(file[8:n]))
		b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
		out[name] = conformance.Bytes(append(append(b, header...), file[n:]...))
	})
}

// padded brings a header that was changed to a multiple of 8 again.
func padded(header string) string {
	header = strings.TrimRight(header, " ")
	return header + strings.Repeat(" ", -len(header)&7)
}

func withHeader(change func(header string) string) Func {
	return rewritten("safetensors_write", "file", change)
}

// renamed is an adapter's file whose tensors have other names.
func renamed(old, new string) Func {
	return rewritten("adapter_write", "adapter_model.safetensors", func(header string) string {
		return padded(strings.ReplaceAll(header, old, new))
	})
}

var safetensorsMutants = []Mutant{
	{Name: "overlap accepted", Bug: "Two tensors may share bytes.", Op: "safetensors_read", Func: accepting("overlap")},
	{Name: "hole accepted", Bug: "Bytes between tensors may belong to none.", Op: "safetensors_read", Func: accepting("hole")},
	{Name: "trailing bytes accepted", Bug: "Bytes behind the last tensor are passed over.", Op: "safetensors_read", Func: accepting("trailing")},
	{Name: "last key wins", Bug: "Of a tensor that stands there twice the last one counts.", Op: "safetensors_read", Func: accepting("key-twice")},
	{
		Name: "offsets from the file's start", Bug: "Data offsets are written from the file's first byte, not from the data's.",
		Op: "safetensors_write",
		Func: withHeader(func(header string) string {
			return strings.ReplaceAll(header, `"data_offsets":[0,`, `"data_offsets":[8,`)
		}),
	},
	{
		Name: "header not padded", Bug: "The header ends where its JSON does: the data begin at any address.", Op: "safetensors_write",
		Func: withHeader(func(header string) string { return strings.TrimRight(header, " ") }),
	},
	{
		Name: "header padded by one block more", Bug: "A header whose length is a multiple of 8 gets eight spaces.", Op: "safetensors_write",
		Func: withHeader(func(header string) string {
			if strings.HasSuffix(header, " ") {
				return header
			}
			return header + "        "
		}),
	},
	{
		Name: "no metadata", Bug: `{"format": "pt"} is not written: transformers refuses such files.`,
		Seen: "transformers' load_state_dict", Op: "safetensors_write",
		Func: asked("safetensors_write", func(c *Case, _ Tensors) { unset(c, "metadata") }),
	},
	{
		Name: "bfloat16 written as float16", Bug: "The header says F16 for BF16.", Op: "safetensors_write",
		Func: withHeader(func(header string) string { return strings.ReplaceAll(header, `"BF16"`, `"F16"`) }),
	},
	{
		Name: "shards outside of the folder", Bug: "An index may name a file elsewhere.", Op: "safetensors_index_read",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			out, err := reference("safetensors_index_read", c, in)
			var index struct {
				Map map[string]string `json:"weight_map"`
			}
			if err == nil || json.Unmarshal(in["index"].B, &index) != nil || len(index.Map) == 0 {
				return out, err
			}
			files := map[string][]string{}
			for tensor, file := range index.Map {
				files[file] = append(files[file], tensor)
			}
			var b strings.Builder
			for _, file := range slices.Sorted(maps.Keys(files)) {
				slices.Sort(files[file])
				fmt.Fprintf(&b, "%s=%v\n", file, files[file])
			}
			return Tensors{"files": conformance.Bytes([]byte(b.String()))}, nil
		},
	},
}

const nf4State = "weight.quant_state.bitsandbytes__nf4"

// restated is bnb_write, with another text of quant_state.
func restated(change func(state string) string) Func {
	return spoiled("bnb_write", func(_ *Case, _, out Tensors) {
		if state, ok := out[nf4State]; ok {
			out[nf4State] = conformance.Bytes([]byte(change(string(state.B))))
			line := func(t Tensor) []byte { return fmt.Appendf(nil, "%s=U8 [%d]", nf4State, t.Len()) }
			out["layout"] = conformance.Bytes(bytes.Replace(out["layout"].B, line(state), line(out[nf4State]), 1))
		}
	})
}

// read is bnb_read of files that were changed first.
func read(change func(in Tensors)) Func {
	return asked("bnb_read", func(_ *Case, in Tensors) { change(in) })
}

var bnbMutants = []Mutant{
	{
		Name: "offset as float32 text", Bug: "nested_offset is written in the digits of a float32, not of the float64 that Python has.",
		Op: "bnb_write",
		Func: restated(func(state string) string {
			head, offset, ok := strings.Cut(state, `"nested_offset": `)
			if !ok {
				return state
			}
			var x float64
			if err := json.Unmarshal([]byte(strings.TrimSuffix(offset, "}")), &x); err != nil {
				panic(err)
			}
			return fmt.Sprintf(`%s"nested_offset": %v}`, head, float32(x))
		}),
	},
	{
		Name: "JSON without spaces", Bug: "quant_state is written as Go does, not as Python's json.dumps.", Op: "bnb_write",
		Func: restated(func(state string) string { return strings.ReplaceAll(state, ": ", ":") }),
	},
	{
		Name: "dtype of the storage", Bug: "quant_state says float16 whatever the original's type was.",
		Seen: "transformers' older 4-bit quantizer forced float16", Op: "bnb_write",
		Func: restated(func(state string) string { return strings.Replace(state, `"bfloat16"`, `"float16"`, 1) }),
	},
	{
		Name: "codes repacked", Bug: "The codes are written with their nibbles swapped.", Seen: "bitsandbytes PR #1472", Op: "bnb_write",
		Func: spoiled("bnb_write", func(_ *Case, _, out Tensors) {
			for i, b := range out["weight"].B {
				out["weight"].B[i] = b<<4 | b>>4
			}
		}),
	},
	{
		Name: "file's table used", Bug: "quant_map decides what codes mean, where bitsandbytes has them built in.", Op: "bnb_read",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			out, err := reference("bnb_read", c, in)
			if table := in["weight.quant_map"].F; err == nil && len(table) == 16 && table[0] == 0 && table[15] == 0 {
				clear(out["x"].F)
			}
			return out, err
		},
	},
	{
		Name: "nested map made anew", Bug: "The file's nested_quant_map is not used.", Op: "bnb_read",
		Func: read(func(in Tensors) {
			if m, ok := in["weight.nested_quant_map"]; ok && m.Len() == 256 && m.F[5] == m.F[5] {
				copy(m.F, dynamicMap(true)[:])
			}
		}),
	},
	{
		Name: "file's offset in bfloat16", Bug: "nested_offset is rounded to the default type when it is loaded.",
		Seen: "bitsandbytes PR #1971", Op: "bnb_read",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			in = copied(in)
			head, offset, ok := strings.Cut(string(in[nf4State].B), `"nested_offset": `)
			var x float64
			if ok && json.Unmarshal([]byte(strings.TrimSuffix(offset, "}")), &x) == nil {
				in[nf4State] = conformance.Bytes(fmt.Appendf(nil, `%s"nested_offset": %v}`, head, float64(num.BFloat16.Round(float32(x)))))
			}
			return reference("bnb_read", c, in)
		},
	},
	{
		Name: "infinite scales accepted", Bug: "Scales that are not finite make whole blocks NaN in silence.", Op: "bnb_read",
		Func: read(func(in Tensors) {
			for name, t := range in {
				for i, v := range t.F {
					if strings.HasSuffix(name, "absmax") && math.IsInf(float64(v), 0) {
						t.F[i] = math.MaxFloat32
					}
				}
			}
		}),
	},
	{
		Name: "storage type believed", Bug: "Codes that are stored as BF16 are converted to numbers, not taken as bytes.",
		Seen: "fsdp_qlora: mixed precision cast packed weights", Op: "bnb_read",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			in = copied(in)
			if c.Param("storage") == "BF16" {
				for i := 0; i+1 < in["weight"].Len(); i += 2 {
					b := binary.LittleEndian.Uint16(in["weight"].B[i:])
					binary.LittleEndian.PutUint16(in["weight"].B[i:], num.ToFloat16(num.FromBFloat16(b)))
				}
			}
			return reference("bnb_read", c, in)
		},
	},
	{
		Name: "NF4 for FP4", Bug: "quant_type is not looked at.", Op: "bnb_read",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			in = copied(in)
			const fp4State = "weight.quant_state.bitsandbytes__fp4"
			if state, ok := in[fp4State]; ok {
				in[nf4State] = conformance.Bytes(bytes.Replace(state.B, []byte(`"fp4"`), []byte(`"nf4"`), 1))
				delete(in, fp4State)
			}
			return reference("bnb_read", c, in)
		},
	},
}

// configured is an operation on an adapter_config.json that was changed first.
func configured(operation string, change func(config map[string]any)) Func {
	return asked(operation, func(_ *Case, in Tensors) {
		var config map[string]any
		if json.Unmarshal(in["config"].B, &config) != nil {
			return
		}
		change(config)
		if b, err := json.Marshal(config); err == nil {
			in["config"] = conformance.Bytes(b)
		}
	})
}

// reversedPattern turns the entries of a pattern in the text around: then the last that matches counts.
func reversedPattern(config, key string) string {
	head, rest, ok := strings.Cut(config, `"`+key+`":{`)
	if !ok {
		return config
	}
	body, tail, _ := strings.Cut(rest, "}")
	entries := strings.Split(body, ",")
	slices.Reverse(entries)
	return head + `"` + key + `":{` + strings.Join(entries, ",") + "}" + tail
}

// accepted takes a field away that must be refused.
func accepted(field string) Func {
	return configured("adapter_read", func(config map[string]any) { delete(config, field) })
}

var adapterFileMutants = []Mutant{
	{
		Name: "last pattern wins", Bug: "Of several entries of rank_pattern that match the last one counts.", Op: "peft_choose",
		Func: asked("peft_choose", func(_ *Case, in Tensors) {
			in["config"] = conformance.Bytes([]byte(reversedPattern(string(in["config"].B), "rank_pattern")))
		}),
	},
	{
		Name: "patterns ignored", Bug: "rank_pattern and alpha_pattern are not read.", Op: "peft_choose",
		Func: configured("peft_choose", func(config map[string]any) { delete(config, "rank_pattern"); delete(config, "alpha_pattern") }),
	},
	{
		Name: "alpha of the rank", Bug: "A module with a rank of its own has an alpha that grows with it.", Op: "peft_choose",
		Func: configured("peft_choose", func(config map[string]any) { config["alpha_pattern"] = config["rank_pattern"] }),
	},
	{
		Name: "target within a word", Bug: "proj in target_modules names q_proj, too.", Op: "peft_choose",
		Func: configured("peft_choose", func(config map[string]any) {
			if names, ok := config["target_modules"].([]any); ok && len(names) > 0 && names[0] == "proj" {
				config["target_modules"] = "all-linear"
			}
		}),
	},
	{
		Name: "exclude_modules ignored", Bug: "exclude_modules is not read.", Op: "peft_choose",
		Func: configured("peft_choose", func(config map[string]any) { delete(config, "exclude_modules") }),
	},
	{
		Name: "layers_to_transform ignored", Bug: "All layers are adapted.", Op: "peft_choose",
		Func: configured("peft_choose", func(config map[string]any) {
			if _, list := config["target_modules"].([]any); list {
				delete(config, "layers_to_transform")
				delete(config, "layers_pattern")
			}
		}),
	},
	{
		Name: "expression anywhere", Bug: "target_modules as an expression need only match a part of the name.", Op: "peft_choose",
		Func: configured("peft_choose", func(config map[string]any) {
			if s, ok := config["target_modules"].(string); ok && !strings.EqualFold(s, "all-linear") {
				config["target_modules"] = ".*(?:" + s + ").*"
			}
		}),
	},
	{Name: "DoRA accepted", Bug: "use_dora is passed over: the magnitudes are missing.", Op: "adapter_read", Func: accepted("use_dora")},
	{Name: "fan_in_fan_out accepted", Bug: "fan_in_fan_out is passed over: W is transposed.", Op: "adapter_read", Func: accepted("fan_in_fan_out")},
	{Name: "lora_bias accepted", Bug: "lora_bias is passed over.", Op: "adapter_read", Func: accepted("lora_bias")},
	{
		Name: "PiSSA accepted", Bug: "init_lora_weights that change the base are passed over.",
		Op: "adapter_read", Func: accepted("init_lora_weights"),
	},
	{
		Name: "use_rslora ignored", Bug: "The scale is α/r whatever the configuration says.", Op: "adapter_read",
		Func: configured("adapter_read", func(config map[string]any) { delete(config, "use_rslora") }),
	},
	{
		Name: "lora_alpha of the default", Bug: "lora_alpha is 16, as in many examples.", Op: "adapter_read",
		Func: configured("adapter_read", func(config map[string]any) {
			if alpha, ok := config["lora_alpha"].(float64); ok && alpha >= 0 {
				config["lora_alpha"] = 16
			}
		}),
	},
	{
		Name: "A without B accepted", Bug: "A module with one matrix is left out in silence.", Op: "adapter_read",
		Func: func(c *Case, in Tensors) (Tensors, error) {
			out, err := reference("adapter_read", c, in)
			if err != nil && c.Reason == "missing" {
				empty := conformance.Bytes(nil, 0)
				return Tensors{"ranks": empty, "saved": empty, "scales": conformance.Floats(f32, nil, 0)}, nil
			}
			return out, err
		},
	},
	{
		Name: "A and B exchanged", Bug: "lora_A is read as lora_B.", Op: "adapter_read",
		Func: spoiled("adapter_read", func(_ *Case, _, out Tensors) {
			for name, a := range out {
				if module, ok := strings.CutSuffix(name, ".lora_A"); ok {
					out[name], out[module+".lora_B"] = out[module+".lora_B"], a
				}
			}
		}),
	},
	{
		Name: "no base_model prefix", Bug: "Tensors are written under the names of the base model: PEFT finds none of them.", Op: "adapter_write",
		Func: renamed("base_model.model.", ""),
	},
	{
		Name: "adapter's name written", Bug: "Tensors are called lora_A.default.weight.", Op: "adapter_write",
		Func: renamed(".weight", ".default.weight"),
	},
	{
		Name: "patterns sorted", Bug: "Entries of rank_pattern are written in alphabetical order, though the first that matches counts.",
		Op: "adapter_write",
		Func: spoiled("adapter_write", func(_ *Case, _, out Tensors) {
			var config any // whose maps are written in the order of their keys
			if err := json.Unmarshal(out["adapter_config.json"].B, &config); err != nil {
				panic(err)
			}
			b, err := json.MarshalIndent(config, "", "  ")
			if err != nil {
				panic(err)
			}
			out["adapter_config.json"] = conformance.Bytes(append(b, '\n'))
		}),
	},
	{
		Name: "unknown fields dropped", Bug: "Fields of other versions are not written back.", Op: "adapter_write",
		Func: configured("adapter_write", func(config map[string]any) { delete(config, "a_new_field"); delete(config, "zz") }),
	},
}
