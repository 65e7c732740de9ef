package synthetic

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// parameters are those that Hugging Face counts in the safetensors files of huggyllama, meta-llama and HuggingFaceTB.
var parameters = map[string]int64{
	"llama-7b":     6738415616,
	"llama-13b":    13015864320,
	"llama-33b":    32528943616,
	"llama-65b":    65285660672,
	"llama2-7b":    6738415616,
	"llama2-13b":   13015864320,
	"llama2-70b":   68976648192,
	"llama3-8b":    8030261248,
	"llama3-70b":   70553706496,
	"smollm2-135m": 134515008,
}

// The shapes have as many parameters as the models.
func TestParameters(t *testing.T) {
	for name, want := range parameters {
		c, err := Config(Prefix + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var n int64
		for _, x := range c.Tensors() {
			size := int64(1)
			for _, d := range x.Shape {
				size *= int64(d)
			}
			n += size
		}
		if n != want {
			t.Errorf("%s has %d parameters, want %d", name, n, want)
		}
	}
	if got, want := slices.Sorted(maps.Keys(models)), slices.Sorted(maps.Keys(parameters)); !slices.Equal(got, want) {
		t.Errorf("the models are %v, counted are %v", got, want)
	}
}

func TestUnknown(t *testing.T) {
	if _, err := Config("synthetic:llama-66b"); err == nil || !strings.Contains(err.Error(), "llama-65b") {
		t.Error(err)
	}
}
