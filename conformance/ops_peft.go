package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"qlora/ref/checkpoint"
	"qlora/ref/lora"
	"qlora/ref/num"
)

// PEFT's adapters.
func init() {
	register(
		&Operation{
			Name: "peft_choose", Of: "peft.Patterns.Choose",
			Formula: "config U8, an adapter_config.json; modules U8, a line for each linear layer but the head → chosen U8: a line module=r alpha, " +
				"in order, for each that is adapted, as PEFT 0.21 chooses. In target_modules and exclude_modules a name in a list stands for every " +
				"module whose name is it, or ends in it after a dot; a text is a regular expression that must match the whole name; all-linear, in " +
				"whatever case, is all; null is none. layers_to_transform, a number or a list, leaves of the modules that a list of target_modules " +
				"names those of these layers, and those it names in full; the layer is the number between dots after the first part of the name, " +
				"but for its very first, that one follows, or after the part that layers_pattern names, a text or a list of expressions. What " +
				"exclude_modules names is not adapted, nor modules of which an entry of modules_to_save, an expression, is the whole name or some " +
				"successive parts of it. r (8) and lora_alpha (8) are for all, but the first entry of rank_pattern and alpha_pattern counts whose " +
				"expression matches the whole name, or all after a dot. Must be rejected: what adapter_read rejects of config; of rank_pattern what " +
				"is no whole number from 1, of alpha_pattern what is below 0; expressions that are none; target_modules a text together with " +
				"layers_to_transform or layers_pattern; layers_pattern without layers_to_transform.",
			Cases: peftChooseCases,
			Reference: func(c *Case, in Tensors) (Tensors, error) {
				config, err := checkpoint.ParseAdapterConfig(in["config"].B)
				if err != nil {
					return nil, err
				}
				chosen, err := config.Choose(strings.Fields(string(in["modules"].B)))
				return Tensors{"chosen": ranks(chosen)}, err
			},
		},
		&Operation{
			Name: "adapter_read", Of: "checkpoint.OpenAdapter",
			Formula: "config U8, adapter_config.json; model U8, adapter_model.safetensors → each module's lora_A F32 [r, in] and lora_B F32 [out, " +
				"r], named module.lora_A and module.lora_B, from base_model.model.MODULE.lora_A.weight or .lora_A.default.weight; ranks U8: a line " +
				"module=r alpha for each in order, as peft_choose says; scales F32 in the same order, α/r, with use_rslora α/√r; saved U8: the " +
				"other tensors by their names without base_model.model. and without modules_to_save. or modules_to_save.default., in order with " +
				"newlines between. Must be rejected: config no JSON, with a key twice anywhere, a known field of another type; peft_type not LORA; " +
				"r below 1, lora_alpha below 0; anything but null, false, \"\", \"none\", [] and {} for use_dora, lora_bias, bias, fan_in_fan_out, " +
				"layer_replication, alora_invocation_tokens, target_parameters, trainable_token_indices, use_qalora, megatron_config, use_bdlora, " +
				"arrow_config, kasa_config, monteclora_config, velora_config; init_lora_weights pissa…, olora, corda or loftq, in whatever case. " +
				"Other fields do not matter, also R. And of tensors: what safetensors_read rejects; a name without base_model.model., or, of those " +
				"that are not lora_A's and lora_B's, one that does not end in .weight or .bias or has .lora_ or .base_layer. in it; a shape without " +
				"two sizes or that is not of the module's r; lora_A or lora_B without the other, twice, or with numbers that are not finite; no " +
				"lora_A at all.",
			Cases:     adapterReadCases,
			Reference: adapterRead,
		},
		&Operation{
			Name: "adapter_write", Of: "checkpoint.WriteAdapter",
			Formula: "config U8, an adapter_config.json; module.lora_A and module.lora_B in their types → adapter_model.safetensors U8, as " +
				"safetensors_write with metadata, names base_model.model.MODULE.lora_A.weight; adapter_config.json U8: all fields, also those not " +
				"known, in alphabetical order, indented by two spaces, patterns in their own order, a newline at the end. Fields that must be " +
				"there, with what they are where config does not have them: alpha_pattern {}, base_model_name_or_path \"\", bias \"none\", " +
				"ensure_weight_tying false, exclude_modules null, inference_mode false, init_lora_weights true, layers_pattern null, " +
				"layers_to_transform null, lora_alpha 8, lora_dropout 0, modules_to_save null, peft_type (LORA), r 8, rank_pattern {}, " +
				"target_modules null, task_type null, use_rslora false.",
			Cases:     adapterWriteCases,
			Reference: adapterWrite,
		})
}

