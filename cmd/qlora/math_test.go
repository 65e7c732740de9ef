package main

import (
	"strings"
	"testing"

	"qlora/accel/cpu"
)

// An exact run is the same run as before there was another kind; a fast one is another, and how its batches are cut counts.
func TestIdentityOfMath(t *testing.T) {
	identity := func(flags ...string) string {
		o, err := readTrainOptions(flags)
		if err != nil {
			t.Fatal(err)
		}
		return o.identity("", "")
	}
	exact := identity()
	if strings.Contains(exact, "Math") || strings.Contains(exact, "Micro") {
		t.Errorf("an exact run's identity is %s", exact)
	}
	if identity("--math", "exact") != exact || identity("--batch-size", "2", "--gradient-accumulation-steps", "4") != identity("--batch-size", "4", "--gradient-accumulation-steps", "2") {
		t.Error("exact runs that are the same have other identities")
	}
	fast := identity("--math", "fast")
	if fast == exact || identity("--math", "fast", "--batch-size", "2", "--gradient-accumulation-steps", "4") == identity("--math", "fast", "--batch-size", "4", "--gradient-accumulation-steps", "2") {
		t.Error("other runs have the same identity", fast)
	}
}

func TestMath(t *testing.T) {
	for _, command := range [][]string{{"train"}, {"generate", "--prompt", "a"}, {"eval", "perplexity", "--text", "math_test.go"}, {"conformance", "run"}} {
		for _, c := range []struct {
			flags string
			code  int
			want  string
		}{
			{"--math quick", 2, `math "quick": want exact or fast`},
			{"--device ref --math fast", 1, "there is no math fast: the reference says what is exact"},
		} {
			if _, err, code := cli(t, "", append(command, strings.Fields(c.flags)...)...); code != c.code || !strings.Contains(err, c.want) {
				t.Errorf("qlora %v %s: exit code %d, %q; want %d, %q", command, c.flags, code, err, c.code, c.want)
			}
		}
	}
	run := []string{"conformance", "run", "--device", "cpu", "--math", "fast", "--level", "smoke", "--only", "^linear/"}
	devices := must(t, "devices")
	if why := cpu.Fast(); why != nil {
		if _, err, code := cli(t, "", run...); code != 1 || !strings.Contains(err, why.Error()) || !strings.Contains(devices, why.Error()) {
			t.Errorf("exit code %d, %q and %q; want %q", code, err, devices, why)
		}
		t.Skipf("fast runs are not tested here: %v", why)
	}
	if out := must(t, run...); !strings.Contains(out, "bounded") || !strings.Contains(devices, "with math fast within bounds") {
		t.Errorf("%s\n%s", out, devices)
	}
}
