package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"

	"qlora/ref/lora/peft"
)

// AdapterConfig is PEFT's adapter_config.json for LoRA.
type AdapterConfig struct {
	peft.Patterns
	BaseModel       string  `json:"base_model_name_or_path"`
	Bias            string  `json:"bias"`
	InferenceMode   bool    `json:"inference_mode"`
	WeightTying     bool    `json:"ensure_weight_tying"` // a tied head is saved with the embedding
	InitLoRAWeights any     `json:"init_lora_weights"`   // of a training that begins
	LoRADropout     float64 `json:"lora_dropout"`
	PEFTType        string  `json:"peft_type"`
	TaskType        any     `json:"task_type"`
	UseRSLoRA       bool    `json:"use_rslora"`

	// Other has the fields that are not above, as they were read: those of other versions, and of what nothing here depends on.
	Other map[string]json.RawMessage `json:"-"`
}

// NewAdapterConfig is that of an adapter of a language model, with PEFT's defaults.
func NewAdapterConfig() AdapterConfig {
	return AdapterConfig{Patterns: peft.Patterns{R: 8, Alpha: 8}, Bias: "none", InferenceMode: true, InitLoRAWeights: true,
		PEFTType: "LORA", TaskType: "CAUSAL_LM"}
}

// maxAdapterConfig bounds the file in bytes. A pattern for each module of a large model takes a tenth of it.
const maxAdapterConfig = 1 << 20

func readAdapterConfig(fsys fs.FS) (AdapterConfig, error) {
	f, err := fsys.Open(adapterConfigFile)
	if err != nil {
		return AdapterConfig{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAdapterConfig+1))
	if err != nil {
		return AdapterConfig{}, err
	}
	return ParseAdapterConfig(b)
}

// ParseAdapterConfig reads an adapter_config.json. What would be computed wrong is an error that names the field.
func ParseAdapterConfig(b []byte) (AdapterConfig, error) {
	c := NewAdapterConfig()
	c.PEFTType, c.TaskType, c.InferenceMode = "", nil, false
	if len(b) > maxAdapterConfig {
		return c, fmt.Errorf("over %d bytes: no configuration of an adapter", maxAdapterConfig)
	}
	if key, err := duplicateKey(b); err != nil || key != "" {
		return c, errors.Join(err, duplicateError(key))
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return c, err
	}
	if err := refuse(fields); err != nil {
		return c, err
	}
	c.Other = map[string]json.RawMessage{}
	own := NewAdapterConfig().fields()
	for name, value := range fields {
		if _, ok := own[name]; !ok {
			c.Other[name] = value
			delete(fields, name) // or Go would take R for r
		}
	}
	known, err := json.Marshal(fields)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(known, &c); err != nil {
		return c, err
	}
	if c.PEFTType != "LORA" {
		return c, fmt.Errorf("peft_type is %q: only LORA can be loaded", c.PEFTType)
	}
	return c, c.Check()
}

// refused are fields of LoraConfig of which any value but null, false or nothing changes what an adapter computes.
var refused = []struct{ name, reason string }{
	{"use_dora", "DoRA's magnitudes are not computed"},
	{"lora_bias", "lora_B has no bias here"},
	{"bias", "biases of the base are not trained; want none"},
	{"fan_in_fan_out", "weights are not transposed"},
	{"layer_replication", "layers are not copied"},
	{"alora_invocation_tokens", "an adapter is on for every token"},
	{"target_parameters", "only linear layers are adapted"},
	{"trainable_token_indices", "single rows of the embedding are not adapted"},
	{"use_qalora", "inputs are not pooled"},
	{"megatron_config", "Megatron's parallel layers are not known"},
	{"use_bdlora", "block-diagonal matrices are not known"},
	{"arrow_config", "adapters are not routed"},
	{"kasa_config", "the base's weights are not truncated"},
	{"monteclora_config", "nothing is sampled"},
	{"velora_config", "inputs are not compressed"},
}

// changesBase are the initialisations with which PEFT takes the first B·A out of the base's weights, again whenever it loads
// the adapter.
var changesBase = regexp.MustCompile(`(?i)^(pissa.*|olora|corda|loftq)$`)

func refuse(fields map[string]json.RawMessage) error {
	for _, f := range refused {
		if value, ok := fields[f.name]; ok && !off(value) {
			return fmt.Errorf("%s is %.100s: %s", f.name, value, f.reason)
		}
	}
	var init string
	if json.Unmarshal(fields["init_lora_weights"], &init) == nil && changesBase.MatchString(init) {
		return fmt.Errorf("init_lora_weights is %q: PEFT changes the base's weights when it loads this; "+
			"save it in PEFT with path_initial_model_for_weight_conversion", init)
	}
	return nil
}

// off says whether a value switches nothing on.
func off(value json.RawMessage) bool {
	var v any
	if json.Unmarshal(value, &v) != nil {
		return false
	}
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == "" || v == "none"
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// fields has all but Other by their names.
func (c AdapterConfig) fields() map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	b, err := json.Marshal(c)
	if err == nil {
		err = json.Unmarshal(b, &fields)
	}
	if err != nil {
		panic(err) // Check wants finite numbers
	}
	return fields
}

// text is the file, its fields in alphabetical order as PEFT has them; those of a pattern keep their own, which counts.
func (c AdapterConfig) text() ([]byte, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	fields := c.fields()
	for name, value := range c.Other {
		fields[name] = value
	}
	b, err := json.MarshalIndent(fields, "", "  ")
	return append(b, '\n'), err
}