// ranks are lines module=r alpha.
func ranks[R any](chosen map[string]R) Tensor {
	return text(strings.NewReplacer("={", "=", "}\n", "\n").Replace(string(lines(chosen).B)))
}

// llamaModules are the linear layers of a decoder of three layers.
var llamaModules = func() string {
	var b strings.Builder
	for layer := range 3 {
		for _, name := range strings.Fields("self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj") {
			fmt.Fprintf(&b, "model.layers.%d.%s\n", layer, name)
		}
	}
	return b.String()
}()

func peftChooseCases(m *Maker) {
	for _, c := range []struct {
		level          Level
		reason, fields string
	}{
		{Smoke, "targets", `"target_modules":["q_proj","v_proj"]`},
		{Smoke, "targets", `"target_modules":"all-linear"`},
		{Smoke, "targets", `"target_modules":".*self_attn.*"`},
		{Quick, "targets", `"target_modules":"all-LINEAR"`},
		{Quick, "targets", `"target_modules":"q_proj"`},
		{Quick, "targets", `"target_modules":["proj"]`},
		{Quick, "targets", `"target_modules":["layers.1.mlp.up_proj"]`},
		{Quick, "targets", `"target_modules":["model.layers.1.mlp.up_proj"]`},
		{Quick, "targets", `"target_modules":"model\\.layers\\.[02]\\.(mlp|self_attn)\\.[a-z]*_proj"`},
		{Quick, "targets", `"target_modules":"model\\.layers\\.0|.*v_proj"`},
		{Quick, "targets", `"target_modules":"all-linear","exclude_modules":["o_proj","layers.1.mlp.up_proj"]`},
		{Quick, "targets", `"target_modules":"all-linear","exclude_modules":".*mlp.*"`},
		{Quick, "targets", `"target_modules":"all-linear","modules_to_save":["k_proj"]`},
		{Quick, "targets", `"target_modules":"all-linear","modules_to_save":["self_attn"]`},
		{Quick, "targets", `"target_modules":null`},
		{Quick, "layers", `"target_modules":["q_proj"],"layers_to_transform":[0,2]`},
		{Quick, "layers", `"target_modules":["q_proj"],"layers_to_transform":1`},
		{Quick, "layers", `"target_modules":["q_proj"],"layers_to_transform":[1],"layers_pattern":"layers"`},
		{Quick, "layers", `"target_modules":["q_proj"],"layers_to_transform":[1],"layers_pattern":["h"]`},
		{Quick, "layers", `"target_modules":["q_proj","model.layers.0.self_attn.k_proj"],"layers_to_transform":[2]`},
		{Smoke, "rank-pattern", `"target_modules":"all-linear","rank_pattern":{"q_proj":2,"mlp.up_proj":64}`},
		{Quick, "rank-pattern", `"target_modules":"all-linear","rank_pattern":{"layers.1.*":4,"q_proj":2},"alpha_pattern":{"q_proj":1,"layers.1.*":0.5}`},
		{Quick, "rank-pattern", `"target_modules":"all-linear","rank_pattern":{"q_proj":2,"layers.1.*":4},"alpha_pattern":{"model.layers.2.mlp.down_proj":100}`},
		{Quick, "rank-pattern", `"target_modules":"all-linear","rank_pattern":{"proj":2,"_proj":3,"[qv]_proj":5}`},
		{Quick, "rank-pattern", `"target_modules":"all-linear","rank_pattern":{"q_proj":2.5}`},
		{Quick, "rank-pattern", `"target_modules":"all-linear","rank_pattern":{"q_proj":0}`},
		{Quick, "rank-pattern", `"target_modules":"all-linear","rank_pattern":{"q_proj(":2}`},
		{Quick, "layers", `"target_modules":".*q_proj","layers_to_transform":[1]`},
		{Quick, "layers", `"target_modules":["q_proj"],"layers_pattern":"layers"`},
		{Quick, "targets", `"target_modules":3`},
	} {
		m.Add(c.level, "", c.reason, nil, func(*random) Tensors {
			return Tensors{"config": text(`{"peft_type":"LORA","r":8,"lora_alpha":16,` + c.fields + `}`), "modules": text(llamaModules)}
		})
	}
}

