package accel

import (
	"strings"
	"testing"

	"qlora/accel/cpu/kernel"
)

func TestOpen(t *testing.T) {
	for name, want := range map[string]string{"auto": "cpu", "cpu": "cpu", "ref": "ref"} {
		if d, err := Open(name, 0); err != nil || d.Name() != want {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
	for name, want := range map[string]string{"tpu": "want auto or cuda, vulkan, cpu, ref", "cuda": "not part of this program yet"} {
		if _, err := Open(name, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Setenv(kernel.Variable, "mmx")
	if _, err := Open("cpu", 0); err == nil || !strings.Contains(err.Error(), "QLORA_CPU=mmx: this processor runs portable") {
		t.Error(err)
	}
}
