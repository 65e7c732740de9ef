package llama_test

import (
	"testing"

	"qlora/ref/checkpoint"
	"qlora/ref/llama"
)

// Whatever config.json says, it describes a model that can be laid out, or there is an error.
func FuzzConfigOf(f *testing.F) {
	for _, s := range []string{
		`{"model_type":"llama","hidden_size":64,"intermediate_size":172,"num_hidden_layers":5,"num_attention_heads":8,"vocab_size":512,"max_position_embeddings":512}`,
		`{"model_type":"llama","hidden_size":64,"intermediate_size":172,"num_hidden_layers":2,"num_attention_heads":8,"num_key_value_heads":2,"vocab_size":512,"max_position_embeddings":512,"rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":64}}`,
		`{"model_type":"mistral","hidden_size":64,"intermediate_size":172,"num_hidden_layers":2,"num_attention_heads":8,"head_dim":4,"vocab_size":9,"max_position_embeddings":32,"sliding_window":8,"rope_scaling":{"type":"dynamic","factor":2.5}}`,
		`{"model_type":"qwen2","hidden_size":64,"intermediate_size":172,"num_hidden_layers":2,"num_attention_heads":8,"vocab_size":9,"max_position_embeddings":32,"use_sliding_window":true,"sliding_window":8,"max_window_layers":1,"layer_types":["full_attention","sliding_attention"]}`,
		`{"model_type":"qwen3","hidden_size":64,"intermediate_size":172,"num_hidden_layers":2,"num_attention_heads":8,"vocab_size":9,"max_position_embeddings":32,"rope_parameters":{"rope_theta":1e6,"rope_type":"linear","factor":4}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := checkpoint.ParseConfig(b)
		if err != nil {
			return
		}
		c, err := llama.ConfigOf(file)
		if err != nil {
			return
		}
		for _, w := range c.Tensors() {
			for _, n := range w.Shape {
				if n < 1 || n > 1<<36 {
					t.Fatalf("%s has shape %v", w.Name, w.Shape)
				}
			}
		}
		if len(c.Modules()) != 7*c.NumHiddenLayers || c.MaxContext() < 1 {
			t.Errorf("%d modules, a context of %d", len(c.Modules()), c.MaxContext())
		}
		for _, length := range []int{1, c.MaxContext()} {
			for i, v := range c.InvFreq(length) {
				if !(v >= 0) {
					t.Errorf("length %d: frequency %d is %v", length, i, v)
				}
			}
		}
	})
}