// qProj is a module, and under it the name that PEFT gives its tensors.
const (
	qProj    = "model.layers.0.self_attn.q_proj"
	peftName = "base_model.model." + qProj
	goodLoRA = `{"peft_type":"LORA","r":2,"lora_alpha":3,"target_modules":["q_proj"]}`
)

// pair is an A [r, 3] and a B [5, r] of a module.
func pair(r *random, t DType, module string, rank int) []checkpoint.Tensor {
	return []checkpoint.Tensor{inFile("base_model.model."+module+".lora_A.weight", Floats(t, r.normal(3*rank, 1), rank, 3)),
		inFile("base_model.model."+module+".lora_B.weight", Floats(t, r.normal(5*rank, 1), 5, rank))}
}

// withFields is goodLoRA with more fields.
func withFields(fields string) string { return strings.TrimSuffix(goodLoRA, "}") + "," + fields + "}" }

func adapterReadCases(m *Maker) {
	add := func(level Level, reason, config string, tensors func(r *random) []checkpoint.Tensor) {
		m.Add(level, "", reason, nil, func(r *random) Tensors {
			return Tensors{"config": text(config), "model": Bytes(plainFile(tensors(r)...))}
		})
	}
	plain := func(r *random) []checkpoint.Tensor { return pair(r, F32, qProj, 2) }
	with := func(name string, shape ...int) func(r *random) []checkpoint.Tensor {
		return func(r *random) []checkpoint.Tensor {
			n := 1
			for _, d := range shape {
				n *= d
			}
			return append(plain(r), inFile(name, Floats(F32, r.normal(n, 1), shape...)))
		}
	}
	renamed := func(i int, name string) func(r *random) []checkpoint.Tensor {
		return func(r *random) []checkpoint.Tensor {
			t := plain(r)
			t[i].Name = name
			return t
		}
	}
	for _, t := range []DType{F32, BF16, F16} {
		add(Smoke, "layout", goodLoRA, func(r *random) []checkpoint.Tensor {
			return append(pair(r, t, qProj, 2), pair(r, t, "model.layers.11.mlp.down_proj", 2)...)
		})
	}
	add(Quick, "layout", goodLoRA, renamed(0, peftName+".lora_A.default.weight"))
	add(Quick, "layout", withFields(`"use_rslora":true`), plain)
	add(Quick, "layout", withFields(`"modules_to_save":["norm","lm_head"]`), func(r *random) []checkpoint.Tensor {
		saved := with("base_model.model.lm_head.modules_to_save.default.weight", 4)(r)
		return append(saved, inFile("base_model.model.model.norm.weight", Floats(F16, r.normal(3, 1))))
	})
	add(Quick, "rank-pattern", withFields(`"rank_pattern":{"k_proj":3,"x":9},"alpha_pattern":{"q_proj":0.5}`), func(r *random) []checkpoint.Tensor {
		return append(plain(r), pair(r, F32, "model.layers.0.self_attn.k_proj", 3)...)
	})
	add(Quick, "unknown-field", withFields(`"use_dora":false,"bias":"none","layer_replication":null,"a_new_field":[1],"R":9,`+
		`"target_parameters":[],"init_lora_weights":"gaussian","task_type":null`), plain)
	for _, field := range []string{`"use_dora":true`, `"bias":"lora_only"`, `"lora_bias":true`, `"fan_in_fan_out":true`, `"layer_replication":[[0,1]]`,
		`"alora_invocation_tokens":[1]`,
		`"target_parameters":["experts.w"]`, `"trainable_token_indices":[5]`, `"use_qalora":true`,
		`"megatron_config":{"a":1}`, `"init_lora_weights":"pissa_niter_4"`, `"init_lora_weights":"OLoRA"`} {
		add(Quick, "not-computed", withFields(field), plain)
	}
	for _, config := range []string{`{"peft_type":"IA3","r":2}`, `{"r":2}`,
		strings.Replace(goodLoRA, `"r":2`, `"r":0`, 1), strings.Replace(goodLoRA, `"r":2`, `"r":"2"`, 1),
		strings.Replace(goodLoRA, `"lora_alpha":3`, `"lora_alpha":-3`, 1), `[]`} {
		add(Quick, "wrong-type", config, plain)
	}
	add(Quick, "not-json", `{`, plain)
	add(Quick, "key-twice", withFields(`"r":2`), plain)
	add(Quick, "key-twice", withFields(`"rank_pattern":{"q":2,"q":2}`), plain)
	add(Quick, "key-twice", goodLoRA, with(peftName+".lora_A.default.weight", 2, 3))
	add(Quick, "lying-size", strings.Replace(goodLoRA, `"r":2`, `"r":3`, 1), plain)
	add(Quick, "lying-size", withFields(`"rank_pattern":{"k_proj":5,"q_proj":4}`), plain)
	add(Quick, "lying-size", goodLoRA, with("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", 2, 3, 1))
	add(Quick, "missing", goodLoRA, func(*random) []checkpoint.Tensor { return nil })
	for i := range 2 {
		add(Smoke, "missing", goodLoRA, func(r *random) []checkpoint.Tensor { return plain(r)[i : i+1] })
	}
	for _, name := range []string{"base_model.model.model.embed_tokens.lora_embedding_A", peftName + ".lora_magnitude_vector", peftName + ".lora_B.bias",
		"base_model.model.model.embed_tokens.base_layer.weight", "q_proj.lora_A.weight"} {
		add(Quick, "not-computed", goodLoRA, with(name, 2, 3))
	}
	add(Quick, "not-finite", goodLoRA, func(r *random) []checkpoint.Tensor {
		return []checkpoint.Tensor{plain(r)[0], inFile(peftName+".lora_B.weight", Floats(BF16, append(r.normal(9, 1), num.Exp(100)), 5, 2))}
	})
}

