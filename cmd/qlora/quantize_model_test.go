package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A checkpoint in 4 bits is the model that is quantized as it is loaded, and so is what it is dequantized to, to the bit; the
// offset of double quantization can be read in two ways, which are not the same.
func TestQuantizeModel(t *testing.T) {
	tmp := t.TempDir()
	text := short(filepath.Join(tmp, "run"))
	nll := func(model string, flags ...string) float64 {
		var p perplexity
		if err := json.Unmarshal([]byte(must(t, append([]string{"eval", "perplexity", "--model", model, "--text", text, "--json"}, flags...)...)), &p); err != nil {
			t.Fatal(err)
		}
		return p.NLL
	}
	onTheWay := map[string]float64{"nf4": nll("demo"), "fp4": nll("demo", "--quant", "fp4")}
	for _, c := range []struct{ kind, storage string }{{"nf4", "uint8"}, {"nf4", "bfloat16"}, {"fp4", "float32"}} {
		four, plain := filepath.Join(tmp, c.kind+c.storage), filepath.Join(tmp, c.kind+c.storage+"-plain")
		must(t, "quantize", "--model", "demo", "--output", four, "--type", c.kind, "--quant-storage", c.storage)
		must(t, "dequantize", "--model", four, "--output", plain)
		if got, back := nll(four), nll(plain, "--quant", "none"); got != onTheWay[c.kind] || back != got {
			t.Errorf("%v: %v, dequantized %v, quantized on the way in %v", c, got, back, onTheWay[c.kind])
		}
		rounded := plain + "-rounded"
		must(t, "dequantize", "--model", four, "--output", rounded, "--nested-offset", "bfloat16")
		if got, back := nll(four, "--nested-offset", "bfloat16"), nll(rounded, "--quant", "none"); back != got || got == onTheWay[c.kind] {
			t.Errorf("%v with a rounded offset: %v, dequantized %v, not rounded %v", c, got, back, onTheWay[c.kind])
		}
		for _, command := range []string{"quantize", "dequantize"} {
			if _, err, code := cli(t, "", command, "--model", four, "--output", plain); code != 1 || !strings.Contains(err, plain+" exists") {
				t.Errorf("%s: %d %s", command, code, err)
			}
		}
		if _, err, code := cli(t, "", "quantize", "--model", four, "--output", filepath.Join(tmp, "again")); code != 1 || !strings.Contains(err, "in 4 bits already") {
			t.Error(code, err)
		}
	}
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) != 3*3+1 {
		t.Errorf("%v left behind: %v", entries, err)
	}
}