func adapterRead(c *Case, in Tensors) (Tensors, error) {
	a, err := checkpoint.OpenAdapter(folder{"adapter_config.json": in["config"].B, "adapter_model.safetensors": in["model"].B})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	out := Tensors{"ranks": ranks(a.Ranks), "saved": text(strings.Join(slices.Sorted(maps.Keys(a.Saved)), "\n"))}
	var scales []float32
	for _, module := range slices.Sorted(maps.Keys(a.A)) {
		out[module+".lora_A"] = Floats(F32, a.A[module].Values, a.A[module].Rows, a.A[module].Cols)
		out[module+".lora_B"] = Floats(F32, a.B[module].Values, a.B[module].Rows, a.B[module].Cols)
		scales = append(scales, lora.Config{R: a.Ranks[module].R, Alpha: a.Ranks[module].Alpha, RSLoRA: a.Config.UseRSLoRA}.Scale())
	}
	out["scales"] = Floats(F32, scales)
	return out, nil
}

func adapterWriteCases(m *Maker) {
	add := func(level Level, t DType, reason, config string, modules ...string) {
		m.Add(level, t, reason, []Param{Int("modules", len(modules))}, func(r *random) Tensors {
			in := Tensors{"config": text(config)}
			for _, module := range modules {
				in[module+".lora_A"], in[module+".lora_B"] = Floats(t, r.normal(6, 1), 2, 3), Floats(t, r.normal(10, 1), 5, 2)
			}
			return in
		})
	}
	for _, t := range []DType{F32, BF16, F16} {
		add(Smoke, t, "layout", goodLoRA, qProj)
		add(Quick, t, "layout", withFields(`"lora_dropout":0.05,"use_rslora":true,"base_model_name_or_path":"models/a"`),
			"model.layers.10.mlp.up_proj", "model.layers.2.mlp.up_proj", qProj)
	}
	add(Quick, F32, "rank-pattern", withFields(`"rank_pattern":{"q_proj":2,"model.*":3,"a":1},"alpha_pattern":{"z":1,"self_attn.q_proj":0.5,"a":2}`), qProj)
	add(Quick, F32, "unknown-field", withFields(`"a_new_field":[1,{"b":null}],"zz":"x","R":9,"target_modules_":[]`), qProj)
}

func adapterWrite(c *Case, in Tensors) (Tensors, error) {
	config, err := checkpoint.ParseAdapterConfig(in["config"].B)
	if err != nil {
		return nil, err
	}
	a := checkpoint.Adapter{Config: config, A: map[string]checkpoint.Matrix{}, B: map[string]checkpoint.Matrix{}}
	for name, t := range in {
		for suffix, into := range map[string]map[string]checkpoint.Matrix{".lora_A": a.A, ".lora_B": a.B} {
			if module, ok := strings.CutSuffix(name, suffix); ok {
				into[module] = checkpoint.Matrix{Rows: t.Rows(), Cols: t.Cols(), Values: t.F, DType: floats[t.DType].num}
			}
		}
	}
	return written(func(dir string) error { return checkpoint.WriteAdapter(dir, a) })
}
